use std::net::IpAddr;

use super::*;
use crate::{
    doctor::{
        finding::{Certainty, Id, Severity, Subject},
        nat::{Mapping, Translated},
    },
    host::{
        conntrack::{Fill, Ports, Snat, protocol},
        nat_rules::{ALL_PORTS, Capacity},
    },
};

const DESTINATION: &str = "10.0.1.7:443";

fn destination() -> SocketAddr {
    DESTINATION.parse().unwrap()
}

fn seen(count: u32, grown: Counters) -> Tracking {
    let fill = Fill {
        count,
        max: Some(1_000),
        buckets: Some(1_000),
        established_s: Some(432_000),
        time_wait_s: Some(120),
    };
    let now = Look { fill, counters: Ok(grown), translated: Ok(Translated::default()) };
    Tracking {
        place: Place { inum: 1, name: Some("gw".into()), ..Place::default() },
        now,
        before: Some((Counters::default(), Duration::from_secs(5))),
        unanswered: BTreeMap::new(),
    }
}

fn drops(drop: u32, insert_failed: u32) -> Counters {
    Counters { drop, insert_failed, ..Counters::default() }
}

fn snat(ports: Ports, capacity: u32, insert_failed: u32, unanswered: Option<u32>) -> Tracking {
    let mut seen = seen(100, drops(insert_failed, insert_failed));
    let snat = Snat {
        address: "192.0.2.1".parse::<IpAddr>().unwrap(),
        destination: destination(),
        protocol: protocol::TCP,
        zone: 0,
    };
    let capacity = Capacity { ports: capacity, exact: true, fully_random: false };
    seen.now.translated =
        Ok(Translated { mappings: vec![Mapping { snat, ports, capacity }], part: None });
    seen.unanswered = unanswered.map(|count| (destination(), count)).into_iter().collect();
    seen
}

fn live(live: u32) -> Ports {
    Ports { live, lowest: 1_024, highest: u16::MAX, ..Ports::default() }
}

fn grades(seen: &Tracking) -> Vec<(Id, Severity, Certainty)> {
    judge(seen).iter().map(|it| (it.id, it.severity, it.certainty)).collect()
}

#[test]
fn a_table_is_full_when_it_drops_and_nearly_full_from_80_percent_on() {
    let early = Counters { early_drop: 1, ..Counters::default() };
    let of = |count, grown| judge(&seen(count, grown)).first().map(|it| (it.id, it.severity));
    let (full, critical, warning) = (Id::ConntrackFull, Severity::Critical, Severity::Warning);
    assert_eq!(of(799, drops(0, 0)), None);
    assert_eq!(of(799, drops(5, 0)), None, "drops of something else");
    assert_eq!(of(800, drops(0, 0)), Some((full, warning)));
    assert_eq!(of(949, drops(5, 0)), Some((full, warning)));
    assert_eq!(of(950, drops(5, 0)), Some((full, critical)));
    assert_eq!(of(1_000, drops(0, 0)), Some((full, warning)));
    assert_eq!(of(10, early), Some((full, warning)));
}

#[test]
fn packets_that_could_not_be_inserted_do_not_make_a_table_full() {
    assert_eq!(grades(&seen(960, drops(5, 5)))[1].1, Severity::Warning);
    assert_eq!(judge(&seen(960, drops(6, 5)))[1].severity, Severity::Critical);
}

#[test]
fn counters_are_differences_that_wrap() {
    let mut seen = seen(1_000, drops(3, 0));
    seen.before = Some((drops(u32::MAX - 1, 0), Duration::from_secs(5)));
    let found = judge(&seen);
    assert_eq!(
        found[0].what,
        "the table of tracked connections has 1,000 of 1,000 entries in use (100 %); 5 packets of new connections were dropped in 5 s"
    );
    seen.before = None;
    let found = judge(&seen);
    assert_eq!(found[0].severity, Severity::Warning, "looked at once");
    assert!(!found[0].evidence.contains_key("conntrack.drop"));
}

#[test]
fn a_full_table_needs_more_entries_in_the_first_namespace_of_the_host() {
    let found = judge(&seen(1_000, drops(5, 0)));
    let advice = &found[0].advice;
    assert_eq!(
        advice[0].command.as_deref(),
        Some(
            "sysctl -w net.netfilter.nf_conntrack_buckets=2000 net.netfilter.nf_conntrack_max=2000"
        )
    );
    assert_eq!(advice[0].gain, "1,000 more entries, 1 MiB if all are in use");
    assert_eq!(
        advice[1].command.as_deref(),
        Some("ip netns exec gw sysctl -w net.netfilter.nf_conntrack_tcp_timeout_established=86400")
    );
    let gain = "1 day in place of 5 days, from each connection's next packet on";
    assert_eq!(advice[1].gain, gain);
    assert!(advice.iter().all(|it| !it.persists || it.command.is_none()));
    let mut brief = seen(1_000, drops(5, 0));
    brief.now.fill.established_s = Some(3_600);
    brief.now.fill.buckets = Some(4_000);
    let found = judge(&brief);
    assert_eq!(found[0].advice.len(), 2, "the timeout is short already");
    assert!(found[0].advice[0].command.as_deref().unwrap().contains("buckets=4000").eq(&false));
}

