//! Why a connect() or bind() failed: derived from the step that failed, because errno alone is ambiguous.

/// The cause of a failure. The value is an array index in the tuple table: append, never reorder.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Cause {
    /// The port search found no free port for this tuple.
    PortsExhausted = 0,
    /// bind(address, 0) or listen() found no free port.
    BindExhausted,
    /// The socket has a port already and its 4-tuple is taken.
    TupleInUse,
    /// bind(address, port) on a port that is taken.
    PortInUse,
    /// bind() to an address that is not on this host.
    AddressNotLocal,
    /// Routing found no source address for the destination.
    NoSourceAddress,
    /// RST in answer to the SYN.
    Refused,
    /// No answer to the SYN.
    TimedOut,
    /// No route, or an ICMP error says that there is none.
    Unreachable,
    /// The connection was reset during the handshake.
    Reset,
    /// The application closed the socket during the handshake, sooner than [`Self::NoAnswer`].
    Aborted,
    /// A firewall, cgroup program or security module denied the call.
    Denied,
    /// No file descriptor left.
    FdLimit,
    /// None of these.
    Other,
    /// The application closed the socket during the handshake: there was no answer for a second, or the SYN was
    /// sent again.
    NoAnswer,
}

impl Cause {
    pub const COUNT: usize = 15;
    pub const ALL: [Self; Self::COUNT] = [
        Self::PortsExhausted,
        Self::BindExhausted,
        Self::TupleInUse,
        Self::PortInUse,
        Self::AddressNotLocal,
        Self::NoSourceAddress,
        Self::Refused,
        Self::TimedOut,
        Self::Unreachable,
        Self::Reset,
        Self::Aborted,
        Self::Denied,
        Self::FdLimit,
        Self::Other,
        Self::NoAnswer,
    ];

    /// The cause with this index, which [`crate::Event::detail`] has; `None`: there is none.
    pub fn from_index(index: u8) -> Option<Self> {
        Self::ALL.get(usize::from(index)).copied()
    }

    /// Its name in the `cause` field of the event stream.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PortsExhausted => "ports_exhausted",
            Self::BindExhausted => "bind_exhausted",
            Self::TupleInUse => "tuple_in_use",
            Self::PortInUse => "port_in_use",
            Self::AddressNotLocal => "address_not_local",
            Self::NoSourceAddress => "no_source_address",
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::Unreachable => "unreachable",
            Self::Reset => "reset",
            Self::Aborted => "aborted",
            Self::Denied => "denied",
            Self::FdLimit => "fd_limit",
            Self::Other => "other",
            Self::NoAnswer => "no_answer",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_stands_at_its_own_index() {
        for (index, cause) in Cause::ALL.into_iter().enumerate() {
            assert_eq!(cause as usize, index);
            assert_eq!(Cause::from_index(cause as u8), Some(cause));
        }
    }
}
