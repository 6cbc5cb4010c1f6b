//! Notes which namespaces cannot be read, and why, for the list of what is degraded.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    io,
    time::{Duration, Instant},
};

use crate::host::netns::Netns;

/// How many reasons are kept; a host can have tens of thousands of namespaces.
const MOST: usize = 20;
/// How long searches may not find a namespace with held ports before it counts as left out: one that is ending takes a
/// moment until its ports are released.
const UNFOUND: Duration = Duration::from_secs(2);

/// How much of a namespace is read, least first. A success removes the failures of an equal or a smaller depth.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Depth {
    /// Where it can be entered.
    Location,
    /// Its port range.
    Range,
    /// All of its sockets.
    Sockets,
}

/// The namespaces that are left out, and why.
#[derive(Debug, Default)]
pub(super) struct LeftOut {
    /// At most [`MOST`] namespaces, each with the greatest depth that failed, and why it is left out: the text is that of
    /// the first failure, so that it stays the same for as long as the namespace is left out.
    by_inum: BTreeMap<u32, (Depth, String)>,
    /// Further namespaces that are left out, for which `by_inum` has no room.
    others: BTreeSet<u32>,
    /// Namespaces that the newest complete search did not find.
    unknown: HashSet<u32>,
    /// Those of `unknown` with held ports, and since when.
    unfound: BTreeMap<u32, Instant>,
    /// Whether the newest search for namespaces was cut short.
    cut_short: bool,
    /// Why the newest search failed; `None`: it did not.
    unlisted: Option<String>,
}

impl LeftOut {
    /// Inode numbers of the namespaces whose sockets could not be read, and of those of which it is only known that they are left
    /// out, because there are more than [`MOST`].
    pub(super) fn unread(&self) -> impl Iterator<Item = u32> {
        let unread = self.by_inum.iter().filter(|(_, (depth, _))| *depth == Depth::Sockets);
        unread.map(|(inum, _)| *inum).chain(self.others.iter().copied())
    }

    /// Inode numbers of the namespaces whose range or sockets could not be read, because that or the search for them failed, and
    /// of those of which it is only known that they are left out, because there are more than [`MOST`].
    pub(super) fn closed(&self) -> impl Iterator<Item = u32> {
        let closed = self.by_inum.iter().filter(|(_, (depth, _))| *depth > Depth::Location);
        closed.map(|(inum, _)| *inum).chain(self.others.iter().copied())
    }

    /// Forgets a namespace of [`Self::closed`] that is not found any more: most likely it is gone. Does nothing for another one.
    pub(super) fn forget_closed(&mut self, inum: u32) {
        self.others.remove(&inum);
        if self.by_inum.get(&inum).is_some_and(|(depth, _)| *depth > Depth::Location) {
            self.by_inum.remove(&inum);
        }
    }

    /// Forgets a namespace that is gone, or no longer left out: all failures, at whatever depth.
    pub(super) fn forget(&mut self, inum: u32) {
        self.by_inum.remove(&inum);
        self.others.remove(&inum);
        self.unfound.remove(&inum);
    }

    /// Notes that a namespace was read this far: it is no longer left out, unless what failed lies deeper. (Of one beyond the
    /// first [`MOST`], it is not known what failed: it is no longer left out.)
    pub(super) fn read(&mut self, inum: u32, depth: Depth) {
        if self.by_inum.get(&inum).is_none_or(|(failed, _)| *failed <= depth) {
            self.forget(inum);
        }
    }

    /// Notes that a namespace could not be read this far. Does nothing if a privilege is missing
    /// ([`io::ErrorKind::PermissionDenied`]): that is reported elsewhere, once for all namespaces.
    pub(super) fn add(&mut self, netns: &Netns, depth: Depth, error: &io::Error) {
        if error.kind() == io::ErrorKind::PermissionDenied {
            return;
        }
        self.insert(netns.inum, depth, || match error.kind() {
            // This error names the namespace itself.
            io::ErrorKind::TimedOut => error.to_string(),
            _ => format!("network namespace {netns} is left out: {error}"),
        });
    }

    fn insert(&mut self, inum: u32, depth: Depth, why: impl FnOnce() -> String) {
        if let Some((failed, _)) = self.by_inum.get_mut(&inum) {
            *failed = depth.max(*failed);
        } else if self.by_inum.len() < MOST {
            self.others.remove(&inum);
            self.by_inum.insert(inum, (depth, why()));
        } else {
            self.others.insert(inum);
        }
    }

    /// Notes that a search for namespaces ended, so that [`Self::reasons`] no longer has the failure of an earlier one.
    /// `cut_short`: it did not see all.
    pub(super) fn searched(&mut self, cut_short: bool) {
        (self.cut_short, self.unlisted) = (cut_short, None);
    }

    /// Notes that a search for these namespaces failed: each is left out. Returns true if the search before it did not fail.
    pub(super) fn not_searched(&mut self, wanted: &HashSet<u32>, error: &io::Error) -> bool {
        for inum in wanted {
            self.insert(*inum, Depth::Range, || {
                format!("network namespace {inum} is left out: the search for it failed: {error}")
            });
        }
        let is_new = self.unlisted.is_none();
        if is_new {
            self.unlisted = Some(format!("new network namespaces are left out: {error}"));
        }
        is_new
    }