#[test]
fn a_table_without_a_limit_is_never_full() {
    let mut seen = seen(1_000_000, drops(0, 0));
    seen.now.fill.max = None;
    assert_eq!(judge(&seen), []);
}

#[test]
fn chains_that_are_too_long_are_named() {
    let grown = Counters { chain_too_long: 4, ..drops(4, 4) };
    let found = judge(&seen(10, grown));
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].id, found[0].severity), (Id::ConntrackFull, Severity::Warning));
    let command = found[0].advice[0].command.as_deref();
    assert_eq!(command, Some("sysctl -w net.netfilter.nf_conntrack_buckets=2000"));
}

#[test]
fn an_address_of_nat_is_full_when_it_fails_and_syns_agree() {
    use Certainty::{Inferred, Measured};
    use Severity::{Critical, Warning};
    let id = Id::SnatExhausted;
    let of = |ports, failed, unanswered| grades(&snat(ports, 50, failed, unanswered));
    assert_eq!(of(live(50), 16, Some(4)), [(id, Critical, Measured)]);
    assert_eq!(of(live(50), 16, None), [(id, Critical, Inferred)]);
    assert_eq!(of(live(50), 16, Some(0)), [(id, Warning, Measured)], "they may be of UDP");
    assert_eq!(of(live(50), 0, Some(4)), [(id, Warning, Measured)]);
    assert_eq!(of(live(40), 0, Some(0)), [(id, Warning, Measured)]);
    assert_eq!(of(live(39), 0, Some(0)), []);
}

#[test]
fn ports_of_ended_connections_count_only_where_they_stand_in_the_way() {
    let over = Ports { time_wait: 45, ..live(5) };
    assert_eq!(grades(&snat(over, 50, 0, Some(0))), [], "this kernel takes them over");
    let found = judge(&snat(over, 50, 3, Some(2)));
    assert_eq!(found[0].severity, Severity::Critical);
    assert_eq!(
        found[0].what,
        "5 of 50 ports of this SNAT address have live connections (10 %), 45 more are in TIME_WAIT; 3 packets of new connections were dropped in 5 s"
    );
    assert_eq!(
        found[0].advice[0].command.as_deref(),
        Some("ip netns exec gw sysctl -w net.netfilter.nf_conntrack_tcp_timeout_time_wait=30")
    );
    assert_eq!(found[0].advice[0].factor, Some(4.0));
}

#[test]
fn a_narrow_rule_is_widened_before_addresses_are_added() {
    let found = judge(&snat(live(50), 50, 16, Some(4)));
    let finding = &found[0];
    let expected = Subject::Tuple {
        place: seen(0, drops(0, 0)).place,
        source: "192.0.2.1".parse().unwrap(),
        destination: destination(),
    };
    assert_eq!(finding.subject, expected);
    assert_eq!(
        (&finding.evidence["snat.live"], &finding.evidence["snat.capacity"]),
        (&50.into(), &50.into())
    );
    assert_eq!(finding.advice[0].gain, "64,512 in place of 50");
    assert!(finding.advice[1].what.contains("more addresses"));
    assert!(finding.not.unwrap().contains("tracer spread"));
    let wide = judge(&snat(live(60_000), ALL_PORTS, 0, Some(0)));
    assert!(wide[0].advice[0].what.contains("more addresses"));
}

#[test]
fn a_capacity_that_is_not_known_exactly_is_said_to_be() {
    let mut seen = snat(live(64_512), ALL_PORTS, 16, Some(4));
    if let Ok(translated) = &mut seen.now.translated {
        translated.mappings[0].capacity = Capacity::DEFAULT;
    }
    let found = judge(&seen);
    assert_eq!((found[0].severity, found[0].certainty), (Severity::Critical, Certainty::Inferred));
    assert!(found[0].what.starts_with("64,512 of about 64,512 ports"), "{}", found[0].what);
    assert!(found[0].why.as_deref().unwrap().contains("not known exactly"));
}

