//! `events::*`: the events that `tracer record` writes for single calls.

mod bound;
mod early;
mod whole;

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use rustix::{io::Errno, thread::set_name};
use serde_json::Value;

use super::{Case, Plan, group::BackendTest};
use crate::{
    harness::{
        probe,
        sock::Sock,
        stage::{CLIENT, SERVER, Stage},
        tracer::{
            record::{Recording, eventually},
            shared_record,
            watch::{number, text},
        },
    },
    workloads::failure::expect_error,
};

pub fn cases(plan: &Plan) -> Vec<Case> {
    let shared = plan.tracing_backends().flat_map(|backend| of_a_shared_recording(plan, &backend));
    let default = plan.default_backend.clone();
    plan.group("events")
        .with(shared)
        .sampled(&[
            ("every_line_is_whole", whole::every_line_is_whole),
            ("lifetimes", whole::lifetimes),
        ])
        .table(
            default.map(|expected| ("default_backend", move || whole::default_backend(&expected))),
        )
        .once(&[
            ("ends_by_duration", whole::ends_by_duration),
            ("ends_by_sigterm", whole::ends_by_sigterm),
            ("sighup_reopens_the_file", whole::sighup_reopens),
        ])
        .kernel_independent()
        .cases()
}

/// The tests that share one recording of this backend, and last the one that ends it, before the next backend's starts: in a
/// guest, a start takes several times as long while a shared tracer runs and the namespaces kept for it exist.
fn of_a_shared_recording(plan: &Plan, backend: &str) -> Vec<Case> {
    let tests: &[BackendTest] = &[
        ("one_connection", one_connection),
        ("time_wait_release", time_wait_release),
        ("failures", failures),
        ("bind_failures", bind_failures),
        ("bound_ports", bound::bound_ports),
        ("port_holders", bound::port_holders),
        ("fast_open_without_a_route", early::fast_open),
    ];
    plan.group("events")
        .on_backend(backend, tests)
        .on_backend(backend, &[("io_uring_without_a_route", early::io_uring)])
        .unless(probe::no_io_uring())
        .sampled_on(backend, &[("time_of_a_port_search", bound::time_of_a_port_search)])
        .on_backend(backend, &[("shared_recordings_end_well", shared_recordings_end_well)])
        .cases()
}

/// Runs `work` in the stage's namespace on a thread with this name.
fn as_comm<T: Send>(
    stage: &Stage,
    comm: &std::ffi::CStr,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    stage.netns.run(|| {
        set_name(comm)?;
        work()
    })
}

fn is(event: &Value, key: &str, wanted: &str) -> Result<()> {
    let found = text(event, key)?;
    ensure!(found == wanted, "{key} is {found:?}, not {wanted:?}, in {event}");
    Ok(())
}

fn is_number(event: &Value, key: &str, wanted: u64) -> Result<()> {
    let found = number(event, key)?;
    ensure!(found == wanted, "{key} is {found}, not {wanted}, in {event}");
    Ok(())
}

/// The only event of this kind and local port in a namespace; an error if there is none or more.
fn one<'a>(recording: &'a Recording, kind: &str, netns: u64, port: u16) -> Result<&'a Value> {
    let mut events = recording.events(kind, netns);
    let local = "network.local.port";
    events.retain(|event| number(event, local).ok() == Some(u64::from(port)));
    ensure!(events.len() == 1, "{} events {kind} of port {port}: {events:?}", events.len());
    Ok(events[0])
}

/// Calls `connection`, which makes a connection, until it returns the port: it returns `None` if the kernel skipped hooks
/// meanwhile and events are missing. An error if it does so five times.
fn seen_to_its_end(connection: impl Fn() -> Result<Option<u16>>) -> Result<u16> {
    let seen = (0..5).find_map(|_| connection().transpose());
    seen.context("the kernel skipped hooks of five connections one after the other")?
}

