//! Why a hook stopped early, and which loss that counts as.

use tracer_common::Loss;

use crate::stats;

/// Why a hook stopped early. [`settle`] counts it.
#[derive(Clone, Copy)]
pub(crate) enum Skip {
    /// Nothing to record: not TCP over IP, an accepted connection, a state without meaning here, already recorded, or part of a
    /// call or connection that no earlier hook recorded.
    NotOurs,
    /// Something that should have been recorded could not be.
    Lost(Loss),
}

/// The result of nearly every step of a hook. `Err`: the step stopped early, for this reason; its caller stops, too, and the hook
/// passes the `Err` to [`settle`].
pub(crate) type Step<T = ()> = Result<T, Skip>;

/// Ends a hook: counts a loss, if there is one. The traced call goes on unchanged.
#[inline(always)]
pub(crate) fn settle(step: Step) {
    if let Err(Skip::Lost(loss)) = step {
        stats::lost(loss);
    }
}
