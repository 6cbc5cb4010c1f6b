//! Formats the key `netns.name` of an event's line. Events come from few network namespaces, and mostly from the same one as the
//! event before, so the text for each namespace is cached.

use std::collections::HashMap;

use crate::format::json;

/// The texts that are written after the number of a namespace, if it has a name.
#[derive(Clone, Debug, Default)]
pub(super) struct Namespaces {
    /// By inode number: the key and the value, with a comma before them.
    by_inum: HashMap<u32, Vec<u8>>,
    /// The namespace whose text was asked for last, and that text; empty: it has no name.
    newest: u32,
    text: Vec<u8>,
}

impl Namespaces {
    /// Replaces all names by these, by inode number, for all later lines. Of two names for one number, the last counts.
    pub(super) fn name<'a>(&mut self, names: impl Iterator<Item = (u32, &'a str)>) {
        self.by_inum = names
            .map(|(inum, name)| {
                let mut text = b",\"netns.name\":\"".to_vec();
                json::text(&mut text, name.as_bytes());
                text.push(b'"');
                (inum, text)
            })
            .collect();
        self.turn_to(self.newest);
    }

    /// The key `netns.name` and its value as JSON, with a comma before them, for the namespace with inode number `netns`; empty
    /// for a namespace without a name.
    #[inline]
    pub(super) fn text(&mut self, netns: u32) -> &[u8] {
        if self.newest != netns {
            self.turn_to(netns);
        }
        &self.text
    }

    #[cold]
    fn turn_to(&mut self, netns: u32) {
        self.newest = netns;
        self.text.clear();
        if let Some(text) = self.by_inum.get(&netns) {
            self.text.extend_from_slice(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_written_from_the_moment_on_that_it_is_known() {
        let mut namespaces = Namespaces::default();
        assert_eq!(namespaces.text(7), b"");
        namespaces.name([(7, "a\"b"), (8, "blue")].into_iter());
        assert_eq!(namespaces.text(7), br#","netns.name":"a\"b""#);
        assert_eq!(namespaces.text(8), br#","netns.name":"blue""#);
        assert_eq!(namespaces.text(9), b"");
        assert_eq!(namespaces.text(8), br#","netns.name":"blue""#);
        namespaces.name(std::iter::empty());
        assert_eq!(namespaces.text(8), b"");
    }
}
