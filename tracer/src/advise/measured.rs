//! [`Samples`] and [`destinations`]: the load, measured on this host during a window.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use tracer_common::Addr;

use super::Destination;
use crate::doctor::{activity::Activity, flow::Flow, tuples::Ends, window::Ports};

/// Destinations that are remembered at most; far more than a host has.
const LIMIT: usize = 200_000;

/// The ports of one destination over several readings.
#[derive(Clone, Copy, Debug, Default)]
struct Sampled {
    /// Connections that were open, added up over all readings, and the most in one.
    open: u64,
    peak: u64,
    newest: Ports,
}

/// Readings of the ports of destinations, evenly over the window. At most 200,000 destinations are kept; further ones are
/// left out.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    readings: u64,
    destinations: BTreeMap<(Addr, u16), Sampled>,
}

impl Samples {
    /// Adds a reading of all destinations (address and port). Those that are not in it have no ports now.
    pub fn add(&mut self, reading: &BTreeMap<(Addr, u16), Ports>) {
        self.readings = self.readings.saturating_add(1);
        for sampled in self.destinations.values_mut() {
            sampled.newest = Ports::default();
        }
        for (to, ports) in reading {
            if self.destinations.len() >= LIMIT && !self.destinations.contains_key(to) {
                continue;
            }
            let sampled = self.destinations.entry(*to).or_default();
            sampled.open = sampled.open.saturating_add(ports.open);
            sampled.peak = sampled.peak.max(ports.open);
            sampled.newest = *ports;
        }
    }

    fn of(&self, to: (Addr, u16)) -> Sampled {
        self.destinations.get(&to).copied().unwrap_or_default()
    }
}

/// What happened to all tuples of one destination.
#[derive(Debug, Default)]
struct Sum {
    sources: BTreeSet<Addr>,
    /// The length of the window, in seconds.
    seconds: f64,
    opened: u64,
    exhausted: u64,
    ended: u64,
    closed_first: u64,
}

impl Sum {
    fn add(&mut self, source: Addr, activity: &Activity) {
        if activity.opened > 0 || activity.exhausted() > 0 {
            self.sources.insert(source);
        }
        self.seconds = self.seconds.max(activity.seconds);
        self.opened = self.opened.saturating_add(activity.opened);
        self.exhausted = self.exhausted.saturating_add(activity.exhausted());
        self.ended = self.ended.saturating_add(activity.ended);
        self.closed_first = self.closed_first.saturating_add(activity.closed_first);
    }

    /// `None`: nothing wanted a connection to it.
    fn destination(
        &self,
        (address, port): (IpAddr, u16),
        sampled: Sampled,
        readings: u64,
        time_wait_s: f64,
    ) -> Option<Destination> {
        // A call that found no port is one that the load wanted.
        let wanted = self.opened.saturating_add(self.exhausted);
        if wanted == 0 || self.seconds <= 0.0 {
            return None;
        }
        // Connections that are open on average, divided by those that are opened per second.
        let open = share(sampled.open, readings);
        let open_s = if self.opened == 0 { 0.0 } else { open * self.seconds / float(self.opened) };
        let Ports { open, waiting } = sampled.newest;
        let closes_first = if self.ended > 0 {
            share(self.closed_first, self.ended)
        } else {
            // None ended: those that did before the window are in TIME_WAIT if this host closed them first.
            share(waiting, open.saturating_add(waiting))
        };
        Some(Destination {
            address,
            port,
            flow: Flow { rate: float(wanted) / self.seconds, open_s, closes_first, time_wait_s },
            peak: float(sampled.peak),
            sources: u32::try_from(self.sources.len()).unwrap_or(u32::MAX).max(1),
        })
    }
}

/// The destinations to which connections were opened, or wanted, in the order of their addresses and ports; empty: none.
/// `tuples`: what happened in one network namespace; `samples`: its ports meanwhile (a destination that they lack counts as
/// without open connections); `wanted`: whether this destination address and port are asked about; `time_wait_s`: how long a
/// TIME_WAIT holds its port, in seconds, towards loopback addresses (true) or all others (false).
pub fn destinations(
    tuples: &BTreeMap<Ends, Activity>,
    samples: &Samples,
    wanted: impl Fn(&Addr, u16) -> bool,
    time_wait_s: impl Fn(bool) -> f64,
) -> Vec<Destination> {
    let mut sums: BTreeMap<(Addr, u16), Sum> = BTreeMap::new();
    for (ends, activity) in tuples {
        if wanted(&ends.destination, ends.port) {
            sums.entry((ends.destination, ends.port)).or_default().add(ends.source, activity);
        }
    }
    let one = |(to, sum): (&(Addr, u16), &Sum)| {
        let address = IpAddr::from(to.0.0).to_canonical();
        let time_wait_s = time_wait_s(address.is_loopback());
        sum.destination((address, to.1), samples.of(*to), samples.readings, time_wait_s)
    };
    sums.iter().filter_map(one).collect()
}

/// A part of a whole, 0 if there is nothing.
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { float(part) / float(whole) }
}