#[test]
fn a_range_that_no_rule_shows_is_seen_by_its_ports() {
    let of = |ports: Ports, failed| {
        let mut seen = snat(ports, ALL_PORTS, failed, Some(4));
        if let Ok(translated) = &mut seen.now.translated {
            translated.mappings[0].capacity = Capacity::DEFAULT;
        }
        judge(&seen).remove(0)
    };
    let dense = Ports { lowest: 2_000, highest: 2_049, ..live(50) };
    let found = of(dense, 16);
    assert_eq!((found.severity, found.certainty), (Severity::Critical, Certainty::Inferred));
    assert!(found.what.starts_with("50 of about 50 ports"), "{}", found.what);
    let race = (Severity::Info, Certainty::Inferred);
    for ports in [Ports { highest: 2_060, ..dense }, Ports { highest: 2_014, ..live(15) }] {
        let ports = Ports { lowest: 2_000, ..ports };
        let found = of(ports, 16);
        assert_eq!((found.severity, found.certainty), race, "{ports:?}");
    }
}

#[test]
fn a_full_address_of_udp_is_no_more_than_a_warning() {
    for unanswered in [Some(4), None] {
        let mut seen = snat(live(50), 50, 16, unanswered);
        if let Ok(translated) = &mut seen.now.translated {
            translated.mappings[0].snat.protocol = protocol::UDP;
        }
        let found = judge(&seen);
        assert_eq!(found[0].severity, Severity::Warning);
        assert!(found[0].what.contains("50 UDP ports"), "{}", found[0].what);
    }
}

#[test]
fn a_race_is_good_to_know() {
    let found = judge(&snat(live(25), 50, 2, Some(0)));
    assert_eq!((found[0].id, found[0].severity), (Id::SnatExhausted, Severity::Info));
    assert!(found[0].advice[0].what.contains("fully-random"));
    let mut random = snat(live(25), 50, 2, Some(0));
    if let Ok(translated) = &mut random.now.translated {
        translated.mappings[0].capacity.fully_random = true;
    }
    assert_eq!(judge(&random)[0].advice, []);
    let none = judge(&seen(10, drops(2, 2)));
    assert_eq!((none[0].severity, none[0].advice.len()), (Severity::Info, 0));
    let mut unread = seen(10, drops(2, 2));
    unread.now.translated =
        Err(Unread { why: "operation not permitted".into(), needs: Some("CAP_NET_ADMIN") });
    let found = judge(&unread);
    assert_eq!((found[0].severity, found[0].certainty), (Severity::Info, Certainty::Possible));
}

#[test]
fn few_of_many_full_destinations_are_listed_the_fullest_first() {
    let mut seen = snat(live(50), 50, 16, Some(4));
    let Ok(translated) = &mut seen.now.translated else { panic!("not read") };
    let first = translated.mappings[0];
    translated.mappings = (0..40)
        .map(|number| {
            let mut mapping = first;
            mapping.snat.destination.set_port(1_000 + number);
            mapping.ports.live = 41 + u32::from(number % 10);
            mapping
        })
        .collect();
    let found = judge(&seen);
    assert_eq!(found.len(), 16);
    assert_eq!(found[0].evidence["snat.live"], 50);
    assert_eq!(found[15].evidence["snat.live"], 47);
    assert_eq!(found[0].evidence["snat.full_destinations"], 40);
}

#[test]
fn a_check_is_made_where_nothing_is_tracked() {
    let place = Place { inum: 7, ..Place::default() };
    let own = Place { own: true, ..place.clone() };
    let made = |look: Result<Option<&Look>, &Unread>| checks([(&place, look)]).map(|it| it.missing);
    let denied = Unread { why: "operation not permitted".into(), needs: Some("CAP_NET_ADMIN") };
    let look = seen(0, drops(0, 0)).now;
    assert_eq!(made(Ok(None)), [None, None]);
    assert_eq!(made(Ok(Some(&look))), [None, None]);
    let counters = Look { counters: Err(denied.clone()), ..look.clone() };
    let [table, entries] = made(Ok(Some(&counters)));
    let table = table.unwrap();
    assert_eq!(table.why, "network namespace 7: operation not permitted");
    assert_eq!((table.needs.as_deref(), entries), (Some("CAP_NET_ADMIN"), None));
    let entries = Look { translated: Err(denied.clone()), ..look.clone() };
    let [table, missing] = checks([(&own, Ok(Some(&entries))), (&place, Ok(Some(&entries)))]);
    assert_eq!((table.core, table.missing), (true, None));
    assert_eq!((missing.core, missing.id), (false, "snat"));
    assert_eq!(missing.missing.unwrap().why, "operation not permitted, and 1 more");
    let part = Translated { part: Some("only a part".into()), ..Translated::default() };
    let part = Look { translated: Ok(part), ..look };
    let [_, missing] = made(Ok(Some(&part)));
    assert_eq!(
        missing,
        Some(Missing { why: "network namespace 7: only a part".into(), needs: None })
    );
    let [table, _] = made(Err(&denied));
    assert!(table.is_some());
}
