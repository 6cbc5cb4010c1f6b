//! Tracers that several tests share: one per backend for the whole run, because a start is slow in an emulated guest. Every
//! test looks at its own network namespace only.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};

use super::watch::{Reading, Watch};
use crate::harness::{netns, skipped};

static RUNNING: Mutex<BTreeMap<String, Shared>> = Mutex::new(BTreeMap::new());

static DRIFTS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// The drift, the skipped hooks and the [`skipped::time_waits`] of each tracer that [`stop`] ended, a line of text each. A tracer that gave no last reading
/// has no line.
pub fn drifts() -> Vec<String> {
    DRIFTS.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn running() -> MutexGuard<'static, BTreeMap<String, Shared>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether no shared tracer runs.
pub(super) fn idle() -> bool {
    running().is_empty()
}

/// The tracer of this backend that the whole run shares; started if there is none, or it has ended. Errors as of
/// [`Watch::start`].
pub fn watch(backend: &str) -> Result<Shared> {
    let mut running = running();
    if let Some(shared) = running.get(backend)
        && shared.lock().runs()
    {
        return Ok(shared.clone());
    }
    let shared = Shared::from(Watch::start(backend, &[])?);
    running.insert(backend.to_owned(), shared.clone());
    Ok(shared)
}

/// Ends the shared tracers one after the other by SIGINT, except those that a stage still uses. Each must end with exit code 0;
/// after one that does not, the others are killed. If all ended so, closes the namespaces that were kept for them. Drift is no
/// error here but is in [`drifts`]: in a guest, some is expected.
pub fn stop() -> Result<()> {
    let all = std::mem::take(&mut *running());
    let ended = all.into_iter().try_for_each(|(backend, shared)| {
        let newest = shared.after(SystemTime::now(), Duration::from_secs(10));
        if let Ok(reading) = newest
            && let Ok(missed) = reading.lost("hook_missed")
        {
            let drift = reading.drift;
            let unseen = skipped::time_waits();
            let text = format!(
                "drift of {backend}: {drift} ports corrected, {missed} hooks missed, {unseen} TIME_WAITs kept from BPF programs"
            );
            DRIFTS.lock().unwrap_or_else(PoisonError::into_inner).push(text);
        }
        shared.stop().context(backend)
    });
    if ended.is_ok() {
        netns::release_kept();
    }
    ended
}

/// A [`Watch`] with one owner or several.
#[derive(Clone, Debug)]
pub struct Shared(Arc<Mutex<Watch>>);

impl From<Watch> for Shared {
    fn from(watch: Watch) -> Self {
        Self(Arc::new(Mutex::new(watch)))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Watch> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A reading that began after `time`, within `limit`: see [`Watch::after`]. No other owner gets this reading.
    pub fn after(&self, time: SystemTime, limit: Duration) -> Result<Reading> {
        self.lock().after(time, limit)
    }

    /// Number of hooks that the kernel had skipped by the newest reading: see [`Watch::missed`].
    pub fn missed(&self) -> u64 {
        self.lock().missed()
    }

    /// Ends the tracer if this is its last owner (see [`Watch::stop`]); otherwise does nothing.
    pub fn stop(self) -> Result<()> {
        let last = Arc::into_inner(self.0);
        last.map_or(Ok(()), |watch| {
            watch.into_inner().unwrap_or_else(PoisonError::into_inner).stop()
        })
    }
}
