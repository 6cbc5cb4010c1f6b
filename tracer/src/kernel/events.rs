//! Reads the records of the ring buffer `EVENTS`.

use aya::{
    Ebpf,
    maps::{MapData, RingBuf},
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracer_common::settings::map;

use crate::error::Error;

/// Reader of the ring buffer `EVENTS`.
pub struct Events(RingBuf<MapData>);

impl Events {
    /// Takes the ring buffer out of a loaded object.
    ///
    /// # Errors
    /// The object has no such map, or it is not a ring buffer.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, Error> {
        let map = ebpf.take_map(map::EVENTS).ok_or_else(|| {
            Error::Failure("the BPF object has no map EVENTS; build tracer again".into())
        })?;
        let ring = RingBuf::try_from(map).map_err(|error| {
            Error::Failure(format!(
                "the BPF map EVENTS is not a ring buffer ({error}); build tracer again"
            ))
        })?;
        Ok(Self(ring))
    }

    /// Calls `each` for the records that are in the ring now, at most `limit` of them. Returns how many it read.
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

    /// Waits until a quarter of the ring is in use, at most for `timeout`; a signal ends the wait, too. Few events do not end it:
    /// they are read after `timeout`.
    pub fn wait(&self, timeout: std::time::Duration) {
        let timeout = Timespec::try_from(timeout).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        // A wait that a signal ends early does no harm, as the caller then reads the ring.
        if let Err(error) = poll(&mut fds, Some(&timeout)) {
            tracing::trace!("cannot wait for events: {error}");
        }
    }
}
