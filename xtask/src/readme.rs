//! `cargo xtask readme`: the parts of README.md that are made from the source.

use anyhow::Result;

use crate::{markers, vm::kernels};

/// The document whose table of kernels is made from the matrix.
pub(crate) const DOCUMENT: &str = "README.md";

const KERNELS: &str = "kernels";

/// Writes the table of kernels between its markers.
pub(crate) fn write() -> Result<()> {
    markers::write(DOCUMENT, KERNELS, &kernels::table())
}

/// The text with the table as it should be; none if the markers are missing.
pub(crate) fn rendered(text: &str) -> Option<String> {
    markers::between(text, KERNELS, &kernels::table())
}

/// What to say when there are no markers.
pub(crate) fn missing() -> String {
    markers::missing(DOCUMENT, KERNELS)
}
