//! Makes the requests of sock_diag, and parses its answers (`include/uapi/linux/inet_diag.h`, netlink(7)).

use tracer_common::Addr;

use super::{DiagSocket, Family, tcp_state};
use crate::host::netlink::{self, AF_INET, AF_INET6, NLM_F_DUMP, u32_at};

/// Type of the request, and of its answers.
pub(super) const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// Type of the request of Linux 2.6 (tcpdiag), and of its answers. It names no family: sockets of all are listed.
pub(super) const TCPDIAG_GETSOCK: u16 = 18;
/// struct inet_diag_req_v2
const REQUEST_LEN: usize = 56;
/// struct inet_diag_req, the request of tcpdiag
const REQUEST_FOR_BOTH_LEN: usize = 60;
/// struct inet_diag_msg
const SOCKET_LEN: usize = 72;
/// `idiag_timer` while an unanswered segment is to be sent again (`inet_sk_diag_fill`).
const TIMER_RETRANSMIT: u8 = 1;
/// `idiag_timer` of a time-wait socket (`inet_twsk_diag_fill` in net/ipv4/inet_diag.c).
const TIMER_TIME_WAIT: u8 = 3;
/// Attribute: u8, whether a listener is IPV6_V6ONLY.
const INET_DIAG_SKV6ONLY: u16 = 11;
/// Attribute: u64, the id of the socket's cgroup. Every kernel from Linux 5.10 on knows it.
const INET_DIAG_CGROUP_ID: u16 = 21;
const IPPROTO_TCP: u8 = 6;

/// The request for a dump of all sockets of this family, in these states (bit `1 << state`), with this local port (host byte
/// order; 0: with any).
pub(super) fn request(family: Family, port: u16, states: u32) -> Vec<u8> {
    let mut body = [0; REQUEST_LEN];
    put(&mut body, 0, &[if family == Family::V4 { AF_INET } else { AF_INET6 }, IPPROTO_TCP]);
    put(&mut body, 4, &states.to_ne_bytes());
    put(&mut body, 8, &port.to_be_bytes());
    // The cookie of the request: INET_DIAG_NOCOOKIE (~0), sockets with any cookie.
    put(&mut body, REQUEST_LEN - 8, &[0xff; 8]);
    netlink::request(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, &body)
}

/// As [`request`], for the sockets of IPv4 and IPv6. The answers are of the same form.
pub(super) fn request_for_both(port: u16, states: u32) -> Vec<u8> {
    let mut body = [0; REQUEST_FOR_BOTH_LEN];
    put(&mut body, 4, &port.to_be_bytes());
    put(&mut body, 44, &[0xff; 8]);
    put(&mut body, 52, &states.to_ne_bytes());
    netlink::request(TCPDIAG_GETSOCK, NLM_F_DUMP, &body)
}

/// Copies `value` into `body`, from `at` on.
fn put(body: &mut [u8], at: usize, value: &[u8]) {
    for (to, from) in body.iter_mut().skip(at).zip(value) {
        *to = *from;
    }
}

/// Parses one answer; `None`: it is damaged.
pub(super) fn socket(bytes: &[u8]) -> Option<DiagSocket> {
    let [family, state, timer, retransmits] = *bytes.first_chunk()?;
    let family = match family {
        AF_INET => Family::V4,
        AF_INET6 => Family::V6,
        _ => return None,
    };
    let time_wait = timer == TIMER_TIME_WAIT;
    let cookie = u64::from(u32_at(bytes, 44)?) | u64::from(u32_at(bytes, 48)?) << 32;
    Some(DiagSocket {
        family,
        state,
        source: address(family, bytes, 8)?,
        source_port: port(bytes, 4)?,
        destination: address(family, bytes, 24)?,
        destination_port: port(bytes, 6)?,
        cookie,
        receive_queue: u32_at(bytes, 56)?,
        send_queue: u32_at(bytes, 60)?,
        uid: u32_at(bytes, 64)?,
        inode: u32_at(bytes, 68)?,
        time_wait,
        expires_ms: if time_wait { u32_at(bytes, 52)? } else { 0 },
        sent_again: if timer == TIMER_RETRANSMIT { retransmits } else { 0 },
        v6_only: state == tcp_state::LISTEN && v6_only(bytes.get(SOCKET_LEN..)?),
        cgroup: cgroup(bytes.get(SOCKET_LEN..)?),
    })
}

/// Whether the attributes have INET_DIAG_SKV6ONLY with a value other than 0.
fn v6_only(attributes: &[u8]) -> bool {
    netlink::attributes(attributes)
        .find(|(kind, _)| *kind == INET_DIAG_SKV6ONLY)
        .is_some_and(|(_, value)| value.first().is_some_and(|value| *value != 0))
}

/// Id of the cgroup in the attributes; 0: there is none.
fn cgroup(attributes: &[u8]) -> u64 {
    netlink::attributes(attributes)
        .find(|(kind, _)| *kind == INET_DIAG_CGROUP_ID)
        .and_then(|(_, value)| Some(u64::from_ne_bytes(*value.first_chunk()?)))
        .unwrap_or(0)
}

fn address(family: Family, bytes: &[u8], at: usize) -> Option<Addr> {
    let raw: [u8; 16] = *bytes.get(at..)?.first_chunk()?;
    let [a, b, c, d, ..] = raw;
    Some(match family {
        Family::V4 => Addr::v4([a, b, c, d]),
        Family::V6 => Addr(raw),
    })
}

fn port(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}
