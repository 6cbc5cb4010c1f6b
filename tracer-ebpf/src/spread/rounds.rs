//! Runs the rounds of the spreader's choice by `bpf_loop`, so that the verifier checks one round and not all.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_loop;
use tracer_common::spread::Rounds;

/// Runs rounds with `bpf_loop` (Linux 5.17).
pub(super) struct Called;

impl Rounds for Called {
    #[inline(always)]
    fn run(count: u32, mut step: impl FnMut(u32) -> bool) {
        by_kernel(count, &mut step);
    }
}

#[inline(always)]
fn by_kernel<F: FnMut(u32) -> bool>(count: u32, step: &mut F) {
    let step: *mut F = step;
    // SAFETY: the callback gets the pointer that is passed here, as the type that it expects, and returns.
    unsafe { bpf_loop(count, call::<F> as *mut c_void, step.cast(), 0) };
}

/// Runs one round. Returns 1 to end the loop, else 0.
unsafe extern "C" fn call<F: FnMut(u32) -> bool>(round: u32, step: *mut F) -> i64 {
    // SAFETY: `by_kernel` has it on its stack, and does not use it while bpf_loop runs.
    i64::from(!unsafe { (*step)(round) })
}
