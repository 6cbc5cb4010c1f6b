//! What holds a port: the state of its connection, and counts of these in one word.

use crate::conn::conn_flag;

/// The state of a connection that holds a port, but for TIME_WAIT ([`conn_flag::TIME_WAIT`]). It only goes on:
/// of two, the one with the larger number is the later one. The value is on the wire.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum PortState {
    /// SYN_SENT (or SYN_RECV where both ends connect to each other).
    #[default]
    Connecting = 0,
    /// SYN_SENT, and the SYN was sent again: nothing came back within a second or so.
    Unanswered,
    Established,
    /// The peer has closed, this end has not: CLOSE_WAIT.
    CloseWait,
    /// This end has closed, and no time-wait socket has taken over: FIN_WAIT1, FIN_WAIT2, CLOSING, LAST_ACK.
    Closing,
}

impl PortState {
    /// As it is in [`Conn::flags`](crate::Conn::flags).
    #[inline(always)]
    pub const fn flags(self) -> u32 {
        (self as u32) << conn_flag::STATE_SHIFT
    }

    /// The state in these flags.
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

/// How many ports of a tuple are in each state but `Connecting`: 16 bits for each, so that one addition moves a port
/// from one to another, and one load reads all. (A tuple has at most 65,535 ports.)
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct States(pub u64);

impl States {
    /// What one port with these flags adds; [`u64::wrapping_neg`] of it takes it away. A port in TIME_WAIT has no
    /// state in its flags, and adds nothing.
    #[inline(always)]
    pub const fn one(flags: u32) -> u64 {
        match (flags & conn_flag::STATE) >> conn_flag::STATE_SHIFT {
            0 => 0,
            // Masked, so that nobody has to prove that it can be shifted by so much.
            state => 1 << ((state.wrapping_sub(1) & 3) * 16),
        }
    }

    /// The counts, of a tuple that holds `in_use` ports, of these `time_wait` in TIME_WAIT.
    ///
    /// A port can be moved by one CPU before the CPU that took it has counted it, so a count can be below 0 for a
    /// moment. It is 0 then, and the next one is right all the same.
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

/// Ports by what holds them. With those in TIME_WAIT they are all that are in use.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Ports {
    /// SYN_SENT, [`Self::unanswered`] included.
    pub connecting: u64,
    /// Of `connecting`: the SYN was sent again.
    pub unanswered: u64,
    pub established: u64,
    pub close_wait: u64,
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
