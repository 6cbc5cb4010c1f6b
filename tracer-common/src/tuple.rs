//! The key and the value of the map `TUPLES`: for each tuple, counters of its source ports, failed calls, port searches and ended
//! connections, its newest caller, and what the spreader needs.

use crate::{
    Addr,
    cause::Cause,
    ends::Ends,
    halves::Halves,
    states::{Ports, States},
};

/// The 4-tuple without its source port, in one network namespace: of the connections with the same key, no two can have the
/// same source port.
///
/// The kernel hashes every byte of a map key, so the padding is a field, which is always 0 in the table.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TupleKey {
    pub source: Addr,
    pub destination: Addr,
    /// Inode number of the network namespace, as `stat -L /proc/PID/ns/net` shows it.
    pub netns: u32,
    /// Host byte order.
    pub destination_port: u16,
    /// 0; 1 in a key of [`Self::of_bind`].
    pub zero: u16,
}

impl TupleKey {
    /// The key of an output row that says how many ports bind(address, 0) has left at this address. No entry of the table has
    /// such a key.
    pub const fn of_bind(netns: u32, source: Addr) -> Self {
        Self { source, destination: Addr::UNSPECIFIED, netns, destination_port: 0, zero: 1 }
    }

    /// Whether this is a key that [`Self::of_bind`] made.
    pub const fn is_of_bind(&self) -> bool {
        self.zero != 0
    }
}

const _: () = assert!(size_of::<TupleKey>() == 40);

/// Number of buckets of the histogram of port searches. The last one begins at 16.8 ms. A search through all 28,232 ports of
/// the default range takes 1 to 3 ms, and longer if CPUs contend for the locks of the kernel's port table.
pub const SEARCH_BUCKETS: usize = 30;

/// Counters of one tuple, and facts about its newest calls. The 64-bit counters only grow (except `held`, `waiting` and
/// `states`), so that any two readings can be compared; the ports in use are a difference of two counters. (On the tracepoint
/// backend, `released`, `time_wait_ended` and `settled` go back by 1 when a release of a time-wait socket is taken back.)
///
/// Only BPF programs change a value: the ledger (`tracer-ebpf/src/ledger.rs` and below it), and of `cursor` the spreader's
/// search for a port. What "the agent sets" below, it sets by a command ([`crate::seed`]).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct TupleCount {
    /// Ports that connect() took, those of sockets that are older than the tracer included.
    pub opened: u64,
    /// Of `opened`: ports that were released again.
    pub released: u64,
    /// Ports that entered TIME_WAIT (they are still held).
    pub time_wait_begun: u64,
    /// Ports that left TIME_WAIT (each is in `released` too).
    pub time_wait_ended: u64,
    /// [`Halves`] of the ports held now that take room: all but those that bind() took
    /// ([`conn_flag::LISTED`]) and those that connect() cannot be given ([`conn_flag::APART`]). It goes down, too.
    ///
    /// [`conn_flag::LISTED`]: crate::conn_flag::LISTED
    /// [`conn_flag::APART`]: crate::conn_flag::APART
    pub held: u64,
    /// [`Halves`] of the ports in `held` that the kernel may reuse: ports in TIME_WAIT that neither the application nor the
    /// spreader bound, of connections with TCP timestamps. It goes down, too.
    pub waiting: u64,
    /// [`States`]: ports by the state of the connection that holds them. It goes down, too.
    pub states: u64,
    /// connect() calls that failed, by [`Cause`].
    pub failed: [u64; Cause::COUNT],
    /// Port searches of connect() that found a port, by duration ([`search_bucket`]). Each counter wraps at 2^32.
    pub search: [u32; SEARCH_BUCKETS],
    /// The established connections that ended: which end closed first, how much they sent, and how long they lasted.
    pub ends: Ends,
    /// CLOCK_MONOTONIC of the newest change, ns: a port was taken, released or entered TIME_WAIT, a connect() failed, or a
    /// command corrected the counters or set `left_out`.
    pub last_ns: u64,
    /// cgroup v2 id of the newest known caller of connect() for this tuple; 0: there is none, or its socket is older than the
    /// tracer.
    pub cgroup: u64,
    /// Process (tgid) of that caller; 0: there is none.
    pub pid: u32,
    /// errno of the newest failure, positive; 0: there is none, or the failure had no errno (the application gave up).
    pub last_errno: u32,
    /// comm of that caller: arbitrary bytes, NUL-padded. If hooks on two CPUs write at once, `cgroup`, `pid` and `comm` can be of
    /// different callers.
    pub comm: [u8; 16],
    /// How many candidate ports the spreader has tried for this tuple: the number of the next candidate. It wraps.
    pub cursor: u32,
    /// Of `opened`: connections whose source the spreader chose. The counters from here to `forgiven` wrap at 2^32.
    pub chosen: u32,
    /// Of `chosen`: connections that were established, or that ended without that. The rest of `chosen` wait for an answer.
    pub settled: u32,
    /// Connections whose source the spreader chose and that were established, and all connections that were established already
    /// when the tracer read them from sock_diag.
    pub established: u32,
    /// connect() calls without an answer whose source the spreader chose: unreachable, timed out, no source
    /// address, or given up by the application after [`GIVEN_UP_NS`] or after the SYN was sent again.
    pub nowhere: u32,
    /// Of `nowhere`: calls that do not count against the source any more. The agent sets it once a second.
    pub forgiven: u32,
    /// [`PROVEN`], if a connection that `established` counts was established since the source was last left out; else 0.
    pub proven: u32,
    /// Why the spreader does not choose this source towards this destination
    /// ([`crate::spread::LeftOut`]); 0: it may. The agent sets it.
    pub left_out: u32,
    /// The owner in whose share of the table this entry is: [`crate::share::owner`].
    pub owner: u32,
    /// A hash of the entry's key, and whether the entry is about to be removed: see `tracer-ebpf/src/ledger/life.rs`. 0: the
    /// entry was just made.
    pub life: u32,
    /// How often the entry was used since its removal was announced: by hooks, and once by the removal itself.
    pub pins: u32,
    /// How often a SYN was sent again; one connect() can count several times. It wraps at 2^32.
    pub syns_again: u32,
}

