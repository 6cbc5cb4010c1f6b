use super::*;
use crate::doctor::logs::{Asked, parse};

/// 2026-11-29 19:15:15 UTC.
const AT: i64 = 1_795_979_715;

const NO_PORT: &str = "19:15:10 [crit] 7#7: *1 connect() to 10.0.1.7:80 failed (99: Address not available) while \
     connecting to upstream, client: 10.0.0.1, upstream: \"http://10.0.1.7:80/\"";
const REFUSED: &str = "19:15:10 [error] 7#7: *1 connect() failed (111: Connection refused) while connecting to \
     upstream, client: 10.0.0.1, upstream: \"http://10.0.1.7:80/\"";
const NO_LIVE: &str = "19:15:11 [error] 7#7: *2 no live upstreams while connecting to upstream, client: 10.0.0.1, \
     upstream: \"http://api/\"";
const BAD: &str =
    "19:15:12 [crit] 7#7: *3 bind(10.94.0.9) failed (99: x) while connecting to upstream";

fn place() -> Place {
    Place { inum: 7, name: Some("proxy".into()), ..Place::default() }
}

fn nginx() -> Process {
    Process { pid: 7, name: "nginx".into(), container: None }
}

fn log(lines: &[&str]) -> Report {
    let text: String = lines.iter().flat_map(|line| ["2026/11/29 ", line, "\n"]).collect();
    parse(text.as_bytes(), true, &Asked { from_s: AT - 10, to_s: AT, offset_s: 0 })
}

fn upstreams(address: &str) -> BTreeMap<String, Vec<SocketAddr>> {
    BTreeMap::from([("api".into(), vec![address.parse().unwrap()])])
}

fn found(
    lines: &[&str],
    upstreams: &BTreeMap<String, Vec<SocketAddr>>,
    others: &[Finding],
) -> Vec<Finding> {
    let (report, place, process) = (log(lines), place(), nginx());
    let logged = Logged {
        report: &report,
        path: Path::new("/log"),
        process: Some(&process),
        place: Some(&place),
        upstreams,
    };
    judge(&logged, others)
}

fn ids(found: &[Finding]) -> Vec<(Id, Certainty, Option<Id>)> {
    found.iter().map(|it| (it.id, it.certainty, it.consequence_of)).collect()
}

fn full(destination: &str) -> Finding {
    let destination = destination.parse().unwrap();
    let subject = Subject::Tuple { place: place(), source: [10, 0, 0, 8].into(), destination };
    Finding::new(Id::PortsExhausted, Severity::Critical, subject, "")
}

const NONE: BTreeMap<String, Vec<SocketAddr>> = BTreeMap::new();
const BLAMED: (Id, Certainty, Option<Id>) =
    (Id::BlamedUpstream, Certainty::Inferred, Some(Id::PortsExhausted));

#[test]
fn a_host_without_ports_is_the_cause_and_the_upstream_is_not() {
    let of = found(&[NO_PORT, NO_LIVE, NO_LIVE], &NONE, &[]);
    assert_eq!(ids(&of), [(Id::PortsExhausted, Certainty::Inferred, None), BLAMED]);
    assert_eq!(of[0].what, "nginx: connect() to 10.0.1.7:80 failed once");
    assert_eq!(of[1].subject, Subject::Process(nginx()));
    assert!(
        of[1].what.starts_with("2 × \"no live upstreams\" for upstream api, 1 line says"),
        "{}",
        of[1].what
    );
    assert_eq!(of[0].advice[0].command.as_deref(), Some("tracer doctor --netns proxy --window 60"));
    assert!(of[1].advice[0].what.contains("max_fails=0"));
    assert_eq!(of[1].evidence["log.lines"], 2);
    assert_eq!(of[1].evidence["log.explained"], 2);
    assert_eq!(of[1].evidence["log.first"], "2026-11-29T19:15:11Z");
    assert_eq!(of[1].verify.as_deref(), Some("tracer doctor --netns proxy"));
}

#[test]
fn a_full_tuple_explains_it_without_a_line_and_is_not_found_twice() {
    let full = full("10.0.1.7:80");
    let others = std::slice::from_ref(&full);
    assert_eq!(ids(&found(&[NO_PORT, NO_LIVE], &NONE, others)), [BLAMED]);
    assert_eq!(ids(&found(&[NO_LIVE], &upstreams("10.0.1.7:80"), others)), [BLAMED]);
    // The servers are not known: it may be another upstream.
    let possible = (Id::BlamedUpstream, Certainty::Possible, BLAMED.2);
    assert_eq!(ids(&found(&[NO_LIVE], &NONE, others)), [possible]);
    assert_eq!(ids(&found(&[NO_LIVE], &upstreams("10.0.1.8:80"), others)), []);
    let warning = Finding { severity: Severity::Warning, ..full.clone() };
    assert_eq!(ids(&found(&[NO_LIVE], &NONE, &[warning])), []);
    let mut elsewhere = full.clone();
    if let Subject::Tuple { place, .. } = &mut elsewhere.subject {
        place.inum = 8;
    }
    assert_eq!(ids(&found(&[NO_LIVE], &NONE, &[elsewhere])), []);
}

#[test]
fn servers_that_refuse_have_failed() {
    assert_eq!(found(&[REFUSED, NO_LIVE], &NONE, &[]), []);
    assert_eq!(found(&[NO_LIVE], &NONE, &[]), []);
    // Both happened: one of them is the cause.
    let both = found(&[NO_PORT, REFUSED, NO_LIVE], &NONE, &[]);
    assert_eq!(ids(&both)[1], (Id::BlamedUpstream, Certainty::Possible, BLAMED.2));
}

