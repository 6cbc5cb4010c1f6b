//! Calls other than connect() that open a connection (sendto() with MSG_FASTOPEN, io_uring), and fail before a port is searched.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use rustix::io::Errno;

use super::{as_comm, is};
use crate::{
    harness::{sock::Sock, stage::Stage, tracer::shared_record},
    workloads::{failure::expect_error, variant::submit_connect},
};

const NOWHERE: &str = "192.0.2.1:80";
const CALLS: usize = 3;

/// sendto() with MSG_FASTOPEN towards a destination without a route, three times: each call has an event with the cause
/// `unreachable` and ENETUNREACH. The tracepoint backend sees none of them, which `degraded` in the recording's first line says.
pub(super) fn fast_open(backend: &str) -> Result<()> {
    recorded_or_degraded(backend, "MSG_FASTOPEN", |sock, peer| {
        expect_error(sock.send_fast_open(b"hello", peer), Errno::NETUNREACH)
    })
}

/// connect() through io_uring towards a destination without a route, three times: each call has an event with the cause
/// `unreachable` and ENETUNREACH. The tracepoint backend sees none of them, which `degraded` in the recording's first line says.
pub(super) fn io_uring(backend: &str) -> Result<()> {
    recorded_or_degraded(backend, "io_uring", |sock, peer| {
        let result = submit_connect(sock, peer)?;
        ensure!(result == -libc::ENETUNREACH, "not unreachable, but {result}");
        Ok(())
    })
}

/// Calls `connect` [`CALLS`] times, towards a destination without a route: each failure must have an event. The tracepoint
/// backend sees none of them: there, `degraded` in the recording's first line must name the kind of call, `call`, instead.
fn recorded_or_degraded(
    backend: &str,
    call: &str,
    connect: impl Fn(&Sock, SocketAddr) -> Result<()> + Sync,
) -> Result<()> {
    let stage = Stage::new(&[])?;
    let peer: SocketAddr = NOWHERE.parse()?;
    let shared = shared_record::begin(backend, &stage.netns)?;
    as_comm(&stage, c"evt-early", || {
        (0..CALLS).try_for_each(|_| connect(&Sock::tcp(peer)?, peer))
    })?;
    let recording = shared.end(&stage.netns)?;
    let degraded = recording.start()?["degraded"].to_string();
    let events = recording.events("connect.failed", stage.netns.inum());
    if backend == "tracepoint" {
        ensure!(degraded.contains(call), "{call} is not in {degraded}");
        return Ok(());
    }
    ensure!(!degraded.contains(call), "{call} is in {degraded}");
    ensure!(events.len() == CALLS, "{} events of {CALLS} calls: {events:?}", events.len());
    for event in events {
        is(event, "cause", "unreachable")?;
        is(event, "errno.name", "ENETUNREACH")?;
        is(event, "network.peer.address", "192.0.2.1")?;
        is(event, "thread.name", "evt-early")?;
    }
    Ok(())
}
