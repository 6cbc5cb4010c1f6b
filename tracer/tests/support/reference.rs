//! A socket event as serde writes it: the reference that the hand-written line is compared with.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::Serialize;
use tracer::{
    export::Context,
    format::{errno, tcp_state},
    host::cgroups::Name,
};
use tracer_common::{Addr, Cause, Event, Kind, PortBy, event_flag};

#[derive(Serialize)]
pub(crate) struct Line<'a> {
    v: u8,
    seq: u64,
    ts: String,
    mono_ns: u64,
    #[serde(rename = "event.name")]
    name: &'static str,
    #[serde(rename = "network.transport")]
    transport: &'static str,
    #[serde(rename = "network.type")]
    family: &'static str,
    #[serde(rename = "network.local.address")]
    local_address: String,
    #[serde(rename = "network.local.port", skip_serializing_if = "Option::is_none")]
    local_port: Option<u16>,
    #[serde(rename = "network.peer.address", skip_serializing_if = "Option::is_none")]
    peer_address: Option<String>,
    #[serde(rename = "network.peer.port", skip_serializing_if = "Option::is_none")]
    peer_port: Option<u16>,
    netns: u32,
    #[serde(rename = "netns.name", skip_serializing_if = "Option::is_none")]
    pub(crate) netns_name: Option<&'a str>,
    #[serde(rename = "process.pid", skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(rename = "process.executable.name", skip_serializing_if = "Option::is_none")]
    comm: Option<String>,
    #[serde(rename = "process.executable.name.source", skip_serializing_if = "Option::is_none")]
    comm_source: Option<&'static str>,
    #[serde(rename = "thread.name", skip_serializing_if = "Option::is_none")]
    thread: Option<String>,
    #[serde(rename = "process.linux.cgroup", skip_serializing_if = "Option::is_none")]
    cgroup: Option<&'a str>,
    #[serde(rename = "container.id", skip_serializing_if = "Option::is_none")]
    container: Option<&'a str>,
    #[serde(rename = "systemd.unit", skip_serializing_if = "Option::is_none")]
    unit: Option<&'a str>,
    #[serde(rename = "socket.cookie", skip_serializing_if = "Option::is_none")]
    cookie: Option<u64>,
    #[serde(rename = "port.by", skip_serializing_if = "Option::is_none")]
    by: Option<&'static str>,
    #[serde(rename = "search.duration_ns", skip_serializing_if = "Option::is_none")]
    search: Option<u64>,
    #[serde(rename = "port.held_ns", skip_serializing_if = "Option::is_none")]
    held: Option<u64>,
    #[serde(rename = "port.time_wait", skip_serializing_if = "Option::is_none")]
    time_wait: Option<bool>,
    #[serde(rename = "error.type", skip_serializing_if = "Option::is_none")]
    error_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errno: Option<u16>,
    #[serde(rename = "errno.name", skip_serializing_if = "Option::is_none")]
    errno_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'static str>,
    #[serde(rename = "connect.duration_ns", skip_serializing_if = "Option::is_none")]
    connect: Option<u64>,
    #[serde(rename = "ports.in_use", skip_serializing_if = "Option::is_none")]
    ports_in_use: Option<u32>,
    #[serde(rename = "ports.time_wait", skip_serializing_if = "Option::is_none")]
    ports_time_wait: Option<u32>,
    #[serde(rename = "ports.capacity", skip_serializing_if = "Option::is_none")]
    capacity: Option<u32>,
    #[serde(rename = "tcp.state.old", skip_serializing_if = "Option::is_none")]
    old_state: Option<&'static str>,
    #[serde(rename = "tcp.state.new", skip_serializing_if = "Option::is_none")]
    new_state: Option<&'static str>,
}

fn address(address: Addr) -> String {
    match address.to_v4() {
        Some(octets) => Ipv4Addr::from(octets).to_string(),
        None => Ipv6Addr::from(address.0).to_string(),
    }
}

