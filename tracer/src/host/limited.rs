//! Runs work that may never end, because another process or a server decides whether it does, and waits for it for a limited
//! time.

use std::{sync::mpsc, thread, time::Duration};

/// What `work` returns; `None`: it has not ended within this time, it panicked, or no thread could be started for it. Work that
/// takes longer is not stopped: its thread ends with it, or with the program.
pub fn within<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    within_thread("limited", limit, work)
}

/// As [`within`], in a thread of this name.
pub fn within_thread<T: Send + 'static>(
    name: &str,
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let run = move || {
        let result = work();
        // Nobody waits for it after the limit.
        drop(sender.send(result));
    };
    thread::Builder::new().name(name.into()).spawn(run).ok()?;
    receiver.recv_timeout(limit).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn work_that_does_not_end_is_not_waited_for() {
        assert_eq!(within(Duration::from_mins(1), || 7), Some(7));
        let (block, blocked) = mpsc::channel::<()>();
        let began = Instant::now();
        assert!(within(Duration::from_millis(20), move || blocked.recv()).is_none());
        assert!(began.elapsed() < Duration::from_secs(30));
        drop(block);
    }
}
