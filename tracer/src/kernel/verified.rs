//! Logs how long the kernel took to load a program, and how many instructions it verified.

use std::time::Duration;

use aya::programs::{ProgramError, ProgramInfo};

/// Writes to the debug log how long it took to load the program `name`, and how many instructions the kernel verified (known from
/// Linux 5.16 on). `info`: asks the kernel about it; it is called only if there is a debug log.
pub(super) fn log_loaded(
    name: &str,
    took: Duration,
    info: impl FnOnce() -> Result<ProgramInfo, ProgramError>,
) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let verified = info().ok().and_then(|info| info.verified_instruction_count());
    let verified = verified.map_or_else(|| "an unknown number of".to_owned(), |it| it.to_string());
    tracing::debug!("loaded {name} in {took:.1?}: {verified} instructions verified");
}
