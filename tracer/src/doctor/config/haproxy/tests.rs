use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use super::{
    test_corpus::{FILES, config},
    *,
};
use crate::doctor::config::{files::Memory, test_mutations};

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

fn text(text: &str) -> Config {
    read(&Memory::of(&[("/a", text)]), &["/a".into()])
}

#[test]
fn a_destination_leads_to_all_servers_there_but_not_to_those_that_are_switched_off() {
    let pools = config("pools");
    let names = |config: &Config, to: &str| {
        let found = config.towards(at(to));
        found
            .iter()
            .map(|(proxy, server)| format!("{}/{} {}", proxy.name, server.name, server.at))
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&pools, "192.0.2.81:80"), ["kept/k1 /c/pools.cfg:15"]);
    assert_eq!(names(&pools, "192.0.2.81:81"), [""; 0]);
    let wide = config("source");
    assert_eq!(names(&wide, "198.51.100.1:80").len(), 5);
    assert_eq!(names(&config("ipv6"), "[2001:db8::2]:81"), ["six/b /c/ipv6.cfg:11"]);
}

#[test]
fn a_backend_is_found_by_its_name_but_no_frontend_is() {
    let text = text("frontend a\nbackend a\n mode http\n");
    assert_eq!(text.backend("a").unwrap().kind, Kind::Backend);
    assert!(text.backend("b").is_none());
}

#[test]
fn sources_are_those_of_sections_that_open_connections_in_this_namespace() {
    let of = |config: &Config| {
        let sources = config.sources();
        sources.iter().map(|it| (it.source.address.to_string(), it.at.line)).collect::<Vec<_>>()
    };
    let expected = [("192.0.2.110", 14), ("192.0.2.111", 16), ("192.0.2.113", 17)]
        .map(|(address, line)| (address.to_owned(), line));
    assert_eq!(of(&config("pools")), expected);
    // The first server alone has none of its own.
    assert_eq!(
        of(&config("source")).iter().filter(|(address, _)| address == "192.0.2.100").count(),
        1
    );
    let elsewhere = text(
        "backend b\n source 192.0.2.1\n server s 192.0.2.2:80 namespace blue source 192.0.2.3\n",
    );
    assert_eq!(elsewhere.sources(), []);
}

#[test]
fn files_are_those_of_the_command_line() {
    let of = |arguments: &str| {
        let arguments: Vec<String> = arguments.split(' ').map(str::to_owned).collect();
        let paths = paths(&arguments, Path::new("/srv"));
        paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>()
    };
    let usual =
        "/usr/sbin/haproxy -Ws -f /etc/haproxy/haproxy.cfg -p /run/haproxy.pid -S /run/master.sock";
    assert_eq!(of(usual), ["/etc/haproxy/haproxy.cfg"]);
    assert_eq!(
        of("haproxy -f a.cfg -f /b -sf 7 8 -x /s -- c d"),
        ["/srv/a.cfg", "/b", "/srv/c", "/srv/d"]
    );
    assert_eq!(of("haproxy -C /etc -f a -p -f"), ["/etc/a"]);
    assert_eq!(of("-f -f"), [""; 0]);
}

#[test]
fn what_cannot_be_read_is_said() {
    let files = Memory::of(&[(
        "/a",
        "backend a\n server s \"192.0.2.1:80\n server t\n server u 192.0.2.1:80\n",
    )]);
    let config = read(&files, &["/a".into(), "/none".into()]);
    let places: Vec<_> = config.unread.places.iter().map(|(at, _)| at.to_string()).collect();
    assert_eq!(places, ["/a:2", "/a:3", "/none:0"]);
    assert_eq!(config.proxies[0].servers.len(), 1);
    assert!(config.proxies[0].more_servers && config.modified.is_some());
}

#[test]
fn a_file_ends_a_section_and_defaults_hold_in_the_next_file() {
    let files = Memory::of(&[
        ("/1", "defaults\n mode http\nbackend a\n"),
        ("/2", " http-reuse never\n server s 192.0.2.1:80\nbackend b\n"),
    ]);
    let config = read(&files, &["/1".into(), "/2".into()]);
    assert_eq!(config.proxies.len(), 2);
    assert_eq!(config.proxies[0].servers, []);
    assert_eq!(config.proxies[1].settings.mode.value(), Some(&Mode::Http));
    assert_eq!(config.proxies[1].settings.reuse, Setting::Unset);
}

#[test]
fn settings_from_defaults_that_are_not_there_are_not_known() {
    let config = text(
        "defaults a\n mode http\ndefaults b from z\nbackend c\nbackend d from a\nbackend e from y\n",
    );
    let modes: Vec<_> =
        config.proxies.iter().map(|proxy| proxy.settings.mode.or(Mode::Tcp)).collect();
    assert_eq!(modes, [None, Some(Mode::Http), None]);
    assert_eq!(config.unread.count, 2);
}

#[test]
fn defaults_that_a_condition_decides_on_leave_no_setting_known() {
    let config = text("defaults\n mode http\n.if defined(A)\ndefaults\n.endif\nbackend a\n");
    assert_eq!(config.proxies[0].settings.mode.or(Mode::Tcp), None);
}

#[test]
fn blocks_end_with_the_file() {
    let files = Memory::of(&[("/1", ".if 0\n"), ("/2", "backend b\n")]);
    assert_eq!(read(&files, &["/1".into(), "/2".into()]).proxies.len(), 1);
}

#[test]
fn of_a_folder_only_configurations_that_are_not_hidden_are_read() {
    let files = Memory::of(&[
        ("/d/.a.cfg", "backend a\n"),
        ("/d/b.cfg", "backend b\n"),
        ("/d/c", "backend c\n"),
    ]);
    let names: Vec<_> =
        read(&files, &["/d".into()]).proxies.into_iter().map(|proxy| proxy.name).collect();
    assert_eq!(names, ["b"]);
}

#[test]
fn a_source_with_a_variable_anywhere_is_not_known() {
    let lines = ["\"$A\"", "192.0.2.1 usesrc \"$A\"", "192.0.2.1 interface \"$A\""];
    for line in lines {
        let config = text(&format!("backend a\n source {line}\n"));
        assert!(matches!(config.proxies[0].settings.source, Setting::Unread(_)), "{line}");
    }
}

#[test]
fn hostile_files_are_read_in_bounded_time_and_memory() {
    let huge = "listen a\n server s 192.0.2.1:80\n".repeat(140_000);
    let many = text(&huge);
    assert!(many.proxies.len() == 10_000 && many.unread.places.len() == Unread::MOST);
    assert!(many.unread.count > 100_000);
    let one = format!("backend a\n server s {}\n", "x".repeat(1 << 20));
    assert_eq!(text(&one).proxies[0].servers, []);
    let files: Vec<PathBuf> = (0..5_000).map(|number| format!("/{number}").into()).collect();
    assert_eq!(read(&Memory::default(), &files).unread.count, 1_001);
}

#[test]
fn mutations_of_files_do_no_harm() {
    let texts: Vec<&[u8]> = FILES.iter().map(|(_, text)| text.as_bytes()).collect();
    test_mutations::run("haproxy", &texts, |input| {
        let mut files = Memory::default();
        files.0.insert("/a".into(), input.to_vec());
        let config = read(&files, &["/a".into()]);
        config.sources().len() + config.towards(at("192.0.2.1:80")).len()
    });
}
