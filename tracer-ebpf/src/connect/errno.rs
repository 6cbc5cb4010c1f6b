//! The errno values of connect() that have a cause of their own, or mean that the connect() goes on; and the cause of each.

use tracer_common::Cause;

pub(super) use crate::abi::errno::*;

/// The cause of an errno (positive) that means the same before and after the port search; of any other, [`Cause::Other`].
#[inline(always)]
pub(super) fn cause(errno: u16) -> Cause {
    match errno {
        ECONNREFUSED => Cause::Refused,
        ETIMEDOUT => Cause::TimedOut,
        ENETUNREACH | EHOSTUNREACH => Cause::Unreachable,
        ECONNRESET => Cause::Reset,
        EPERM | EACCES => Cause::Denied,
        _ => Cause::Other,
    }
}
