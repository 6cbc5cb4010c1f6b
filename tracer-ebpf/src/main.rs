//! tracer's kernel side: thin hooks over one ledger.
//!
//! Reading order: [`hooks`] are the programs that the kernel runs, [`connect`] and [`bind`] give their calls a meaning,
//! [`ledger`] counts ports, [`spread`] chooses source addresses. Only [`sock`] knows the fields of a socket.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "the BPF target has no stable atomic add; see atomic.rs")]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "values of the kernel are narrower than the registers that they come in"
)]
#![expect(
    clippy::cast_ptr_alignment,
    reason = "addresses of kernel structures are bytes to us; only a helper follows them"
)]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a key that is passed by value would be copied to the BPF stack"
)]
#![expect(unsafe_code, reason = "BPF helpers, contexts and map values are raw pointers")]

mod abi;
mod atomic;
mod attempt;
mod bind;
mod command;
mod connect;
mod events;
mod filter;
mod hooks;
mod ledger;
mod offsets;
mod rule;
mod share;
mod skip;
mod sock;
mod spread;
mod stats;
mod time_wait;
mod touched;
mod who;
mod words;

/// The programs' licence, as the kernel reads it: GPL-compatible, which helpers such as `bpf_probe_read_kernel` require.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: a panic path would be an endless loop, which the verifier rejects.
    loop {}
}
