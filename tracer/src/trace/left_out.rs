//! Namespaces that could not be looked into, by name.

use std::{collections::BTreeMap, io};

use crate::netns::Netns;

/// Reasons that are kept; a host can have tens of thousands of namespaces.
const MOST: usize = 20;

/// What is missing of the host, and why.
#[derive(Debug, Default)]
pub(super) struct LeftOut {
    by_inum: BTreeMap<u32, String>,
    /// Beyond those.
    others: u64,
    /// The newest search for namespaces did not get to its end.
    pub(super) cut_short: bool,
}

impl LeftOut {
    /// A namespace was looked into, or is gone.
    pub(super) fn forget(&mut self, inum: u32) {
        self.by_inum.remove(&inum);
    }

    /// A look into a namespace failed. A missing privilege is said elsewhere, once for all.
    pub(super) fn add(&mut self, netns: &Netns, error: &io::Error) {
        if error.kind() == io::ErrorKind::PermissionDenied {
            return;
        }
        if self.by_inum.len() >= MOST && !self.by_inum.contains_key(&netns.inum) {
            self.others += 1;
            return;
        }
        let why = match error.kind() {
            // It says so itself.
            io::ErrorKind::TimedOut => error.to_string(),
            _ => format!("network namespace {netns} is left out: {error}"),
        };
        self.by_inum.insert(netns.inum, why);
    }

    /// For people, as one of the things that do not work as well as they could.
    pub(super) fn reasons(&self) -> impl Iterator<Item = String> {
        let others = (self.others > 0).then(|| "more network namespaces are left out".to_owned());
        let late = self.cut_short.then(|| {
            "network namespaces that no process is in may be missing: there are more open files than \
             can be looked through in time"
                .to_owned()
        });
        self.by_inum.values().cloned().chain(others).chain(late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_namespace_is_named_until_it_can_be_looked_into_and_their_number_is_limited() {
        let netns = |inum| Netns { inum, name: Some(format!("n{inum}")), ways: Vec::new() };
        let mut left_out = LeftOut::default();
        let broken = io::Error::other("damaged");
        left_out.add(&netns(1), &broken);
        left_out.add(&netns(2), &io::Error::from(io::ErrorKind::PermissionDenied));
        let reasons = |left_out: &LeftOut| left_out.reasons().collect::<Vec<_>>();
        assert_eq!(reasons(&left_out), ["network namespace 1 (n1) is left out: damaged"]);
        left_out.forget(1);
        assert!(reasons(&left_out).is_empty());
        for inum in 0..100 {
            left_out.add(&netns(inum), &broken);
        }
        assert_eq!(reasons(&left_out).len(), MOST + 1);
    }
}