const _: () = assert!(
    size_of::<TupleCount>() == 56 + 8 * Cause::COUNT + 4 * SEARCH_BUCKETS + size_of::<Ends>() + 88
);

/// Value of [`TupleCount::proven`]: the highest bit, because the spreader's hook uses it as a mask for a sign bit, in place of
/// a branch.
pub const PROVEN: u32 = 1 << 31;

/// Nanoseconds after connect() from which on a close without an answer means that the application gave up waiting
/// ([`Cause::NoAnswer`]), not that it changed its mind ([`Cause::Aborted`]).
pub const GIVEN_UP_NS: u64 = 1_000_000_000;

impl TupleCount {
    /// Ports held now, TIME_WAIT included; 0 while more releases are counted than ports taken (for a moment).
    #[inline(always)]
    pub const fn in_use(&self) -> u64 {
        self.opened.saturating_sub(self.released)
    }

    /// Of [`Self::in_use`]: ports in TIME_WAIT (or FIN_WAIT2 held as a time-wait socket); 0 while more ends than begins are
    /// counted (for a moment).
    #[inline(always)]
    pub const fn time_wait(&self) -> u64 {
        self.time_wait_begun.saturating_sub(self.time_wait_ended)
    }

    /// The ports in use that are not in TIME_WAIT, by the state of their connections.
    pub fn ports(&self) -> Ports {
        States(self.states).read(self.in_use(), self.time_wait())
    }

    /// Ports that connect() can still be given, 0 if there are none. `usable`: ports of the range that are neither reserved nor
    /// bound.
    #[inline(always)]
    pub const fn room(&self, usable: u32) -> u32 {
        let held = Halves(self.held);
        usable.saturating_sub(held.even().saturating_add(held.odd()))
    }

    /// Ports that the tuple can hold: those that it holds now, and [`Self::room`], with the same `usable`. At most `u32::MAX`.
    pub fn capacity(&self, usable: u32) -> u32 {
        u32::try_from(self.in_use()).unwrap_or(u32::MAX).saturating_add(self.room(usable))
    }

    /// connect() calls whose SYN had no answer: they timed out, or the application gave up. At most `u64::MAX`.
    pub fn unanswered(&self) -> u64 {
        let [timed_out, no_answer] = [Cause::TimedOut, Cause::NoAnswer]
            .map(|cause| self.failed.get(cause as usize).copied());
        timed_out.unwrap_or(0).saturating_add(no_answer.unwrap_or(0))
    }

    /// Failed connect() calls of all causes. At most `u64::MAX`.
    pub fn failures(&self) -> u64 {
        self.failed.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }
}

/// The histogram bucket for a port search of `ns` nanoseconds, a number below [`SEARCH_BUCKETS`]. Bucket 0 ends at 1,024 ns; from
/// there on, each power of two has two buckets. The last one has no end.
#[inline(always)]
pub const fn search_bucket(ns: u64) -> usize {
    if ns < 1024 {
        return 0;
    }
    let log = ns.ilog2();
    let half = (ns >> (log - 1)) & 1;
    let bucket = 1 + ((log - 10) as usize) * 2 + half as usize;
    if bucket < SEARCH_BUCKETS { bucket } else { SEARCH_BUCKETS - 1 }
}

/// The upper end, exclusive, ns, of the bucket with this number ([`search_bucket`]); `u64::MAX`: it is the last one, which has no
/// end, or there is no such bucket.
pub const fn search_bucket_end(bucket: usize) -> u64 {
    if bucket == 0 {
        return 1024;
    }
    if bucket >= SEARCH_BUCKETS - 1 {
        return u64::MAX;
    }
    let log = 10 + (bucket - 1) / 2;
    let base = 1_u64 << log;
    if (bucket - 1).is_multiple_of(2) { base + base / 2 } else { base * 2 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_lies_below_the_end_of_its_bucket_and_not_below_the_one_before() {
        let samples = (0..63).flat_map(|log| [1_u64 << log, (1 << log) + 1, (3 << log) / 2]);
        for ns in samples {
            let bucket = search_bucket(ns);
            assert!(ns < search_bucket_end(bucket), "{ns} ns in bucket {bucket}");
            if bucket > 0 {
                assert!(ns >= search_bucket_end(bucket - 1), "{ns} ns in bucket {bucket}");
            }
        }
    }

    #[test]
    fn searches_of_up_to_16_ms_have_a_bucket_with_an_end() {
        let longest = search_bucket_end(SEARCH_BUCKETS - 2);
        assert!((16_000_000..17_000_000).contains(&longest), "{longest}");
        assert_eq!(search_bucket(longest - 1), SEARCH_BUCKETS - 2);
        assert_eq!(search_bucket(longest), SEARCH_BUCKETS - 1);
    }
}
