use std::collections::BTreeMap;

use super::*;
use crate::{
    doctor::{
        finding::Certainty,
        judge::test_sockets::{
            ANY, HERE, THERE, bound, connection, listener, own, settings, tuples_of,
        },
        tuples::Ends,
    },
    host::sockdiag::{DiagSocket, tcp_state},
};

const ENDS: Ends = Ends { source: HERE, destination: THERE, port: 80 };

fn owner(pid: u32, name: &str, age_s: u64) -> Owner {
    let process = Process { pid, name: name.into(), container: None };
    Owner { process, age: Some(Duration::from_secs(age_s)) }
}

fn listening(settings: &Settings, ports: &[u16], owners: &HashMap<u32, Owner>) -> Option<Finding> {
    let sockets: Vec<_> = ports.iter().map(|port| listener(ANY, *port, 0, 128)).collect();
    listeners_in_range(&own(), settings, &tuples_of(settings, &sockets), owners)
}

#[test]
fn a_listener_in_the_range_is_good_to_know_and_many_are_a_warning() {
    let settings = settings(40_000, 40_999);
    let none = HashMap::new();
    let severity = |ports: &[u16]| listening(&settings, ports, &none).map(|it| it.severity);
    assert_eq!(severity(&[80, 39_999, 41_000]), None);
    assert_eq!(severity(&[40_007]), Some(Severity::Info));
    let ports: Vec<u16> = (40_000..40_010).collect();
    assert_eq!(severity(&ports[..9]), Some(Severity::Info));
    assert_eq!(severity(&ports), Some(Severity::Warning));
    let found = listening(&settings, &ports, &none).unwrap();
    let what =
        "programs listen on 10 ports of the range (1 %): 40000, 40001, 40002, 40003, 40004, 5 more";
    assert_eq!(found.what, what);
}

#[test]
fn a_program_that_began_lately_can_lose_its_port_at_the_next_boot() {
    let settings = settings(40_000, 40_999);
    let of_age = |age_s| {
        let owners = HashMap::from([(40_007, owner(5, "statd", age_s))]);
        listening(&settings, &[40_007], &owners).unwrap()
    };
    assert_eq!(of_age(600).severity, Severity::Info);
    let young = of_age(599);
    assert_eq!(young.severity, Severity::Warning);
    let what =
        "a program listens on port 40007 (statd) of the range; that of port 40007 began 10 min ago";
    assert_eq!(young.what, what);
}

#[test]
fn a_reserved_port_is_free_for_its_program_and_what_is_reserved_stays() {
    let mut settings = settings(40_000, 40_999);
    settings.range.reserved = vec![8080..=8081, 40_001..=40_001];
    assert_eq!(listening(&settings, &[40_001], &HashMap::new()), None);
    let found = listening(&settings, &[40_001, 40_007], &HashMap::new()).unwrap();
    let command = found.advice[0].command.as_deref();
    let expected = "sysctl -w net.ipv4.ip_local_reserved_ports=8080-8081,40001,40007";
    assert_eq!(
        (found.what.as_str(), command),
        ("a program listens on port 40007 of the range", Some(expected))
    );
}

fn by(name: &str, ports: u32) -> BoundBy {
    BoundBy { process: Some(owner(5, name, 9).process), processes: 1, ports }
}

fn poisoned(sockets: &[DiagSocket], bound: &[BoundBy], fast: u32) -> Vec<Finding> {
    let settings = settings(30_001, 50_000);
    let now = tuples_of(&settings, sockets);
    poisoned_ports(&own(), &settings, &now, bound, &BTreeMap::from([(ENDS, fast)]))
}

#[test]
fn a_program_that_binds_many_ports_is_found() {
    use Severity::{Critical, Warning};
    let severity = |ports| poisoned(&[], &[by("squid", ports)], 0).first().map(|it| it.severity);
    assert_eq!(
        [0, 99, 100, 3_999, 4_000].map(severity),
        [None, None, Some(Warning), Some(Warning), Some(Critical)]
    );
    let found = poisoned(&[], &[by("squid", 10_000), by("other", 50)], 0);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].what, "holds 10,000 ports of the range (50 %) by bind()");
    assert!(matches!(&found[0].subject, Subject::Process(process) if process.pid == 5));
    assert!(found[0].advice[0].what.contains("tcp_outgoing_address"), "{found:?}");
    assert_eq!(found[0].advice[0].factor, Some(2.0));
    // In a small range, a hundredth of it is much.
    let small = settings(40_000, 40_099);
    let now = tuples_of(&small, &[]);
    assert_eq!(poisoned_ports(&own(), &small, &now, &[by("a", 1)], &BTreeMap::new()).len(), 1);
}

