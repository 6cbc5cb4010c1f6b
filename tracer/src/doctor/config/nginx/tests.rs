//! Configurations, and what each should say. `nginx -t` 1.22.1 accepts all but those for newer versions and modules
//! (`stream`, `lua`, `new`) and those that are broken on purpose (`broken`, `missing`).

use std::{fmt::Write as _, net::SocketAddr, path::Path};

use super::*;
use crate::host::files::Memory;

mod hostile;
mod mutations;

macro_rules! corpus {
    ($($name:literal,)+) => {
        /// Paths and texts.
        const CORPUS: &[(&str, &str)] = &[
            $((concat!("/n/", $name), include_str!(concat!("corpus/", $name))),)+
        ];
    };
}

corpus![
    "address.conf",
    "broken.conf",
    "conf.d/api.conf",
    "conf.d/proxy_params",
    "conf.d/web.conf",
    "fastcgi.conf",
    "full.conf",
    "grpc.conf",
    "half.conf",
    "included.conf",
    "lost_header.conf",
    "lua.conf",
    "missing.conf",
    "names.conf",
    "new.conf",
    "old_default.conf",
    "quoting.conf",
    "stream.conf",
    "taken_back.conf",
    "variable.conf",
    "websocket.conf",
];

const OLD: Option<Version> = Some(Version { major: 1, minor: 22, patch: 1 });
const NEW: Option<Version> = Some(Version { major: 1, minor: 29, patch: 7 });

fn read(name: &str) -> Facts {
    facts(&Memory::of(CORPUS), Path::new(&format!("/n/{name}.conf")), "")
}

/// A place without its folder.
fn place(at: &At) -> String {
    at.to_string().trim_start_matches("/n/").to_owned()
}

fn lack(lack: &Lack) -> String {
    let default = |at: &Option<At>| at.as_ref().map_or("default".into(), place);
    match lack {
        Lack::UpstreamBlock => "block".into(),
        Lack::Keepalive => "keepalive".into(),
        Lack::KeepaliveZero(at) => format!("zero {}", place(at)),
        Lack::TakenBack { keepalive, by, at } => {
            format!("{} taken back by {by} {}", place(keepalive), place(at))
        }
        Lack::Http10(at) => format!("1.0 {}", default(at)),
        Lack::Close { set, lost_at: None, .. } => format!("close {}", default(set)),
        Lack::Close { lost_at: Some(at), .. } => format!("close lost {}", place(at)),
        Lack::KeepConn(at) => format!("keep_conn {}", default(at)),
        Lack::Protocol => "protocol".into(),
    }
}

