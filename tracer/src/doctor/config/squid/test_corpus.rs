//! Configurations, and what each of them says.

use std::{fmt::Write as _, path::Path};

use super::{Config, read};
use crate::doctor::config::{Setting, files::Memory};

/// The files of the corpus: names and texts.
pub(super) const FILES: [(&str, &str); 7] = [
    ("/etc/squid/conditions.conf", include_str!("corpus/conditions.conf")),
    ("/etc/squid/conf.d/local.conf", include_str!("corpus/conf.d-local.conf")),
    ("/etc/squid/debian.conf", include_str!("corpus/debian.conf")),
    ("/etc/squid/loop.conf", include_str!("corpus/loop.conf")),
    ("/etc/squid/names.conf", include_str!("corpus/names.conf")),
    ("/etc/squid/outgoing.conf", include_str!("corpus/outgoing.conf")),
    ("/etc/squid/peers.conf", include_str!("corpus/peers.conf")),
];

/// A file of the corpus, read.
pub(super) fn config(name: &str) -> Config {
    read(&Memory::of(&FILES), Path::new(&format!("/etc/squid/{name}.conf")))
}

/// All that was read, a line for each statement.
fn summary(config: &Config) -> String {
    let mut out = String::new();
    for outgoing in &config.outgoing {
        writeln!(out, "{} {} {}", outgoing.at, outgoing.address, outgoing.lists.join(" ")).unwrap();
    }
    for peer in &config.peers {
        let address = peer.address.map_or_else(|| "?".to_owned(), |address| address.to_string());
        writeln!(out, "peer {} {address} {}", peer.name, peer.port).unwrap();
    }
    match &config.persistent {
        Setting::Unset => {}
        Setting::Is(value, at) => writeln!(out, "persistent {value} {}", at.line).unwrap(),
        Setting::Unread(at) => writeln!(out, "persistent ? {}", at.line).unwrap(),
    }
    for (at, why) in &config.unread.places {
        writeln!(out, "unread {}: {why}", at.line).unwrap();
    }
    out.replace("/etc/squid/", "").replace(" \n", "\n")
}

#[track_caller]
fn check(name: &str, expected: &str) {
    let seen = summary(&config(name));
    assert_eq!(seen.trim(), expected.trim(), "{name}:\n{seen}");
}

#[test]
fn debian() {
    check("debian", "conf.d/local.conf:2 192.0.2.10");
}

#[test]
fn outgoing() {
    check(
        "outgoing",
        "
outgoing.conf:4 2001:db8::c001 good_service_net
outgoing.conf:5 10.1.0.2 good_service_net !normal_service_net
outgoing.conf:10 10.1.0.1 normal_service_net
outgoing.conf:11 10.1.0.3
persistent false 12",
    );
}

#[test]
fn peers() {
    check(
        "peers",
        "
peer app 192.0.2.30 8080
peer 192.0.2.31 192.0.2.31 8080
peer store ? 3128
persistent true 6",
    );
}

#[test]
fn conditions() {
    check(
        "conditions",
        "
conditions.conf:4 192.0.2.40
persistent ? 16
unread 15: its address is no number, or it depends on a condition",
    );
}

#[test]
fn names() {
    check(
        "names",
        "
peer app 192.0.2.30 8080
peer 192.0.2.31 192.0.2.31 8080
peer store ? 3128
persistent ? 8
unread 2: its address is no number, or it depends on a condition
unread 3: its address is no number, or it depends on a condition
unread 5: only files with a whole path are included
unread 6: only files with a whole path are included
unread 7: the file cannot be read",
    );
}

#[test]
fn a_file_that_includes_itself_is_read_in_bounded_time() {
    let config = config("loop");
    assert_eq!((config.outgoing.len(), config.unread.count), (17, 18));
}