/// The server closes a connection after 50 ms, then the client: the client's port is free without TIME_WAIT. The events have the
/// tuple, the process, the durations, and every TCP state.
fn one_connection(backend: &str) -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let server = stage.server("10.1.0.1:7000")?;
    let shared = shared_record::begin(backend, &stage.netns)?;
    let port = seen_to_its_end(|| {
        let port = as_comm(&stage, c"evt-client", || {
            let (client, accepted) = server.pair()?;
            let port = client.local()?.port();
            thread::sleep(Duration::from_millis(50));
            drop(accepted);
            client.receive()?;
            drop(client);
            Ok(port)
        })?;
        eventually("an empty table", || Ok(stage.oracle()?.is_empty()))?;
        // The socket leaves the kernel's list before the hooks run, so these events can come a moment later.
        let released = shared.has_line("port.released", port, |_| true)?;
        let closed = |it: &Value| it["tcp.state.new"] == "closed";
        Ok((released && shared.has_line("tcp.state", port, closed)?).then_some(port))
    })?;
    let recording = shared.end(&stage.netns)?;
    recording.assert_valid()?;

    let netns = stage.netns.inum();
    let allocated = one(&recording, "port.allocated", netns, port)?;
    let established = one(&recording, "connect.established", netns, port)?;
    let released = one(&recording, "port.released", netns, port)?;
    for event in [allocated, established, released] {
        is(event, "network.transport", "tcp")?;
        is(event, "network.type", "ipv4")?;
        is(event, "network.local.address", SERVER)?;
        is(event, "network.peer.address", SERVER)?;
        is_number(event, "network.peer.port", 7000)?;
        is_number(event, "process.pid", u64::from(std::process::id()))?;
        is(event, "thread.name", "evt-client")?;
        is_number(event, "socket.cookie", number(allocated, "socket.cookie")?)?;
    }
    is(allocated, "port.by", "connect")?;
    let searched = number(allocated, "search.duration_ns")?;
    ensure!((1..1_000_000_000).contains(&searched), "the search took {searched} ns");
    let held = number(released, "port.held_ns")?;
    ensure!((50_000_000..5_000_000_000).contains(&held), "held for {held} ns");
    ensure!(released["port.time_wait"] == Value::Bool(false), "{released}");
    let took = number(established, "connect.duration_ns")?;
    ensure!((1..1_000_000_000).contains(&took), "connect took {took} ns");
    ensure!(
        recording.events("connect.failed", netns).is_empty(),
        "there is a connect.failed event"
    );

    let cookie = number(allocated, "socket.cookie")?;
    let states: Vec<_> = recording
        .events("tcp.state", netns)
        .into_iter()
        .filter(|event| number(event, "socket.cookie").ok() == Some(cookie))
        .map(|event| Ok((text(event, "tcp.state.old")?, text(event, "tcp.state.new")?)))
        .collect::<Result<_>>()?;
    // The change from closed to syn_sent, which is reported before the port search, may come before the four changes below.
    let expected = [
        ("syn_sent", "established"),
        ("established", "close_wait"),
        ("close_wait", "last_ack"),
        ("last_ack", "closed"),
    ];
    ensure!(states.ends_with(&expected), "states of the client: {states:?}");
    Ok(())
}

/// The event of a port that a time-wait socket releases says so by `port.time_wait`. The time-wait socket is in FIN_WAIT2, which
/// lasts only 1 s here.
fn time_wait_release(backend: &str) -> Result<()> {
    let mut stage = Stage::new(&[])?;
    stage.netns.sysctl("ipv4/tcp_fin_timeout", "1")?;
    let server = stage.server("10.1.0.1:7000")?;
    let shared = shared_record::begin(backend, &stage.netns)?;
    let port = seen_to_its_end(|| {
        let (client, _accepted) = stage.netns.run(|| server.pair())?;
        let port = client.local()?.port();
        drop(client);
        eventually("the end of FIN_WAIT2", || Ok(stage.oracle()?.is_empty()))?;
        // The socket leaves the kernel's list before the hook runs, so the event can come a moment later.
        Ok(shared.has_line("port.released", port, |_| true)?.then_some(port))
    })?;
    let recording = shared.end(&stage.netns)?;
    let released = one(&recording, "port.released", stage.netns.inum(), port)?;
    ensure!(released["port.time_wait"] == Value::Bool(true), "{released}");
    ensure!(number(released, "port.held_ns")? > 900_000_000, "{released}");
    Ok(())
}

