//! The rule that the spreader's hooks go by, kept so that each call sees one rule as a whole.

use std::sync::atomic::{Ordering, fence};

use aya::maps::{Array, Map, MapData};
use tracer_common::{Rule, settings::map};

use crate::{
    error::Error,
    kernel::{error::wrong, sys::RunningPrograms},
};

/// Two places for a rule, and which of them the hooks read.
pub(crate) struct Rules {
    places: Array<MapData, Rule>,
    /// 0: none; else the place, from 1 up.
    current: Array<MapData, u32>,
    /// `None`: somebody may still read the place that is not current. (Who only looks does not need it.)
    running: Option<RunningPrograms>,
}

impl Rules {
    pub(crate) fn new(
        mut take: impl FnMut(&'static str) -> Result<Map, Error>,
    ) -> Result<Self, Error> {
        Ok(Self {
            places: take(map::RULES)?.try_into().map_err(wrong(map::RULES))?,
            current: take(map::ACTIVE_RULE)?.try_into().map_err(wrong(map::ACTIVE_RULE))?,
            running: None,
        })
    }

    fn current(&self) -> Result<u32, Error> {
        self.current.get(&0, 0).map_err(wrong(map::ACTIVE_RULE))
    }

    pub(crate) fn get(&self) -> Option<Rule> {
        // While a place is read, the agent may write it only if it set two rules meanwhile.
        (0..8).find_map(|_| {
            let current = self.current().ok()?;
            let rule = self.places.get(&current.checked_sub(1)?, 0).ok()?;
            (self.current().ok()? == current).then_some(rule)
        })
    }

    /// The hooks go by this rule from now on, each call by one or the other as a whole.
    pub(crate) fn set(&mut self, rule: &Rule) -> Result<(), Error> {
        // Given back when all went well, so that whoever comes after a failure waits first.
        let running = if let Some(running) = self.running.take() {
            running
        } else {
            let running = RunningPrograms::new().map_err(cannot_wait)?;
            running.wait().map_err(cannot_wait)?;
            running
        };
        let place = u32::from(self.current()? == 1);
        self.places.set(place, rule, 0).map_err(wrong(map::RULES))?;
        // Whoever reads the new number reads the new rule.
        fence(Ordering::SeqCst);
        self.current.set(0, place + 1, 0).map_err(wrong(map::ACTIVE_RULE))?;
        // Those that read the old number are through with the old rule, whose place is written next.
        running.wait().map_err(cannot_wait)?;
        self.running = Some(running);
        Ok(())
    }

    pub(crate) fn clear(&mut self) -> Result<(), Error> {
        self.running = None;
        self.current.set(0, 0, 0).map_err(wrong(map::ACTIVE_RULE))
    }
}

fn cannot_wait(source: std::io::Error) -> Error {
    Error::Failure(format!("cannot switch rules: waiting for running hooks failed: {source}"))
}
