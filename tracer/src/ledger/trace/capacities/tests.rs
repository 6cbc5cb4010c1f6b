use super::*;

fn place(inum: u32) -> Netns {
    Netns { inum, name: None, paths: Vec::new() }
}

/// A range with this many reserved ports, none of them next to another.
fn pieces(reserved: u16) -> PortRange {
    let reserved = (0..reserved).map(|number| 40_001 + 2 * number..=40_001 + 2 * number);
    PortRange { low: 40_000, high: 44_999, reserved: reserved.collect() }
}

fn known(ranges: impl IntoIterator<Item = (u32, PortRange)>) -> Capacities {
    let mut capacities = Capacities::default();
    for (inum, range) in ranges {
        capacities.know(place(inum), &range);
    }
    capacities
}

#[test]
fn a_namespace_that_is_gone_is_forgotten_and_one_with_bound_ports_is_not() {
    let mut capacities = known((0..2_000).map(|inum| (inum, PortRange::default())));
    capacities.bound([(7, 80), (9_999, 80)].into_iter().collect());
    capacities.keep(&HashSet::from([5, 6]));
    let mut kept: Vec<u32> = capacities.usable().keys().copied().collect();
    kept.sort_unstable();
    assert_eq!(kept, [5, 6, 7]);
    assert_eq!(capacities.places.len(), 3);
    assert!(capacities.usable.capacity() < 100 && capacities.places.capacity() < 100);
    assert!(capacities.place(5).is_some() && capacities.get(8).is_none());
}

#[test]
fn ports_of_a_namespace_change_only_when_its_range_or_what_is_bound_does() {
    let mut capacities = known([(5, pieces(0)), (6, pieces(10))]);
    assert!(capacities.take_changed());
    let binds = || -> BoundPorts { [(5, 40_000), (5, 80), (6, 40_001)].into_iter().collect() };
    capacities.bound(binds());
    assert!(capacities.take_changed());
    let bound = |capacities: &Capacities| [5, 6].map(|netns| capacities.get(netns).unwrap().bound);
    assert_eq!(bound(&capacities), [1, 0]);
    capacities.bound(binds());
    capacities.know(place(6), &pieces(10));
    assert!(!capacities.take_changed());
    // Left-over ports, some of which are bound, too.
    capacities.left_over([(5, 40_000), (5, 40_002), (6, 40_002)].into_iter().collect());
    assert!(capacities.take_changed());
    assert_eq!(bound(&capacities), [2, 1]);
    // Its new range is known, with the ports that are bound there.
    capacities.know(place(6), &pieces(2));
    assert!(capacities.take_changed());
    assert_eq!(bound(&capacities), [2, 1]);
    capacities.bound(BoundPorts::default());
    capacities.left_over(BoundPorts::default());
    assert_eq!(bound(&capacities), [0, 0]);
}

#[test]
fn namespaces_that_reserve_in_many_pieces_have_a_limit_with_a_reason() {
    let most = u32::try_from(MOST_LARGE).unwrap();
    let mut capacities = known((0..most).map(|inum| (inum, pieces(200))));
    assert_eq!(capacities.reason(), None);
    // The limit does not apply to other namespaces, nor to one that is known already.
    capacities.know(place(most), &pieces(20));
    capacities.know(place(0), &pieces(201));
    assert_eq!([0, most].map(|inum| capacities.get(inum).unwrap().reserved), [201, 20]);
    capacities.know(place(most + 1), &pieces(200));
    capacities.know(place(most), &pieces(200));
    assert_eq!([most, most + 1].map(|inum| capacities.get(inum)), [None, None]);
    assert!(capacities.reason().unwrap().contains("not known for 2 network namespaces"));
    // A rule's namespace is known without the limit, also when it is read again like any other.
    capacities.know_of_rule(place(most), &pieces(200));
    capacities.know(place(most), &pieces(300));
    assert_eq!(capacities.get(most).unwrap().reserved, 300);
    assert!(capacities.reason().unwrap().contains("not known for 1 network namespaces"));
    // There is room for one again.
    let wanted = (1..most).chain([most + 1]).collect();
    capacities.keep(&wanted);
    capacities.know(place(most + 1), &pieces(200));
    assert_eq!((capacities.get(most + 1).unwrap().reserved, capacities.reason()), (200, None));
}

#[test]
fn settings_of_namespaces_are_read_in_turn() {
    let mut capacities = known((1..=6).map(|inum| (inum, PortRange::default())));
    capacities.reuses = [1, 2, 3].map(|inum| (inum, Reuse::default())).into();
    assert_eq!(capacities.due(), [4, 1, 5, 2, 6, 3]);
    capacities.turns[0].had(4);
    capacities.turns[1].had(2);
    assert_eq!(capacities.due(), [5, 3, 6, 1, 4, 2]);
}
