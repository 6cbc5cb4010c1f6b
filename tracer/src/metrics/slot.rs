//! Where the newest snapshot is: the agent puts it there, the server and the writer of the file take it.

use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::snapshot::Snapshot;

/// How old a reading may be for `GET /ready` to say that the tracer is ready.
const READY: Duration = Duration::from_mins(3);

/// The newest snapshot. Empty at first.
#[derive(Debug, Default)]
pub struct Slot {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    newest: Option<(Arc<Snapshot>, Instant)>,
    /// How many snapshots have been put here.
    count: u64,
}

impl Slot {
    /// Puts a snapshot here in place of the one before. `now`: when its reading was.
    pub fn put(&self, snapshot: Arc<Snapshot>, now: Instant) {
        let mut state = self.state();
        state.newest = Some((snapshot, now));
        state.count += 1;
        self.changed.notify_all();
    }

    /// The newest snapshot; `None`: there was no reading yet.
    pub(super) fn newest(&self) -> Option<Arc<Snapshot>> {
        self.state().newest.as_ref().map(|(snapshot, _)| Arc::clone(snapshot))
    }

    /// Whether there is a reading that is younger than [`READY`].
    pub(super) fn is_ready(&self, now: Instant) -> bool {
        let young = |at: Instant| now.saturating_duration_since(at) < READY;
        self.state().newest.as_ref().is_some_and(|(_, at)| young(*at))
    }

    /// Sets `ended`, and makes [`Self::wait`] with it return.
    pub(super) fn end(&self, ended: &AtomicBool) {
        let state = self.state();
        ended.store(true, Relaxed);
        drop(state);
        self.changed.notify_all();
    }

    /// Waits until there is another snapshot than that of the call before, and returns it with its number, which is `last` of the
    /// next call (at first: 0). `None`: [`Self::end`] set `ended`.
    pub(super) fn wait(&self, last: u64, ended: &AtomicBool) -> Option<(Arc<Snapshot>, u64)> {
        let state = self.state();
        let same = |state: &mut State| state.count == last && !ended.load(Relaxed);
        let state = self.changed.wait_while(state, same).unwrap_or_else(PoisonError::into_inner);
        let (snapshot, _) = state.newest.as_ref().filter(|_| !ended.load(Relaxed))?;
        Some((Arc::clone(snapshot), state.count))
    }

    /// A panic of another thread while it held the lock leaves a whole state behind.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::test_reading, *};

    #[test]
    fn it_is_ready_for_three_minutes_after_a_reading() {
        let (slot, now) = (Slot::default(), Instant::now());
        assert!(!slot.is_ready(now) && slot.newest().is_none());
        slot.put(test_reading::snapshot(), now);
        assert!(slot.is_ready(now + Duration::from_secs(179)) && slot.newest().is_some());
        assert!(!slot.is_ready(now + Duration::from_mins(3)));
    }

    #[test]
    fn each_snapshot_is_waited_for_once_until_the_end() {
        let (slot, ended) = (Slot::default(), AtomicBool::new(false));
        slot.put(test_reading::snapshot(), Instant::now());
        let (_, number) = slot.wait(0, &ended).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| slot.wait(number, &ended).is_none());
            slot.end(&ended);
            assert!(waiting.join().unwrap());
        });
        assert!(slot.wait(0, &ended).is_none());
    }
}
