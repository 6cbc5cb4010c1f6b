use std::net::Ipv4Addr;

use super::*;
use crate::{
    doctor::{
        finding::Process,
        judge::test_sockets::{ANY, HERE, THERE, connection, listener, own, settings, tuples_of},
    },
    host::sockdiag::{DiagSocket, tcp_state},
};

const LOCALHOST: Addr = Addr::v4([127, 0, 0, 1]);

/// A connection over the loopback interface to port 80.
fn over_loopback() -> DiagSocket {
    let (source, destination) = (LOCALHOST, LOCALHOST);
    DiagSocket { source, destination, ..connection(tcp_state::ESTABLISHED, 40_000) }
}

struct Case {
    now: Tuples,
    before: Option<Tuples>,
    overflows: Option<(u64, f64)>,
    local: Vec<IpAddr>,
    destinations: BTreeSet<(Addr, u16)>,
    somaxconn: u64,
}

impl Case {
    fn new(sockets: &[DiagSocket]) -> Self {
        let now = tuples_of(&settings(40_000, 40_099), sockets);
        let destinations = destinations([&now]);
        let local = vec![Ipv4Addr::new(10, 0, 1, 1).into()];
        Self { now, before: None, overflows: None, local, destinations, somaxconn: 4_096 }
    }

    fn findings(&self) -> Vec<Finding> {
        let process = Process { pid: 12, name: "slow".into(), container: None };
        let owners = HashMap::from([(80, Owner { process, age: None })]);
        upstream_queue(&Queues {
            place: &own(),
            now: &self.now,
            before: self.before.as_ref(),
            overflows: self.overflows,
            longest_backlog: Some(self.somaxconn),
            local: &self.local,
            destinations: &self.destinations,
            owners: &owners,
        })
    }
}

#[test]
fn a_full_queue_of_a_listener_that_this_host_connects_to_is_found() {
    let full = [listener(ANY, 80, 4, 3), over_loopback()];
    let found = Case::new(&full).findings();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].severity, found[0].certainty), (Severity::Warning, Certainty::Measured));
    assert_eq!(found[0].what, "the accept queue is full: 4 connections wait, 3 may");
    assert!(found[0].why.as_deref().unwrap().starts_with("slow (process 12) accepts"), "{found:?}");
    let listener_at = SocketAddr::from(([0, 0, 0, 0], 80));
    assert_eq!(found[0].subject, Subject::Address { place: own(), address: listener_at });
    let not_full = [listener(ANY, 80, 3, 3), over_loopback()];
    assert_eq!(Case::new(&not_full).findings(), []);
}

#[test]
fn a_listener_to_which_only_others_connect_is_none() {
    assert_eq!(Case::new(&[listener(ANY, 80, 4, 3)]).findings(), []);
    // Connections to the same port of another host.
    let mut elsewhere =
        Case::new(&[listener(ANY, 80, 4, 3), connection(tcp_state::ESTABLISHED, 40_000)]);
    assert_eq!(elsewhere.findings().len(), 1, "its address is one of this namespace");
    elsewhere.local.clear();
    assert_eq!(elsewhere.findings(), []);
    // Another namespace connects to an address of this one; a loopback address is that one's own.
    let mut case = Case::new(&[listener(THERE, 80, 4, 3)]);
    case.destinations.insert((THERE, 80));
    assert_eq!(case.findings().len(), 1);
    case.destinations = BTreeSet::from([(LOCALHOST, 80), (THERE, 81), (HERE, 80)]);
    assert_eq!(case.findings(), []);
}

#[test]
fn growing_overflows_name_the_listener_that_fits() {
    let dropped = Some((28, 5.0));
    let quiet = [listener(ANY, 80, 0, 128), over_loopback()];
    let mut only_one = Case::new(&quiet);
    assert_eq!(only_one.findings(), []);
    only_one.overflows = Some((0, 5.0));
    assert_eq!(only_one.findings(), []);
    only_one.overflows = dropped;
    let found = only_one.findings();
    assert_eq!(found[0].certainty, Certainty::Inferred);
    let what =
        "the accept queue was full: 0 connections wait now, 128 may; 28 SYNs were dropped in 5 s";
    assert_eq!(found[0].what, what);
    // Another listener can be the one.
    let two = [quiet[0], quiet[1], listener(ANY, 443, 0, 128)];
    let mut two = Case::new(&two);
    two.overflows = dropped;
    assert_eq!(two.findings(), []);
    let busy = [listener(ANY, 80, 64, 128), quiet[1], listener(ANY, 443, 0, 128)];
    two.before = Some(tuples_of(&settings(40_000, 40_099), &busy));
    assert_eq!(two.findings().len(), 1);
    let mut busy = Case::new(&busy);
    busy.overflows = dropped;
    assert_eq!(busy.findings().len(), 1);
    // Once full, and nothing dropped since.
    let mut once = Case::new(&quiet);
    once.before = Some(tuples_of(&settings(40_000, 40_099), &[listener(ANY, 80, 129, 128)]));
    once.overflows = Some((0, 5.0));
    assert_eq!(once.findings(), []);
}

#[test]
fn sockets_that_share_a_port_are_one_finding() {
    let mut second = listener(ANY, 80, 9, 8);
    second.inode = 81;
    let found = Case::new(&[listener(ANY, 80, 0, 8), second, over_loopback()]).findings();
    assert_eq!(found.len(), 1);
    assert_eq!(
        (&found[0].evidence["queue.sockets"], &found[0].evidence["queue.waiting"]),
        (&2.into(), &9.into())
    );
}

#[test]
fn the_kernels_limit_is_raised_only_if_it_limits() {
    let command = |longest, somaxconn| {
        let mut case = Case::new(&[listener(ANY, 80, longest + 1, longest), over_loopback()]);
        case.somaxconn = somaxconn;
        let found = case.findings();
        (found[0].advice[0].command.clone(), found[0].advice[0].what.clone())
    };
    let (limited, what) = command(128, 128);
    assert_eq!(limited.as_deref(), Some("sysctl -w net.core.somaxconn=4096"));
    assert!(what.contains("restart slow (process 12)"), "{what}");
    let (own, what) = command(5, 4_096);
    assert_eq!(own, None);
    assert!(what.contains("a backlog of 4096"), "{what}");
    let (_, what) = command(1_000, 4_096);
    assert!(what.contains("backlog of 8000") && what.contains("net.core.somaxconn=8000"), "{what}");
}
