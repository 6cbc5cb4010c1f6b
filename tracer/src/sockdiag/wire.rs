//! Netlink messages of sock_diag as bytes (`include/uapi/linux/inet_diag.h`, netlink(7)).

use std::io;

use tracer_common::Addr;

use super::{DiagSocket, Family, tcp_state};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER_LEN: usize = 16;
/// struct inet_diag_req_v2
const REQUEST_LEN: usize = 56;
/// struct inet_diag_msg
const SOCKET_LEN: usize = 72;
/// `idiag_timer` of a time-wait socket (`inet_twsk_diag_fill` in net/ipv4/inet_diag.c).
const TIMER_TIME_WAIT: u8 = 3;
/// Attribute: u8, whether a listener is IPV6_V6ONLY.
const INET_DIAG_SKV6ONLY: u16 = 11;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;

/// The request for a dump of all sockets in these states.
pub(super) fn request(family: Family, states: u32) -> [u8; HEADER_LEN + REQUEST_LEN] {
    let mut bytes = [0; HEADER_LEN + REQUEST_LEN];
    let mut put = |at: usize, value: &[u8]| {
        for (to, from) in bytes.iter_mut().skip(at).zip(value) {
            *to = *from;
        }
    };
    put(0, &72_u32.to_ne_bytes());
    put(4, &SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    put(6, &(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    put(HEADER_LEN, &[if family == Family::V4 { AF_INET } else { AF_INET6 }, IPPROTO_TCP]);
    put(HEADER_LEN + 4, &states.to_ne_bytes());
    // INET_DIAG_NOCOOKIE
    put(HEADER_LEN + REQUEST_LEN - 8, &[0xff; 8]);
    bytes
}

/// What one netlink message says.
#[derive(Debug, PartialEq)]
pub(super) enum Reply {
    Socket(DiagSocket),
    /// The end of the dump, with an errno (positive) or 0.
    Done(i32),
    /// A refusal, with an errno (positive).
    Error(i32),
    Other,
}

#[derive(Debug, PartialEq)]
pub(super) struct Message {
    pub(super) reply: Reply,
    /// The dump is inconsistent.
    pub(super) interrupted: bool,
}

/// The messages of one datagram; the last item is an error if the datagram is damaged.
pub(super) fn messages(mut rest: &[u8]) -> impl Iterator<Item = io::Result<Message>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let parsed = message(rest);
        rest = match &parsed {
            Some((_, len)) => rest.get(len.next_multiple_of(4)..).unwrap_or_default(),
            None => &[],
        };
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "sock_diag: damaged message");
        Some(parsed.map(|(message, _)| message).ok_or_else(damaged))
    })
}

fn message(bytes: &[u8]) -> Option<(Message, usize)> {
    let len = u32_at(bytes, 0)? as usize;
    let kind = u16_at(bytes, 4)?;
    let flags = u16_at(bytes, 6)?;
    let payload = bytes.get(HEADER_LEN..len)?;
    let errno = || u32_at(payload, 0).map(|code| code.cast_signed().saturating_neg());
    let reply = match kind {
        SOCK_DIAG_BY_FAMILY => Reply::Socket(socket(payload)?),
        // A kernel may leave the result out.
        NLMSG_DONE => Reply::Done(errno().unwrap_or(0)),
        NLMSG_ERROR => Reply::Error(errno()?),
        _ => Reply::Other,
    };
    Some((Message { reply, interrupted: flags & NLM_F_DUMP_INTR != 0 }, len))
}

fn socket(bytes: &[u8]) -> Option<DiagSocket> {
    let [family, state, timer, _] = *bytes.first_chunk()?;
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
        inode: u32_at(bytes, 68)?,
        time_wait,
        expires_ms: if time_wait { u32_at(bytes, 52)? } else { 0 },
        v6_only: state == tcp_state::LISTEN && v6_only(bytes.get(SOCKET_LEN..)?),
    })
}

/// Whether the attributes hold a true INET_DIAG_SKV6ONLY.
fn v6_only(mut attributes: &[u8]) -> bool {
    while let (Some(len), Some(kind)) = (u16_at(attributes, 0), u16_at(attributes, 2)) {
        if kind == INET_DIAG_SKV6ONLY {
            return attributes.get(4).is_some_and(|value| *value != 0);
        }
        let next = usize::from(len).max(4).next_multiple_of(4);
        attributes = attributes.get(next..).unwrap_or_default();
    }
    false
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

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}