/// A count as a floating-point number.
#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use tracer_common::Cause;

    use super::*;

    const TO: (Addr, u16) = (Addr::v4([10, 0, 1, 7]), 8080);

    fn ends(source: u8, to: (Addr, u16)) -> Ends {
        Ends { source: Addr::v4([10, 0, 0, source]), destination: to.0, port: to.1 }
    }

    /// So many connections opened in 2 s, all of which ended, of which this host closed so many first.
    fn activity(opened: u64, closed_first: u64) -> Activity {
        Activity { seconds: 2.0, opened, ended: opened, closed_first, ..Activity::default() }
    }

    fn sampled(readings: &[(u64, u64)]) -> Samples {
        let mut samples = Samples::default();
        for (open, waiting) in readings {
            let ports = Ports { open: *open, waiting: *waiting };
            samples.add(&BTreeMap::from([(TO, ports)]));
        }
        samples
    }

    fn only(tuples: BTreeMap<Ends, Activity>, samples: &Samples) -> Destination {
        let found = destinations(&tuples, samples, |_, _| true, |_| 62.0);
        let [one] = found[..] else { panic!("{found:?}") };
        one
    }

    fn near(one: f64, other: f64) -> bool {
        (one - other).abs() < 1e-9 * other.abs().max(1.0)
    }

    #[test]
    fn a_destination_has_the_connections_of_all_its_sources() {
        let tuples = BTreeMap::from([
            (ends(1, TO), activity(300, 300)),
            (ends(2, TO), activity(100, 0)),
            // Nothing was opened from here: it is none of the sources that are used.
            (ends(3, TO), Activity { seconds: 2.0, ..Activity::default() }),
        ]);
        let to = only(tuples, &sampled(&[(10, 0), (40, 0), (10, 0)]));
        assert_eq!((to.address.to_string(), to.port, to.sources), ("10.0.1.7".to_owned(), 8080, 2));
        assert!(near(to.flow.rate, 200.0) && near(to.flow.closes_first, 0.75), "{to:?}");
        // 20 were open on average at 200 a second.
        assert!(near(to.flow.open_s, 0.1) && near(to.peak, 40.0), "{to:?}");
        assert!(near(to.flow.time_wait_s, 62.0));
    }

    #[test]
    fn a_destination_that_is_missing_in_a_reading_has_nothing_open() {
        let mut samples = sampled(&[(30, 5)]);
        samples.add(&BTreeMap::new());
        samples.add(&BTreeMap::new());
        let never_ended = Activity { ended: 0, ..activity(20, 0) };
        let to = only(BTreeMap::from([(ends(1, TO), never_ended)]), &samples);
        // 10 on average at 10 a second; nothing is in TIME_WAIT now.
        assert!(near(to.flow.open_s, 1.0) && near(to.flow.closes_first, 0.0), "{to:?}");
    }

    #[test]
    fn calls_that_found_no_port_are_wanted_connections() {
        let mut full = activity(10, 0);
        full.failed[Cause::PortsExhausted as usize] = 90;
        full.failed[Cause::Refused as usize] = 50;
        assert!(near(only(BTreeMap::from([(ends(1, TO), full)]), &sampled(&[])).flow.rate, 50.0));
        let mut none = Activity { seconds: 2.0, ..Activity::default() };
        none.failed[Cause::PortsExhausted as usize] = 8;
        let to = only(BTreeMap::from([(ends(1, TO), none)]), &sampled(&[(10, 30), (10, 30)]));
        assert!(near(to.flow.rate, 4.0) && near(to.flow.open_s, 0.0), "{to:?}");
        assert!(near(to.flow.closes_first, 0.75), "three of four ports are in TIME_WAIT: {to:?}");
    }

    #[test]
    fn only_what_is_asked_about_and_has_a_load_is_a_destination() {
        let other = (Addr::v4([10, 0, 9, 9]), 80);
        let mut refused = Activity { seconds: 2.0, ..Activity::default() };
        refused.failed[Cause::Refused as usize] = 50;
        let tuples = BTreeMap::from([
            (ends(1, TO), activity(10, 10)),
            (ends(1, other), activity(10, 10)),
            (ends(1, (TO.0, 8081)), refused),
        ]);
        let ports = |wanted: fn(&Addr, u16) -> bool| -> Vec<u16> {
            let found = destinations(&tuples, &Samples::default(), wanted, |_| 62.0);
            found.iter().map(|it| it.port).collect()
        };
        assert_eq!(ports(|_, port| port != 80), [8080]);
        assert_eq!(ports(|_, _| true), [8080, 80]);
        assert_eq!(ports(|_, _| false), [0_u16; 0]);
    }

    #[test]
    fn loopback_has_a_time_of_its_own() {
        let loopback = (Addr::v4([127, 0, 0, 1]), 80);
        let tuples =
            BTreeMap::from([(ends(1, loopback), activity(1, 1)), (ends(1, TO), activity(1, 1))]);
        let time = |loopback| if loopback { 1.0 } else { 62.0 };
        let found = destinations(&tuples, &Samples::default(), |_, _| true, time);
        let of = |address: &str| {
            found.iter().find(|it| it.address.to_string() == address).map(|it| it.flow.time_wait_s)
        };
        assert_eq!([of("127.0.0.1"), of("10.0.1.7")], [Some(1.0), Some(62.0)]);
    }
}
