use super::*;

const ONE: Addr = Addr::v4([10, 0, 0, 1]);
const TWO: Addr = Addr::v4([10, 0, 0, 2]);

/// The tuple from this address to the tests' destination.
const fn from(source: Addr) -> TupleKey {
    let destination = Addr::v4([10, 0, 0, 9]);
    TupleKey { source, destination, netns: 1, destination_port: 443, zero: 0 }
}

#[test]
fn each_quarantine_is_twice_as_long_as_the_one_before_until_there_is_none_for_a_while() {
    let mut refused = Quarantines::default();
    let mut now = Instant::now();
    for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
        refused.begin(ONE, now);
        now += Duration::from_millis(seconds * 1000 - 1);
        assert!(refused.until(&ONE, now).is_some(), "{seconds}");
        now += Duration::from_millis(1);
        assert!(refused.until(&ONE, now).is_none(), "{seconds}");
    }
    now += Duration::from_mins(2);
    refused.tidy(now);
    refused.begin(ONE, now);
    assert!(refused.until(&ONE, now + Duration::from_secs(1)).is_none());
    assert_eq!(refused.until(&TWO, now), None);
}

#[test]
fn an_address_that_the_host_has_again_starts_with_the_shortest_quarantine() {
    let mut health = Health::default();
    let now = Instant::now();
    health.refused.begin(ONE, now);
    health.failing.begin(from(ONE), now);
    health.forget(&ONE);
    assert_eq!(health.refused.until(&ONE, now), None);
    assert_eq!(health.failing.until(&from(ONE), now), None);
    health.refused.begin(ONE, now);
    assert_eq!(health.refused.until(&ONE, now), Some(now + SHORTEST));
}

#[test]
fn an_address_is_left_out_only_if_another_one_gets_answers() {
    let of = |established, unanswered| Outcome::default().add_check(established, unanswered);
    let (bad, good, few, waiting) = (of(0, 10), of(10, 1), of(0, 3), of(0, 0));
    let now = Instant::now();
    for ([mut one, mut two], expected) in [
        ([bad, good], true),
        ([bad, bad], false),
        ([few, good], false),
        ([good, good], false),
        ([bad, few], false),
        // An address without failures has not yet shown that it gets answers.
        ([bad, waiting], false),
    ] {
        let mut health = Health::default();
        let outcomes = format!("{one:?} {two:?}");
        health.judge(&mut [(from(ONE), &mut one), (from(TWO), &mut two)], now);
        assert_eq!(health.failing.until(&from(ONE), now).is_some(), expected, "{outcomes}");
        assert_eq!(health.failing.until(&from(TWO), now), None, "{outcomes}");
        let elsewhere = TupleKey { destination_port: 444, ..from(ONE) };
        assert_eq!(health.failing.until(&elsewhere, now), None, "{outcomes}");
        let settled = if expected { Outcome::default() } else { one };
        assert_eq!(one, settled, "{outcomes}");
    }
}

#[test]
fn the_last_address_towards_a_destination_stays() {
    let mut health = Health::default();
    let now = Instant::now();
    let of = |established, unanswered| Outcome::default().add_check(established, unanswered);
    health.judge(&mut [(from(ONE), &mut of(0, 10)), (from(TWO), &mut of(10, 0))], now);
    // A good outcome of an address in quarantine does not count as an answer.
    health.judge(&mut [(from(ONE), &mut of(10, 0)), (from(TWO), &mut of(0, 10))], now);
    assert_eq!(health.failing.until(&from(TWO), now), None);
    health.keep_one(&[ONE, TWO], now);
    assert!(health.failing.until(&from(ONE), now).is_some());
    // The host lost the other address.
    health.keep_one(&[ONE], now);
    assert_eq!(health.failing.until(&from(ONE), now), None);
}

#[test]
fn with_too_many_the_quarantine_that_ends_soonest_is_dropped() {
    let mut failing = Quarantines::default();
    let begin = Instant::now();
    for number in 0..2 * REMEMBERED_MAX {
        let port = u16::try_from(number).unwrap();
        let key = TupleKey { destination_port: port, ..from(ONE) };
        failing.begin(key, begin + Duration::from_micros(u64::from(port)));
    }
    assert_eq!(failing.0.len(), REMEMBERED_MAX);
    assert!(failing.0.keys().all(|key| usize::from(key.destination_port) >= REMEMBERED_MAX));
}

#[test]
fn one_connection_a_second_is_enough_and_old_failures_fade() {
    let (mut one, mut two) = (Outcome::default(), Outcome::default());
    let looks = (1..60).find(|_| {
        // Alternately, so that no check has both an established and an unanswered connection.
        (one, two) = (one.add_check(0, 1).add_check(0, 0), two.add_check(0, 0).add_check(1, 0));
        one.gets_no_answer() && two.gets_answers()
    });
    assert!(looks.is_some_and(|looks| looks < 10), "{looks:?}");
    let mut recovering = Outcome::default().add_check(0, 100);
    let looks = (1..60).find(|_| {
        recovering = recovering.add_check(10, 0);
        !recovering.gets_no_answer()
    });
    assert!(looks.is_some_and(|looks| looks < 10), "{looks:?}");
}
