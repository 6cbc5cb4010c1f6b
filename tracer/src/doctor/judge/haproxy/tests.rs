use std::path::Path;

use super::*;
use crate::doctor::{
    config::{
        files::Memory,
        haproxy::{read, stats::Counters},
    },
    finding::{Id, Severity},
};

fn config(text: &str) -> Config {
    read(&Memory::of(&[("/h.cfg", text)]), &[Path::new("/h.cfg").into()])
}

/// Of a backend `b` with a server `s`, both the last ones.
fn churn_of(text: &str, counts: Option<(u64, u64)>) -> Option<Explanation> {
    let config = config(text);
    let proxy = config.proxies.last().unwrap();
    let counted = counts.map(|(connects, reuses)| Counted {
        counters: Counters {
            connects: Some(connects),
            reuses: Some(reuses),
            ..Counters::default()
        },
        seconds: Some(5.0),
    });
    churn(proxy, proxy.servers.last().unwrap(), counted)
}

fn backend(lines: &str) -> String {
    format!("backend b\n mode http\n{lines} server s 192.0.2.1:80\n")
}

#[test]
fn clients_with_one_request_each_are_the_reason_where_reuse_is_safe() {
    let found = churn_of(&backend(""), Some((7_221, 0))).unwrap();
    assert_eq!(
        found.why,
        "0 of 7,221 requests found an open connection (0 %): with \"http-reuse safe\", the default, the first request of \
         each client's connection opens one to the server, and clients that send one request each never find one open \
         (/h.cfg:1)"
    );
    assert_eq!(found.certainty, Certainty::Measured);
    assert_eq!(found.advice[0].what, "\"http-reuse always\" in backend \"b\" (/h.cfg:1)");
    assert_eq!(
        found.advice[0].gain,
        "from 1,444 new connections/s to about as many connections as there are requests at a time"
    );
    assert!(found.advice[0].risk.is_some());
    let set = churn_of(&backend(" http-reuse aggressive\n"), None).unwrap();
    assert!(set.why.starts_with("with \"http-reuse aggressive\" the first"), "{}", set.why);
    assert!(set.why.ends_with("(/h.cfg:3)"), "{}", set.why);
    assert_eq!(set.certainty, Certainty::Inferred);
}

#[test]
fn connections_that_are_used_again_are_no_churn() {
    assert_eq!(churn_of(&backend(""), Some((100, 900))), None);
    assert!(churn_of(&backend(""), Some((101, 899))).is_some());
    // Nothing was asked for: the counters say nothing.
    assert!(churn_of(&backend(""), Some((0, 0))).is_some());
}

#[test]
fn what_ends_reuse_is_named_before_the_kind_of_reuse() {
    let why = |lines: &str| churn_of(&backend(lines), None).unwrap().why;
    assert_eq!(
        why(" option httpclose\n"),
        "\"option httpclose\" closes the connection to the server after each request (/h.cfg:3)"
    );
    assert_eq!(
        why(" default-server pool-max-conn 0\n"),
        "\"pool-max-conn 0\" keeps no idle connection (/h.cfg:3)"
    );
    assert_eq!(
        why(" source 0.0.0.0 usesrc clientip\n"),
        "\"usesrc\" opens a connection for each request, from its client's address (/h.cfg:3)"
    );
    assert_eq!(
        why(" default-server pool-purge-delay 0s\n"),
        "\"pool-purge-delay 0\" keeps no idle connection (/h.cfg:3)"
    );
    let frontend = format!(
        "frontend f\n mode http\n option http-server-close\n default_backend b\n{}",
        backend("")
    );
    let found = churn_of(&frontend, None).unwrap();
    assert_eq!(found.advice[0].what, "remove \"option http-server-close\" (/h.cfg:3)");
}

#[test]
fn without_reuse_only_clients_with_one_request_each_are_the_reason() {
    // What ends the reuse of idle connections changes nothing then.
    let lines =
        " http-reuse never\n source 0.0.0.0 usesrc clientip\n default-server pool-max-conn 0\n";
    let found = churn_of(&backend(lines), Some((10, 0))).unwrap();
    assert!(found.why.contains("with \"http-reuse never\" the first request"), "{}", found.why);
}

