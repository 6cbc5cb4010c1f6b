//! [`Seen`]: the load, from readings of the ledger in a recording.

use std::{collections::BTreeMap, net::IpAddr};

use tracer_common::{Addr, Cause, TupleCount, TupleKey};

use super::Destination;
use crate::doctor::flow::Flow;

/// Tuples, and destinations, that are remembered at most; far more than a host has.
const LIMIT: usize = 200_000;
/// A second, in ns.
const SECOND_NS: u64 = 1_000_000_000;

/// Counters of a tuple at a reading.
#[derive(Clone, Copy, Debug, Default)]
struct Before {
    at_ns: u64,
    count: Counters,
}

/// Those counters of a tuple that only grow.
#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    opened: u64,
    released: u64,
    begun: u64,
    ended: u64,
    exhausted: u64,
}

impl Counters {
    fn of(count: &TupleCount) -> Self {
        Self {
            opened: count.opened,
            released: count.released,
            begun: count.time_wait_begun,
            ended: count.time_wait_ended,
            exhausted: count.failed.get(Cause::PortsExhausted as usize).copied().unwrap_or(0),
        }
    }

    fn add(&mut self, more: Self) {
        self.opened = self.opened.saturating_add(more.opened);
        self.released = self.released.saturating_add(more.released);
        self.begun = self.begun.saturating_add(more.begun);
        self.ended = self.ended.saturating_add(more.ended);
        self.exhausted = self.exhausted.saturating_add(more.exhausted);
    }

    /// The share of connections that this host closed first, of those that ended; 0: none ended.
    fn closes_first(self) -> f64 {
        // A connection ends in TIME_WAIT, or gives its port back at once. Ports that TIME_WAITs give back are of connections that
        // ended a minute before.
        let given_back = self.released.saturating_sub(self.ended);
        let all = self.begun.saturating_add(given_back);
        if all == 0 { 0.0 } else { float(self.begun) / float(all) }
    }

    /// What was added since; `None`: a counter went down, so they are of another run.
    fn since(self, before: Self) -> Option<Self> {
        Some(Self {
            opened: self.opened.checked_sub(before.opened)?,
            released: self.released.checked_sub(before.released)?,
            begun: self.begun.checked_sub(before.begun)?,
            ended: self.ended.checked_sub(before.ended)?,
            exhausted: self.exhausted.checked_sub(before.exhausted)?,
        })
    }
}

/// A destination in one reading.
#[derive(Clone, Copy, Debug, Default)]
struct Now {
    grown: Counters,
    /// Connections that are open, of those tuples of which there is an earlier reading.
    open: u64,
    /// The time since the earlier reading, in s; 0: there is none.
    seconds: f64,
    sources: u32,
}

/// A destination over all readings.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    /// The time of all readings that have an earlier one, in s, and what was added in it.
    seconds: f64,
    all: Counters,
    /// Connections that are open, multiplied by the time, in s.
    open_seconds: f64,
    peak_rate: f64,
    peak_open: f64,
    sources: u32,
}

/// The load of the readings that were added so far.
#[derive(Debug, Default)]
pub struct Seen {
    tuples: BTreeMap<TupleKey, Before>,
    /// By network namespace, destination and port.
    loads: BTreeMap<(u32, Addr, u16), Load>,
    /// The reading to which the present tuples belong.
    now: BTreeMap<(u32, Addr, u16), Now>,
    now_ns: Option<u64>,
    readings: u64,
    left_out: u64,
}

impl Seen {
    /// Adds a tuple of the reading at this time (CLOCK_MONOTONIC, ns). All tuples of a reading have the same time, and are added
    /// one after the other. A tuple whose counters went down counts as without an earlier reading. At most 200,000 tuples and as
    /// many destinations are remembered: see [`Self::left_out`].
    pub fn add(&mut self, at_ns: u64, key: &TupleKey, count: &TupleCount) {
        if self.now_ns != Some(at_ns) {
            self.end_reading();
            self.now_ns = Some(at_ns);
            self.readings += 1;
        }
        if !self.tuples.contains_key(key) && self.tuples.len() >= LIMIT {
            self.left_out += 1;
            return;
        }
        let counters = Counters::of(count);
        let before = self.tuples.insert(*key, Before { at_ns, count: counters });
        let to = (key.netns, key.destination, key.destination_port);
        let now = self.now.entry(to).or_default();
        now.sources = now.sources.saturating_add(1);
        now.open = now.open.saturating_add(count.in_use().saturating_sub(count.time_wait()));
        let grown = before.and_then(|before| {
            let elapsed_ns = at_ns.checked_sub(before.at_ns).filter(|elapsed| *elapsed > 0)?;
            Some((counters.since(before.count)?, elapsed_ns))
        });
        if let Some((grown, elapsed_ns)) = grown {
            now.grown.add(grown);
            now.seconds = now.seconds.max(float(elapsed_ns) / float(SECOND_NS));
        }
    }

    /// Forgets the counters of all tuples: the next reading is of another run.
    pub fn restart(&mut self) {
        self.end_reading();
        self.now_ns = None;
        self.tuples.clear();
    }

    fn end_reading(&mut self) {
        for (to, now) in std::mem::take(&mut self.now) {
            if !self.loads.contains_key(&to) && self.loads.len() >= LIMIT {
                self.left_out += 1;
                continue;
            }
            let load = self.loads.entry(to).or_default();
            load.sources = load.sources.max(now.sources);
            load.peak_open = load.peak_open.max(float(now.open));
            if now.seconds <= 0.0 {
                continue;
            }
            load.seconds += now.seconds;
            load.all.add(now.grown);
            load.open_seconds += float(now.open) * now.seconds;
            // A call that found no port is one that the load wanted.
            let wanted = now.grown.opened.saturating_add(now.grown.exhausted);
            load.peak_rate = load.peak_rate.max(float(wanted) / now.seconds);
        }
    }

