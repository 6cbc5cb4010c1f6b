//! [`Facts`]: what a recording says about network namespaces.

use foldhash::HashMap;

use crate::{
    doctor::{finding::Place, from_ledger::Namespace},
    host::capacity::{Limits, PortRange},
    recording::{Settings, Start, Tuple},
};

/// Namespaces of which something is remembered at most.
const MOST: usize = 10_000;

/// What a run's lines say about network namespaces, at most 10,000 of them; what is known of others is not kept.
#[derive(Debug, Default)]
pub(super) struct Facts {
    all: HashMap<u32, Fact>,
    /// The namespace in which tracer was started; `None`: not known.
    own: Option<u32>,
}

#[derive(Debug, Default)]
struct Fact {
    /// Empty: not known.
    name: String,
    /// The newest ones; `None`: no line has them.
    settings: Option<Settings>,
    limits: Option<Limits>,
}

impl Facts {
    /// Forgets all, and begins a run: it may be of another host, or after a reboot.
    pub(super) fn begin(&mut self, start: &Start) {
        self.all.clear();
        self.own = start.own.as_ref().map(|own| own.netns);
        if let Some(own) = &start.own {
            self.set(own);
        }
    }

    /// What is known of a namespace, to add to it; `None`: there is no room for one more.
    fn of(&mut self, netns: u32) -> Option<&mut Fact> {
        if self.all.len() >= MOST && !self.all.contains_key(&netns) {
            return None;
        }
        Some(self.all.entry(netns).or_default())
    }

    /// Sets the settings of a namespace, and its name if that is not empty.
    pub(super) fn set(&mut self, settings: &Settings) {
        self.name(settings.netns, &settings.name);
        if let Some(fact) = self.of(settings.netns) {
            fact.settings = Some(settings.clone());
        }
    }

    /// Adds what a line about a tuple says about its namespace: its name, and the limits of its range.
    pub(super) fn add(&mut self, tuple: &Tuple<'_>) {
        self.name(tuple.key.netns, &tuple.netns_name);
        if let Some(limits) = tuple.limits
            && let Some(fact) = self.of(tuple.key.netns)
        {
            fact.limits = Some(limits);
        }
    }

    /// Sets the name of a namespace (inode number); empty: it stays as it is.
    pub(super) fn name(&mut self, netns: u32, name: &str) {
        if name.is_empty() || self.is_named(netns, name) {
            return;
        }
        if let Some(fact) = self.of(netns) {
            name.clone_into(&mut fact.name);
        }
    }

    /// Whether a line gave the namespace `netns` (inode number) this name last.
    pub(super) fn is_named(&self, netns: u32, name: &str) -> bool {
        self.all.get(&netns).is_some_and(|it| it.name == name)
    }

    /// What is known of a namespace (inode number); what no line said is `None`. The range is that of the newest line about a
    /// tuple, else that of the settings. `time_wait_s`: how long a TIME_WAIT lasts at most on its host, in seconds.
    pub(super) fn namespace(&self, netns: u32, time_wait_s: f64) -> Namespace {
        let fact = self.all.get(&netns);
        let settings = fact.and_then(|it| it.settings.as_ref());
        let limits = fact.and_then(|it| it.limits);
        let range = limits.map(|it| (it.low, it.high)).or_else(|| settings?.range);
        let reserved = settings.and_then(|it| it.reserved.clone());
        let name = fact.map(|it| it.name.clone()).filter(|name| !name.is_empty());
        Namespace {
            place: Place { inum: netns, name, own: self.own == Some(netns), path: None },
            range: range.map(|(low, high)| PortRange {
                low,
                high,
                reserved: reserved.unwrap_or_default(),
            }),
            limits,
            reuse: settings.and_then(|it| it.reuse),
            time_wait_s,
        }
    }
}
