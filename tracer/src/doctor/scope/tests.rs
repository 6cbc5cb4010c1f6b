use tracer_common::Addr;

use super::*;
use crate::{
    doctor::finding::{Place, Process, Severity},
    host::capacity::{PortRange, Reuse},
};

const SOURCE: Addr = Addr::v4([10, 0, 0, 8]);
const SERVER: Addr = Addr::v4([10, 0, 1, 7]);
const NETNS: u32 = 5;

fn settings() -> Settings {
    let range = PortRange { low: 40_000, high: 40_999, reserved: Vec::new() };
    Settings { range, reuse: Reuse { setting: 0, delay_ms: None, timestamps: true } }
}

/// A connection to this port of the server, with this inode and cgroup.
fn to(port: u16, inode: u32, cgroup: u64) -> DiagSocket {
    let socket = DiagSocket::between(tcp_state::ESTABLISHED, (SOURCE, 40_000), (SERVER, port));
    DiagSocket { inode, cgroup, ..socket }
}

fn ends(port: u16) -> Ends {
    Ends { source: SOURCE, destination: SERVER, port }
}

fn place() -> Place {
    Place { inum: NETNS, ..Place::default() }
}

fn about(id: Id, subject: Subject) -> Finding {
    Finding::new(id, Severity::Critical, subject, "")
}

fn full(port: u16) -> Finding {
    let subject = Subject::Tuple {
        place: place(),
        source: ip(SOURCE),
        destination: SocketAddr::new(ip(SERVER), port),
    };
    about(Id::PortsExhausted, subject)
}

fn at(address: Addr, port: u16) -> Finding {
    let address = SocketAddr::new(ip(address), port);
    about(Id::UpstreamQueue, Subject::Address { place: place(), address })
}

fn of(pid: u32) -> Finding {
    let process = Process { pid, name: "a".into(), container: None };
    about(Id::Descriptors, Subject::Process(process))
}

/// Process 7 with the socket of inode 70.
fn by_pid() -> Members {
    let (pids, inodes) = (BTreeSet::from([7]), HashSet::from([70]));
    Members { pids, inodes, by_pid: true, ..Members::default() }
}

fn by_cgroup() -> Members {
    Members { cgroups: BTreeSet::from([9]), ..Members::default() }
}

fn looked(members: &Members, sockets: &[DiagSocket]) -> Scope {
    Scope::new(Arc::new(members.clone()), [(NETNS, Owned::of(sockets, &settings(), members))])
}

/// With a connect() to port 1 of the server, and a bind(), of this caller.
fn called(members: &Members, sockets: &[DiagSocket], caller: Caller, pids: bool) -> Scope {
    let mut calls = Owned::default();
    calls.connected(&ends(1), caller, members, pids);
    calls.refused(ip(SOURCE), caller, members, pids);
    let looked = Owned::of(sockets, &settings(), members);
    Scope::new(Arc::new(members.clone()), [(NETNS, looked), (NETNS, calls)])
}

#[test]
fn a_tuple_is_judged_if_a_process_in_question_has_a_socket_of_it() {
    let sockets = [to(1, 70, 0), to(2, 80, 0), to(3, 70, 0), to(3, 80, 0), to(4, 0, 4)];
    let seen = [1, 2, 3, 4, 5].map(|port| looked(&by_pid(), &sockets).judges(&full(port)));
    assert_eq!(seen, [true, false, true, true, true], "what is nobody's may be theirs");
    let has = [1, 2].map(|port| looked(&by_pid(), &sockets).has_tuple(NETNS, &ends(port)));
    assert_eq!(has, [true, false]);
}

#[test]
fn the_cgroup_of_a_socket_is_enough_also_when_no_process_has_it_open() {
    let sockets = [to(1, 70, 9), to(2, 80, 8), to(3, 0, 9), to(4, 0, 8), to(5, 0, 0)];
    let seen = [1, 2, 3, 4, 5].map(|port| looked(&by_cgroup(), &sockets).judges(&full(port)));
    assert_eq!(seen, [true, false, true, false, true]);
}

