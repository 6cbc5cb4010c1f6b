//! The ports of a tuple by parity, which shows who chose them: connect() begins with the ports of the range that have the
//! parity of its first one, bind(address, 0) with the others.

use crate::host::{
    capacity::PortRange,
    sockdiag::{DiagSocket, tcp_state},
};

/// How many ports of the range a tuple holds, by parity, that is even or odd.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Parity {
    /// Ports of the parity that connect() tries first: that of the range's first port.
    pub first: u32,
    /// Ports of the other parity, which bind(address, 0) tries first (`inet_csk_find_open_port`,
    /// net/ipv4/inet_connection_sock.c).
    pub second: u32,
    /// Of `first`: ports of open connections, and of TIME_WAITs that are at most 10 s old.
    pub recent_first: u32,
    /// Of `second`: ports of open connections, and of TIME_WAITs that are at most 10 s old.
    pub recent_second: u32,
    /// Whether every port of the first parity is held, by TIME_WAITs that connect() could take over included, or taken by bind()
    /// or listen(): then connect() may have had to use the second one.
    pub first_all_held: bool,
}

/// Connections that are open, and TIME_WAITs that are not older than this, show what the program does now, in ms. Older ones may
/// be left from a time when connect() had to use both parities.
const RECENT_MS: u32 = 10_000;
/// How long a TIME_WAIT lasts, in ms (TCP_TIMEWAIT_LEN).
const TIME_WAIT_MS: u32 = 60_000;
/// What the program does now explains at most so many times as many ports as it took of late: a TIME_WAIT lasts six times as long as
/// a port counts as recent, and somewhat more if there were more connections before.
const OLDER: u32 = 8;
/// bind() chose the ports of a tuple if it holds this many times as many recent ones of the second parity. connect() in a
/// range of the socket's own (IP_LOCAL_PORT_RANGE) takes as many of either.
const CLEARLY: u32 = 4;

impl Parity {
    /// Counts the port of a socket. One outside of the range does not count, nor that of a connection to itself, whose port is
    /// that of its destination.
    pub(super) fn add(&mut self, socket: &DiagSocket, range: &PortRange) {
        let to_itself =
            (socket.source, socket.source_port) == (socket.destination, socket.destination_port);
        if to_itself || !range.contains(socket.source_port) {
            return;
        }
        let recent = u32::from(is_recent(socket));
        let is_first = (socket.source_port ^ range.low) & 1 == 0;
        let (all, of_late) = if is_first {
            (&mut self.first, &mut self.recent_first)
        } else {
            (&mut self.second, &mut self.recent_second)
        };
        *all += 1;
        *of_late += recent;
    }

    /// An estimate of how many ports of the second parity bind() took. 0, because connect() may have taken them, if no port of the
    /// first parity is free; also unless at least four times as many recent ports are of the second parity as of the first; else those of the second parity, but at most
    /// eight times the recent ones. `fast`: how many of the second parity the spreader took, which are subtracted first.
    pub fn bound(&self, fast: u32) -> u32 {
        let recent = self.recent_second.saturating_sub(fast);
        let clear = !self.first_all_held
            && recent > 0
            && recent >= self.recent_first.saturating_mul(CLEARLY);
        let all = self.second.saturating_sub(fast);
        if clear { all.min(recent.saturating_mul(OLDER)) } else { 0 }
    }
}

fn is_recent(socket: &DiagSocket) -> bool {
    let age = TIME_WAIT_MS.saturating_sub(socket.expires_ms);
    !socket.time_wait || socket.state == tcp_state::TIME_WAIT && age <= RECENT_MS
}
