//! Names that many lines have, kept once.

use std::{collections::HashSet, sync::Arc};

/// More than a host has cgroups at a time.
const LIMIT: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct Names(HashSet<Arc<str>>);

impl Names {
    /// `None` for an empty one.
    pub(super) fn get(&mut self, name: &str) -> Option<Arc<str>> {
        if name.is_empty() {
            return None;
        }
        if let Some(known) = self.0.get(name) {
            return Some(known.clone());
        }
        if self.0.len() >= LIMIT {
            self.0.clear();
        }
        let name: Arc<str> = name.into();
        self.0.insert(name.clone());
        Some(name)
    }
}
