//! Makes texts of aya's errors: of a map that cannot be used, and of any error with its sources.

use crate::error::Error;

/// Returns a function that makes the error of a map that cannot be used. `name`: of the map in the BPF object.
pub(super) fn wrong(name: &'static str) -> impl FnOnce(aya::maps::MapError) -> Error {
    move |error| Error::Failure(format!("cannot use the BPF map {name}: {error}"))
}

/// The text of an error and of its sources; a source whose text is there already is left out.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(below) = source {
        let below_text = below.to_string();
        if !text.contains(&below_text) {
            text = format!("{text}: {below_text}");
        }
        source = below.source();
    }
    text
}
