//! Commands by which userspace changes the ledger: it adds sockets that are older than the tracer, and corrects entries and
//! counters.
//!
//! Only BPF code changes a count, so userspace runs the BPF program `ledger_command` with
//! `BPF_PROG_TEST_RUN`, with a [`Command`] as its context (raw tracepoint programs take up to
//! twelve u64 there, Linux 5.10 and later).

use crate::{ConnKey, Touched, TupleKey};

/// What a command does. The value is on the wire.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Op {
    /// Insert a connection that has no entry. If the port has a tombstone, the entry is made to agree with it: it is removed at
    /// once (the port was released), or gets TIME_WAIT or the state that the tombstone says.
    AddConn = 1,
    /// Remove a connection that the kernel does not have any more. `flags` and `before_ns` are those of its entry (`flags`,
    /// `acquired_ns`), for messages: the program does not use them.
    RemoveConn,
    /// Insert a bound or listening port that has no entry.
    AddBound,
    /// Remove a bound or listening port whose socket the kernel does not have any more.
    RemoveBound,
    /// Remove a tuple for which [`Self::DoomTuple`] was run, if it holds no port and no hook used it since; else revoke the
    /// `DoomTuple`.
    RemoveTuple,
    /// Record that a time-wait socket holds the port of a connection.
    MarkTimeWait,
    /// Set why the spreader must not choose a source towards a destination (`flags` is a
    /// [`crate::spread::LeftOut`]), or that it may again (0).
    LeaveOut,
    /// Stop counting the failures so far from a source to a destination against the source.
    Forgive,
    /// Announce the removal of a tuple that holds no port: the first of two steps. Before the second one, [`Self::RemoveTuple`],
    /// userspace must wait until every hook that was running has ended.
    DoomTuple,
    /// Add a [`Correction`] to the counters of a tuple.
    CorrectTuple,
    /// Set the state of a connection to the one in `flags`, if in the ledger it is the one in `user` (both as in
    /// [`crate::Conn::flags`]).
    SetState,
    /// Set whether the port of a connection is [`crate::conn_flag::APART`] (`flags`: 1 or 0).
    SetApart,
    /// Add `flags` (a signed number) to the count of held ports that the spreader bound, if that count is `user` now.
    CorrectFast,
    /// Remove an entry of the `TOUCHED` map (`key.cookie` is its key), if its time is still `before_ns` and its number of uses
    /// still `user`.
    RemoveTouched,
}

/// One command: twelve u64. The program returns 1 if the command changed something, else 0. `DoomTuple`, `CorrectTuple`,
/// `SetState`, `CorrectFast` and `Forgive` also return 1 if nothing was left to change, and `AddConn` returns 0 if a tombstone
/// undid it. (A `CorrectTuple` has other values in most fields: [`Command::correcting`].)
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Command {
    /// An [`Op`]. With any other value the command does nothing.
    pub op: u32,
    /// [`crate::conn_flag`] bits of the new entry. For other commands: see [`Op`].
    pub flags: u32,
    /// The connection or bound port; not used by commands about a tuple. `RemoveTouched`: see [`Op`].
    pub key: ConnKey,
    /// The tuple; for a bound port only its `source` and `netns`.
    pub tuple: TupleKey,
    /// comm of the process that has the socket, if it is known; else zeros.
    pub comm: [u8; 16],
    /// pid of that process in the initial pid namespace; 0: not known.
    pub pid: u32,
    /// uid of the socket, in whose share a new entry is; [`crate::share::UNKNOWN_USER`]: not known.
    /// `SetState`, `CorrectFast`, `RemoveTouched`: see [`Op`].
    pub user: u32,
    /// `DoomTuple`, `RemoveTuple`: only if the tuple has not changed since then (CLOCK_MONOTONIC, ns).
    /// `RemoveTouched`: see [`Op`].
    pub before_ns: u64,
}

/// Differences that make the counters of a tuple equal to the entries of `CONNS` when they are added.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Correction {
    /// The tuple's `opened`, as userspace read it: if `opened` or `released` has changed since, nothing is corrected, unless this
    /// is [`Correction::ALWAYS`].
    pub opened: u64,
    /// The tuple's `released`, as userspace read it.
    pub released: u64,
    /// Difference of the ports in use, TIME_WAIT included.
    pub in_use: i32,
    /// Difference of the ports in TIME_WAIT.
    pub time_wait: i32,
    /// Difference of the connections that wait for an answer and whose source the spreader chose.
    pub unanswered: i32,
    /// Difference of [`crate::TupleCount::held`]; its addition wraps.
    pub held: u64,
    /// Difference of [`crate::TupleCount::waiting`]; its addition wraps.
    pub waiting: u64,
    /// Difference of [`crate::TupleCount::states`]; its addition wraps.
    pub states: u64,
}

impl Correction {
    /// In place of `opened`: the correction is added even if ports were opened or released since userspace read the tuple.
    pub const ALWAYS: u64 = u64::MAX;
}

impl Command {
    /// A `CorrectFast` command: the hooks count `counted` held ports that the spreader bound, and there are `right`.
    pub fn correcting_fast(counted: u32, right: u32) -> Self {
        Self {
            op: Op::CorrectFast as u32,
            flags: right.wrapping_sub(counted),
            user: counted,
            ..Self::default()
        }
    }

    /// A `RemoveTouched` command for an entry as it was read. `port`: the entry's key ([`crate::port_of`]).
    pub fn removing_touched(port: u64, touched: &Touched) -> Self {
        Self {
            op: Op::RemoveTouched as u32,
            key: ConnKey::new(port, 0),
            user: touched.uses,
            before_ns: touched.at_ns,
            ..Self::default()
        }
    }

    /// A `CorrectTuple` command. The correction is in fields that the command does not use otherwise.
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

    /// The correction that [`Self::correcting`] put into this command; of another command, numbers without meaning.
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

/// Size of [`Command`] in u64: the most that a test run of a raw tracepoint program takes.
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
