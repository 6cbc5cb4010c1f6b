//! `cargo xtask readme`: writes the part of README.md that is made from the source.

use anyhow::Result;

use crate::{markers, vm::kernels};

/// Path, from the workspace's root, of the document with the table of kernels.
pub(crate) const DOCUMENT: &str = "README.md";

const KERNELS: &str = "kernels";

/// Writes the table of kernels between its markers. Fails if README.md does not have them, or cannot be read or written.
pub(crate) fn write() -> Result<()> {
    markers::write(DOCUMENT, KERNELS, &kernels::table())
}

/// The text of README.md with the current table of kernels in it; `None` if the text does not have the markers.
pub(crate) fn rendered(text: &str) -> Option<String> {
    markers::between(text, KERNELS, &kernels::table())
}

/// The message that README.md has no markers.
pub(crate) fn missing() -> String {
    markers::missing(DOCUMENT, KERNELS)
}
