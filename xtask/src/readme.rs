//! `cargo xtask readme`: the parts of README.md that are made from the source.

use std::fs;

use anyhow::{Context as _, Result};

use crate::{vm::kernels, workspace};

const BEGIN: &str = "<!-- kernels -->\n";
const END: &str = "<!-- /kernels -->";

/// Writes the table of kernels between its markers.
pub(crate) fn write() -> Result<()> {
    let path = workspace::root().join("README.md");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let text = rendered(&text).with_context(|| missing(&path.display().to_string()))?;
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// The text with the table as it should be; none if the markers are missing.
pub(crate) fn rendered(text: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{}{END}{after}", kernels::table()))
}

/// What to say when there are no markers.
pub(crate) fn missing(path: &str) -> String {
    format!(
        "{path} has no line `{}` followed by `{END}`: the table of kernels goes between them",
        BEGIN.trim()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_written_between_the_markers_and_again_without_change() {
        let text = "# t\n<!-- kernels -->\nold\n<!-- /kernels -->\nrest\n";
        let once = rendered(text).unwrap();
        assert!(once.starts_with("# t\n<!-- kernels -->\n| kernel |"), "{once}");
        assert!(once.ends_with("|\n<!-- /kernels -->\nrest\n"), "{once}");
        assert_eq!(rendered(&once), Some(once));
    }

    #[test]
    fn a_text_without_markers_is_refused() {
        assert_eq!(rendered("# t\n"), None);
    }
}
