//! Copies in words. For a copy of bytes LLVM calls its own `memmove`: a function of the object, whose stack
//! the kernel adds to the caller's (512 bytes together at most, `check_max_stack_depth`). Also makes addresses from words of four
//! bytes, and the reverse: the verifier lets a program read and write an address of its context only in such words.

use tracer_common::Addr;

/// Copies a value, eight bytes at a time. A type whose size is no multiple of 8 does not compile.
///
/// # Safety
/// `to` must be valid for writes and `from` for reads of a `T`, and both aligned to eight bytes; the two must
/// not overlap.
#[inline(always)]
pub(crate) unsafe fn copy<T>(to: *mut T, from: *const T) {
    const { assert!(size_of::<T>().is_multiple_of(8)) };
    let (to, from) = (to.cast::<u64>(), from.cast::<u64>());
    let mut word = 0;
    while word < size_of::<T>() / 8 {
        // SAFETY: the caller's promise, word by word. Volatile, so that LLVM does not merge the words into a `memmove`.
        unsafe { to.add(word).write_volatile(from.add(word).read_volatile()) };
        word += 1;
    }
}

/// The address that four words make, the first with its first four bytes, each in network byte order.
#[inline(always)]
pub(crate) fn to_addr(words: [u32; 4]) -> Addr {
    // SAFETY: both are 16 bytes of plain data.
    unsafe { core::mem::transmute::<[u32; 4], Addr>(words) }
}

/// The words of an address, as [`to_addr`] takes them.
#[inline(always)]
pub(crate) fn of_addr(address: Addr) -> [u32; 4] {
    // SAFETY: both are 16 bytes of plain data.
    unsafe { core::mem::transmute::<Addr, [u32; 4]>(address) }
}