    /// How many readings with at least one tuple were added so far, those before a [`Self::restart`] included.
    pub fn readings(&self) -> u64 {
        self.readings
    }

    /// How often a tuple of a reading, or a destination, was left out because 200,000 of them were known.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// The destinations of each network namespace (by its inode number) to which connections were opened between two readings,
    /// each with its largest rate, and with the mean times of all readings; empty: there are none. `time_wait_s`: how long a
    /// TIME_WAIT holds its port, in seconds, towards loopback addresses (true) or all others (false).
    pub fn finish(mut self, time_wait_s: impl Fn(bool) -> f64) -> BTreeMap<u32, Vec<Destination>> {
        self.end_reading();
        let mut found: BTreeMap<u32, Vec<Destination>> = BTreeMap::new();
        for ((netns, address, port), load) in &self.loads {
            let address = IpAddr::from(address.0).to_canonical();
            if let Some(destination) = load.destination(address, *port, &time_wait_s) {
                found.entry(*netns).or_default().push(destination);
            }
        }
        found
    }
}

impl Load {
    /// `None`: no connection was opened.
    fn destination(
        &self,
        address: IpAddr,
        port: u16,
        time_wait_s: &impl Fn(bool) -> f64,
    ) -> Option<Destination> {
        if self.all.opened == 0 {
            return None;
        }
        let flow = Flow {
            rate: self.peak_rate,
            // Connections that are open on average, divided by those that are opened per second.
            open_s: self.open_seconds / float(self.all.opened),
            closes_first: self.all.closes_first(),
            time_wait_s: time_wait_s(address.is_loopback()),
        };
        Some(Destination {
            address,
            port,
            flow,
            peak: self.peak_open,
            sources: self.sources.max(1),
        })
    }
}

/// A count as a floating-point number.
#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(source: u8, netns: u32) -> TupleKey {
        TupleKey {
            source: Addr::v4([10, 0, 0, source]),
            destination: Addr::v4([10, 0, 1, 7]),
            netns,
            destination_port: 8080,
            zero: 0,
        }
    }

    /// So many connections opened, of which so many are in TIME_WAIT and so many are open; all others are released.
    fn count(opened: u64, waiting: u64, open: u64) -> TupleCount {
        let begun = opened - open;
        TupleCount {
            opened,
            released: opened - open - waiting,
            time_wait_begun: begun,
            time_wait_ended: begun - waiting,
            ..TupleCount::default()
        }
    }

    fn near(one: f64, other: f64) -> bool {
        (one - other).abs() < 1e-6 * other.abs().max(1.0)
    }

    #[test]
    fn rates_are_of_all_sources_at_their_peak() {
        let mut seen = Seen::default();
        for (second, opened) in [(0, 0), (10, 1_000), (20, 5_000), (30, 6_000)] {
            for source in [1, 2] {
                seen.add(second * SECOND_NS, &key(source, 1), &count(opened, 0, opened.min(10)));
            }
        }
        assert_eq!(seen.readings(), 4);
        let found = seen.finish(|_| 62.0);
        let [to] = found[&1][..] else { panic!("{found:?}") };
        assert_eq!((to.port, to.sources, to.address.to_string()), (8080, 2, "10.0.1.7".to_owned()));
        assert!(near(to.flow.rate, 800.0) && near(to.flow.closes_first, 1.0), "{to:?}");
        // 20 were open on average, and 400 connections were opened per second.
        assert!(near(to.flow.open_s, 20.0 / 400.0) && near(to.peak, 20.0), "{to:?}");
    }

    #[test]
    fn ports_that_time_waits_give_back_are_no_connections_that_the_other_end_closed() {
        let all = Counters { opened: 100, released: 80, begun: 30, ended: 70, exhausted: 0 };
        assert!(near(all.closes_first(), 0.75));
        assert!(near(Counters::default().closes_first(), 0.0));
    }

    #[test]
    fn calls_that_found_no_port_are_wanted_connections() {
        let mut seen = Seen::default();
        let mut full = count(100, 100, 0);
        seen.add(SECOND_NS, &key(1, 1), &full);
        full.opened += 10;
        full.failed[Cause::PortsExhausted as usize] = 90;
        seen.add(2 * SECOND_NS, &key(1, 1), &full);
        assert!(near(seen.finish(|_| 62.0)[&1][0].flow.rate, 100.0));
    }

    #[test]
    fn no_rate_is_taken_across_the_begin_of_a_run() {
        let mut seen = Seen::default();
        seen.add(SECOND_NS, &key(1, 1), &count(1_000, 0, 0));
        // Without a begin, counters that went down are of another run, too.
        seen.add(2 * SECOND_NS, &key(1, 1), &count(10, 0, 0));
        seen.add(3 * SECOND_NS, &key(1, 1), &count(20, 0, 0));
        seen.restart();
        seen.add(4 * SECOND_NS, &key(1, 1), &count(900, 0, 0));
        assert!(near(seen.finish(|_| 62.0)[&1][0].flow.rate, 10.0));
    }

    #[test]
    fn namespaces_are_kept_apart_and_idle_destinations_left_out() {
        let mut seen = Seen::default();
        for second in 1..=2 {
            seen.add(second * SECOND_NS, &key(1, 1), &count(second * 10, 0, 0));
            seen.add(second * SECOND_NS, &key(1, 2), &count(5, 0, 5));
        }
        assert_eq!(seen.finish(|_| 62.0).keys().copied().collect::<Vec<_>>(), [1]);
    }
}