    /// Sets the namespaces in which ports are held now. `unknown`: those that a complete search did not find; `None`:
    /// the same as before. A namespace that is both for [`UNFOUND`] (2 s) or longer is left out for as long as it is both.
    pub(super) fn held(
        &mut self,
        held: &HashSet<u32>,
        unknown: Option<HashSet<u32>>,
        now: Instant,
    ) {
        self.unknown = unknown.unwrap_or_else(|| std::mem::take(&mut self.unknown));
        let is_unknown = |inum: &u32| held.contains(inum) && self.unknown.contains(inum);
        self.unfound.retain(|inum, _| is_unknown(inum));
        self.by_inum.retain(|inum, (depth, _)| *depth > Depth::Location || is_unknown(inum));
        let unknown = self.unknown.intersection(held).copied().collect::<Vec<u32>>();
        for inum in unknown {
            let since = *self.unfound.entry(inum).or_insert(now);
            if now.duration_since(since) >= UNFOUND {
                self.insert(inum, Depth::Location, || {
                    format!(
                        "network namespace {inum} is left out: no process, name or descriptor leads to it"
                    )
                });
            }
        }
    }

    /// A text for people for each namespace that is left out (of those beyond the first [`MOST`], one for all), and for what the
    /// newest search did not see; none: nothing is left out.
    pub(super) fn reasons(&self) -> impl Iterator<Item = String> {
        let others =
            (!self.others.is_empty()).then(|| "more network namespaces are left out".to_owned());
        let late = self.cut_short.then(|| {
            "network namespaces that no process is in may be missing: there are more open files than \
             can be read in time"
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
        Netns { inum, name: Some(format!("n{inum}")), paths: Vec::new() }
    }

    fn reasons(left_out: &LeftOut) -> Vec<String> {
        left_out.reasons().collect()
    }

    #[test]
    fn each_namespace_is_named_until_it_can_be_read_and_their_number_is_limited() {
        let mut left_out = LeftOut::default();
        let broken = io::Error::other("damaged");
        left_out.add(&netns(1), Depth::Sockets, &broken);
        let refused = io::Error::from(io::ErrorKind::PermissionDenied);
        left_out.add(&netns(2), Depth::Sockets, &refused);
        assert_eq!(reasons(&left_out), ["network namespace 1 (n1) is left out: damaged"]);
        left_out.forget(1);
        assert!(reasons(&left_out).is_empty());
        for inum in 0..100 {
            left_out.add(&netns(inum), Depth::Sockets, &broken);
        }
        assert_eq!(reasons(&left_out).len(), MOST + 1);
        for inum in 0..100 {
            left_out.read(inum, Depth::Sockets);
        }
        assert!(reasons(&left_out).is_empty());
    }

    #[test]
    fn the_reason_stays_the_same_and_ends_with_a_reading_as_deep_as_the_one_that_failed() {
        let mut left_out = LeftOut::default();
        left_out.add(&netns(1), Depth::Range, &io::Error::other("first"));
        left_out.add(&netns(1), Depth::Sockets, &io::Error::other("second"));
        left_out.add(&netns(2), Depth::Range, &io::Error::other("first"));
        assert_eq!(left_out.unread().collect::<Vec<_>>(), [1]);
        left_out.read(1, Depth::Range);
        left_out.read(2, Depth::Range);
        assert_eq!(reasons(&left_out), ["network namespace 1 (n1) is left out: first"]);
        left_out.read(1, Depth::Sockets);
        assert!(reasons(&left_out).is_empty());
    }

    #[test]
    fn a_namespace_with_ports_that_is_not_found_for_a_while_is_named() {
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
        // It is found for a moment: the time begins again.
        left_out.held(&held, Some(unknown.clone()), begin);
        left_out.held(&held, Some(HashSet::new()), begin + UNFOUND);
        left_out.held(&held, Some(unknown.clone()), begin + UNFOUND);
        assert!(reasons(&left_out).is_empty());
        // That it could not be read before is another reason, which stays.
        left_out.add(&netns(1), Depth::Range, &io::Error::other("damaged"));
        left_out.held(&HashSet::new(), Some(HashSet::new()), begin);
        assert_eq!(reasons(&left_out).len(), 1);
    }

    #[test]
    fn a_search_that_fails_or_is_cut_short_is_named_until_one_is_complete() {
        let mut left_out = LeftOut::default();
        let stuck = io::Error::other("stuck");
        let wanted = HashSet::from([1]);
        assert!(left_out.not_searched(&wanted, &stuck) && !left_out.not_searched(&wanted, &stuck));
        let by_name = "network namespace 1 is left out: the search for it failed: stuck";
        let others = "new network namespaces are left out: stuck";
        assert_eq!(reasons(&left_out), [by_name, others]);
        left_out.searched(true);
        assert!(reasons(&left_out)[1].contains("more open files"));
        left_out.searched(false);
        assert_eq!(reasons(&left_out), [by_name]);
        left_out.read(1, Depth::Range);
        assert!(reasons(&left_out).is_empty());
    }
}