#[test]
fn ports_towards_another_upstream_explain_nothing() {
    let ids = ids(&found(&[NO_PORT, NO_LIVE], &upstreams("10.0.1.8:80"), &[]));
    assert_eq!(ids, [(Id::PortsExhausted, Certainty::Inferred, None)]);
}

#[test]
fn destinations_without_a_port_are_one_finding() {
    let lines: Vec<_> =
        (1..=6).map(|host| NO_PORT.replace("10.0.1.7", &format!("10.0.1.{host}"))).collect();
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    let all = found(&lines, &NONE, &[]);
    let expected = "nginx: connect() to 10.0.1.1:80, 10.0.1.2:80, 10.0.1.3:80, 10.0.1.4:80 and more failed 6 times";
    assert_eq!((all.len(), all[0].what.as_str()), (1, expected));
    // Those of full tuples are found already.
    let rest = found(&lines[..2], &NONE, &[full("10.0.1.1:80")]);
    assert_eq!(rest[0].what, "nginx: connect() to 10.0.1.2:80 failed once");
}

#[test]
fn an_address_that_is_missing_can_be_added() {
    let found = found(&[BAD], &NONE, &[]);
    let address: SocketAddr = "10.94.0.9:0".parse().unwrap();
    assert_eq!(found[0].subject, Subject::Address { place: place(), address });
    assert_eq!((found[0].id, found[0].severity), (Id::BadSource, Severity::Critical));
    assert_eq!(found[0].what, "nginx: bind() to 10.94.0.9 failed once");
    let adds: Vec<_> = found[0].advice.iter().map(|it| it.adds.as_ref()).collect();
    let [Some(add), None] = adds[..] else { panic!("{adds:?}") };
    assert_eq!((&add.place, add.address), (&place(), address.ip()));
    assert!(found[0].advice[1].what.contains("proxy_bind"));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].evidence["log.path"], "/log");
}

#[test]
fn an_address_that_no_host_can_have_is_not_advised() {
    for address in ["0.0.0.0", "224.0.0.1", "127.9.9.9", "::"] {
        let found = found(&[&BAD.replace("10.94.0.9", address)], &NONE, &[]);
        assert!(found[0].advice.iter().all(|it| it.adds.is_none()), "{found:?}");
    }
}

#[test]
fn a_source_address_without_a_port_is_that_of_a_full_tuple() {
    let text =
        "19:15:12 kid1| commBind Cannot bind socket FD 9 to 10.0.0.8: (98) Address already in use";
    let of = |others: &[Finding]| ids(&found(&[text], &NONE, others));
    assert_eq!(of(&[]), [(Id::PortsExhausted, Certainty::Inferred, None)]);
    assert_eq!(of(&[full("10.0.1.7:80")]), []);
}

#[test]
fn an_ipv6_address_is_added_whole_and_may_lack_a_source() {
    let lines =
        [BAD.replace("10.94.0.9", "2001:db8::9"), NO_PORT.replace("10.0.1.7", "[2001:db8::7]")];
    let found = found(&[&lines[0], &lines[1]], &NONE, &[]);
    assert_eq!(ids(&found)[0], (Id::PortsExhausted, Certainty::Possible, None));
    let add = found[1].advice[0].adds.as_ref().map(|it| it.address);
    assert_eq!(add, Some("2001:db8::9".parse().unwrap()));
}

#[test]
fn descriptors_are_not_ports() {
    let lines = [
        "19:15:10 [alert] 7#7: *1 socket() failed (24: Too many open files) while connecting",
        "19:15:10 [crit] 7#7: accept4() failed (24: Too many open files)",
    ];
    let found = found(&lines, &NONE, &[]);
    assert_eq!(ids(&found), [(Id::Descriptors, Certainty::Measured, None)]);
    assert_eq!(
        found[0].what,
        "nginx: the process had no file descriptor left 2 times (accept4, socket)"
    );
    assert!(found[0].why.as_deref().unwrap().contains("not port exhaustion"));
    assert!(found[0].advice[0].what.contains("worker_rlimit_nofile"));
}

#[test]
fn haproxy_names_backends() {
    let text = "<131>2026-11-29T19:15:10Z haproxy[7]: Connect() failed for backend api: no free ports.\n\
        <128>2026-11-29T19:15:11Z haproxy[7]: backend api has no server available!\n\
        <128>2026-11-29T19:15:11Z haproxy[7]: backend other has no server available!\n\
        <128>2026-11-29T19:15:11Z haproxy[7]: Cannot bind to source address before connect() for backend b.\n\
        <131>2026-11-29T19:15:11Z haproxy[7]: Connect() failed for backend c: local address already in use.\n\
        <128>2026-11-29T19:15:11Z haproxy[7]: Proxy p reached system FD limit (maxsock=9).\n";
    let report = parse(text.as_bytes(), true, &Asked { from_s: AT - 10, to_s: AT, offset_s: 0 });
    let logged = Logged {
        report: &report,
        path: Path::new("/log"),
        process: None,
        place: None,
        upstreams: &NONE,
    };
    let found = judge(&logged, &[]);
    let whats: Vec<_> = found.iter().map(|it| it.what.as_str()).collect();
    assert_eq!(
        whats,
        [
            "HAProxy: connect() for backend api failed once",
            "HAProxy: connect() for backend c failed once",
            "HAProxy says once that backend api has no server available; 1 line says that connect() found no port: its \
             servers need not have failed",
            "HAProxy: bind() to the source address of backend b failed once",
            "HAProxy: the host had no file descriptor left once (p)",
        ]
    );
    assert!(found.iter().all(|it| it.subject == Subject::Host));
    // Any full tuple may be that of a backend, which has no address in the log.
    let seen = judge(&logged, &[full("10.0.1.7:80")]);
    assert!(seen.iter().all(|it| it.id != Id::PortsExhausted));
}
