//! The ring buffer, as records.

use aya::{
    Ebpf,
    maps::{MapData, RingBuf},
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracer_common::settings::map;

use crate::error::Error;

/// Reader of the `EVENTS` ring.
pub struct Events(RingBuf<MapData>);

impl Events {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, Error> {
        let map = ebpf.take_map(map::EVENTS).ok_or_else(|| {
            Error::Failure("the BPF object has no map EVENTS; build it again".into())
        })?;
        let ring = RingBuf::try_from(map)
            .map_err(|error| Error::Failure(format!("cannot use the BPF map EVENTS: {error}")))?;
        Ok(Self(ring))
    }

    /// Hands every waiting record, up to `limit`, to `each`. Returns how many.
    pub fn drain(&mut self, limit: usize, mut each: impl FnMut(&[u8])) -> usize {
        let mut count = 0;
        while count < limit
            && let Some(record) = self.0.next()
        {
            each(&record);
            count += 1;
        }
        count
    }

    /// Waits until the kernel side wakes us, for `timeout` at most. The kernel side does so only
    /// as the ring fills: otherwise the time-out is the clock.
    pub fn wait(&self, timeout: std::time::Duration) {
        let timeout = Timespec::try_from(timeout).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        // A signal ends the wait early, which is as good as its end.
        if let Err(error) = poll(&mut fds, Some(&timeout)) {
            tracing::trace!("waiting for events: {error}");
        }
    }
}
