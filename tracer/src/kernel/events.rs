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

    /// Reads records, oldest first, until the ring is empty or `limit` of them are read: also those that arrive meanwhile. Calls
    /// `each` with the bytes of each record (an [`Event`](tracer_common::Event); not checked), and returns how many it read.
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

    /// Returns at once if the ring has records. Else waits until records fill a quarter of it, a signal arrives, or `timeout` is
    /// over (1 s if `timeout` is too long for a timespec). Records that fill less do not end the wait.
    pub fn wait(&self, timeout: std::time::Duration) {
        let timeout = Timespec::try_from(timeout).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        // A wait that a signal ends early does no harm, as the caller then reads the ring.
        if let Err(error) = poll(&mut fds, Some(&timeout)) {
            tracing::trace!("cannot wait for events: {error}");
        }
    }
}
