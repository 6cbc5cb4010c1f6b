//! The kernel's own list of TCP sockets: `/proc/net/tcp` and `/proc/net/tcp6`.
//!
//! Both list listening sockets, and all others that have a peer, TIME_WAIT included; not closed sockets, nor those that are only
//! bound (net/ipv4/tcp_ipv4.c, `tcp_seq_start`). Nothing here shares code with the tracer, which reads sock_diag and its own
//! maps.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::{Context, Result};

use crate::harness::{lie, netns::NetNs, tuple::Tuple};

/// Sockets of one tuple.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Sockets {
    /// Number of sockets, time-wait sockets included; falsified if `TRACER_TEST_LIE` asks for that.
    pub in_use: u64,
    /// How many of `in_use` are time-wait sockets (whose substate may be FIN_WAIT2).
    pub time_wait: u64,
    /// How many of `in_use` are in SYN_SENT, with a SYN that was retransmitted.
    pub unanswered: u64,
    /// `in_use` by the name of the state (`ESTABLISHED`, `FIN_WAIT1`, …: include/net/tcp_states.h without `TCP_`); for a
    /// time-wait socket, its substate.
    pub states: BTreeMap<&'static str, u64>,
}

/// All tuples that have a socket, as of one run through the two files: sockets that change meanwhile may be in it or not.
pub type Table = BTreeMap<Tuple, Sockets>;

/// Reads the outgoing sockets of a namespace: those that do not listen, and whose local port is not one of `servers` (in host
/// byte order). Empty if there are none. An error if a file cannot be read, /proc/net/tcp6 of a kernel without IPv6 included, or
/// a line of it is not understood.
pub fn read(netns: &NetNs, servers: &BTreeSet<u16>) -> Result<Table> {
    netns.run(|| {
        let mut table = Table::new();
        for family in ["tcp", "tcp6"] {
            let path = format!("/proc/thread-self/net/{family}");
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
            for line in text.lines().skip(1) {
                let socket = parse(line).with_context(|| format!("{path}: {line}"))?;
                if socket.state == "LISTEN" || servers.contains(&socket.local.port()) {
                    continue;
                }
                let sockets = table.entry(Tuple::new(socket.local.ip(), socket.peer)).or_default();
                sockets.in_use += 1;
                sockets.time_wait += u64::from(socket.minisock);
                let unanswered = socket.state == "SYN_SENT" && socket.sent_again > 0;
                sockets.unanswered += u64::from(unanswered);
                *sockets.states.entry(socket.state).or_default() += 1;
            }
        }
        for sockets in table.values_mut() {
            sockets.in_use = lie::in_use(sockets.in_use);
        }
        Ok(table)
    })
}

/// The `TcpExt` counters of this namespace that are not 0, and the TCP line of /proc/net/sockstat, as text for an error: they can
/// show why the kernel ended connections that no test closed. An error if one of the files cannot be read.
pub fn counters(netns: &NetNs) -> Result<String> {
    netns.run(|| {
        let read = |name: &str| {
            let path = format!("/proc/thread-self/net/{name}");
            fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
        };
        let netstat = read("netstat")?;
        let mut lines = netstat.lines();
        let names = lines.next().unwrap_or_default().split_whitespace();
        let values = lines.next().unwrap_or_default().split_whitespace();
        let counted = names.zip(values).filter(|(_, value)| *value != "0");
        let counted: Vec<_> = counted.map(|(name, value)| format!("{name} {value}")).collect();
        let sockstat = read("sockstat")?;
        let tcp = sockstat.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default();
        Ok(format!("{}; {tcp}", counted.join(", ")))
    })
}

impl Sockets {
    /// Number of sockets in one of these states, by the kernel's names without `TCP_`, such as `FIN_WAIT1`
    /// (include/net/tcp_states.h); an unknown name counts 0. A time-wait socket whose substate is FIN_WAIT2 counts in none.
    pub fn in_states(&self, names: &[&str]) -> u64 {
        let of = |name: &&str| self.states.get(*name).copied().unwrap_or(0);
        let all: u64 = names.iter().map(of).sum();
        // /proc/net/tcp shows a time-wait socket by its substate, which is TIME_WAIT or FIN_WAIT2.
        let waiting = self.time_wait - self.states.get("TIME_WAIT").copied().unwrap_or(0);
        if names.contains(&"FIN_WAIT2") { all - waiting } else { all }
    }
}

#[derive(Debug, Eq, PartialEq)]
struct Line {
    local: SocketAddr,
    peer: SocketAddr,
    state: &'static str,
    minisock: bool,
    sent_again: u64,
}

fn parse(line: &str) -> Option<Line> {
    let mut fields = line.split_whitespace().skip(1);
    let local = address(fields.next()?)?;
    let peer = address(fields.next()?)?;
    let number = usize::from_str_radix(fields.next()?, 16).ok()?;
    // "tr:tm->when": timer 3 is the time-wait timer, which only a time-wait socket has.
    let timer = fields.nth(1)?.split(':').next()?;
    // "retrnsmt": how many times the segment was retransmitted.
    let sent_again = u64::from_str_radix(fields.next()?, 16).ok()?;
    Some(Line { local, peer, state: STATES.get(number)?, minisock: timer == "03", sent_again })
}

/// Names of the TCP states, by their numbers in include/net/tcp_states.h; no state has the number 0.
const STATES: [&str; 14] = [
    "?",
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT1",
    "FIN_WAIT2",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "CLOSING",
    "NEW_SYN_RECV",
    "BOUND_INACTIVE",
];

/// Parses `ADDRESS:PORT` in hexadecimal, where each 32-bit word of the address is a number in the host's byte order. A v4-mapped
/// address becomes the IPv4 address. `None` if the text is something else.
fn address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::new();
    for start in (0..host.len()).step_by(8) {
        let word = u32::from_str_radix(host.get(start..start + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let ip = match bytes.len() {
        4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        _ => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)).to_canonical(),
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_wait_line_is_read_with_its_addresses() {
        let line = "   3: 0100007F:9C40 0200000A:1388 06 00000000:00000000 03:00001770 00000000     0        0 0 3 0000000000000000";
        let expected = Line {
            local: "127.0.0.1:40000".parse().unwrap(),
            peer: "10.0.0.2:5000".parse().unwrap(),
            state: "TIME_WAIT",
            minisock: true,
            sent_again: 0,
        };
        assert_eq!(parse(line), Some(expected));
    }

    #[test]
    fn a_v4_mapped_address_is_its_ipv4_address() {
        let parsed = address("0000000000000000FFFF00000100000A:0050");
        assert_eq!(parsed, Some("10.0.0.1:80".parse().unwrap()));
        let parsed = address("00000000000000000000000001000000:0050");
        assert_eq!(parsed, Some("[::1]:80".parse().unwrap()));
    }
}
