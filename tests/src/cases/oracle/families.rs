//! The kernel's older request for sockets, which names no family (`TCPDIAG_GETSOCK`), lists what the two requests for IPv4 and for
//! IPv6 list, with the same bytes. Tracer asks by the older one, which takes one pass over the kernel's tables and not two.

use std::{collections::BTreeMap, net::SocketAddr, os::fd::AsRawFd, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

use crate::harness::{netns::NetNs, probe, sock::Sock, tracer::wait_for};

const TCPDIAG_GETSOCK: u16 = 18;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const HEADER: usize = 16;
/// Every state, and the pseudo-state of sockets that are bound and idle.
const STATES: u32 = 0x3ffe;
const STATE: usize = 1;
/// Where an answer has the time that a timer has left, which differs from list to list.
const EXPIRES: std::ops::Range<usize> = 52..56;

pub(super) fn one_list_has_both_families() -> Result<()> {
    let netns = NetNs::new()?;
    netns.run(|| {
        let mut kept = Vec::new();
        for (address, to) in [
            ("127.0.0.1:7000", "127.0.0.1:7000"),
            ("[::1]:7001", "[::1]:7001"),
            // IPv4 connections of an IPv6 listener.
            ("[::]:7002", "127.0.0.1:7002"),
        ] {
            let (address, to): (SocketAddr, SocketAddr) = (address.parse()?, to.parse()?);
            let listener = Sock::tcp(address)?;
            listener.bind(address)?;
            listener.listen(16)?;
            // One connection is open, one in TIME_WAIT, one waits to be accepted.
            let (open, ends) = (Sock::connected(to)?, Sock::connected(to)?);
            let accepted = (listener.accept()?, listener.accept()?);
            ends.shutdown_write()?;
            drop(ends);
            drop(accepted.1);
            kept.extend([open, accepted.0, Sock::connected(to)?, listener]);
            // The server's end is in SYN_RECV until the client sends.
            let late = SocketAddr::new(address.ip(), address.port() + 10);
            let defers = Sock::tcp(late)?;
            defers.set_defer_accept(30)?;
            defers.bind(late)?;
            defers.listen(16)?;
            kept.extend([Sock::connected(SocketAddr::new(to.ip(), late.port()))?, defers]);
            let idle = Sock::tcp(address)?;
            idle.bind(SocketAddr::new(address.ip(), address.port() + 20))?;
            kept.push(idle);
            // Of a listener whose queue is full, the client stays in SYN_SENT.
            let full = SocketAddr::new(address.ip(), address.port() + 30);
            let listener = Sock::tcp(full)?;
            listener.bind(full)?;
            listener.listen(0)?;
            for _ in 0..3 {
                let client = Sock::tcp(to)?;
                client.set_nonblocking()?;
                _ = client.connect(SocketAddr::new(to.ip(), full.port()));
                kept.push(client);
            }
            kept.push(listener);
        }
        let idle = probe::no_idle_sockets().is_none();
        // What ends is on its way when close() returns.
        wait_for("the same lists, with all states", Duration::from_secs(5), || {
            let both = list(TCPDIAG_GETSOCK, &older(0))?;
            let mut each = list(SOCK_DIAG_BY_FAMILY, &newer(2, 0))?;
            each.extend(list(SOCK_DIAG_BY_FAMILY, &newer(10, 0))?);
            let has = |state: u8, family: u8| {
                both.values().any(|it| it[STATE] == state && it[0] == family)
            };
            // ESTABLISHED, SYN_SENT, SYN_RECV, TIME_WAIT, LISTEN
            let has_all = |family| [1, 2, 3, 6, 10].into_iter().all(|state| has(state, family));
            let whole = |family| has_all(family) && has(7, family) == idle;
            Ok((both == each && [2, 10].into_iter().all(whole)).then_some(()))
        })?;
        // With a port, too.
        let mut each = list(SOCK_DIAG_BY_FAMILY, &newer(2, 7002))?;
        each.extend(list(SOCK_DIAG_BY_FAMILY, &newer(10, 7002))?);
        ensure!(list(TCPDIAG_GETSOCK, &older(7002))? == each, "the lists of a port differ");
        Ok(())
    })
}

/// struct inet_diag_req
fn older(port: u16) -> Vec<u8> {
    let mut body = vec![0; 60];
    body[4..6].copy_from_slice(&port.to_be_bytes());
    body[44..52].fill(0xff);
    body[52..56].copy_from_slice(&STATES.to_ne_bytes());
    body
}

/// struct inet_diag_req_v2, for TCP
fn newer(family: u8, port: u16) -> Vec<u8> {
    let mut body = vec![0; 56];
    body[..2].copy_from_slice(&[family, 6]);
    body[4..8].copy_from_slice(&STATES.to_ne_bytes());
    body[8..10].copy_from_slice(&port.to_be_bytes());
    body[48..].fill(0xff);
    body
}

/// The answers to a request, by the cookie of the socket, with 0 for the time that its timer has left.
fn list(kind: u16, body: &[u8]) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    let mut request = u32::try_from(HEADER + body.len())?.to_ne_bytes().to_vec();
    request.extend(kind.to_ne_bytes());
    // NLM_F_REQUEST | NLM_F_DUMP, number 1
    request.extend(0x301_u16.to_ne_bytes());
    request.extend([1_u32, 0].map(u32::to_ne_bytes).concat());
    request.extend(body);
    send(&socket, &request, SendFlags::empty())
        .with_context(|| format!("asking by {}", socket.as_raw_fd()))?;
    let mut found = BTreeMap::new();
    let mut buffer = vec![0; 1 << 17];
    loop {
        let (length, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        let mut rest = &buffer[..length];
        while rest.len() >= HEADER {
            let length = u32::from_ne_bytes(rest[..4].try_into()?) as usize;
            let mut answer = rest[HEADER..length].to_vec();
            match u16::from_ne_bytes(rest[4..6].try_into()?) {
                3 => return Ok(found),
                got if got == kind => {
                    answer[EXPIRES].fill(0);
                    let before = found.insert(answer[44..52].to_vec(), answer);
                    ensure!(before.is_none(), "a socket is listed twice: {before:?}");
                }
                got => bail!("a message of type {got}: {answer:?}"),
            }
            rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        }
    }
}
