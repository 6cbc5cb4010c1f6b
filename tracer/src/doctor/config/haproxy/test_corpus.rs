//! Configurations, and what each of them says. `haproxy -c -f` of HAProxy 2.6.12 accepts all of them.

use std::fmt::{Debug, Write as _};

use super::{Config, Server, Source, Target, read};
use crate::doctor::config::{Setting, files::Memory};

/// The files of the corpus: names and texts.
pub(super) const FILES: [(&str, &str); 17] = [
    ("/c/close.cfg", include_str!("corpus/close.cfg")),
    ("/c/conditions.cfg", include_str!("corpus/conditions.cfg")),
    ("/c/defaults.cfg", include_str!("corpus/defaults.cfg")),
    ("/c/ipv6.cfg", include_str!("corpus/ipv6.cfg")),
    ("/c/names.cfg", include_str!("corpus/names.cfg")),
    ("/c/plain.cfg", include_str!("corpus/plain.cfg")),
    ("/c/pools.cfg", include_str!("corpus/pools.cfg")),
    ("/c/quoting.cfg", include_str!("corpus/quoting.cfg")),
    ("/c/reuse.cfg", include_str!("corpus/reuse.cfg")),
    ("/c/sections.cfg", include_str!("corpus/sections.cfg")),
    ("/c/sockets.cfg", include_str!("corpus/sockets.cfg")),
    ("/c/source.cfg", include_str!("corpus/source.cfg")),
    ("/c/tcp.cfg", include_str!("corpus/tcp.cfg")),
    ("/c/variables.cfg", include_str!("corpus/variables.cfg")),
    ("/d/10-defaults.cfg", include_str!("corpus/conf.d/10-defaults.cfg")),
    ("/d/20-web.cfg", include_str!("corpus/conf.d/20-web.cfg")),
    ("/d/30-app.cfg", include_str!("corpus/conf.d/30-app.cfg")),
];

/// A file of the corpus, read.
pub(super) fn config(name: &str) -> Config {
    let path = if name.starts_with('/') { name.into() } else { format!("/c/{name}.cfg").into() };
    read(&Memory::of(&FILES), &[path])
}

/// A value and its line; `?` for one that is not read, nothing for one that is not set.
fn setting<T: Debug>(name: &str, setting: &Setting<T>) -> String {
    match setting {
        Setting::Unset => String::new(),
        Setting::Is(value, at) => format!(" {name}={value:?}@{}", at.line),
        Setting::Unread(at) => format!(" {name}=?@{}", at.line),
    }
}

fn source(of: &Setting<Source>) -> String {
    match of {
        Setting::Is(source, at) => {
            let ports =
                source.ports.map(|(low, high)| format!(":{low}-{high}")).unwrap_or_default();
            let shown = source.shown.map(|shown| format!("({shown:?})")).unwrap_or_default();
            format!(" from={}{ports}{shown}@{}", source.address, at.line)
        }
        other => setting("from", other),
    }
}

fn server(server: &Server, from: &Setting<Source>) -> String {
    let port = |port: &Option<u16>| port.map_or_else(|| "*".into(), |port| port.to_string());
    let target = match &server.target {
        Target::Ip(ip, to) => format!("{ip} {}", port(to)),
        Target::Name(name, to) => format!("{name} {}", port(to)),
        other => format!("{other:?}"),
    };
    let settings = &server.settings;
    format!(
        "  {} {target}{}{}{}{}{}{}",
        server.name,
        source(from),
        setting("max", &settings.maxconn),
        setting("pool", &settings.pool_max_conn),
        setting("purged", &settings.purged),
        setting("check", &settings.check),
        setting("elsewhere", &settings.elsewhere),
    )
}

