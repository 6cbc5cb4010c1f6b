//! The errno values of connect() that have a cause of their own, or mean that it goes on.

use tracer_common::Cause;

pub(super) const EPERM: u16 = 1;
pub(super) const EINTR: u16 = 4;
pub(super) const EACCES: u16 = 13;
pub(super) const ENFILE: u16 = 23;
pub(super) const EMFILE: u16 = 24;
pub(super) const EADDRNOTAVAIL: u16 = 99;
pub(super) const ENETUNREACH: u16 = 101;
pub(super) const ECONNRESET: u16 = 104;
pub(super) const EISCONN: u16 = 106;
pub(super) const ETIMEDOUT: u16 = 110;
pub(super) const ECONNREFUSED: u16 = 111;
pub(super) const EHOSTUNREACH: u16 = 113;
pub(super) const EALREADY: u16 = 114;
pub(super) const EINPROGRESS: u16 = 115;
/// Kernel-internal: the kernel restarts the call after a signal.
pub(super) const ERESTARTSYS: u16 = 512;

/// The cause of an errno that means the same before and after the port search.
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
