//! Writes and reads the rule that the spreader's hooks read, so that each call sees one rule as a whole.

use std::sync::atomic::{Ordering, fence};

use aya::maps::{Array, Map, MapData};
use tracer_common::{Rule, settings::map};

use crate::{
    error::Error,
    kernel::{error::wrong, sys::RunningPrograms},
};

/// Two slots for a rule, and which of them the hooks read.
pub(crate) struct Rules {
    slots: Array<MapData, Rule>,
    /// 0: there is no rule; else the number of the slot, from 1 up.
    current: Array<MapData, u32>,
    /// Waits for running hooks. `None`: a hook may still read the slot that is not current, so that [`Self::set`] has to
    /// wait before it writes there. (A process that only reads rules never makes this.)
    running: Option<RunningPrograms>,
}

impl Rules {
    /// Calls `take` with the names of the maps `RULES` and `ACTIVE_RULE`, and keeps what it returns.
    ///
    /// # Errors
    /// Those of `take`, or a map has another type.
    pub(crate) fn new(
        mut take: impl FnMut(&'static str) -> Result<Map, Error>,
    ) -> Result<Self, Error> {
        Ok(Self {
            slots: take(map::RULES)?.try_into().map_err(wrong(map::RULES))?,
            current: take(map::ACTIVE_RULE)?.try_into().map_err(wrong(map::ACTIVE_RULE))?,
            running: None,
        })
    }

    fn current(&self) -> Result<u32, Error> {
        self.current.get(&0, 0).map_err(wrong(map::ACTIVE_RULE))
    }

    /// The current rule; `None`: there is none, it cannot be read, or it changed during each of eight tries.
    pub(crate) fn get(&self) -> Option<Rule> {
        // `set` writes only a slot that is not current: if the number has changed during the read, the slot may have been
        // overwritten, so try again.
        (0..8).find_map(|_| {
            let current = self.current().ok()?;
            let rule = self.slots.get(&current.checked_sub(1)?, 0).ok()?;
            (self.current().ok()? == current).then_some(rule)
        })
    }

    /// Sets the rule. Each connect() uses the earlier rule or the new one as a whole.
    ///
    /// # Errors
    /// A map cannot be read or written, or waiting for running hooks fails. If the wait at the end fails, the new rule is in
    /// force.
    pub(crate) fn set(&mut self, rule: &Rule) -> Result<(), Error> {
        // Put back only after success, so that the call after a failed one waits first.
        let running = if let Some(running) = self.running.take() {
            running
        } else {
            let running = RunningPrograms::new().map_err(cannot_wait)?;
            running.wait().map_err(cannot_wait)?;
            running
        };
        let slot = u32::from(self.current()? == 1);
        self.slots.set(slot, rule, 0).map_err(wrong(map::RULES))?;
        // A hook that reads the new number must also read the new rule.
        fence(Ordering::SeqCst);
        self.current.set(0, slot + 1, 0).map_err(wrong(map::ACTIVE_RULE))?;
        // Hooks that read the old number end before the old rule's slot is written next.
        running.wait().map_err(cannot_wait)?;
        self.running = Some(running);
        Ok(())
    }

    /// Removes the rule: until one is set again, every connect() and bind() is exempt.
    ///
    /// # Errors
    /// The map cannot be written.
    pub(crate) fn clear(&mut self) -> Result<(), Error> {
        self.running = None;
        self.current.set(0, 0, 0).map_err(wrong(map::ACTIVE_RULE))
    }
}

fn cannot_wait(source: std::io::Error) -> Error {
    Error::Failure(format!("cannot switch rules: waiting for running hooks failed: {source}"))
}