#[test]
fn the_workers_of_a_program_are_counted_together_and_each_port_once() {
    let settings = settings(30_001, 50_000);
    // Three workers have 40 ports each, of which 10 are those of the worker before; and two processes have no known name.
    let mut sockets: Vec<_> = (0..3_u16)
        .flat_map(|worker| {
            let first = 40_001 + 30 * worker;
            (first..first + 40).map(move |port| bound(port, worker.into()))
        })
        .collect();
    sockets.extend([bound(45_001, 4), bound(45_002, 5)]);
    let owners = [(0, owner(8, "nginx", 9)), (1, owner(7, "nginx", 9)), (2, owner(9, "nginx", 9))];
    let unnamed = [(4, owner(3, "", 9)), (5, owner(4, "", 9))];
    let owners: HashMap<u32, Owner> = owners.into_iter().chain(unnamed).collect();
    let found = by_owner(&settings, &tuples_of(&settings, &sockets), &owners);
    let of = |it: &BoundBy| (it.process.as_ref().map(|it| it.pid), it.processes, it.ports);
    let all: Vec<_> = found.iter().map(of).collect();
    assert_eq!(all, [(Some(3), 1, 1), (Some(4), 1, 1), (Some(7), 3, 100)]);
    let found = poisoned(&[], &found, 0);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].what, "holds 100 ports of the range (1 %) by bind(), in 3 processes");
}

#[test]
fn without_hooks_the_parity_of_the_ports_tells() {
    // The range begins with an odd port, so bind() takes even ones.
    let open = |from: u16, count: usize| {
        let ports = (from..).step_by(2).take(count);
        ports.map(|port| connection(tcp_state::ESTABLISHED, port)).collect::<Vec<_>>()
    };
    let bound = open(30_002, 120);
    let found = poisoned(&bound, &[], 0);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].certainty, found[0].severity), (Certainty::Inferred, Severity::Warning));
    assert_eq!(found[0].evidence["ports.bound"], 120);
    assert_eq!(poisoned(&bound, &[], 21), [], "the spreader's ports");
    assert_eq!(poisoned(&bound, &[by("squid", 120)], 0).len(), 1, "known by the hooks");
    // Ten thousand connections of programs that leave the choice to connect().
    assert_eq!(poisoned(&open(30_001, 9_999), &[], 0), []);
    // connect() has none of the first parity left: another program took, or an operator reserved, all of it.
    let (mut taken, second) = (settings(40_001, 40_399), open(40_002, 120));
    let mut sockets: Vec<_> =
        (40_001..40_400).step_by(2).map(|port| listener(ANY, port, 0, 9)).collect();
    sockets.extend(second.iter().copied());
    let of = |settings: &Settings, sockets: &[DiagSocket]| {
        poisoned_ports(&own(), settings, &tuples_of(settings, sockets), &[], &BTreeMap::new()).len()
    };
    assert_eq!((of(&taken, &second), of(&taken, &sockets)), (1, 0));
    taken.range.reserved = (40_001..40_400).step_by(2).map(|port| port..=port).collect();
    assert_eq!(of(&taken, &second), 0);
}

#[test]
fn a_connection_to_itself_has_the_parity_of_its_destination() {
    // In a range of 100 ports that begins with an even one, one odd port is a hundredth of it.
    let settings = settings(40_000, 40_099);
    let odd = connection(tcp_state::ESTABLISHED, 40_001);
    let itself = DiagSocket { destination: HERE, destination_port: 40_001, ..odd };
    let closed =
        DiagSocket { state: tcp_state::TIME_WAIT, time_wait: true, expires_ms: 60_000, ..itself };
    let of = |socket: DiagSocket| {
        let now = tuples_of(&settings, &[socket]);
        poisoned_ports(&own(), &settings, &now, &[], &BTreeMap::new()).len()
    };
    assert_eq!(of(odd), 1, "bind() chose it");
    // The same port of the same host, towards another one of it.
    assert_eq!(of(DiagSocket { destination_port: 40_003, ..itself }), 1);
    assert_eq!(
        [itself, closed].map(of),
        [0, 0],
        "connect() was given the port that it wanted to reach"
    );
}