/// All that was read, a line for each section and server.
fn summary(config: &Config) -> String {
    let mut out = String::new();
    for socket in &config.sockets {
        let path = socket.path.as_ref().map(|path| path.display().to_string());
        writeln!(
            out,
            "socket {}{}",
            path.as_deref().unwrap_or("-"),
            setting("level", &socket.level)
        )
        .unwrap();
    }
    for proxy in &config.proxies {
        let settings = &proxy.settings;
        write!(out, "{:?} {}@{}", proxy.kind, proxy.name, proxy.at.line).unwrap();
        write!(out, "{}{}", setting("mode", &settings.mode), setting("reuse", &settings.reuse))
            .unwrap();
        write!(out, "{}", setting("after", &proxy.connection)).unwrap();
        if !proxy.uses.is_empty() || proxy.uses_others {
            write!(
                out,
                " uses {}{}",
                proxy.uses.join(","),
                if proxy.uses_others { " and others" } else { "" }
            )
            .unwrap();
        }
        let notes = [(settings.disabled, " disabled"), (proxy.more_servers, " and more servers")];
        out.extend(notes.iter().filter(|(is, _)| *is).map(|(_, note)| *note));
        out.push('\n');
        for of in &proxy.servers {
            writeln!(out, "{}", server(of, proxy.source(of))).unwrap();
        }
    }
    for (at, why) in &config.unread.places {
        writeln!(out, "unread {}: {why}", at.line).unwrap();
    }
    out
}

#[track_caller]
fn check(name: &str, expected: &str) {
    let seen = summary(&config(name));
    assert_eq!(seen.trim_end(), expected.trim(), "{name}:\n{seen}");
}

#[test]
fn plain() {
    check(
        "plain",
        "
socket /run/haproxy/admin.sock level=Admin@4
Frontend web@19 mode=Http@12 uses api
Backend api@23 mode=Http@12
  app1 192.0.2.11 8080 check=true@26
  app2 192.0.2.12 8080 max=200@27 check=true@27",
    );
}

#[test]
fn tcp() {
    check(
        "tcp",
        "
Listen db@2
  primary 192.0.2.20 5432 check=true@8
  standby 192.0.2.21 5432 check=true@9
Backend queue@11 mode=Tcp@12
  q1 192.0.2.30 5672",
    );
}

#[test]
fn reuse() {
    check(
        "reuse",
        "
Frontend web@9 mode=Http@2 reuse=Always@3 uses slow,fast
Backend fast@14 mode=Http@2 reuse=Always@3
  f1 198.51.100.1 80 max=50@7 pool=-1@15
  f2 198.51.100.2 80 max=10@16 pool=100@7 check=true@16
Backend slow@19 mode=Http@2 reuse=Never@20
  s1 198.51.100.3 80 max=50@7 pool=100@7 check=false@21",
    );
}

#[test]
fn close() {
    check(
        "close",
        "
Frontend web@8 mode=Http@2 after=Close@10 uses static,app and others
Frontend inner@15 mode=Http@2 uses tools
Backend app@20 mode=Http@2 after=Close@10
  a1 192.0.2.1 80
Backend static@24 mode=Http@2 after=Close@10
  s1 192.0.2.2 80
Backend tools@28 mode=Http@2
  t1 192.0.2.3 80
Backend lone@32 mode=Http@2 after=KeepAlive@33
  l1 192.0.2.4 80",
    );
}

#[test]
fn defaults() {
    check(
        "defaults",
        "
Listen one@18 mode=Http@2 reuse=Aggressive@10 after=Close@9
  s 203.0.113.1 80 from=192.0.2.9@6
Listen two@22 mode=Http@2
  s 203.0.113.2 80 from=0.0.0.0@24
Listen three@27 mode=Tcp@13
  s 203.0.113.3 80",
    );
}

#[test]
fn sources() {
    check(
        "source",
        "
Frontend web@7 mode=Http@2 uses wide
Backend wide@11 mode=Http@2
  w1 198.51.100.1 80 from=192.0.2.100@12
  w2 198.51.100.1 80 from=192.0.2.101@14
  w3 198.51.100.1 80 from=192.0.2.102:40000-44999@15
  w4 198.51.100.1 80 from=0.0.0.0:1024-2047@16 check=true@16
  w5 198.51.100.1 80 from=192.0.2.103:5000-5000@17
Backend client@19 mode=Http@2
  c1 198.51.100.2 80 from=0.0.0.0(Client)@20
  c2 198.51.100.2 80 from=192.0.2.104(OfRequest)@22",
    );
}

