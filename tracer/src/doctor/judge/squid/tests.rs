use std::path::Path;

use super::*;
use crate::doctor::{
    config::{
        files::Memory,
        squid::{read, version},
    },
    finding::Id,
};

fn config(text: &str) -> Config {
    read(&Memory::of(&[("/s.conf", text)]), Path::new("/s.conf"))
}

fn squid(text: &str) -> Option<Version> {
    version(format!("\0squid/{text}\0").as_bytes())
}

#[test]
fn connections_are_not_used_again_where_that_is_switched_off() {
    assert_eq!(churn(&config("")), None);
    assert_eq!(churn(&config("server_persistent_connections on\n")), None);
    let found = churn(&config("server_persistent_connections off\n")).unwrap();
    assert_eq!(
        found.why,
        "\"server_persistent_connections off\" opens a connection for each request (/s.conf:1)"
    );
    assert_eq!(found.advice[0].risk, None);
    let lists =
        churn(&config("tcp_outgoing_address 192.0.2.1 some\nserver_persistent_connections off\n"))
            .unwrap();
    assert!(lists.advice[0].risk.is_some());
    let unread = churn(&config("server_persistent_connections ${process_number}\n")).unwrap();
    assert_eq!((unread.advice.len(), unread.certainty), (0, Certainty::Possible));
}

#[test]
fn squid_before_6_0_1_binds_a_port_with_tcp_outgoing_address() {
    let one = config("\ntcp_outgoing_address 192.0.2.1\n");
    let found = poisoned_ports(&one, squid("5.7").as_ref()).unwrap();
    assert_eq!(
        found.why,
        "Squid 5.7 binds a port for each connection that \"tcp_outgoing_address\" applies to (/s.conf:2); from 6.0.1 on \
         it leaves the port to connect()"
    );
    assert_eq!((found.certainty, found.advice.len()), (Certainty::Measured, 2));
    assert_eq!(poisoned_ports(&one, squid("6.0.1").as_ref()), None);
    let unknown = poisoned_ports(&one, None).unwrap();
    assert_eq!(unknown.certainty, Certainty::Possible);
    assert_eq!(poisoned_ports(&config("http_port 3128\n"), squid("5.7").as_ref()), None);
    // A route cannot stand for several addresses.
    let lists = config("tcp_outgoing_address 192.0.2.1 some\n");
    assert_eq!(poisoned_ports(&lists, squid("5.7").as_ref()).unwrap().advice.len(), 1);
}

#[test]
fn addresses_that_the_host_does_not_have_are_found() {
    let text = "tcp_outgoing_address 192.0.2.1 some\ntcp_outgoing_address 192.0.2.2\ntcp_outgoing_address 192.0.2.1\n";
    let place = Place { inum: 1, own: true, ..Place::default() };
    let process = Process { pid: 7, name: "squid".into(), container: None };
    let addresses = BTreeSet::from(["192.0.2.2".parse().unwrap()]);
    let found = bad_source(&config(text), &addresses, &place, &process);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].id, Id::BadSource);
    assert_eq!(found[0].why.as_deref(), Some("/s.conf:1, /s.conf:3 names it"));
}
