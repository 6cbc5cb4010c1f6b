//! Keeps when the TIME_WAITs end that are older than the tracer.

use foldhash::HashMap;
use tracer_common::TupleKey;

use crate::{
    ledger::seed::{self, Dump},
    view::{forecast::TIME_WAIT_S, tuple_forecast::Older},
};

/// When the TIME_WAITs that are older than the tracer end, by tuple, as the kernel's timers say (`ss -o` shows them).
#[derive(Debug, Default)]
pub struct OlderEnds {
    /// How many end in each second after the dump; the last element has those that end later, too.
    by_tuple: HashMap<TupleKey, Box<[u16; TIME_WAIT_S]>>,
    /// When the dump was made: CLOCK_MONOTONIC, ms, which wraps after 49 days.
    at_ms: u32,
}

impl OlderEnds {
    /// The ends by the timers in these dumps, which were made at `mono_ns` (CLOCK_MONOTONIC, ns).
    pub(super) fn of(dumps: &[Dump], mono_ns: u64) -> Self {
        /// How much later than its timer says a TIME_WAIT ends on average (see `view::forecast`), ms.
        const LATE_MS: u32 = 1_000;
        let mut by_tuple: HashMap<TupleKey, Box<[u16; TIME_WAIT_S]>> = HashMap::default();
        for (tuple, expires_ms) in dumps.iter().flat_map(seed::time_waits) {
            let second = (expires_ms.saturating_add(LATE_MS) / 1000) as usize;
            let ends = by_tuple.entry(tuple).or_insert_with(|| Box::new([0; TIME_WAIT_S]));
            if let Some(count) = ends.get_mut(second.min(TIME_WAIT_S - 1)) {
                *count = count.saturating_add(1);
            }
        }
        Self { by_tuple, at_ms: crate::view::tuple_history::milliseconds(mono_ns) }
    }

    /// How many of the older TIME_WAITs of a tuple end in each of the [`TIME_WAIT_S`] seconds after the dump (in the last one,
    /// also those that end later), and when the dump was; `None`: it had none.
    pub fn get(&self, key: &TupleKey) -> Option<Older<'_>> {
        self.by_tuple.get(key).map(|left| Older { left, at_ms: self.at_ms })
    }
}

#[cfg(test)]
mod tests {
    use tracer_common::Addr;

    use super::*;
    use crate::host::sockdiag::{DiagSocket, tcp_state};

    #[test]
    fn each_ends_a_second_after_its_timer() {
        let there = Addr::v4([10, 0, 0, 2]);
        let socket = |source_port, expires_ms| DiagSocket {
            expires_ms,
            ..DiagSocket::between(
                tcp_state::TIME_WAIT,
                (Addr::v4([10, 0, 0, 1]), source_port),
                (there, 80),
            )
        };
        let timers = [0, 100, 2_500, 59_990, 90_000];
        let sockets = (40_000..).zip(timers).map(|(port, ms)| socket(port, ms)).collect();
        let dump = Dump { netns: 7, sockets, ..Dump::default() };
        let ends = OlderEnds::of(&[dump], 5_000_000_000);
        let key = TupleKey {
            source: Addr::v4([10, 0, 0, 1]),
            destination: there,
            netns: 7,
            destination_port: 80,
            zero: 0,
        };
        let older = ends.get(&key).unwrap();
        let mut expected = [0; TIME_WAIT_S];
        (expected[1], expected[3], expected[60]) = (2, 1, 2);
        assert_eq!((older.left, older.at_ms), (&expected, 5_000));
        assert_eq!(ends.get(&TupleKey::default()), None);
    }
}
