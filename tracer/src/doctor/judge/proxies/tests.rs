use std::path::Path;

use super::{
    super::test_seen::{ENDS, held, opened, seen},
    *,
};
use crate::{
    doctor::{
        config::{haproxy as haproxy_config, nginx as nginx_config},
        finding::{Place, Process, Severity},
        logs::{Asked, Program, parse},
        tuples::Tuple,
    },
    host::files::Memory,
};

const ASKED: Asked = Asked { from_s: 1_795_979_710, to_s: 1_795_979_715, offset_s: 0 };

fn place() -> Place {
    seen(Tuple::default()).place
}

fn proxy(pid: u32, program: Program, config: Config) -> Proxy {
    Proxy {
        program,
        process: Process { pid, name: "master".into(), container: None },
        pids: BTreeSet::from([pid, pid + 1]),
        workers: 1,
        place: place(),
        config,
        logs: Vec::new(),
    }
}

fn nginx(pid: u32, address: &str) -> Proxy {
    let text = format!(
        "http {{\nupstream api {{ server {address}; }}\nserver {{ location / {{ proxy_pass http://api; \
         proxy_http_version 1.1; proxy_set_header Connection ''; }} }} }}"
    );
    let facts = nginx_config::facts(&Memory::of(&[("/n.conf", &text)]), Path::new("/n.conf"), "");
    let version = nginx_config::Version::parse("1.22.1");
    let nginx = nginx_config::Nginx { version, facts, newer: Vec::new(), error_logs: Vec::new() };
    proxy(pid, Program::Nginx, Config::Nginx(Box::new(nginx)))
}

fn haproxy(pid: u32, lines: &str) -> Proxy {
    let text = format!("backend b\n{lines}\n server s 10.0.1.7:8080\n");
    let files = Memory::of(&[("/h.cfg", &text)]);
    let config = haproxy_config::read(&files, &[Path::new("/h.cfg").into()]);
    proxy(pid, Program::Haproxy, Config::Haproxy(Box::new(config), None))
}

fn read(all: Vec<Proxy>) -> Proxies {
    Proxies {
        all,
        unread: Vec::new(),
        hidden: false,
        not_here: BTreeMap::new(),
        given: Vec::new(),
        asked: ASKED,
    }
}

/// The findings in a namespace with this tuple, whose caller is process 7, or is not known.
fn found(tuple: Tuple, caller: bool, read: &Proxies) -> Vec<Finding> {
    let mut activity = opened(500, if tuple.time_wait > 0 { 500 } else { 0 });
    if !caller {
        activity.caller = None;
    }
    let seen = seen(tuple).watched(activity);
    let findings = super::super::judge(&seen, &Around::default());
    add(findings, &[seen], &Around::default(), read, true)
}

fn of(findings: &[Finding], id: Id) -> &Finding {
    findings.iter().find(|it| it.id == id).unwrap()
}

const CAUSE: &str =
    "nginx closes first: HTTP/1.1 without \"keepalive\" in upstream \"api\" (/n.conf:2)";

#[test]
fn the_line_is_named_that_makes_the_ports_wait_and_what_to_do_there_comes_first() {
    let all = found(held(1_000, 1_000), true, &read(vec![nginx(6, "10.0.1.7:8080")]));
    for id in [Id::PortsExhausted, Id::ClosesFirst] {
        let finding = of(&all, id);
        assert!(finding.why.as_ref().unwrap().contains(CAUSE), "{finding:?}");
        assert_eq!(finding.evidence["proxy.pid"], 6);
        assert_eq!(finding.evidence["proxy.upstream"], "api");
        let lasting = finding.advice.iter().find(|it| it.persists).unwrap();
        assert!(lasting.what.starts_with("add \"keepalive "), "{finding:?}");
    }
    // What helps at once stays before it.
    let first = &of(&all, Id::PortsExhausted).advice[0];
    assert!(!first.persists && first.command.as_ref().unwrap().contains("tcp_tw_reuse"));
}

#[test]
fn only_the_proxy_is_named_that_opens_the_connections() {
    let names = |caller, all: Vec<Proxy>| {
        let all = found(held(1_000, 1_000), caller, &read(all));
        of(&all, Id::PortsExhausted).evidence.get("proxy.pid").cloned()
    };
    let here = || nginx(6, "10.0.1.7:8080");
    let other = |pid| nginx(pid, "10.0.1.7:8080");
    assert_eq!(names(true, vec![other(20), here()]), Some(6.into()));
    assert_eq!(names(true, vec![other(20)]), None, "another program opens them");
    assert_eq!(names(false, vec![other(20)]), Some(20.into()));
    assert_eq!(names(false, vec![other(20), here()]), None, "either may open them");
    assert_eq!(names(false, vec![nginx(20, "10.0.1.8:8080")]), None);
    assert_eq!(names(false, vec![nginx(20, "name:8080")]), None, "the name may be elsewhere");
    assert_eq!(names(true, vec![nginx(6, "name:8080")]), Some(6.into()));
    let elsewhere = Proxy { place: Place { inum: 9, ..place() }, ..here() };
    assert_eq!(names(true, vec![elsewhere]), None);
}

