//! Counters of how the established connections of a tuple ended, how much they sent and how long they lasted.

/// Number of buckets of the histogram of lifetimes: see [`lifetime_bucket`]. The last one begins at 137 s.
pub const LIFETIMES: usize = 16;

/// Counters of a tuple's connections that were established and have ended; connections that are older than the tracer count, too.
/// Each counts once, when its full socket closes, so before its TIME_WAIT ends. All counters stay 0 if the offset of
/// `data_segs_out` is not known.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Ends {
    /// Connections that this end closed first: its FIN was sent before the peer's arrived.
    pub closed_here: u64,
    /// Connections that the peer closed first: its FIN arrived before this end closed.
    pub closed_by_peer: u64,
    /// Connections that ended without a FIN: one of the ends reset them, or they timed out.
    pub aborted: u64,
    /// Segments with data that these connections sent in their whole life, those sent again included
    /// (`struct tcp_sock.data_segs_out`, include/linux/tcp.h).
    pub segments: u64,
    /// Connections by how long their port was held until the full socket closed; the index is a [`lifetime_bucket`]. Those that
    /// are older than the tracer are not counted here, because their begin is not known. Each counter wraps at 2^32.
    pub lifetimes: [u32; LIFETIMES],
}

const _: () = assert!(size_of::<Ends>() == 32 + 4 * LIFETIMES);

impl Ends {
    /// Counters that are all 0.
    pub const NONE: Self = Self {
        closed_here: 0,
        closed_by_peer: 0,
        aborted: 0,
        segments: 0,
        lifetimes: [0; LIFETIMES],
    };

    /// How many connections ended; at most `u64::MAX`.
    pub const fn all(&self) -> u64 {
        self.closed_here.saturating_add(self.closed_by_peer).saturating_add(self.aborted)
    }
}

/// Which end closed an established connection first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Closer {
    /// This end: its FIN was sent before the peer's arrived.
    Here,
    /// The peer: its FIN arrived before this end closed.
    Peer,
    /// No FIN was sent or received: one of the ends reset the connection, or it timed out.
    Neither,
}

/// Which end closed first, by the TCP state (include/net/tcp_states.h) from which a full socket changes to CLOSE: ESTABLISHED,
/// FIN_WAIT1, FIN_WAIT2, CLOSING, CLOSE_WAIT or LAST_ACK. `None`, from any other state: the connection was not established. Not
/// checked: `old_state` must be below 32.
#[inline(always)]
pub const fn closer(old_state: u8) -> Option<Closer> {
    const ESTABLISHED: u32 = 1 << 1;
    /// FIN_WAIT1, FIN_WAIT2, CLOSING.
    const HERE: u32 = 1 << 4 | 1 << 5 | 1 << 11;
    /// CLOSE_WAIT, LAST_ACK.
    const PEER: u32 = 1 << 8 | 1 << 9;
    // No such state is above 31: the mask only spares a check.
    let state = 1_u32 << (old_state & 31);
    if state & HERE != 0 {
        Some(Closer::Here)
    } else if state & PEER != 0 {
        Some(Closer::Peer)
    } else if state & ESTABLISHED != 0 {
        Some(Closer::Neither)
    } else {
        None
    }
}

/// log2 of the end of the first bucket, in ns.
const FIRST: u32 = 23;

/// The histogram bucket for a lifetime of `ns` nanoseconds, a number below [`LIFETIMES`]. Bucket 0 ends at 2^23 ns (8.4 ms), each
/// further one at twice the end of the one before; the last one has no end.
#[inline(always)]
pub const fn lifetime_bucket(ns: u64) -> usize {
    let units = ns >> FIRST;
    let bucket = (u64::BITS - units.leading_zeros()) as usize;
    if bucket < LIFETIMES { bucket } else { LIFETIMES - 1 }
}

/// The upper end, exclusive, ns, of the bucket with this number ([`lifetime_bucket`]); `u64::MAX`: it is the last one, which has
/// no end, or there is no such bucket.
pub const fn lifetime_bucket_end(bucket: usize) -> u64 {
    if bucket >= LIFETIMES - 1 { u64::MAX } else { 1 << (FIRST as usize + bucket) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lifetime_lies_below_the_end_of_its_bucket_and_not_below_the_one_before() {
        let samples = (0..63).flat_map(|log| [1_u64 << log, (1 << log) + 1, (1 << log) - 1]);
        for ns in samples.chain([u64::MAX]) {
            let bucket = lifetime_bucket(ns);
            assert!(
                ns < lifetime_bucket_end(bucket) || bucket == LIFETIMES - 1,
                "{ns} in {bucket}"
            );
            if bucket > 0 {
                assert!(ns >= lifetime_bucket_end(bucket - 1), "{ns} ns in bucket {bucket}");
            }
        }
    }

    #[test]
    fn the_buckets_reach_from_8_ms_to_137_s() {
        assert_eq!(lifetime_bucket_end(0), 8_388_608);
        assert_eq!(lifetime_bucket_end(LIFETIMES - 2), 137_438_953_472);
        assert_eq!(lifetime_bucket_end(LIFETIMES - 1), u64::MAX);
    }

    #[test]
    fn the_state_before_the_end_says_who_closed_first() {
        let all = |states: &[u8], who| states.iter().all(|state| closer(*state) == who);
        assert!(all(&[4, 5, 11], Some(Closer::Here)));
        assert!(all(&[8, 9], Some(Closer::Peer)));
        assert!(all(&[1], Some(Closer::Neither)));
        // SYN_SENT, SYN_RECV, TIME_WAIT, CLOSE, LISTEN, NEW_SYN_RECV, and what the kernel may add.
        assert!(all(&[0, 2, 3, 6, 7, 10, 12, 13], None));
    }
}
