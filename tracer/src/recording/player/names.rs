//! Names that many lines have, kept once.

use std::{collections::HashSet, sync::Arc};

/// The longest name that is kept, bytes: that of a network namespace, or most of the path of a cgroup.
const LONGEST: usize = 512;
/// Bytes of all names: more than a host has cgroups at a time.
const LIMIT: usize = 16 << 20;
/// What a name takes beside its bytes.
const OVERHEAD: usize = 64;

/// Whoever got a name keeps it; together they never take more than [`LIMIT`] bytes.
#[derive(Debug, Default)]
pub(super) struct Names {
    known: HashSet<Arc<str>>,
    bytes: usize,
    /// Lines that found no room since unused names were last forgotten.
    waited: usize,
    left_out: u64,
}

impl Names {
    /// `None` for an empty one, and for one that there is no room for. What is too long is cut.
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
            // Looking at all of them pays off once for as many lines.
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

    /// Lines whose name there was no room for.
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
        assert_eq!(names.left_out(), 0, "nobody keeps them");
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