#[test]
fn open_connections_are_no_matter_of_who_closes_first() {
    let all = found(held(1_000, 0), true, &read(vec![nginx(6, "10.0.1.7:8080")]));
    let finding = of(&all, Id::PortsExhausted);
    let why = finding.why.as_ref().unwrap();
    assert!(why.ends_with("nginx (process 6) opens them: upstream \"api\" (/n.conf:2)"), "{why}");
    assert!(finding.advice.iter().all(|it| !it.what.contains("keepalive \"")), "{finding:?}");
}

#[test]
fn haproxy_in_mode_http_leaves_no_time_wait_and_in_mode_tcp_it_does() {
    let http = read(vec![haproxy(6, " mode http")]);
    for finding in found(held(1_000, 0), true, &http) {
        let text = format!("{finding:?}");
        assert!(!text.contains("tcp_tw_reuse") && !text.contains("in TIME_WAIT"), "{text}");
        if finding.id == Id::PortsExhausted {
            assert!(text.contains("server \\\"s\\\" (/h.cfg:3)"), "{text}");
        }
    }
    let all = found(held(1_000, 1_000), true, &http);
    assert!(!of(&all, Id::ClosesFirst).why.as_ref().unwrap().contains("closes"));
    let all = found(held(1_000, 1_000), true, &read(vec![haproxy(6, " mode tcp")]));
    let why = of(&all, Id::ClosesFirst).why.clone().unwrap();
    assert!(why.contains("is in mode tcp") && why.contains("/h.cfg:2"), "{why}");
}

fn poisoned_by(subject: Subject) -> Finding {
    let general = Advice::new("give `source` no ports", "").factor(2.0);
    Finding::new(Id::PoisonedPorts, Severity::Warning, subject, "").advise([general])
}

#[test]
fn the_setting_is_named_that_takes_ports() {
    let takes = || haproxy(6, " source 10.0.0.8:40000-40499");
    let explained = |subject: Subject, all: Vec<Proxy>| {
        let seen = [seen(held(1, 0))];
        let found = add(vec![poisoned_by(subject)], &seen, &Around::default(), &read(all), true);
        found[0].clone()
    };
    let worker = Subject::Process(Process { pid: 7, name: "haproxy".into(), container: None });
    let found = explained(worker.clone(), vec![takes()]);
    assert!(found.why.unwrap().contains("/h.cfg:2"));
    assert!(found.advice[0].what.contains("\"source\"") && found.advice[0].factor == Some(2.0));
    let netns = Subject::Netns(place());
    assert!(explained(netns.clone(), vec![takes(), haproxy(20, "")]).why.is_some());
    for (subject, all) in [
        (netns, vec![takes(), haproxy(20, " source 10.0.0.9:40500-40599")]),
        (worker, vec![haproxy(20, " source 10.0.0.8:40000-40499")]),
    ] {
        assert_eq!(explained(subject.clone(), all), poisoned_by(subject));
    }
}

#[test]
fn an_address_that_cannot_be_bound_is_one_finding_whoever_says_so() {
    let mut of_config = read(vec![haproxy(6, " source 10.0.0.77")]);
    let judged = |known: Vec<Finding>, read: &Proxies| {
        add(known, &[seen(held(1, 0))], &Around::default(), read, true)
    };
    assert_eq!(judged(Vec::new(), &of_config), []);
    of_config.not_here.insert(place().inum, BTreeSet::from(["10.0.0.77".parse().unwrap()]));
    let [alone] = &judged(Vec::new(), &of_config)[..] else { panic!() };
    assert_eq!((alone.id, alone.certainty), (Id::BadSource, Certainty::Inferred));
    let subject = Subject::Address { place: place(), address: "10.0.0.77:0".parse().unwrap() };
    let failed = Finding::new(Id::BadSource, Severity::Critical, subject, "bind() failed");
    let [both] = &judged(vec![failed.clone()], &of_config)[..] else { panic!() };
    assert_eq!((both.certainty, both.what.as_str()), (Certainty::Measured, "bind() failed"));
    assert!(both.why.as_ref().unwrap().contains("/h.cfg:2"));
    let subject = Subject::Address { place: place(), address: "10.0.0.78:0".parse().unwrap() };
    assert_eq!(judged(vec![Finding { subject, ..failed }], &of_config).len(), 2);
}

/// An nginx whose log has these messages, a second before the end of the window.
fn logging(messages: &[&str]) -> Proxy {
    let lines: Vec<String> =
        messages.iter().map(|it| format!("2026/11/29 19:15:14 {it}\n")).collect();
    let report = parse(lines.concat().as_bytes(), true, &ASKED);
    Proxy { logs: vec![("/e.log".into(), Ok(report))], ..nginx(6, "10.0.1.7:8080") }
}

const NO_PORT: &str = "[crit] 7#7: *1 connect() to 10.0.1.7:8080 failed (99: x) while connecting to upstream, client: 1.1.1.1";
const NO_DESCRIPTOR: &str =
    "[alert] 7#7: *1 socket() failed (24: x) while connecting to upstream, client: 1.1.1.1";

