//! Why a hook stopped early, and what that counts as.

use tracer_common::Loss;

use crate::stats;

/// The reasons, as data; [`settle`] decides once what each means.
#[derive(Clone, Copy)]
pub(crate) enum Skip {
    /// Nothing of ours: not TCP over IP, an accepted connection, an uninteresting state.
    NotOurs,
    /// Something that should have been recorded was not.
    Lost(Loss),
}

/// What nearly every step returns.
pub(crate) type Step<T = ()> = Result<T, Skip>;

/// Ends a hook: a loss is counted, and the traced call goes on as if we were not there.
#[inline(always)]
pub(crate) fn settle(step: Step) {
    if let Err(Skip::Lost(loss)) = step {
        stats::lost(loss);
    }
}
