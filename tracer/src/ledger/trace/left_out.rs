//! Namespaces that could not be looked into, by name.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    io,
    time::{Duration, Instant},
};

use crate::host::netns::Netns;

/// Reasons that are kept; a host can have tens of thousands of namespaces.
const MOST: usize = 20;
/// How long no way may lead to a namespace in which ports are held: one that is ending takes a moment.
const UNFOUND: Duration = Duration::from_secs(2);

/// What a namespace was looked at for. A look that succeeds ends what an equal or a smaller one found wrong.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Look {
    /// Where it is.
    Way,
    /// Its port range.
    Range,
    /// All of its sockets.
    Sockets,
}

/// What is missing of the host, and why.
#[derive(Debug, Default)]
pub(super) struct LeftOut {
    /// The reason is the first one: it is the same text for as long as the namespace is left out.
    by_inum: BTreeMap<u32, (Look, String)>,
    /// Beyond those.
    others: BTreeSet<u32>,
    /// To these no way leads, by the newest search that got to its end.
    unknown: HashSet<u32>,
    /// Of them, those with ports, and since when.
    unfound: BTreeMap<u32, Instant>,
    /// The newest search for namespaces did not get to its end.
    cut_short: bool,
    /// Why the newest search failed.
    unlisted: Option<String>,
}

impl LeftOut {
    /// Those whose sockets could not be read.
    pub(super) fn unread(&self) -> impl Iterator<Item = u32> {
        let unread = self.by_inum.iter().filter(|(_, (look, _))| *look == Look::Sockets);
        unread.map(|(inum, _)| *inum).chain(self.others.iter().copied())
    }

    /// Those that were found, and could not be looked into.
    pub(super) fn closed(&self) -> impl Iterator<Item = u32> {
        let closed = self.by_inum.iter().filter(|(_, (look, _))| *look > Look::Way);
        closed.map(|(inum, _)| *inum).chain(self.others.iter().copied())
    }

    /// No way leads to one of these any more: most likely it is gone.
    pub(super) fn forget_closed(&mut self, inum: u32) {
        self.others.remove(&inum);
        if self.by_inum.get(&inum).is_some_and(|(look, _)| *look > Look::Way) {
            self.by_inum.remove(&inum);
        }
    }

    /// A namespace is gone.
    pub(super) fn forget(&mut self, inum: u32) {
        self.by_inum.remove(&inum);
        self.others.remove(&inum);
        self.unfound.remove(&inum);
    }

    /// A namespace was looked into.
    pub(super) fn seen(&mut self, inum: u32, look: Look) {
        if self.by_inum.get(&inum).is_none_or(|(failed, _)| *failed <= look) {
            self.forget(inum);
        }
    }

    /// A look into a namespace failed. A missing privilege is said elsewhere, once for all.
    pub(super) fn add(&mut self, netns: &Netns, look: Look, error: &io::Error) {
        if error.kind() == io::ErrorKind::PermissionDenied {
            return;
        }
        self.insert(netns.inum, look, || match error.kind() {
            // It says so itself.
            io::ErrorKind::TimedOut => error.to_string(),
            _ => format!("network namespace {netns} is left out: {error}"),
        });
    }

    fn insert(&mut self, inum: u32, look: Look, why: impl FnOnce() -> String) {
        if let Some((failed, _)) = self.by_inum.get_mut(&inum) {
            *failed = look.max(*failed);
        } else if self.by_inum.len() < MOST {
            self.others.remove(&inum);
            self.by_inum.insert(inum, (look, why()));
        } else {
            self.others.insert(inum);
        }
    }

    /// What a search for namespaces came to. `cut_short`: it did not get to its end.
    pub(super) fn searched(&mut self, cut_short: bool) {
        (self.cut_short, self.unlisted) = (cut_short, None);
    }

    /// A search for these namespaces failed. Says whether that is new.
    pub(super) fn not_searched(&mut self, wanted: &HashSet<u32>, error: &io::Error) -> bool {
        for inum in wanted {
            self.insert(*inum, Look::Range, || {
                format!("network namespace {inum} is left out: it cannot be looked for: {error}")
            });
        }
        let is_new = self.unlisted.is_none();
        if is_new {
            self.unlisted = Some(format!("new network namespaces are left out: {error}"));
        }
        is_new
    }

    /// Ports are held in these namespaces now. `unknown`: no way leads to those, by a search that got to its end;
    /// `None`: as before.
    pub(super) fn held(
        &mut self,
        held: &HashSet<u32>,
        unknown: Option<HashSet<u32>>,
        now: Instant,
    ) {
        self.unknown = unknown.unwrap_or_else(|| std::mem::take(&mut self.unknown));
        let is_unknown = |inum: &u32| held.contains(inum) && self.unknown.contains(inum);
        self.unfound.retain(|inum, _| is_unknown(inum));
        self.by_inum.retain(|inum, (look, _)| *look > Look::Way || is_unknown(inum));
        let unknown = self.unknown.intersection(held).copied().collect::<Vec<u32>>();
        for inum in unknown {
            let since = *self.unfound.entry(inum).or_insert(now);
            if now.duration_since(since) >= UNFOUND {
                self.insert(inum, Look::Way, || {
                    format!(
                        "network namespace {inum} is left out: no process, name or descriptor leads to it"
                    )
                });
            }
        }
    }

