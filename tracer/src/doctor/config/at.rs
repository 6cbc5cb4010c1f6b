//! Where a line of a configuration is.

use std::{fmt, path::Path, sync::Arc};

/// A line of a file, or a file as a whole. Shown as `/etc/haproxy/haproxy.cfg:12`.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct At {
    /// Absolute in the root folder of the process.
    pub file: Arc<Path>,
    /// Number of the line, from 1 on; 0: the file as a whole.
    pub line: u32,
}

impl fmt::Display for At {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.file.display(), self.line)
    }
}

/// The lines of a text with their numbers, without what ends them.
pub(super) fn lines(text: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    let lines = text.split(|byte| *byte == b'\n');
    (1_u32..).zip(lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line)))
}
