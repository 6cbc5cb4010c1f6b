//! The causes for which connect(), bind() and listen() fail. They are derived from the step that failed, because errno alone is
//! ambiguous.

use crate::named::named;

named! {
    /// The cause of a failure. The value is an array index in the tuple table: append, never reorder.
    pub enum Cause: u8 {
        /// The port search of connect() found no free port for this tuple (EADDRNOTAVAIL).
        PortsExhausted = 0 => "ports_exhausted",
        /// bind(address, 0) or listen() found no free port (EADDRINUSE).
        BindExhausted => "bind_exhausted",
        /// connect() on a socket that has a port already: its 4-tuple is taken (EADDRNOTAVAIL).
        TupleInUse => "tuple_in_use",
        /// bind(address, port), or listen() on a bound port: another socket has the port (EADDRINUSE).
        PortInUse => "port_in_use",
        /// bind() to an address that is not on this host (EADDRNOTAVAIL).
        AddressNotLocal => "address_not_local",
        /// EADDRNOTAVAIL before the port search: routing found no source address for the destination. (Before Linux 6.1, also a
        /// cgroup program that denied the connect() with this errno.)
        NoSourceAddress => "no_source_address",
        /// RST in answer to the SYN, or ICMP "port unreachable" (ECONNREFUSED).
        Refused => "refused",
        /// No answer to the SYN until the kernel gave up (ETIMEDOUT).
        TimedOut => "timed_out",
        /// No route, or an ICMP error says that there is none (ENETUNREACH, EHOSTUNREACH).
        Unreachable => "unreachable",
        /// The connection was reset during the handshake (ECONNRESET).
        Reset => "reset",
        /// The application closed the socket during the handshake, too early for [`Self::NoAnswer`].
        Aborted => "aborted",
        /// A firewall, cgroup program or security module denied the call, or the caller lacks the capability that the kernel
        /// asks for, as for a bind() to a low port (EPERM, EACCES). A spreader with `--fail-fast` denies a connect() with
        /// EADDRNOTAVAIL.
        Denied => "denied",
        /// No file descriptor left (EMFILE, ENFILE).
        FdLimit => "fd_limit",
        /// Any cause that has no variant here.
        Other => "other",
        /// The application closed the socket during the handshake: there was no answer for a second, or the SYN was
        /// sent again.
        NoAnswer => "no_answer",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_stands_at_its_own_index() {
        for (index, cause) in Cause::ALL.into_iter().enumerate() {
            assert_eq!(cause as usize, index);
            assert_eq!(Cause::from_wire(cause as u8), Some(cause));
        }
    }
}
