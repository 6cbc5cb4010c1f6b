//! [`Track`]: a tuple over the windows of a run.

use tracer_common::{Cause, TupleCount};

use crate::{
    doctor::{activity::Activity, finding::Process, flow::longest_time_wait_s, from_ledger::Held},
    format::text::until_nul,
    ledger::stats::saturation,
    recording::{At, Tuple},
};

/// What happened in a shorter time than this is no rate, in seconds.
const SHORTEST_S: f64 = 1.0;

/// A tuple, or an address at which bind(address, 0) takes ports ([`tracer_common::TupleKey::of_bind`]), over the windows of a
/// run.
#[derive(Debug)]
pub(super) struct Track {
    /// The counters at the beginning of the window; `None`: not known.
    pub(super) before: Option<TupleCount>,
    /// The counters of the newest line about it.
    pub(super) now: TupleCount,
    /// When that line was written, by CLOCK_MONOTONIC, ns; 0: there is none.
    pub(super) read_ns: u64,
    /// Number of the newest window that has a line about it.
    pub(super) window: u64,
    /// Its ports in the reading of window `window` in which it was fullest.
    pub(super) fullest: Fullest,
    /// TIME_WAITs that connect() could reuse at the newest line; `None`: its settings allowed none, or that is not known.
    pub(super) reusable: Option<u64>,
    /// bind() calls of window `window` that found no port at the address.
    pub(super) bind_failed: u64,
    /// The process that connected last, or whose bind() failed last; 0: not known.
    pub(super) pid: u32,
    /// Name of that process, NUL-padded; all zero: not known.
    pub(super) name: [u8; 16],
    /// The most so far of each number by which a window can be worse than those before it.
    most: [f64; 5],
}

/// The ports of a tuple in the reading of a window in which it was fullest.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fullest {
    pub(super) held: Held,
    /// When that was, ns since 1970; 0: the window has no reading of it.
    pub(super) wall_ns: u64,
}

impl Track {
    /// A tuple of window `number` about which nothing is known yet. `is_new`: whether it held no port at the beginning of the
    /// window, so that its counters began at 0.
    pub(super) fn new(is_new: bool, number: u64) -> Self {
        Self {
            before: is_new.then(TupleCount::default),
            now: TupleCount::default(),
            read_ns: 0,
            window: number,
            fullest: Fullest::default(),
            reusable: None,
            bind_failed: 0,
            pid: 0,
            name: [0; 16],
            most: [0.0; 5],
        }
    }

    /// Begins window `number`, unless it has begun already: what belongs to the window before is reset.
    pub(super) fn begin(&mut self, number: u64) {
        if self.window != number {
            self.window = number;
            self.fullest = Fullest::default();
            self.bind_failed = 0;
        }
    }

    /// Adds a line of the reading at the time `at`.
    pub(super) fn add(&mut self, at: At, tuple: &Tuple<'_>) {
        let held = Held {
            in_use: tuple.count.in_use(),
            time_wait: tuple.count.time_wait(),
            reusable: tuple.reusable.unwrap_or(0),
            states: tuple.has_states.then(|| tuple.count.ports()),
            capacity: tuple.capacity,
        };
        if self.fullest.wall_ns == 0 || fullness(&held) > fullness(&self.fullest.held) {
            self.fullest = Fullest { held, wall_ns: at.wall_ns };
        }
        self.now = tuple.count;
        self.read_ns = at.mono_ns;
        self.reusable = tuple.reusable;
        self.pid = tuple.count.pid;
        self.name = tuple.called.shown();
    }

    /// Calls that failed in the window because no port was free; of connect(), 0 if the counters at its beginning are not known.
    pub(super) fn exhausted(&self) -> u64 {
        let before = self.before.unwrap_or(self.now);
        let activity = Activity::between(Some(&before), &self.now, SHORTEST_S);
        activity.exhausted().saturating_add(self.bind_failed)
    }

    /// Whether the tuple was worse in this window than in each before, by one of: failed calls, saturation, ports in SYN_SENT,
    /// ports that its connections need, duration of port searches. Notes these numbers for the next windows. `seconds`: how long
    /// the window is; `None`: it is a single reading, of which only saturation and SYN_SENT are known.
    pub(super) fn is_worse(&mut self, seconds: Option<f64>) -> bool {
        let held = &self.fullest.held;
        let waiting = held.states.map_or(0, |states| states.connecting);
        let activity = seconds.and_then(|seconds| self.activity(seconds));
        let flow = activity.as_ref().and_then(|it| it.flow(longest_time_wait_s(None), 1.0));
        let search = activity.as_ref().and_then(Activity::search_ns);
        let numbers = [
            float(activity.as_ref().map_or(0, Activity::exhausted)),
            fullness(held).0,
            float(waiting),
            flow.map_or(0.0, |flow| flow.ports()),
            search.map_or(0.0, |search| search.mean),
        ];
        let mut is_worse = false;
        for (most, number) in self.most.iter_mut().zip(numbers) {
            is_worse |= number > *most;
            *most = most.max(number);
        }
        is_worse
    }
    /// What happened in the window, which is `seconds` long. `None`: its counters at the beginning are not known and no bind()
    /// failed, or the window is shorter than 1 s and no call failed for lack of a port, or `seconds` is not above 0.
    pub(super) fn activity(&self, seconds: f64) -> Option<Activity> {
        if seconds <= 0.0 || (self.before.is_none() && self.bind_failed == 0) {
            return None;
        }
        let before = self.before.unwrap_or(self.now);
        let mut activity = Activity::between(Some(&before), &self.now, seconds);
        if let Some(failed) = activity.failed.get_mut(Cause::BindExhausted as usize) {
            *failed = failed.saturating_add(self.bind_failed);
        }
        if seconds < SHORTEST_S && activity.exhausted() == 0 {
            return None;
        }
        let name = String::from_utf8_lossy(until_nul(&self.name)).into_owned();
        let known = self.pid != 0 || !name.is_empty();
        activity.caller = known.then_some(Process { pid: self.pid, name, container: None });
        Some(activity)
    }
}

/// How full a tuple is: the share of its ports in use; if how many it can hold is not known, the number of these.
fn fullness(held: &Held) -> (f64, u64) {
    let taken = held.in_use.saturating_sub(held.reusable);
    (saturation(taken, held.capacity).unwrap_or(0.0), held.in_use)
}

/// A count as a floating-point number.
#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
pub(super) fn float(count: u64) -> f64 {
    count as f64
}
