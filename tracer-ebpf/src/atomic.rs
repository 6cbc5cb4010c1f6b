//! Atomic additions to counters in map values.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

/// Adds to a counter in a map value. The sum wraps, so [`u64::MAX`] subtracts 1.
///
/// The old value is not returned, so that LLVM emits BPF_XADD, which every kernel has; the form that
/// returns it (BPF_FETCH) came with Linux 5.12.
///
/// # Safety
/// `counter` must point into a live map value, aligned to 8 bytes.
#[inline(always)]
pub(crate) unsafe fn add(counter: *mut u64, amount: u64) {
    // SAFETY: the caller's promise; map values are aligned to 8 bytes.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, amount) };
}

/// Adds to a 32-bit counter in a map value and returns its old value (BPF_FETCH, Linux 5.12). The sum wraps. Not relaxed: for a
/// relaxed addition LLVM emits BPF_XADD, and returns the amount instead.
///
/// # Safety
/// `counter` must point into a live map value, aligned to 4 bytes.
#[inline(always)]
pub(crate) unsafe fn fetch_add32(counter: *mut u32, amount: u32) -> u32 {
    // SAFETY: the caller's promise; the field is aligned to 4 bytes.
    unsafe { atomic_xadd::<u32, u32, { AtomicOrdering::SeqCst }>(counter, amount) }
}

/// Adds to a 32-bit counter in a map value, without returning its old value (BPF_XADD). The sum wraps, so [`u32::MAX`] subtracts
/// 1.
///
/// # Safety
/// `counter` must point into a live map value, aligned to 4 bytes.
#[inline(always)]
pub(crate) unsafe fn add32(counter: *mut u32, amount: u32) {
    // SAFETY: the caller's promise; the field is aligned to 4 bytes.
    unsafe { atomic_xadd::<u32, u32, { AtomicOrdering::Relaxed }>(counter, amount) };
}