#[test]
fn an_address_that_is_shown_for_all_clients_ends_no_reuse() {
    let found = churn_of(&backend(" source 0.0.0.0 usesrc 192.0.2.7\n"), Some((10, 0))).unwrap();
    assert!(found.why.contains("http-reuse safe"), "{}", found.why);
}

#[test]
fn with_reuse_of_all_the_server_is_the_reason_at_best() {
    let found = churn_of(&backend(" http-reuse always\n"), Some((10, 10))).unwrap();
    assert_eq!(found.certainty, Certainty::Possible);
    assert!(!found.advice[0].what.contains("http-reuse"));
}

#[test]
fn what_was_not_read_gets_no_advice() {
    for lines in [
        " http-reuse \"$R\"\n",
        " mode \"$M\"\n",
        " option \"$O\"\n",
        " default-server pool-max-conn x\n",
    ] {
        let found = churn_of(&backend(lines), Some((10, 0))).unwrap();
        assert!(
            found.why.contains("is not read") && found.why.ends_with("(/h.cfg:3)"),
            "{}",
            found.why
        );
        assert_eq!((found.advice, found.certainty), (Vec::new(), Certainty::Possible));
    }
}

#[test]
fn nothing_is_ever_said_of_time_wait_in_mode_http() {
    let settings = [
        "",
        " http-reuse never\n",
        " option httpclose\n",
        " http-reuse always\n",
        " source 0.0.0.0 usesrc client\n",
    ];
    for lines in settings {
        let text = backend(lines);
        let shown = format!("{:?}", churn_of(&text, Some((10, 0))));
        assert!(!shown.contains("TIME_WAIT"), "{shown}");
        assert_eq!(closes_first(config(&text).proxies.last().unwrap()), None);
    }
    assert_eq!(closes_first(&config("backend b\n mode \"$M\"\n").proxies[0]), None);
}

#[test]
fn in_mode_tcp_the_client_decides_who_closes_first() {
    let config = config("defaults\n mode tcp\nlisten b\n server s 192.0.2.1:80\n");
    let found = closes_first(&config.proxies[0]).unwrap();
    assert!(found.why.contains("TIME_WAIT (/h.cfg:2)"), "{}", found.why);
    assert_eq!(found.advice.len(), 2);
    let churn = churn(&config.proxies[0], &config.proxies[0].servers[0], None).unwrap();
    assert!(churn.why.contains("mode tcp"), "{}", churn.why);
}

fn poisoned(lines: &str, reserved: Vec<std::ops::RangeInclusive<u16>>) -> Option<(u32, String)> {
    let range = PortRange { low: 40_000, high: 40_999, reserved };
    let found = poisoned_ports(&config(&format!("backend b\n{lines}")), &range)?;
    Some((found.ports, found.explanation.why))
}

#[test]
fn ports_are_counted_once_and_only_those_that_connect_could_have() {
    let two = " server s 192.0.2.1:80 source 192.0.2.9:39990-40009\n server t 192.0.2.1:80 source 192.0.2.8:40005-40014\n";
    let (ports, why) = poisoned(two, vec![40_014..=40_100]).unwrap();
    assert_eq!(ports, 14);
    assert_eq!(
        why,
        "HAProxy binds ports itself: 39990-40009 of 192.0.2.9 (/h.cfg:2), 40005-40014 of 192.0.2.8 (/h.cfg:3)"
    );
    let all = " server s 192.0.2.1:80 source 192.0.2.9:1-65535\n";
    assert_eq!(poisoned(all, Vec::new()).unwrap().0, 1_000);
    let below = " server s 192.0.2.1:80 source 192.0.2.9:1-9\n server t 192.0.2.1:80 source 192.0.2.9:40001\n";
    let (ports, why) = poisoned(below, Vec::new()).unwrap();
    assert_eq!(
        (ports, why.as_str()),
        (1, "HAProxy binds ports itself: 40001 of 192.0.2.9 (/h.cfg:3)")
    );
    let one = " server s 192.0.2.1:80 source 192.0.2.9:40000\n";
    assert_eq!(poisoned(one, Vec::new()).unwrap().0, 1);
}