/// Eight connect() calls of three causes fail: each has an event with the cause, errno, tuple and thread; without a port, counts.
fn failures(backend: &str) -> Result<()> {
    let mut stage = Stage::new(&[])?;
    stage.netns.sysctl("ipv4/ip_local_port_range", "40000 40009")?;
    let server = stage.server("10.1.0.1:7000")?;
    let closed = "10.1.0.1:7999".parse()?;
    let shared = shared_record::begin(backend, &stage.netns)?;
    let _pairs = as_comm(&stage, c"evt-failing", || {
        let pairs = server.pairs(10)?;
        for _ in 0..3 {
            expect_error(Sock::tcp(closed)?.connect(closed), Errno::CONNREFUSED)?;
        }
        for _ in 0..4 {
            let sock = Sock::tcp(server.address)?;
            expect_error(sock.connect(server.address), Errno::ADDRNOTAVAIL)?;
        }
        let bound = || -> Result<Sock> {
            let sock = Sock::tcp(server.address)?;
            sock.set_reuse_address()?;
            sock.bind("10.1.0.2:41000".parse()?)?;
            Ok(sock)
        };
        let (first, second) = (bound()?, bound()?);
        first.connect(server.address)?;
        expect_error(second.connect(server.address), Errno::ADDRNOTAVAIL)?;
        // The caller stays in the namespace, as servers do: the tracer reads the capacity of a namespace through a process in
        // it.
        thread::sleep(Duration::from_millis(300));
        Ok((pairs, first))
    })?;
    let recording = shared.end(&stage.netns)?;
    recording.assert_valid()?;
    let events = recording.events("connect.failed", stage.netns.inum());
    let causes = [
        ("refused", 3, "connection_refused", Errno::CONNREFUSED, "ECONNREFUSED", 7999, SERVER),
        (
            "ports_exhausted",
            4,
            "address_not_available",
            Errno::ADDRNOTAVAIL,
            "EADDRNOTAVAIL",
            7000,
            SERVER,
        ),
        (
            "tuple_in_use",
            1,
            "address_not_available",
            Errno::ADDRNOTAVAIL,
            "EADDRNOTAVAIL",
            7000,
            CLIENT,
        ),
    ];
    for (cause, count, error, errno, errno_name, port, source) in causes {
        let of_cause: Vec<_> =
            events.iter().filter(|event| text(event, "cause").ok() == Some(cause)).collect();
        ensure!(of_cause.len() == count, "{} of {cause}, not {count}", of_cause.len());
        for event in of_cause {
            is(event, "error.type", error)?;
            is(event, "errno.name", errno_name)?;
            is_number(event, "errno", u64::try_from(errno.raw_os_error())?)?;
            is(event, "network.local.address", source)?;
            is(event, "network.peer.address", SERVER)?;
            is_number(event, "network.peer.port", port)?;
            is_number(event, "process.pid", u64::from(std::process::id()))?;
            is(event, "thread.name", "evt-failing")?;
            if cause == "ports_exhausted" {
                is_number(event, "ports.in_use", 10)?;
                is_number(event, "ports.time_wait", 0)?;
                is_number(event, "ports.capacity", 10)?;
            }
        }
    }
    ensure!(events.len() == 8, "{} failures, not 8: {events:?}", events.len());
    Ok(())
}

fn bind_failures(backend: &str) -> Result<()> {
    let mut stage = Stage::new(&[])?;
    stage.netns.sysctl("ipv4/ip_local_port_range", "40000 40009")?;
    let server = stage.server("10.1.0.1:7000")?;
    let shared = shared_record::begin(backend, &stage.netns)?;
    let bind = |address: &str| -> Result<rustix::io::Result<Sock>> {
        let sock = Sock::tcp(server.address)?;
        Ok(sock.bind(address.parse()?).map(|()| sock))
    };
    let _held = as_comm(&stage, c"evt-binding", || {
        let held = (0..10).map(|_| Ok(bind("10.1.0.2:0")??)).collect::<Result<Vec<_>>>()?;
        for _ in 0..3 {
            expect_error(bind("10.1.0.2:0")?, Errno::ADDRINUSE)?;
        }
        for _ in 0..2 {
            expect_error(bind("10.1.0.1:7000")?, Errno::ADDRINUSE)?;
        }
        expect_error(bind("192.0.2.1:0")?, Errno::ADDRNOTAVAIL)?;
        Ok(held)
    })?;
    let recording = shared.end(&stage.netns)?;
    recording.assert_valid()?;
    let events = recording.events("bind.failed", stage.netns.inum());
    let causes = [
        ("bind_exhausted", 3, "address_already_in_use", "EADDRINUSE"),
        ("port_in_use", 2, "address_already_in_use", "EADDRINUSE"),
        ("address_not_local", 1, "address_not_available", "EADDRNOTAVAIL"),
    ];
    for (cause, count, error, errno_name) in causes {
        let of_cause: Vec<_> =
            events.iter().filter(|event| text(event, "cause").ok() == Some(cause)).collect();
        ensure!(of_cause.len() == count, "{} of {cause}, not {count}: {events:?}", of_cause.len());
        for event in of_cause {
            is(event, "error.type", error)?;
            is(event, "errno.name", errno_name)?;
            is(event, "thread.name", "evt-binding")?;
        }
    }
    ensure!(events.len() == 6, "{} failures, not 6: {events:?}", events.len());
    Ok(())
}

/// Ends the recording that this backend's tests share. If this test runs alone, the recording has its own part only.
fn shared_recordings_end_well(backend: &str) -> Result<()> {
    let stage = Stage::new(&[])?;
    shared_record::begin(backend, &stage.netns)?.end(&stage.netns)?;
    shared_record::stop(backend)
}
