//! The parts of documents that a program writes, between `<!-- NAME -->` and `<!-- /NAME -->`.

use std::fs;

use anyhow::{Context as _, Result};

use crate::workspace;

/// The text with `part` in place of what is between the first pair of markers of this name. `part` must end with a line end, or
/// be empty (not checked). `None` if the text does not have the two markers in this order, the first at the end of a line.
pub(crate) fn between(text: &str, name: &str, part: &str) -> Option<String> {
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let (before, rest) = text.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{begin}{part}{end}{after}"))
}

/// The message that `document` (a path from the workspace's root) has no markers of this name.
pub(crate) fn missing(document: &str, name: &str) -> String {
    format!("{document} has no line `<!-- {name} -->` followed by `<!-- /{name} -->`")
}

/// Writes `part` (which must end with a line end, or be empty: not checked) between the markers of this name in `document`, a
/// path from the workspace's root. Fails if the document does not have the markers, or cannot be read or written.
pub(crate) fn write(document: &str, name: &str, part: &str) -> Result<()> {
    let path = workspace::root().join(document);
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let text = between(&text, name, part).with_context(|| missing(document, name))?;
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_a_part_a_second_time_changes_nothing() {
        let text = "a\n<!-- t -->\nold\n<!-- /t -->\nb\n";
        let once = between(text, "t", "| new |\n").unwrap();
        assert_eq!(once, "a\n<!-- t -->\n| new |\n<!-- /t -->\nb\n");
        assert_eq!(between(&once, "t", "| new |\n"), Some(once));
        assert_eq!(between(text, "other", ""), None);
    }
}
