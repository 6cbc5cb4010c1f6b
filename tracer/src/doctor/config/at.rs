//! Where a line of a configuration is.

use std::{fmt, path::Path, sync::Arc};

use memchr::memchr_iter;

/// A line of a file, or a file as a whole. Shown as `/etc/haproxy/haproxy.cfg:12`, as a whole with `:0`.
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

/// The lines of a text with their numbers, from 1 on, without the `\n` or `\r\n` that ends them. What follows the last `\n` is a
/// line, too, even if it is empty: an empty text has one line.
pub(super) fn lines(text: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    let mut begin = 0;
    let lines = memchr_iter(b'\n', text).chain([text.len()]).map(move |end| {
        let line = text.get(begin..end).unwrap_or_default();
        begin = end + 1;
        line.strip_suffix(b"\r").unwrap_or(line)
    });
    (1_u32..).zip(lines)
}
