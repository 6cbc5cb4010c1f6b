//! Failed calls: a list of the newest, and counts by process for the last minute.

use std::collections::VecDeque;

use tracer_common::Cause;

use super::{
    answers::{Answer, Answers},
    reading::{About, Failure},
};

/// The most entries of the list. Equal failures in a row are one entry.
pub const FAILURES: usize = 1000;

/// Equal failures in a row.
#[derive(Clone, Debug, PartialEq)]
pub struct FailureGroup {
    /// The newest of them.
    pub newest: Failure,
    /// How many there were.
    pub count: u64,
    /// What to do about them; `None`: no reading has been judged since, or they are no lack of ports.
    pub answer: Option<Answer>,
}

/// Adds a failure to the newest entry of the list if both are alike ([`Failure::is_like`]), else as a new entry. A full list
/// loses its oldest entry.
pub(super) fn remember(failures: &mut VecDeque<FailureGroup>, failure: &Failure) {
    if let Some(last) = failures.back_mut()
        && last.newest.is_like(failure)
    {
        last.newest = failure.clone();
        last.count = last.count.saturating_add(failure.count);
        return;
    }
    if failures.len() == FAILURES {
        failures.pop_front();
    }
    failures.push_back(FailureGroup {
        newest: failure.clone(),
        count: failure.count,
        answer: None,
    });
}

/// Adds to failures for lack of ports what to do about them. What was known of one earlier stays: its tuple may be empty by now.
pub(super) fn answer(failures: &mut VecDeque<FailureGroup>, answers: &Answers, about: &About) {
    let lack = |it: &&mut FailureGroup| is_exhaustion(it.newest.cause);
    for group in failures.iter_mut().filter(lack) {
        match answers.for_failure(&group.newest) {
            Some(answer) => group.answer = Some(answer.clone()),
            None if group.answer.is_none() => {
                group.answer = Some(Answer::look_at(about, &group.newest));
            }
            None => {}
        }
    }
}

/// Whether this cause means that no port was left.
pub fn is_exhaustion(cause: Cause) -> bool {
    matches!(cause, Cause::PortsExhausted | Cause::BindExhausted)
}

/// The most entries of [`FailureRates`], each for a process and a second: limited, because a user can make any number
/// of processes.
const ENTRIES: usize = 4096;
/// How long these entries are kept, s.
const SECONDS: u64 = 60;

/// How many calls of each process failed in each second of the last minute.
#[derive(Clone, Debug, Default)]
pub struct FailureRates {
    /// Oldest first.
    entries: VecDeque<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    second: u64,
    pid: u32,
    comm: [u8; 16],
    count: u32,
}

impl FailureRates {
    /// Counts a failure for its process and second.
    pub(super) fn add(&mut self, failure: &Failure) {
        let second = failure.wall_ns / 1_000_000_000;
        let count = u32::try_from(failure.count).unwrap_or(u32::MAX);
        let same = |it: &&mut Entry| it.second == second && it.pid == failure.pid;
        // Searches the newest 64 only, to bound the time: a process may then get two entries for one second, and sums
        // add both.
        let recent = self.entries.iter_mut().rev().take(64);
        if let Some(entry) = recent.take_while(|it| it.second == second).find(same) {
            entry.count = entry.count.saturating_add(count);
            return;
        }
        if self.entries.len() == ENTRIES {
            self.entries.pop_front();
        }
        self.entries.push_back(Entry { second, pid: failure.pid, comm: failure.comm, count });
        let old = |it: &Entry| second.saturating_sub(it.second) > SECONDS;
        while self.entries.front().is_some_and(old) {
            self.entries.pop_front();
        }
    }

    /// Processes whose calls failed in the `seconds` whole seconds (at most 60; 0: none) before that of `wall_ns` (ns since
    /// 1970), in no order: id (0: not known; all such processes together), name (NUL-padded), and failures per second.
    pub fn within(&self, wall_ns: u64, seconds: u32) -> Vec<(u32, [u8; 16], f64)> {
        let now = wall_ns / 1_000_000_000;
        let ago = 1..=u64::from(seconds);
        let within = |it: &&Entry| ago.contains(&now.saturating_sub(it.second));
        let mut found: Vec<(u32, [u8; 16], f64)> = Vec::new();
        for entry in self.entries.iter().filter(within) {
            let rate = f64::from(entry.count) / f64::from(seconds.max(1));
            match found.iter_mut().find(|(pid, ..)| *pid == entry.pid) {
                Some((_, _, sum)) => *sum += rate,
                None => found.push((entry.pid, entry.comm, rate)),
            }
        }
        found
    }
}
