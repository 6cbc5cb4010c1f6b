//! What aya and the kernel say, as errors of this program.

use crate::error::Error;

/// A map that cannot be read or written. `name`: as the BPF object has it.
pub(super) fn wrong(name: &'static str) -> impl FnOnce(aya::maps::MapError) -> Error {
    move |error| Error::Failure(format!("cannot use the BPF map {name}: {error}"))
}

/// An error with everything below it.
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
