//! The states of the connections that hold ports, and a word that counts how many ports of a tuple are in each state.

use crate::conn_flag;

/// The state of a connection that holds a port, except TIME_WAIT ([`conn_flag::TIME_WAIT`]). Hooks only move it forward:
/// of two states, the one with the larger number is the later one. The value is on the wire.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum PortState {
    /// SYN_SENT (or SYN_RECV where both ends connect to each other).
    #[default]
    Connecting = 0,
    /// SYN_SENT, and the SYN was sent again: there was no answer within a second or so.
    Unanswered,
    /// ESTABLISHED.
    Established,
    /// CLOSE_WAIT: the peer has closed, this end has not.
    CloseWait,
    /// FIN_WAIT1, FIN_WAIT2, CLOSING or LAST_ACK: this end has closed, and no time-wait socket has taken over.
    Closing,
}

impl PortState {
    /// The state as bits of [`Conn::flags`](crate::Conn::flags).
    #[inline(always)]
    pub const fn flags(self) -> u32 {
        (self as u32) << conn_flag::STATE_SHIFT
    }

    /// The state in these flags of a connection; in TIME_WAIT, where they have none, [`Self::Connecting`]. A number that no state
    /// has counts as [`Self::Closing`].
    pub const fn of(flags: u32) -> Self {
        match (flags & conn_flag::STATE) >> conn_flag::STATE_SHIFT {
            0 => Self::Connecting,
            1 => Self::Unanswered,
            2 => Self::Established,
            3 => Self::CloseWait,
            _ => Self::Closing,
        }
    }
}

/// How many ports of a tuple are in each state except `Connecting`: 16 bits for each, from the lowest on in the order of
/// [`PortState`]. So one addition moves a port from one state to another, and one load reads all. (A tuple has at most 65,535
/// ports.)
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct States(pub u64);

impl States {
    /// What one port with these flags ([`crate::conn_flag`]) adds to the word; [`u64::wrapping_neg`] of it removes the port. 0
    /// for `Connecting`, and in TIME_WAIT, where the flags have no state.
    #[inline(always)]
    pub const fn one(flags: u32) -> u64 {
        match (flags & conn_flag::STATE) >> conn_flag::STATE_SHIFT {
            0 => 0,
            // Masked: the shift is at most 48, without a check for overflow.
            state => 1 << ((state.wrapping_sub(1) & 3) * 16),
        }
    }

    /// The counts of a tuple that holds `in_use` ports, `time_wait` of these in TIME_WAIT.
    ///
    /// One CPU can count a port's change of state before the CPU that took the port has counted it, so a count can be below 0 for
    /// a moment. It reads as 0 then, and what it borrowed from the count in the next 16 bits is given back. `connecting` is what
    /// the other counts leave of `in_use`, at least 0, and `unanswered` is at most that.
    pub fn read(self, in_use: u64, time_wait: u64) -> Ports {
        const BELOW_0: u64 = 0xfff0;
        let mut rest = self.0;
        let mut next = || {
            let count = rest & 0xffff;
            let is_below = count >= BELOW_0 && in_use < BELOW_0;
            rest = (rest >> 16).wrapping_add(u64::from(is_below));
            if is_below { 0 } else { count }
        };
        let (unanswered, established, close_wait, closing) = (next(), next(), next(), next());
        let others = established + close_wait + closing;
        let connecting = in_use.saturating_sub(time_wait.saturating_add(others));
        let unanswered = unanswered.min(connecting);
        Ports { connecting, unanswered, established, close_wait, closing }
    }
}

/// Ports by the state of the connection that holds them ([`PortState`]). With those in TIME_WAIT they are all ports in use.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Ports {
    /// SYN_SENT, [`Self::unanswered`] included.
    pub connecting: u64,
    /// Of `connecting`: ports whose SYN was sent again.
    pub unanswered: u64,
    pub established: u64,
    pub close_wait: u64,
    /// FIN_WAIT1, FIN_WAIT2, CLOSING or LAST_ACK.
    pub closing: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTED: [PortState; 4] =
        [PortState::Unanswered, PortState::Established, PortState::CloseWait, PortState::Closing];

    #[test]
    fn a_state_is_what_its_flags_say() {
        for state in COUNTED.into_iter().chain([PortState::Connecting]) {
            assert_eq!(PortState::of(state.flags() | !conn_flag::STATE), state);
        }
        assert_eq!(States::one(!conn_flag::STATE), 0);
    }

    #[test]
    fn each_state_is_counted_by_itself() {
        let mut states = States::default();
        for (state, ports) in COUNTED.into_iter().zip([3, 65_000, 7, 11]) {
            states.0 = states.0.wrapping_add(States::one(state.flags()).wrapping_mul(ports));
        }
        let ports = states.read(65_100, 32);
        let right = Ports {
            connecting: 50,
            unanswered: 3,
            established: 65_000,
            close_wait: 7,
            closing: 11,
        };
        assert_eq!(ports, right);
    }

    #[test]
    fn a_move_that_is_counted_before_its_begin_is_nothing() {
        let established = States::one(PortState::Established.flags());
        let closing = States::one(PortState::Closing.flags());
        let states = States(closing.wrapping_mul(5).wrapping_sub(established));
        let ports = states.read(6, 0);
        assert_eq!((ports.established, ports.close_wait, ports.closing), (0, 0, 5));
    }

    #[test]
    fn all_ports_there_are_can_be_in_one_state() {
        let all = States(States::one(PortState::CloseWait.flags()).wrapping_mul(65_535));
        assert_eq!(all.read(65_535, 0).close_wait, 65_535);
    }
}