#[test]
fn what_the_window_or_a_process_shows_is_not_repeated_from_a_log() {
    let ids = |known: Vec<Finding>, read: &Proxies, watched| -> Vec<Id> {
        let all = add(known, &[seen(held(1, 0))], &Around::default(), read, watched);
        all.iter().map(|it| it.id).collect()
    };
    let no_port = read(vec![logging(&[NO_PORT])]);
    assert_eq!(ids(Vec::new(), &no_port, false), [Id::PortsExhausted]);
    assert_eq!(ids(Vec::new(), &no_port, true), []);
    let none = read(vec![logging(&[NO_DESCRIPTOR])]);
    assert_eq!(ids(Vec::new(), &none, true), [Id::Descriptors]);
    let of = |pid| {
        let process = Process { pid, name: "nginx".into(), container: None };
        Finding::new(Id::Descriptors, Severity::Critical, Subject::Process(process), "")
    };
    assert_eq!(ids(vec![of(7)], &none, true), [Id::Descriptors]);
    assert_eq!(ids(vec![of(8)], &none, true), [Id::Descriptors; 2]);
    // The same log, named by the user as well.
    let mut twice = read(vec![logging(&[NO_PORT])]);
    twice.given.clone_from(&twice.all[0].logs);
    assert_eq!(ids(Vec::new(), &twice, false), [Id::PortsExhausted]);
    twice.all.clear();
    assert_eq!(ids(Vec::new(), &twice, false), [Id::PortsExhausted]);
}

#[test]
fn checks_say_what_was_not_read() {
    let mut of_host = read(vec![logging(&[NO_PORT])]);
    let [configurations, logs] = checks(&of_host);
    assert_eq!((configurations.id, configurations.missing), ("configurations", None));
    assert_eq!((logs.id, logs.missing, logs.core || configurations.core), ("logs", None, false));
    of_host.unread = vec!["nginx (process 6): /n.conf:3: x".into(), "y".into()];
    of_host.hidden = true;
    of_host.given = vec![("/no.log".into(), Err("permission denied".into()))];
    let [configurations, logs] = checks(&of_host);
    let missing = configurations.missing.unwrap();
    assert_eq!(missing.why, "nginx (process 6): /n.conf:3: x, and 1 more");
    assert_eq!(missing.needs.as_deref(), Some("CAP_SYS_PTRACE"));
    assert_eq!(logs.missing.unwrap().why, "/no.log: permission denied");
}

#[test]
fn upstreams_are_known_if_all_of_their_addresses_are() {
    let known = upstreams(&nginx(6, "10.0.1.7:8080"));
    let expected = vec![SocketAddr::new(crate::doctor::judge::text::ip(ENDS.destination), 8_080)];
    assert_eq!(known, BTreeMap::from([("api".to_owned(), expected.clone())]));
    assert_eq!(upstreams(&nginx(6, "10.0.1.7:8080; server name:80")), BTreeMap::new());
    assert_eq!(upstreams(&haproxy(6, "")), BTreeMap::from([("b".to_owned(), expected)]));
}

/// The answer of a HAProxy whose server `s` has counted this.
fn stats(connects: u64, reuses: u64) -> haproxy_config::stats::Stats {
    let text = format!(
        "# pxname,svname,type,connect,reuse,\nb,s,2,{connects},{reuses},\n\nUptime_sec: 9\n"
    );
    haproxy_config::stats::parse(text.as_bytes())
}

#[test]
fn requests_that_find_open_connections_are_no_churn() {
    let ids = |pid: u32, caller: bool, now: (u64, u64), before: Option<(u64, u64)>| {
        let mut proxy = haproxy(pid, " mode http");
        let Config::Haproxy(_, counters) = &mut proxy.config else { panic!() };
        let before = before
            .map(|(connects, reuses)| (stats(connects, reuses), std::time::Duration::from_secs(5)));
        *counters = Some(crate::doctor::proxies::Counters { now: stats(now.0, now.1), before });
        let all = found(held(300, 300), caller, &read(vec![proxy]));
        let churn = all.iter().find(|it| it.id == Id::Churn);
        churn.map(|it| it.evidence.get("requests.reused").cloned())
    };
    // Of the window: 500 connections for 5,000 requests, though before it was one for each.
    assert_eq!(ids(6, true, (90_500, 4_500), Some((90_000, 0))), None);
    let worse = ids(6, true, (90_501, 4_500), Some((90_000, 0)));
    assert_eq!(worse, Some(Some(serde_json::json!(0.8998))));
    assert_eq!(ids(6, true, (500, 4_500), None), None, "since it was started");
    // Without requests, or of another process, it disproves nothing.
    assert_eq!(ids(6, true, (500, 4_500), Some((500, 4_500))), Some(None));
    assert_eq!(ids(20, true, (500, 4_500), None), Some(None));
    assert!(ids(20, false, (500, 4_500), None).is_some(), "who opens them is not known");
}
