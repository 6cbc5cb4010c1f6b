//! For tests: runs a test in a network namespace of its own.
#![expect(unsafe_code, reason = "unshare")]

use std::thread;

use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Runs `test` in a new thread, in a new network namespace whose loopback is up. The namespace ends with the thread
/// and with what `test` has opened in it.
///
/// # Panics
/// `test` panics, or the namespace cannot be made (without CAP_SYS_ADMIN) or its loopback not be set up.
pub(crate) fn run<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let body = || {
            // SAFETY: only the network namespace of this thread changes; no memory or descriptor that other threads
            // use depends on it.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
                .expect("making a network namespace needs CAP_SYS_ADMIN");
            loopback_up();
            test()
        };
        scope.spawn(body).join().unwrap()
    })
}

/// Sets `lo` of the calling thread's namespace up, with ip(8).
fn loopback_up() {
    let status = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status();
    assert!(status.expect("running ip(8)").success());
}