#[test]
fn idle_bound_sockets_are_counted_by_program() {
    let mut settings = settings(40_000, 40_999);
    settings.range.reserved = vec![40_009..=40_009];
    let sockets =
        [bound(40_001, 1), bound(40_003, 1), bound(40_005, 2), bound(40_009, 2), bound(80, 2)];
    let now = tuples_of(&settings, &sockets);
    let owners = HashMap::from([(1, owner(5, "squid", 9))]);
    let mut found = by_owner(&settings, &now, &owners);
    found.sort_by_key(|it| it.ports);
    assert_eq!(found, [BoundBy { process: None, processes: 0, ports: 1 }, by("squid", 2)]);
}

#[test]
fn a_connection_to_itself_is_critical() {
    let settings = settings(40_000, 40_999);
    let itself = DiagSocket {
        destination: HERE,
        destination_port: 40_001,
        inode: 3,
        ..connection(tcp_state::ESTABLISHED, 40_001)
    };
    let of = |socket: DiagSocket| {
        let owners = HashMap::from([(3, owner(5, "app", 9))]);
        self_connect(&own(), &settings, &tuples_of(&settings, &[socket]), &owners, [], &[])
    };
    let found = of(itself);
    assert_eq!(found[0].severity, Severity::Critical);
    assert_eq!(found[0].what, "a connection from 10.0.0.1:40001 to itself, of app (process 5)");
    let command = found[0].advice[0].command.as_deref();
    assert_eq!(command, Some("sysctl -w net.ipv4.ip_local_reserved_ports=40001"));
    // It is the reason why nothing else listens there: it is one finding.
    let ends = Ends { destination: HERE, port: 40_001, ..ENDS };
    let local = [std::net::IpAddr::from([10, 0, 0, 1])];
    let now = tuples_of(&settings, &[itself]);
    assert_eq!(
        self_connect(&own(), &settings, &now, &HashMap::new(), [(ends, 3)], &local).len(),
        1
    );
    for (destination, destination_port) in [(THERE, 40_001), (HERE, 40_002)] {
        assert_eq!(of(DiagSocket { destination, destination_port, ..itself }), []);
    }
}

#[test]
fn a_refused_port_of_the_range_without_a_listener_could_connect_to_itself() {
    let mut settings = settings(40_000, 40_999);
    let ends = Ends { port: 40_001, ..ENDS };
    let local = [THERE].map(|it| std::net::Ipv4Addr::from(it.to_v4().unwrap()).into());
    let of = |settings: &Settings,
              sockets: &[DiagSocket],
              ends: Ends,
              count: u64,
              local: &[std::net::IpAddr]| {
        let now = tuples_of(settings, sockets);
        self_connect(&own(), settings, &now, &HashMap::new(), [(ends, count)], local)
    };
    let found = of(&settings, &[], ends, 7, &local);
    assert_eq!((found.len(), found[0].severity), (1, Severity::Info));
    assert_eq!(
        found[0].what,
        "nothing listens on 10.0.1.1:40001, a port of the range; 7 connect() to it were refused"
    );
    assert_eq!(of(&settings, &[], ends, 0, &local), []);
    let other_source = Ends { source: THERE, ..ends };
    let now = tuples_of(&settings, &[]);
    let refused = [(ends, 7), (other_source, 2)];
    let both = self_connect(&own(), &settings, &now, &HashMap::new(), refused, &local);
    assert_eq!((both.len(), &both[0].evidence["refused"]), (1, &9.into()));
    assert_eq!(of(&settings, &[], ends, 7, &[]), [], "another host");
    assert_eq!(of(&settings, &[], Ends { port: 80, ..ends }, 7, &local), []);
    assert_eq!(of(&settings, &[listener(ANY, 40_001, 0, 9)], ends, 7, &local), []);
    let loopback = Ends { destination: tracer_common::Addr::v4([127, 0, 0, 1]), ..ends };
    assert_eq!(of(&settings, &[], loopback, 7, &[]).len(), 1);
    settings.range.reserved.push(40_001..=40_001);
    assert_eq!(of(&settings, &[], ends, 7, &local), []);
}