#[test]
fn an_address_alone_and_ports_that_connect_never_has_poison_nothing() {
    for lines in [
        " source 192.0.2.9\n server s 192.0.2.1:80\n",
        " server s 192.0.2.1:80 source 192.0.2.9:1024-39999\n",
        " server s 192.0.2.1:80 source 192.0.2.9:41000-42000\n",
        " server s 192.0.2.1:80 source 192.0.2.9:40000-40010 namespace blue\n",
        " disabled\n server s 192.0.2.1:80 source 192.0.2.9:40000-40010\n",
    ] {
        assert_eq!(poisoned(lines, Vec::new()), None, "{lines}");
    }
    assert_eq!(
        poisoned(" server s 192.0.2.1:80 source 192.0.2.9:40000-40010\n", vec![40_000..=40_010]),
        None
    );
}

#[test]
fn ports_of_clients_are_bound_as_well() {
    let lines = " source 0.0.0.0 usesrc client\n server s 192.0.2.1:80\n";
    let (ports, why) = poisoned(lines, Vec::new()).unwrap();
    assert_eq!((ports, why.as_str()), (0, "\"usesrc client\" binds the clients' ports (/h.cfg:2)"));
}

#[test]
fn thousands_of_lines_take_no_longer_than_one() {
    let text: String =
        (0..20_000).map(|_| " server s 192.0.2.1:80 source 192.0.2.9:1-65535\n").collect();
    assert_eq!(poisoned(&text, Vec::new()).unwrap().0, 1_000);
}

#[test]
fn addresses_that_the_host_does_not_have_are_critical() {
    let text = "backend b\n source 192.0.2.9\n server s 192.0.2.1:80\n server t 192.0.2.1:80 source [2001:db8::9]:1-9\n\
                \x20server u 192.0.2.1:80 source 127.0.0.9\n server v 192.0.2.1:80 source 0.0.0.0\nbackend c\n source 192.0.2.9\n\
                \x20server s 192.0.2.1:80\n server t 192.0.2.1:80 source 192.0.2.10\n";
    let place = Place { inum: 1, name: Some("blue".into()), ..Place::default() };
    let process = Process { pid: 7, name: "haproxy".into(), container: None };
    let addresses = BTreeSet::from(["192.0.2.10".parse().unwrap()]);
    let found = bad_source(&config(text), &addresses, &place, &process);
    let seen: Vec<_> = found
        .iter()
        .map(|it| (it.id, it.severity, it.evidence["source.address"].as_str().unwrap()))
        .collect();
    let expected = [
        (Id::BadSource, Severity::Critical, "192.0.2.9"),
        (Id::BadSource, Severity::Critical, "2001:db8::9"),
    ];
    assert_eq!(seen, expected);
    assert_eq!(found[0].why.as_deref(), Some("/h.cfg:2, /h.cfg:8 names it"));
    let adds: Vec<_> = found.iter().filter_map(|it| it.advice[0].adds.as_ref()).collect();
    let added: Vec<_> = adds.iter().map(|it| (&it.place, it.address.to_string())).collect();
    assert_eq!(added, [(&place, "192.0.2.9".to_owned()), (&place, "2001:db8::9".to_owned())]);
    let shared = config(
        "backend b\n default-server source 192.0.2.9\n server s 192.0.2.1:80\n server t 192.0.2.1:80\n",
    );
    let found = bad_source(&shared, &BTreeSet::new(), &place, &process);
    assert_eq!(found[0].why.as_deref(), Some("/h.cfg:2 names it"));
    let with =
        BTreeSet::from(["192.0.2.9", "192.0.2.10", "2001:db8::9"].map(|it| it.parse().unwrap()));
    assert_eq!(bad_source(&config(text), &with, &place, &process), []);
}