#[test]
fn a_call_says_whose_a_tuple_is_also_if_it_failed() {
    let judged = |members: &Members, pid, cgroup, pids| {
        let scope = called(members, &[], Caller { pid, cgroup }, pids);
        assert_eq!(scope.has_address(NETNS, ip(SOURCE)), scope.judges(&full(1)));
        scope.judges(&full(1))
    };
    assert!(judged(&by_pid(), 7, 8, true));
    assert!(!judged(&by_pid(), 8, 8, true));
    assert!(judged(&by_pid(), 8, 8, false), "ids of another process namespace say nothing");
    assert!(judged(&by_cgroup(), 8, 9, true));
    assert!(!judged(&by_cgroup(), 0, 8, false));
    assert!(judged(&by_cgroup(), 0, 0, true), "of an older socket nothing is known");
    // Another process has it open, and one in question wants it.
    let starved = called(&by_pid(), &[to(1, 80, 8)], Caller { pid: 7, cgroup: 0 }, true);
    assert!(starved.judges(&full(1)));
}

#[test]
fn an_address_is_judged_if_they_listen_there_or_connect_to_it() {
    let listener = |port, inode| DiagSocket {
        inode,
        ..DiagSocket::between(tcp_state::LISTEN, (SOURCE, port), (Addr::v4([0; 4]), 0))
    };
    let sockets =
        [listener(81, 70), listener(82, 80), listener(83, 80), to(84, 70, 0), to(85, 80, 0)];
    let scope = looked(&by_pid(), &sockets);
    assert!(scope.judges(&at(SOURCE, 81)), "theirs");
    assert!(!scope.judges(&at(SOURCE, 82)), "another process's");
    assert!(scope.judges(&at(SERVER, 84)), "where they connect to");
    assert!(!scope.judges(&at(SERVER, 85)), "where only others connect to");
    assert!(scope.judges(&at(Addr::v4([0; 4]), 84)), "a listener at any address");
    assert!(scope.judges(&at(SOURCE, 0)), "all ports of an address that they use");
}

#[test]
fn the_source_of_a_nat_is_nobodys() {
    let nat = |port| Finding { id: Id::SnatExhausted, ..full(port) };
    let scope = looked(&by_pid(), &[to(1, 70, 0), to(2, 80, 0)]);
    assert_eq!([1, 2, 3].map(|port| scope.judges(&nat(port))), [true, false, true]);
}

#[test]
fn what_concerns_all_is_judged_and_what_another_process_does_is_not() {
    let mut scope = looked(&by_pid(), &[]);
    assert!(scope.judges(&about(Id::SmallRange, Subject::Netns(place()))));
    assert!(scope.judges(&about(Id::Kernel, Subject::Host)));
    assert_eq!([7, 8].map(|pid| scope.judges(&of(pid))), [true, false]);
    scope.relate(&[BTreeSet::from([6, 7]), BTreeSet::from([8, 9])]);
    assert_eq!([6, 7, 8].map(|pid| scope.judges(&of(pid))), [true, true, false]);
}

#[test]
fn ports_that_another_program_holds_by_bind_are_missing_to_all() {
    let poisoned = |pid| Finding { id: Id::PoisonedPorts, ..of(pid) };
    for members in [by_pid(), by_cgroup()] {
        let scope = looked(&members, &[]);
        assert_eq!([7, 8].map(|pid| scope.judges(&poisoned(pid))), [true, true]);
        assert!(!scope.judges(&of(8)), "its descriptors are its own");
    }
}

#[test]
fn two_moments_have_the_processes_of_both() {
    let later = Members { pids: BTreeSet::from([7, 8]), inodes: HashSet::from([71]), ..by_pid() };
    let earlier = Members { missing: Some("process 9 has ended".into()), ..by_pid() };
    let both = later.and(earlier);
    assert_eq!((both.pids, both.inodes), ([7, 8].into(), [70, 71].into()));
    assert_eq!(both.missing, None);
}
