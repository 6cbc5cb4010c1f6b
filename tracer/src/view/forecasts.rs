//! The forecasts of `tracer record` and `tracer tuples`. Unlike `tracer top`, they keep nothing else of a tuple's
//! past.

use foldhash::HashMap;
use tracer_common::{TupleCount, TupleKey};

use super::tuple_forecast::{Older, TupleForecast};
use crate::{host::capacity::Holds, ledger::stats::Forecast};

/// The forecasts of all tuples that hold ports, or changed in the last minute.
#[derive(Debug, Default)]
pub struct Forecasts {
    tuples: HashMap<TupleKey, TupleForecast>,
    readings: u64,
    before_ms: u32,
    now_ms: u32,
}

impl Forecasts {
    /// Begins a reading. `mono_ns`: its time by CLOCK_MONOTONIC, ns.
    pub fn begin(&mut self, mono_ns: u64) {
        self.before_ms = self.now_ms;
        self.now_ms = super::tuple_history::milliseconds(mono_ns);
        self.readings += 1;
    }

    /// Adds a tuple of the reading (between [`Self::begin`] and [`Self::end`], each tuple once), and returns its forecast.
    /// `before` and `count`: its counters in the reading before (`None`: that reading did not have it) and in this one. `holds`:
    /// how many ports it can hold, and which TIME_WAITs connect() can take over. `older`: its TIME_WAITs that are older than
    /// tracer; `None`: there are none.
    pub fn read(
        &mut self,
        key: &TupleKey,
        (before, count): (Option<&TupleCount>, &TupleCount),
        holds: Holds,
        older: Option<Older<'_>>,
    ) -> Forecast {
        let (before_ms, now_ms) = (self.before_ms, self.now_ms);
        let known = self.readings > 1;
        // The tuple was removed and is there again: its counters started at 0.
        let restarted = before
            .is_some_and(|before| count.opened < before.opened || count.released < before.released);
        if restarted {
            self.tuples.insert(*key, TupleForecast::new(Some(before_ms)));
        }
        let tuple = self.tuples.entry(*key).or_insert_with(|| match before {
            Some(before) if known => TupleForecast::after(before, before_ms),
            _ => TupleForecast::new(known.then_some(before_ms)),
        });
        tuple.add_reading(count, holds, now_ms, older);
        Forecast {
            eta_s: tuple.eta_s(now_ms),
            reusable: tuple.reusable(now_ms).map(|reuse| reuse.now),
        }
    }

    /// How many TIME_WAITs of a tuple of this reading end in each of the next seconds (index 0: the next one; at most 61), of
    /// those whose begin is known, without the zeros at the end; empty: none, or the tuple is not known. To be called before
    /// [`Self::end`], which forgets idle tuples.
    pub fn ending(&self, key: &TupleKey) -> Vec<u32> {
        let mut ends = self.tuples.get(key).map(|it| it.ending(self.now_ms)).unwrap_or_default();
        let zeros = ends.iter().rev().take_while(|count| **count == 0).count();
        ends.truncate(ends.len() - zeros);
        ends
    }

    /// Ends a reading, and forgets the tuples that it did not have and those that are idle.
    pub fn end(&mut self) {
        let now_ms = self.now_ms;
        self.tuples.retain(|_, tuple| tuple.at_ms() == now_ms && !tuple.is_idle());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(opened: u64) -> TupleCount {
        TupleCount { opened, ..TupleCount::default() }
    }

    /// One reading of one tuple a second.
    #[derive(Default)]
    struct Run {
        forecasts: Forecasts,
        before: Option<TupleCount>,
        second: u64,
    }

    impl Run {
        fn next(&mut self, now: &TupleCount) -> Forecast {
            self.second += 1;
            self.forecasts.begin(self.second * 1_000_000_000);
            let holds = Holds { capacity: Some(1000), reuse: None };
            let both = (self.before.as_ref(), now);
            let forecast = self.forecasts.read(&TupleKey::default(), both, holds, None);
            self.forecasts.end();
            self.before = Some(*now);
            forecast
        }
    }

    #[test]
    fn one_interval_has_no_forecast_and_a_ramp_has_one() {
        let mut run = Run::default();
        assert_eq!(run.next(&count(0)).eta_s, None);
        for second in 1..=8 {
            assert_eq!(run.next(&count(10 * second)).eta_s, None, "after {second} s");
        }
        for second in 9..40 {
            run.next(&count(10 * second));
        }
        let eta = run.next(&count(400)).eta_s.unwrap();
        assert!((eta - 60.0).abs() < 1.0, "{eta}");
    }

    #[test]
    fn a_full_tuple_is_full_in_the_first_reading() {
        assert_eq!(Run::default().next(&count(1000)).eta_s, Some(0.0));
    }

    #[test]
    fn a_tuple_that_was_idle_continues_from_its_counters() {
        let mut run = Run::default();
        let idle = TupleCount { released: 5000, ..count(5000) };
        for _ in 0..100 {
            run.next(&idle);
        }
        assert!(run.forecasts.tuples.is_empty());
        for second in 1..30_u32 {
            let now = TupleCount { released: 5000, ..count(5000 + 10 * u64::from(second)) };
            let eta = run.next(&now).eta_s;
            assert!(
                eta.is_none_or(|eta| (eta - (100.0 - f64::from(second))).abs() < 1.0),
                "{eta:?}"
            );
        }
        // Removed and there again: it has taken 7 ports, not minus 5,283.
        assert_eq!(run.next(&count(7)).eta_s, None);
    }
}