    /// For people, as one of the things that do not work as well as they could.
    pub(super) fn reasons(&self) -> impl Iterator<Item = String> {
        let others =
            (!self.others.is_empty()).then(|| "more network namespaces are left out".to_owned());
        let late = self.cut_short.then(|| {
            "network namespaces that no process is in may be missing: there are more open files than \
             can be looked through in time"
                .to_owned()
        });
        let named = self.by_inum.values().map(|(_, why)| why.clone());
        named.chain(others).chain(late).chain(self.unlisted.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn netns(inum: u32) -> Netns {
        Netns { inum, name: Some(format!("n{inum}")), ways: Vec::new() }
    }

    fn reasons(left_out: &LeftOut) -> Vec<String> {
        left_out.reasons().collect()
    }

    #[test]
    fn each_namespace_is_named_until_it_can_be_looked_into_and_their_number_is_limited() {
        let mut left_out = LeftOut::default();
        let broken = io::Error::other("damaged");
        left_out.add(&netns(1), Look::Sockets, &broken);
        let refused = io::Error::from(io::ErrorKind::PermissionDenied);
        left_out.add(&netns(2), Look::Sockets, &refused);
        assert_eq!(reasons(&left_out), ["network namespace 1 (n1) is left out: damaged"]);
        left_out.forget(1);
        assert!(reasons(&left_out).is_empty());
        for inum in 0..100 {
            left_out.add(&netns(inum), Look::Sockets, &broken);
        }
        assert_eq!(reasons(&left_out).len(), MOST + 1);
        for inum in 0..100 {
            left_out.seen(inum, Look::Sockets);
        }
        assert!(reasons(&left_out).is_empty());
    }

    #[test]
    fn the_reason_stays_the_same_and_ends_with_a_look_as_large_as_the_one_that_failed() {
        let mut left_out = LeftOut::default();
        left_out.add(&netns(1), Look::Range, &io::Error::other("first"));
        left_out.add(&netns(1), Look::Sockets, &io::Error::other("second"));
        left_out.add(&netns(2), Look::Range, &io::Error::other("first"));
        assert_eq!(left_out.unread().collect::<Vec<_>>(), [1]);
        left_out.seen(1, Look::Range);
        left_out.seen(2, Look::Range);
        assert_eq!(reasons(&left_out), ["network namespace 1 (n1) is left out: first"]);
        left_out.seen(1, Look::Sockets);
        assert!(reasons(&left_out).is_empty());
    }

    #[test]
    fn one_with_ports_to_which_no_way_leads_for_a_while_is_named() {
        let mut left_out = LeftOut::default();
        let (held, unknown) = (HashSet::from([1, 2]), HashSet::from([2, 3]));
        let begin = Instant::now();
        left_out.held(&held, Some(unknown.clone()), begin);
        assert!(reasons(&left_out).is_empty());
        left_out.held(&held, Some(unknown.clone()), begin + UNFOUND);
        let why = "network namespace 2 is left out: no process, name or descriptor leads to it";
        assert_eq!(reasons(&left_out), [why]);
        // Its last port is released.
        left_out.held(&HashSet::from([1]), None, begin + UNFOUND);
        assert!(reasons(&left_out).is_empty());
        // It is found for a moment, and counts anew from then on.
        left_out.held(&held, Some(unknown.clone()), begin);
        left_out.held(&held, Some(HashSet::new()), begin + UNFOUND);
        left_out.held(&held, Some(unknown.clone()), begin + UNFOUND);
        assert!(reasons(&left_out).is_empty());
        // What it was left out for before is another matter.
        left_out.add(&netns(1), Look::Range, &io::Error::other("damaged"));
        left_out.held(&HashSet::new(), Some(HashSet::new()), begin);
        assert_eq!(reasons(&left_out).len(), 1);
    }

    #[test]
    fn a_search_that_fails_or_is_cut_short_is_said_until_one_gets_to_its_end() {
        let mut left_out = LeftOut::default();
        let stuck = io::Error::other("stuck");
        let wanted = HashSet::from([1]);
        assert!(left_out.not_searched(&wanted, &stuck) && !left_out.not_searched(&wanted, &stuck));
        let by_name = "network namespace 1 is left out: it cannot be looked for: stuck";
        let others = "new network namespaces are left out: stuck";
        assert_eq!(reasons(&left_out), [by_name, others]);
        left_out.searched(true);
        assert!(reasons(&left_out)[1].contains("more open files"));
        left_out.searched(false);
        assert_eq!(reasons(&left_out), [by_name]);
        left_out.seen(1, Look::Range);
        assert!(reasons(&left_out).is_empty());
    }
}
