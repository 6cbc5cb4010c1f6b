//! Changes to the ledger that userspace asks for: sockets older than the tracer, and corrections.
//!
//! Only BPF code changes a count, so userspace runs the BPF program `ledger_command` by
//! `BPF_PROG_TEST_RUN`, with a [`Command`] as its context (raw tracepoint programs take up to
//! twelve u64 there, Linux 5.10 and later).

use crate::{ConnKey, Touched, TupleKey};

/// What to do. The value is on the wire.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Op {
    /// Insert a connection that is not known yet; undone at once if a tombstone says it is over.
    AddConn = 1,
    /// Remove a connection that the kernel does not have any more.
    RemoveConn,
    /// Insert a bound or listening port.
    AddBound,
    /// Remove a bound or listening port.
    RemoveBound,
    /// Remove a tuple that holds no port, and that no hook used since `DoomTuple`.
    RemoveTuple,
    /// Say that a time-wait socket holds the port of a known connection.
    MarkTimeWait,
    /// Say why the spreader is not to choose a source towards a destination (`flags` is a
    /// [`crate::spread::LeftOut`]), or that it may again (0).
    LeaveOut,
    /// Hold no failure up to now against a source towards a destination.
    Forgive,
    /// Say that a tuple that holds no port is going to be removed.
    DoomTuple,
    /// Add a [`Correction`] to the counters of a tuple.
    CorrectTuple,
    /// Say in which state the connection of a known port is (`flags`), if the ledger has it in the state of which
    /// `user` has the flags.
    SetState,
    /// Say whether the port of a known connection is [`crate::conn_flag::APART`] (`flags`: 1 or 0).
    SetApart,
    /// Add to how many ports the spreader has handed out (`flags`, which wraps), if there are `user` of them now.
    CorrectFast,
    /// Remove an entry of the `TOUCHED` map (`key.cookie` is its key) that is as it was read: `before_ns` is its time,
    /// `user` its uses.
    RemoveTouched,
}

/// One change: twelve u64. The result of the run is 1 where something changed, else 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Command {
    pub op: u32,
    /// [`crate::conn_flag`] bits of the new entry; for `LeaveOut`: why.
    pub flags: u32,
    pub key: ConnKey,
    /// The tuple; for a bound port `source` and `netns` say where it is.
    pub tuple: TupleKey,
    /// comm of the owner where it is known.
    pub comm: [u8; 16],
    pub pid: u32,
    /// uid of who made the socket, in whose share a new entry is; [`crate::share::UNKNOWN_USER`]: not known.
    /// `SetState`, `RemoveTouched`: see there.
    pub user: u32,
    /// `DoomTuple`, `RemoveTuple`: only if the tuple has not changed since then (CLOCK_MONOTONIC, ns).
    /// `RemoveTouched`: see there.
    pub before_ns: u64,
}

/// What makes the counters of a tuple equal to what `CONNS` has for it, when it is added.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Correction {
    /// Nothing is corrected unless the tuple has opened and released as many ports, or this is [`Correction::ALWAYS`].
    pub opened: u64,
    pub released: u64,
    /// Ports in use, and of these in TIME_WAIT.
    pub in_use: i32,
    pub time_wait: i32,
    /// Ports whose connection the spreader chose, and that wait for an answer.
    pub unanswered: i32,
    /// As [`crate::TupleCount::held`] and `waiting`; to be added with wrapping.
    pub held: u64,
    pub waiting: u64,
    /// As [`crate::TupleCount::states`], likewise.
    pub states: u64,
}

impl Correction {
    /// In place of `opened`: what is to be added does not depend on ports that are opened and released meanwhile.
    pub const ALWAYS: u64 = u64::MAX;
}

impl Command {
    /// `CorrectFast`: there are `right` of these ports, and the hooks have `counted` others.
    pub fn correcting_fast(counted: u32, right: u32) -> Self {
        Self {
            op: Op::CorrectFast as u32,
            flags: right.wrapping_sub(counted),
            user: counted,
            ..Self::default()
        }
    }

    /// `RemoveTouched`.
    pub fn removing_touched(port: u64, touched: &Touched) -> Self {
        Self {
            op: Op::RemoveTouched as u32,
            key: ConnKey::new(port, 0),
            user: touched.uses,
            before_ns: touched.at_ns,
            ..Self::default()
        }
    }

    /// `CorrectTuple`: its fields are in the place of what it has no use for.
    #[expect(clippy::cast_possible_truncation, reason = "parts of a word")]
    pub const fn correcting(tuple: TupleKey, correction: &Correction) -> Self {
        let words = correction.held as u128 | (correction.waiting as u128) << 64;
        Self {
            op: Op::CorrectTuple as u32,
            flags: correction.unanswered.cast_unsigned(),
            key: ConnKey {
                cookie: correction.released,
                port: correction.states as u16,
                zero: (correction.states >> 16) as u16,
                zero_too: (correction.states >> 32) as u32,
            },
            tuple,
            comm: words.to_ne_bytes(),
            pid: correction.in_use.cast_unsigned(),
            user: correction.time_wait.cast_unsigned(),
            before_ns: correction.opened,
        }
    }

    /// The correction of a `CorrectTuple`.
    #[inline(always)]
    pub const fn correction(&self) -> Correction {
        let words = u128::from_ne_bytes(self.comm);
        #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
        let (held, waiting) = (words as u64, (words >> 64) as u64);
        Correction {
            opened: self.before_ns,
            released: self.key.cookie,
            in_use: self.pid.cast_signed(),
            time_wait: self.user.cast_signed(),
            unanswered: self.flags.cast_signed(),
            held,
            waiting,
            states: self.key.port as u64
                | (self.key.zero as u64) << 16
                | (self.key.zero_too as u64) << 32,
        }
    }
}

/// Size of [`Command`] in u64, the most that a raw tracepoint test run takes.
pub const COMMAND_WORDS: usize = 12;

const _: () = assert!(size_of::<Command>() == COMMAND_WORDS * 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_correction_is_in_its_command() {
        let correction = Correction {
            opened: u64::MAX - 1,
            released: 1 << 63,
            in_use: -1,
            time_wait: i32::MIN,
            unanswered: i32::MAX,
            held: 3 << 32 | 1,
            waiting: u64::MAX - 7,
            states: 0x0123_4567_89ab_cdef,
        };
        assert_eq!(Command::correcting(TupleKey::default(), &correction).correction(), correction);
    }
}