/// The ways to a destination, as `GROUP PASS: …`, each once.
fn ways(facts: &Facts, version: Option<Version>, destination: &str) -> Vec<String> {
    let routes = routes(facts, version, destination.parse().unwrap());
    let mut ways = Vec::new();
    for route in &routes.routes {
        let mut way = match route.upstream {
            Some(upstream) => format!("{} {}: ", upstream.name, place(&upstream.at)),
            None => format!("- {}: ", place(&route.pass.at)),
        };
        match &route.keeps {
            Keeps::Yes { number, local, at } => {
                let at = at.as_ref().map_or("default".into(), place);
                let local = if *local { " local" } else { "" };
                write!(way, "keeps {number}{local} {at}").unwrap();
            }
            Keeps::No(lacks) => {
                way += &lacks.iter().map(lack).collect::<Vec<_>>().join(", ");
            }
            Keeps::Unknown(why) => way += &why.replace("/n/", ""),
        }
        write!(way, "; {:?}", route.closes).unwrap();
        if route.by != By::Address {
            write!(way, " by {:?}", route.by).unwrap();
        }
        if !ways.contains(&way) {
            ways.push(way);
        }
    }
    if let Some(unread) = routes.unread {
        ways.push(format!("unread {}", place(&unread.at)));
    }
    ways
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn each_configuration_says_whether_connections_are_kept_and_who_closes_them() {
    const HERE: &str = "10.0.1.7:8080";
    for (name, version, destination, expected) in [
        (
            "old_default",
            OLD,
            HERE,
            "api old_default.conf:7: keepalive, 1.0 default, close default; Server",
        ),
        (
            "old_default",
            OLD,
            "10.0.1.8:8080",
            "api old_default.conf:7: keepalive, 1.0 default, close default; Server",
        ),
        ("old_default", NEW, HERE, "api old_default.conf:7: keeps 32 local default; Here"),
        (
            "old_default",
            None,
            HERE,
            "api old_default.conf:7: the version of nginx is not known, and its defaults differ; Either",
        ),
        ("half", OLD, HERE, "api half.conf:5: keepalive; Here"),
        ("half", NEW, HERE, "api half.conf:5: keeps 32 local default; Here"),
        ("full", OLD, HERE, "api full.conf:9: keeps 64 full.conf:16; Here"),
        ("full", None, HERE, "api full.conf:9: keeps 64 full.conf:16; Here"),
        ("full", OLD, "[2001:db8::1]:8080", "api full.conf:9: keeps 64 full.conf:16; Here"),
        ("full", OLD, "[::ffff:10.0.1.7]:8080", "api full.conf:9: keeps 64 full.conf:16; Here"),
        ("full", OLD, "10.0.1.9:8080", ""),
        ("full", OLD, "10.0.1.7:8081", ""),
        (
            "lost_header",
            OLD,
            HERE,
            "api lost_header.conf:5: close lost lost_header.conf:11; Server",
        ),
        ("lost_header", NEW, HERE, "api lost_header.conf:5: keeps 16 lost_header.conf:5; Here"),
        (
            "taken_back",
            OLD,
            HERE,
            "api taken_back.conf:5: taken_back.conf:7 taken back by least_conn taken_back.conf:8; Here",
        ),
        ("taken_back", NEW, HERE, "api taken_back.conf:5: keeps 16 taken_back.conf:7; Here"),
        ("address", OLD, HERE, "- address.conf:9: block; Here"),
        ("address", NEW, HERE, "- address.conf:9: block; Here"),
        ("address", OLD, "10.0.1.8:443", "- address.conf:10: block; Here"),
        ("address", OLD, "[2001:db8::1]:8080", "- address.conf:11: block; Here"),
        ("address", OLD, "10.0.1.9:8080", "- address.conf:13: block; Here"),
        ("address", OLD, "10.0.1.99:8080", ""),
        ("variable", OLD, HERE, "blue variable.conf:9: keeps 16 variable.conf:9; Here by Group"),
        ("variable", OLD, "10.0.1.8:8080", "green variable.conf:10: keepalive; Here by Group"),
        ("variable", OLD, "10.0.1.9:8080", "path variable.conf:12: keeps 8 variable.conf:12; Here"),
        ("variable", OLD, "10.9.9.9:9090", "- variable.conf:15: block; Here by Unlisted"),
        ("variable", OLD, "10.9.9.9:443", "- variable.conf:15: block; Here by Unlisted"),
        ("websocket", OLD, HERE, "chat websocket.conf:7: close websocket.conf:14; Server"),
        ("websocket", NEW, HERE, "chat websocket.conf:7: close websocket.conf:14; Server"),
        (
            "websocket",
            OLD,
            "10.0.1.8:8080",
            "news websocket.conf:8: keeps 32 websocket.conf:8; Here",
        ),
        (
            "websocket",
            OLD,
            "10.0.1.9:8080",
            "other websocket.conf:9: a variable decides on Connection (websocket.conf:16); Either",
        ),
        ("grpc", OLD, "10.0.1.7:50051", "kept grpc.conf:5: keeps 8 grpc.conf:5; Here"),
        ("grpc", OLD, "10.0.1.8:50051", "not_kept grpc.conf:6: keepalive; Here"),
        ("grpc", OLD, "10.0.1.9:50051", "- grpc.conf:11: block; Here"),
        ("fastcgi", OLD, "127.0.0.1:9000", "php fastcgi.conf:5: keeps 4 fastcgi.conf:5; Here"),
        ("fastcgi", OLD, "127.0.0.1:9001", "plain fastcgi.conf:6: keepalive; Here"),
        ("fastcgi", OLD, "127.0.0.1:9002", "lazy fastcgi.conf:7: keep_conn default; Server"),
        ("fastcgi", OLD, "127.0.0.1:3031", "- fastcgi.conf:14: protocol; Server"),
        ("fastcgi", OLD, "127.0.0.1:4000", "- fastcgi.conf:15: protocol; Server"),
        ("fastcgi", OLD, "127.0.0.1:11211", "- fastcgi.conf:16: block; Here"),
        ("stream", OLD, "10.0.2.1:5432", "db stream.conf:4: protocol; Either"),
        ("stream", NEW, "10.0.2.3:5433", "- stream.conf:11: protocol; Either"),
        (
            "names",
            OLD,
            "10.5.5.5:8080",
            "api names.conf:5: 1.0 default, close default; Server by Port",
        ),
        ("names", OLD, HERE, "exact names.conf:6: keepalive, 1.0 default, close default; Server"),
        (
            "names",
            OLD,
            "127.0.0.1:8081",
            "- names.conf:11: block, 1.0 default, close default; Server by Port",
        ),
        (
            "names",
            OLD,
            "127.0.0.1:443",
            "- names.conf:12: block, 1.0 default, close default; Server by Port",
        ),
        ("included", OLD, HERE, "api conf.d/api.conf:1: keepalive; Here"),
        (
            "included",
            OLD,
            "10.0.1.8:8080",
            "web conf.d/web.conf:1: keeps 16 conf.d/web.conf:3; Here",
        ),
        ("quoting", OLD, HERE, "api quoting.conf:7: keeps 16 quoting.conf:7; Here"),
        ("lua", OLD, HERE, "plain lua.conf:11: keepalive, 1.0 default, close default; Server"),
        (
            "lua",
            OLD,
            "0.0.0.1:80",
            "api lua.conf:6: Lua chooses the server of upstream \"api\" (lua.conf:8); Either",
        ),
        ("new", NEW, HERE, "off new.conf:5: zero new.conf:5; Here"),
        ("new", NEW, "10.0.1.8:8080", "own new.conf:6: keeps 16 local new.conf:6; Here"),
        ("new", NEW, "10.0.1.9:8080", "old new.conf:7: 1.0 new.conf:14; Server"),
        ("new", NEW, "10.0.1.10:8080", "closing new.conf:8: close new.conf:15; Server"),
        ("new", NEW, "10.0.1.11:8080", "two new.conf:9: keeps 32 local default; Here"),
        (
            "broken",
            OLD,
            HERE,
            "api broken.conf:3: not read: broken.conf:8: the file ends within a block; Either",
        ),
        (
            "broken",
            OLD,
            "10.9.9.9:80",
            "- broken.conf:6: not read: broken.conf:8: the file ends within a block; Either by Port",
        ),
        ("broken", OLD, "10.9.9.9:81", "unread broken.conf:8"),
        ("missing", OLD, HERE, "api missing.conf:4: 1.0 default, close default; Server"),
        (
            "missing",
            OLD,
            "10.0.1.8:8080",
            "web missing.conf:5: not read: missing.conf:5: servers.conf: entity not found; Either",
        ),
        (
            "missing",
            OLD,
            "10.0.1.9:8080",
            "- missing.conf:8: not read: missing.conf:8: none.conf: entity not found; Either",
        ),
        (
            "missing",
            OLD,
            "10.9.9.9:81",
            "web missing.conf:5: not read: missing.conf:5: servers.conf: entity not found; Either by Unlisted",
        ),
        (
            "lua",
            OLD,
            "10.244.0.9:8080",
            "api lua.conf:6: Lua chooses the server of upstream \"api\" (lua.conf:8); Either by Unlisted",
        ),
    ] {
        let ways = ways(&read(name), version, destination);
        assert_eq!(ways.join(" | "), expected, "{name} {destination} {version:?}");
    }
}

#[test]
fn limits_logs_and_settings_are_read() {
    let full = read("full");
    assert_eq!(
        (full.workers, full.worker_descriptors, full.worker_connections),
        (Workers::Auto, Some(65_536), 16_384)
    );
    let upstream = &full.upstreams[0];
    assert_eq!((upstream.requests, upstream.timeout_ms), (Some(10_000), Some(55_000)));
    assert_eq!(upstream.servers.len(), 3);
    let binds: Vec<_> = full.passes.iter().map(|pass| pass.bind().map(|(bind, _)| bind)).collect();
    assert_eq!(binds, [None, Some("127.0.0.2"), None]);
    let old = read("old_default");
    assert_eq!(
        (old.workers, old.worker_descriptors, old.worker_connections),
        (Workers::Number(2), None, 1024)
    );
    let log = &old.error_logs[0];
    assert_eq!((log.target.as_str(), log.level.as_str(), log.at.line), ("stderr", "warn", 3));
    let timeouts =
        |name: &str| -> Vec<_> { read(name).passes.iter().map(Pass::connect_timeout_ms).collect() };
    assert_eq!(timeouts("half"), [1000]);
    assert_eq!(timeouts("grpc"), [60_000, 500, 60_000]);
    assert_eq!(timeouts("stream"), [1000, 60_000]);
    assert_eq!(read("half").worker_connections, 512);
    assert_eq!(read("half").workers, Workers::Number(1));
    let files: Vec<_> = read("included").files.iter().map(|file| file.path.to_string()).collect();
    assert_eq!(
        files,
        ["/n/included.conf", "/n/conf.d/api.conf", "/n/conf.d/proxy_params", "/n/conf.d/web.conf"]
    );
}

#[test]
fn very_many_passes_and_groups_take_bounded_time() {
    let mut text = String::from("http {");
    for at in 0..5000 {
        write!(
            text,
            "upstream u{at} {{server 10.0.0.1;}}server{{location /{{proxy_pass http://$x;}}}}"
        )
        .unwrap();
    }
    text.push('}');
    let facts = facts(&Memory::of(&[("/c", &text)]), Path::new("/c"), "");
    assert_eq!(facts.upstreams.len(), 5000);
    let began = std::time::Instant::now();
    let destination: SocketAddr = "10.0.0.1:80".parse().unwrap();
    assert!(routes(&facts, OLD, destination).routes.len() <= 2048);
    assert!(began.elapsed().as_secs() < 5);
}

#[test]
fn the_time_for_anything_is_linear() {
    const SIZE: usize = 256 << 10;
    for piece in [
        ";",
        "a;",
        "hash x;",
        "a b c ",
        "\"",
        "\"a\" ",
        "'a' ",
        "\\",
        "{",
        "a{",
        "http{",
        "if{}",
        "}",
        "#",
        "\n",
        "\0",
        "$",
        "${",
        "a{}",
        "map $http_upgrade $x{a b;}",
        "include x*;",
        "include x;",
        "include *;",
        "location /{proxy_bind $x;",
        "proxy_pass http://$x;",
        "http{proxy_pass http://x;}",
        "x_by_lua_block{",
        "x_by_lua_block{}",
        "http{}",
        "upstream u{server a;}",
    ] {
        let text = piece.repeat(SIZE / piece.len());
        for text in [text.clone(), format!("http {{ {text}")] {
            let text = text.get(..SIZE).unwrap_or(&text).to_owned();
            let began = std::time::Instant::now();
            let facts = facts(&Memory::of(&[("/x/c", &text)]), Path::new("/x/c"), "");
            let routes = routes(&facts, None, "10.0.0.1:80".parse().unwrap());
            assert!(routes.routes.len() <= 2048 && facts.passes.len() < 100_000, "{piece}");
            let took = began.elapsed();
            assert!(took.as_secs() < 10, "{piece}: {took:?}");
        }
    }
}
