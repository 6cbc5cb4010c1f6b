use std::path::Path;

use super::{
    test_corpus::{FILES, config},
    *,
};
use crate::doctor::config::{files::Memory, test_mutations};

fn text(text: &str) -> Config {
    read(&Memory::of(&[("/a", text)]), Path::new("/a"))
}

#[test]
fn a_destination_leads_to_its_peers() {
    let peers = config("peers");
    let names = |to: &str| {
        peers.towards(to.parse().unwrap()).map(|peer| peer.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names("192.0.2.30:8080"), ["app"]);
    assert_eq!(names("192.0.2.30:80"), [""; 0]);
}

#[test]
fn a_setting_in_doubt_takes_the_place_of_an_earlier_one() {
    let both = text(
        "server_persistent_connections off\nif ${process_number} = 1\nserver_persistent_connections on\nendif\n",
    );
    assert_eq!(both.persistent.or(true), None);
    let odd = text("server_persistent_connections maybe\n");
    assert_eq!(odd.persistent.or(true), None);
    assert_eq!(text("").persistent.or(true), Some(true));
}

#[test]
fn only_the_innermost_block_decides_as_in_squid() {
    let nested = text(
        "if false\nif true\ntcp_outgoing_address 192.0.2.1\nendif\ntcp_outgoing_address 192.0.2.2\nendif\n",
    );
    let addresses: Vec<_> = nested.outgoing.iter().map(|outgoing| outgoing.at.line).collect();
    assert_eq!(addresses, [3]);
}

#[test]
fn hostile_files_are_read_in_bounded_time_and_memory() {
    let blocks = text(&"if true\n".repeat(500_000));
    assert_eq!(blocks.unread.count, 1);
    let outgoing =
        text(&format!("tcp_outgoing_address 192.0.2.1 {}\n", "a ".repeat(1_000)).repeat(2_000));
    assert!(outgoing.outgoing.iter().all(|outgoing| outgoing.lists.len() <= 64));
    let includes = text(&"include /etc/*/*/*\n".repeat(200_000));
    assert!(includes.unread.count > 100_000 && includes.unread.places.len() == Unread::MOST);
    let long = text(&"server_persistent_connections \\\n".repeat(100_000));
    assert_eq!(long.persistent, Setting::Unset);
    assert!(long.unread.count > 0);
}

#[test]
fn mutations_of_files_do_no_harm() {
    let texts: Vec<&[u8]> = FILES.iter().map(|(_, text)| text.as_bytes()).collect();
    test_mutations::run("squid", &texts, |input| {
        let mut files = Memory::of(&FILES);
        files.0.insert("/a".into(), input.to_vec());
        read(&files, Path::new("/a")).outgoing.len()
    });
}

#[test]
fn mutations_of_programs_do_no_harm() {
    let program: &[u8] = b"x\0squid/5.7\0see /squid.conf\0/etc/squid/squid.conf\0-f\0";
    test_mutations::run("squid's program", &[program], |input| {
        (version(input), path(&[], Path::new("/"), input))
    });
}