#[test]
fn quoting() {
    check(
        "quoting",
        "
Frontend web@6 mode=Http@2 uses back
Backend back@12 mode=Http@2 reuse=Always@13
  s-1 192.0.2.5 80 check=true@14
  s2 192.0.2.6 80",
    );
}

#[test]
fn variables() {
    check(
        "variables",
        "
Frontend web@10 mode=Http@5 uses  and others
Backend app@14 mode=Http@5 reuse=?@15
  a1 Unread from=192.0.2.50@16
  a2 192.0.2.2 80 from=?@17 max=?@17 pool=?@17 purged=?@17 check=?@17 elsewhere=?@17
  a3 192.0.2.3 80 from=?@18 max=?@18 check=true@18
  a4 192.0.2.4 80 check=true@19
unread 2: a stats socket with a condition or an environment variable",
    );
}

#[test]
fn conditions() {
    check(
        "conditions",
        "
Frontend web@12 mode=Http@2 uses app
Backend app@20 mode=Http@2 reuse=?@22 after=?@27 and more servers
  a2 192.0.2.2 80
Backend sure@35 mode=Http@2
  s1 192.0.2.4 80
unread 23: a server that depends on a condition, is not complete, or is one too many
unread 31: a condition decides whether this section counts",
    );
}

#[test]
fn names() {
    check(
        "names",
        "
Frontend web@11 mode=Http@6 uses named
Backend named@15 mode=Http@6
  n1 app.example 8080
  n2-4 web.example 80 check=true@17
  n5 Local
  n6 Local
  n7 192.0.2.7 *
  n8 192.0.2.8 *
  n9 Client
  n10 Client",
    );
}

#[test]
fn ipv6() {
    check(
        "ipv6",
        "
Listen six@7 mode=Tcp@2
  a 2001:db8::1 80 from=2001:db8::5@9
  b 2001:db8::2 81 from=2001:db8::5@9
  c 2001:db8::3 82 from=2001:db8::6:50000-50009@12
  d 2001:db8::4 83 from=2001:db8::7@13",
    );
}

#[test]
fn sections_of_other_kinds_have_no_servers() {
    let seen = config("sections");
    let names: Vec<_> =
        seen.proxies.iter().map(|proxy| (proxy.name.as_str(), proxy.servers.len())).collect();
    assert_eq!(names, [("web", 1)]);
    assert_eq!(seen.unread.count, 0);
}

#[test]
fn sockets() {
    let seen = summary(&config("sockets"));
    let sockets: Vec<_> = seen.lines().take_while(|line| line.starts_with("socket")).collect();
    let expected = [
        "socket /run/a.sock",
        "socket /run/b.sock level=User@3",
        "socket - level=Operator@4",
        "socket - level=Admin@5",
    ];
    assert_eq!(sockets, expected);
}

#[test]
fn pools() {
    check(
        "pools",
        "
Frontend web@9 mode=Http@2 after=KeepAlive@4 uses kept
Backend kept@13 mode=Http@2 after=KeepAlive@4
  k1 192.0.2.81 80 from=192.0.2.110@14 pool=0@14
  k2 192.0.2.82 80 from=192.0.2.111@16 pool=8@16 purged=true@16
  k3 192.0.2.83 80 from=192.0.2.113(Fixed)@17 pool=0@14 purged=false@17
Backend off@19 mode=Http@2 after=KeepAlive@4 disabled
  o1 192.0.2.81 80 from=192.0.2.112@21",
    );
}

#[test]
fn a_folder_is_its_files_one_after_the_other() {
    check(
        "/d",
        "
Frontend web@1 mode=Http@2 uses app
Backend app@1 mode=Http@2
  a 192.0.2.90 80",
    );
}
