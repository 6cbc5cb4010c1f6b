//! Settings that are right one by one, but not together, and how each place where they can be given spells their names.

use crate::error::Error;

/// What is wrong with an option because of the others.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Unfit {
    /// Name of the option, as in [`Spelling::option`].
    pub option: &'static str,
    /// A sentence that says what is wrong, and what to do.
    pub why: String,
}

/// How the names of options are written where they were given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spelling {
    /// What comes before each name.
    dashes: &'static str,
    /// How a file to write to is named.
    pub file: &'static str,
}

/// As on the command line: `--src`.
pub(super) const COMMAND_LINE: Spelling = Spelling { dashes: "--", file: "--output FILE" };
/// As in the configuration file: `src`.
pub(super) const SETTING: Spelling = Spelling { dashes: "", file: "path = \"/FILE\"" };

impl Spelling {
    /// An option by its name without dashes (`src`), as it is written.
    pub(super) fn option(self, name: &str) -> String {
        format!("{}{name}", self.dashes)
    }
}

/// The first fault as an error of the command line.
pub(super) fn usage(faults: Vec<Unfit>) -> Error {
    Error::Usage(faults.into_iter().next().map_or_else(String::new, |unfit| unfit.why))
}