/// The line of an event, which must decode: if it does not, this panics.
pub(crate) fn line<'a>(event: &Event, context: &Context, name: Option<&'a Name>) -> Line<'a> {
    let kind = Kind::from_wire(event.kind).expect("a known kind");
    let cause = Cause::from_wire(event.detail);
    let failed = matches!(kind, Kind::ConnectFailed | Kind::BindFailed);
    let exhausted = kind == Kind::ConnectFailed && cause == Some(Cause::PortsExhausted);
    let ports = exhausted && event.flags & event_flag::PORTS != 0;
    let duration = (event.flags & event_flag::DURATION != 0).then_some(event.duration_ns);
    let has_peer = event.tuple.destination_port != 0;
    let v4_peer = has_peer && event.tuple.destination.to_v4().is_some();
    let v4 = v4_peer || (!has_peer && event.tuple.source.to_v4().is_some());
    let known = event.pid != 0;
    let name = name.filter(|_| known);
    let text = |name: [u8; 16]| {
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(name).into_owned()
    };
    let called = context.called.unwrap_or_else(|| event.into());
    let ns = i128::from(event.mono_ns.saturating_add(context.wall_offset_ns));
    let state = |number| (kind == Kind::TcpState).then(|| tcp_state::state(number));
    Line {
        v: 1,
        seq: context.seq,
        ts: format!("{:.9}", jiff::Timestamp::from_nanosecond(ns).expect("a time before 2554")),
        mono_ns: event.mono_ns,
        name: match kind {
            Kind::PortAllocated => "port.allocated",
            Kind::PortReleased => "port.released",
            Kind::ConnectEstablished => "connect.established",
            Kind::ConnectFailed => "connect.failed",
            Kind::BindFailed => "bind.failed",
            Kind::TcpState => "tcp.state",
        },
        transport: "tcp",
        family: if v4 { "ipv4" } else { "ipv6" },
        local_address: if v4_peer && event.tuple.source == Addr::UNSPECIFIED {
            "0.0.0.0".to_owned()
        } else {
            address(event.tuple.source)
        },
        local_port: (event.local_port != 0).then_some(event.local_port),
        peer_address: has_peer.then(|| address(event.tuple.destination)),
        peer_port: has_peer.then_some(event.tuple.destination_port),
        netns: event.tuple.netns,
        netns_name: None,
        pid: known.then_some(event.pid),
        comm: known.then(|| text(called.name)),
        comm_source: called.of.word().filter(|_| known),
        thread: (known && called.thread != [0; 16]).then(|| text(called.thread)),
        cgroup: name.map(|name| &*name.path),
        container: name.and_then(|name| name.container.as_deref()),
        unit: name.and_then(|name| name.unit.as_deref()),
        cookie: (event.cookie != 0).then_some(event.cookie),
        by: PortBy::from_wire(event.detail)
            .filter(|_| kind == Kind::PortAllocated)
            .map(PortBy::name),
        search: duration.filter(|_| kind == Kind::PortAllocated),
        held: duration.filter(|_| kind == Kind::PortReleased),
        time_wait: (kind == Kind::PortReleased).then_some(event.flags & event_flag::TIME_WAIT != 0),
        error_type: failed.then(|| match (event.errno, cause) {
            (0, Some(Cause::Aborted | Cause::NoAnswer)) => "aborted",
            (0, _) => "_OTHER",
            (errno, _) => errno::error_type(errno),
        }),
        errno: (failed && event.errno != 0).then_some(event.errno),
        errno_name: (failed && event.errno != 0).then(|| errno::name(event.errno).into_owned()),
        cause: cause.filter(|_| failed).map(Cause::name),
        connect: duration
            .filter(|_| matches!(kind, Kind::ConnectEstablished | Kind::ConnectFailed)),
        ports_in_use: ports.then_some(event.in_use),
        ports_time_wait: ports.then_some(event.time_wait),
        capacity: context.capacity.filter(|_| exhausted),
        old_state: state(event.old_state),
        new_state: state(event.new_state),
    }
}
