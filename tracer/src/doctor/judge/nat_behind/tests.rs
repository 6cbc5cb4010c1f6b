use super::*;

const DESTINATION: &str = "203.0.113.7:443";

fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

fn outgoing(rows: &[(&str, &str, Syns)]) -> Outgoing {
    let syns = rows
        .iter()
        .map(|(source, destination, syns)| ((ip(source), destination.parse().unwrap()), *syns));
    Outgoing {
        place: Place { inum: 1, name: Some("proxy".into()), ..Place::default() },
        syns: syns.collect(),
        insert_failed: Some(0),
        translated_here: BTreeSet::new(),
        vendor: Vendor::Other,
    }
}

fn syns(unanswered: u32, established: u32) -> Syns {
    Syns { unanswered, established, fill: 0.1, connections: unanswered + established }
}

fn one(syns: Syns) -> Outgoing {
    outgoing(&[("10.0.0.8", DESTINATION, syns)])
}

#[test]
fn some_get_through_and_others_do_not() {
    let found = judge(&one(syns(8, 5)));
    let [finding] = &found[..] else { panic!("{found:?}") };
    assert_eq!((finding.id, finding.severity), (Id::NatBehind, Severity::Warning));
    assert_eq!(finding.certainty, Certainty::Possible);
    assert_eq!(
        finding.what,
        "5 connections were established and 8 got no answer to their SYN, though this host has ports left"
    );
    assert_eq!(
        (&finding.evidence["syn.unanswered"], &finding.evidence["syn.established"]),
        (&8.into(), &5.into())
    );
    assert!(!finding.evidence.contains_key("cloud"));
    assert_eq!(finding.verify.as_deref(), Some("tracer doctor --netns proxy"));
    assert!(finding.not.unwrap().contains("tracer spread"));
}

#[test]
fn a_few_lost_packets_and_a_black_hole_are_something_else() {
    for (unanswered, established) in [(1, 1_000), (4, 100), (100, 4), (100, 0), (0, 0)] {
        assert_eq!(judge(&one(syns(unanswered, established))), [], "{unanswered} {established}");
    }
    assert_eq!(judge(&one(syns(5, 5))).len(), 1);
}

#[test]
fn a_tuple_that_is_filling_and_nat_on_this_host_are_something_else() {
    assert_eq!(judge(&one(Syns { fill: 0.45, ..syns(8, 8) })), []);
    assert_eq!(judge(&one(Syns { fill: 0.44, ..syns(8, 8) })).len(), 1);
    let mut seen = one(syns(8, 8));
    seen.insert_failed = Some(1);
    assert_eq!(judge(&seen), []);
    seen.insert_failed = None;
    assert_eq!(judge(&seen).len(), 1);
    seen.translated_here.insert(DESTINATION.parse().unwrap());
    assert_eq!(judge(&seen), []);
}

#[test]
fn without_a_private_source_and_a_global_destination_no_nat_is_known() {
    let cases = [
        ("10.0.0.8", "10.0.1.7:443", 0),
        ("198.51.100.1", DESTINATION, 0),
        ("fd00::1", "[2001:db8::1]:443", 1),
        ("2001:db8::2", "[2001:db8::1]:443", 0),
        ("100.64.0.9", DESTINATION, 1),
    ];
    for (source, destination, expected) in cases {
        let found = judge(&outgoing(&[(source, destination, syns(8, 8))]));
        assert_eq!(found.len(), expected, "{source} {destination}");
    }
}

#[test]
fn a_lossy_link_is_felt_by_all() {
    let rows = |others: &[(u32, u32)]| {
        let names: Vec<String> =
            (0..others.len()).map(|it| format!("203.0.113.{}:443", 20 + it)).collect();
        let mut rows = vec![("10.0.0.8", DESTINATION, syns(8, 8))];
        rows.extend(
            names
                .iter()
                .zip(others)
                .map(|(name, (a, b))| ("10.0.0.8", name.as_str(), syns(*a, *b))),
        );
        judge(&outgoing(&rows)).len()
    };
    assert_eq!(rows(&[(6, 3)]), 0, "the only other one has trouble, too");
    assert_eq!(rows(&[(6, 3), (0, 9)]), 0);
    assert_eq!(rows(&[(6, 3), (0, 9), (0, 9)]), 1);
    assert_eq!(rows(&[(1, 9)]), 1);
}

#[test]
fn sources_of_one_destination_are_added_up() {
    let rows = [("10.0.0.8", DESTINATION, syns(2, 3)), ("10.0.0.9", DESTINATION, syns(3, 2))];
    let found = judge(&outgoing(&rows));
    assert_eq!(found.len(), 1);
    let Subject::Tuple { source, .. } = &found[0].subject else { panic!("{found:?}") };
    assert_eq!(*source, ip("10.0.0.9"), "the one with the most unanswered SYNs");
}

#[test]
fn the_cloud_says_which_metric_and_which_limit() {
    let of = |vendor: Option<&str>, connections| {
        let mut seen = one(Syns { connections, ..syns(8, 56) });
        seen.vendor = Vendor::of(vendor);
        judge(&seen).remove(0)
    };
    let google = of(Some("Google"), 64);
    assert_eq!(google.evidence["cloud"], "gcp");
    assert!(google.why.as_deref().unwrap().ends_with("64 connections, those that ended within a minute included, are near the 64 ports that the Google Cloud NAT may give"), "{google:?}");
    assert_eq!(google.advice.iter().filter(|it| it.what.contains("metric")).count(), 1);
    let azure = of(Some("Microsoft Corporation"), 1_000);
    assert!(
        azure.why.as_deref().unwrap().contains("1,024 ports that the Azure load balancer"),
        "{azure:?}"
    );
    let amazon = of(Some("Amazon EC2"), 64);
    assert!(!amazon.why.as_deref().unwrap().contains("near"), "{amazon:?}");
    assert!(amazon.advice[0].what.contains("ErrorPortAllocation"));
    let unknown = of(Some("QEMU"), 64);
    assert!(!unknown.why.as_deref().unwrap().contains("near"));
    assert_eq!(unknown.advice.iter().filter(|it| it.what.contains("metric")).count(), 5);
}
