use proptest::prelude::*;
use tracer_common::{TupleCount, TupleKey};

use super::*;
use crate::ledger::stats::{P99, Rates};

fn row() -> Row {
    let key = TupleKey {
        source: Addr::v4([10, 0, 0, 8]),
        destination: Addr::v4([10, 0, 1, 7]),
        netns: 4_026_531_840,
        destination_port: 8080,
        zero: 0,
    };
    let mut row =
        Row::new(key, &TupleCount::default(), None, Some(crate::host::capacity::Limits::of(1000)));
    row.in_use = 800;
    row.saturation = Some(0.8);
    row.rates = Some(Rates { opened: 12.0, released: 1.0, failed: 0.0 });
    row.eta_s = Some(90.0);
    row.search_p99 = Some(P99 { ns: 740_000, at_least: false });
    row.pid = 812;
    row.last_errno = 99;
    row.netns_name = Some("Pod-blue".into());
    row.called.name = *b"Nginx\0\0\0\0\0\0\0\0\0\0\0";
    row.called.thread = *b"pool-1\0\0\0\0\0\0\0\0\0\0";
    row.container = Some("3f1c8a90b7d2e45f".into());
    row
}

fn matches(text: &str) -> bool {
    Filter::parse(text).unwrap().matches(&row())
}

#[test]
fn a_unit_is_found_whatever_its_letters() {
    let row = Row { container: Some("NetworkManager.service".into()), ..row() };
    for text in ["unit:NetworkManager", "unit:networkmanager.service", "container:MANAGER"] {
        assert!(Filter::parse(text).unwrap().matches(&row), "{text}");
    }
}

#[test]
fn every_kind_of_word_matches_some_rows_and_not_others() {
    for (yes, no) in [
        ("nginx", "haproxy"),
        ("10.0.1.7:8080", "10.0.1.7:8081"),
        ("src:10.0.0.0/24", "src:10.0.1.0/24"),
        ("dst:10.0.1.7", "dst:10.0.1.70"),
        ("dst:10.0.1", "dst:11."),
        ("port:8080", "port:8081"),
        ("port:8000-8099", "port:1-80"),
        ("comm:NGI", "comm:10.0"),
        ("comm:pool-1", "comm:pool-2"),
        ("comm:\"nginx\"", "comm:\"ngi nx\""),
        ("container:45f", "container:nginx"),
        ("err:eaddrnotavail", "err:refused"),
        ("err:99", "err:9"),
        ("netns:4026531840", "netns:1"),
        ("netns:pod-blue", "netns:green"),
        ("netns:BLUE", "netns:402653184"),
        ("blue", "green"),
        ("pid:812", "pid:81"),
        ("sat>45", "sat>80"),
        ("sat>=80%", "sat<80"),
        ("ports=800", "ports=801"),
        ("tw=0", "tw>0"),
        ("conn>=12", "conn>12"),
        ("fail=0", "fail>0"),
        ("eta<2m", "eta<1m"),
        ("eta<=90s", "eta>1h"),
        ("search>700us", "search<0.7ms"),
        ("!haproxy", "!nginx"),
        ("nginx sat>45", "nginx sat>90"),
        ("10.0.1", "dead::1"),
    ] {
        assert!(matches(yes), "{yes}");
        assert!(Filter::parse(no).is_err() || !matches(no), "{no}");
    }
}

#[test]
fn a_row_leads_to_a_filter_that_matches_it() {
    for by in [GroupBy::Source, GroupBy::Destination, GroupBy::Process, GroupBy::Container] {
        let filter = Filter::to_members(&row(), by).unwrap();
        assert!(filter.matches(&row()), "{by:?}: {filter}");
        let mut other = row();
        other.key = TupleKey::default();
        other.called.name = *b"nginx: worker\0\0\0";
        other.container = None;
        assert!(!filter.matches(&other) || by == GroupBy::Process, "{by:?}: {filter}");
        if by == GroupBy::Process {
            assert!(Filter::to_members(&other, by).unwrap().matches(&other));
        }
    }
}

#[test]
fn a_value_that_is_not_known_matches_no_number() {
    let mut row = row();
    row.eta_s = None;
    assert!(!Filter::parse("eta<60").unwrap().matches(&row));
    assert!(Filter::parse("!eta<60").unwrap().matches(&row));
}

#[test]
fn every_mistake_is_named_with_what_to_write() {
    for (text, part) in [
        ("sat>much", "write sat>45"),
        ("foo>1", "use ports, tw"),
        ("foo:1", "use src, dst"),
        ("port:x", "expected a port"),
        ("src:10.0.0.1/8", "write 10.0.0.0/8"),
        ("comm:", "needs a value"),
        ("eta<5d", "'d' is not a unit of eta"),
        ("!", "a word is missing"),
        ("comm:\"nginx: worker", "not closed"),
    ] {
        let error = Filter::parse(text).unwrap_err();
        assert!(error.contains(part), "{text}: {error}");
    }
}

proptest! {
    #[test]
    fn any_text_is_a_filter_or_an_error_and_never_a_panic(text: String) {
        if let Ok(filter) = Filter::parse(&text) {
            filter.matches(&row());
            prop_assert_eq!(Filter::parse(filter.text()).unwrap(), filter);
        }
    }
}
