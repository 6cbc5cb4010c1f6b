//! Keeps names of cgroups, containers and namespaces, each once, however many lines have it; all together in at most 16 MiB.

use std::{collections::HashSet, sync::Arc};

/// Longest name, in bytes, longer ones are cut: enough for network namespaces and for most paths of cgroups.
const LONGEST: usize = 512;
/// The most memory for all names together, in bytes: enough for all cgroups of a host.
const LIMIT: usize = 16 << 20;
/// What a name takes in memory in addition to its text, estimated, in bytes.
const OVERHEAD: usize = 64;

/// The names; together they never take more than [`LIMIT`] bytes.
#[derive(Debug, Default)]
pub(super) struct Names {
    known: HashSet<Arc<str>>,
    bytes: usize,
    /// How many names, counted in every line, did not fit since [`Self::get`] last forgot unused names.
    waited: usize,
    /// How many names, counted in every line, were left out, because there was no room for them.
    left_out: u64,
}

impl Names {
    /// The kept name, cut to 512 bytes; `None`: the name is empty, or there is no room for it.
    pub(super) fn get(&mut self, name: &str) -> Option<Arc<str>> {
        if name.is_empty() {
            return None;
        }
        let name = name.get(..name.floor_char_boundary(LONGEST)).unwrap_or_default();
        if let Some(known) = self.known.get(name) {
            return Some(known.clone());
        }
        let size = name.len() + OVERHEAD;
        if self.bytes + size > LIMIT {
            // To search all names for unused ones takes long. Therefore, once a name was left out, this is done only when
            // the number of names that found no room exceeds half the number of kept names.
            self.waited += 1;
            if self.waited > self.known.len() / 2 || self.left_out == 0 {
                self.forget_unused();
            }
        }
        if self.bytes + size > LIMIT {
            self.left_out = self.left_out.saturating_add(1);
            return None;
        }
        let name: Arc<str> = name.into();
        self.known.insert(name.clone());
        self.bytes += size;
        Some(name)
    }

    /// How many names, counted in every line, were left out, because there was no room for them.
    pub(super) const fn left_out(&self) -> u64 {
        self.left_out
    }

    fn forget_unused(&mut self) {
        self.known.retain(|name| Arc::strong_count(name) > 1);
        self.bytes = self.known.iter().map(|name| name.len() + OVERHEAD).sum();
        self.waited = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_never_take_more_than_their_limit() {
        let mut names = Names::default();
        let long = |number: u32| format!("{number:0>1000}{number}");
        for number in 0..100_000 {
            names.get(&format!("{number:x}{}", long(number)));
            assert!(names.bytes <= LIMIT);
        }
        assert_eq!(names.left_out(), 0, "no name is in use");
        let kept: Vec<_> = (0..100_000)
            .filter_map(|number| names.get(&format!("{number:x}{}", long(number))))
            .collect();
        assert!(kept.len() < 40_000 && kept.iter().all(|name| name.len() == LONGEST));
        assert_eq!(names.left_out(), 100_000 - kept.len() as u64);
        assert_eq!(names.get("new"), None);
        drop(kept);
        assert!((0..100_000).any(|_| names.get("new").is_some()), "there is room again");
    }
}
