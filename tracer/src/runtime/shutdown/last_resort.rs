//! Ends the program when no thread can. A thread that hangs can have the lock of the heap, which all threads share: then
//! no other thread can make a text, start a thread or run to its end.
#![expect(unsafe_code, reason = "sigaction(2), setitimer(2), poll(2), write(2) and _exit(2)")]

use std::{
    mem, ptr,
    sync::atomic::{AtomicBool, AtomicU8, Ordering::SeqCst},
    time::Duration,
};

use crate::error::Exit;

/// What is written to stderr before the program ends in this way, if stderr takes it at once.
const TEXT: &[u8] = b"error: tracer was asked to stop, but it hangs: unwritten lines are lost\n";
/// The second line on stderr, if something was to be undone.
const RULE: &[u8] = b"whether the rule has ended is not known: check with `tracer status`, and end it with `tracer spread --release`\n";

/// Whether something was to be undone.
static UNDOES: AtomicBool = AtomicBool::new(false);

/// The exit code of this end.
static CODE: AtomicU8 = AtomicU8::new(Exit::Failure as u8);

/// Sets the exit code of a program that hangs after it was asked to stop: 1, unless this is called.
pub fn fail_with(code: u8) {
    CODE.store(code, SeqCst);
}

/// Makes the program end after this time with exit code 1 (or that of [`fail_with`]), whatever its threads do. `undoes`: whether
/// something that the program made is being undone meanwhile. Uses no heap.
pub(super) fn end_after(limit: Duration, undoes: bool) {
    UNDOES.store(undoes, SeqCst);
    let time = libc::timeval {
        tv_sec: libc::time_t::try_from(limit.as_secs()).unwrap_or(1),
        tv_usec: libc::suseconds_t::from(limit.subsec_micros()),
    };
    let handler: extern "C" fn(libc::c_int) = end;
    // SAFETY: all-zero is a valid sigaction, to which a handler is added, and a valid timeval; the pointers are valid for
    // the calls.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        let timer = libc::itimerval { it_interval: mem::zeroed(), it_value: time };
        let mut alarm: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&raw mut alarm);
        libc::sigaddset(&raw mut alarm, libc::SIGALRM);
        libc::sigaction(libc::SIGALRM, &raw const action, ptr::null_mut());
        // Whoever started this program may have blocked the signal.
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const alarm, ptr::null_mut());
        libc::setitimer(libc::ITIMER_REAL, &raw const timer, ptr::null_mut());
    }
}

/// The handler of the timer's signal: writes the text, if stderr takes it at once, and ends the process.
extern "C" fn end(_: libc::c_int) {
    let mut stderr = libc::pollfd { fd: libc::STDERR_FILENO, events: libc::POLLOUT, revents: 0 };
    // SAFETY: these calls are async-signal-safe (signal-safety(7)), and the pointers are valid for their lengths. A pipe
    // that is ready takes PIPE_BUF bytes (4,096) without blocking.
    unsafe {
        if libc::poll(&raw mut stderr, 1, 0) == 1 && stderr.revents & libc::POLLOUT != 0 {
            libc::write(libc::STDERR_FILENO, TEXT.as_ptr().cast(), TEXT.len());
            if UNDOES.load(SeqCst) {
                libc::write(libc::STDERR_FILENO, RULE.as_ptr().cast(), RULE.len());
            }
        }
        libc::_exit(CODE.load(SeqCst).into())
    }
}

#[cfg(test)]
mod tests;
