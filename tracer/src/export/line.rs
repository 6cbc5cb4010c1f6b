//! One line for one socket event, written by hand: this is most of what the program does.
//!
//! A line is put together in a buffer that is kept, and handed over in one piece. It says the same
//! as `serde_json` would (tests/line.rs compares them for any event), at a third of the cost
//! (examples/line_cost.rs measures it).

use bytes::BytesMut;
use tracer_common::{Addr, Cause, Event, event_flag};

use super::{errno, json, process::Processes, timestamp::Timestamp};
use crate::decode::{DecodeError, Typed, typed};

/// What a line says beside its event.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context<'a> {
    /// Number of the line in its stream.
    pub seq: u64,
    /// Wall clock minus CLOCK_MONOTONIC, ns.
    pub wall_offset_ns: u64,
    /// Path of the caller's cgroup below the cgroup2 mount.
    pub cgroup: Option<&'a str>,
    pub container: Option<&'a str>,
    /// Ports that this tuple can hold.
    pub capacity: Option<u32>,
}

/// Writes lines; keeps what makes the next one cheap.
#[derive(Clone, Debug, Default)]
pub struct LineWriter {
    clock: Timestamp,
    processes: Processes,
    line: Vec<u8>,
}

impl LineWriter {
    /// Appends the line of one event, with its newline.
    ///
    /// # Errors
    /// An event that [`typed`] does not know; nothing is appended then.
    pub fn event(
        &mut self,
        out: &mut BytesMut,
        event: &Event,
        context: &Context<'_>,
    ) -> Result<(), DecodeError> {
        let what = typed(event)?;
        let head = head(what, is_v4(event));
        self.envelope(context.seq, event.mono_ns, context.wall_offset_ns, head);
        let line = &mut self.line;
        addresses(line, event);
        line.extend_from_slice(self.processes.text(event, context));
        if event.cookie != 0 {
            line.extend_from_slice(b",\"socket.cookie\":");
            json::number(line, event.cookie);
        }
        detail(line, what, event, context);
        line.extend_from_slice(b"}\n");
        out.extend_from_slice(line);
        Ok(())
    }

    /// Appends a rare line: the envelope, then the members of `record`, which is a JSON object.
    pub(super) fn object(
        &mut self,
        out: &mut BytesMut,
        moment: super::record::Moment,
        name: &str,
        record: &[u8],
    ) {
        self.envelope(moment.seq, moment.mono_ns, moment.wall_offset_ns, name);
        self.line.push(b'"');
        if let [b'{', members @ .., b'}'] = record
            && !members.is_empty()
        {
            self.line.push(b',');
            self.line.extend_from_slice(members);
        }
        self.line.extend_from_slice(b"}\n");
        out.extend_from_slice(&self.line);
    }

    /// Starts a line, up to and with `name`, whose quote is left open. The timestamp stays within the u64 (the year 2554), whatever a clock says.
    #[inline]
    fn envelope(&mut self, seq: u64, mono_ns: u64, wall_offset_ns: u64, name: &str) {
        let line = &mut self.line;
        line.clear();
        line.reserve(768);
        line.extend_from_slice(b"{\"v\":1,\"seq\":");
        json::number(line, seq);
        line.extend_from_slice(b",\"ts\":\"");
        line.extend_from_slice(self.clock.text(mono_ns.saturating_add(wall_offset_ns)));
        line.extend_from_slice(b"\",\"mono_ns\":");
        json::number(line, mono_ns);
        line.extend_from_slice(b",\"event.name\":\"");
        line.extend_from_slice(name.as_bytes());
    }
}

/// From the event's name to the local address: what is the same in all such lines.
const fn head(what: Typed, v4: bool) -> &'static str {
    macro_rules! head {
        ($name:literal) => {
            if v4 { head!($name, "ipv4") } else { head!($name, "ipv6") }
        };
        ($name:literal, $family:literal) => {
            concat!(
                $name,
                "\",\"network.transport\":\"tcp\",\"network.type\":\"",
                $family,
                "\",\"network.local.address\":\""
            )
        };
    }
    match what {
        Typed::PortAllocated(_) => head!("port.allocated"),
        Typed::PortReleased => head!("port.released"),
        Typed::ConnectEstablished => head!("connect.established"),
        Typed::ConnectFailed(_) => head!("connect.failed"),
        Typed::BindFailed(_) => head!("bind.failed"),
        Typed::TcpState => head!("tcp.state"),
    }
}

/// A bind() has no peer, which shows in the port: no connect() gets anywhere on port 0.
#[inline]
const fn has_peer(event: &Event) -> bool {
    event.tuple.destination_port != 0
}

#[inline]
const fn is_v4(event: &Event) -> bool {
    let tuple = &event.tuple;
    let decides = if has_peer(event) { tuple.destination } else { tuple.source };
    decides.to_v4().is_some()
}

/// Both ends, from within the string of the local address on.
#[inline]
fn addresses(line: &mut Vec<u8>, event: &Event) {
    let tuple = &event.tuple;
    address(line, local(event));
    if event.local_port == 0 {
        line.push(b'"');
    } else {
        line.extend_from_slice(b"\",\"network.local.port\":");
        json::number(line, event.local_port);
    }
    if has_peer(event) {
        line.extend_from_slice(b",\"network.peer.address\":\"");
        address(line, tuple.destination);
        line.extend_from_slice(b"\",\"network.peer.port\":");
        json::number(line, tuple.destination_port);
    }
    line.extend_from_slice(b",\"netns\":");
    json::number(line, tuple.netns);
}

/// The local address, in the peer's family where none was chosen yet.
#[inline]
fn local(event: &Event) -> Addr {
    let source = event.tuple.source;
    if source == Addr::UNSPECIFIED && is_v4(event) { Addr::v4([0; 4]) } else { source }
}

#[inline]
fn address(line: &mut Vec<u8>, address: Addr) {
    match address.to_v4() {
        Some(octets) => json::ipv4(line, octets),
        None => json::ipv6(line, address),
    }
}

/// What only this kind of event says.
#[inline]
fn detail(line: &mut Vec<u8>, what: Typed, event: &Event, context: &Context<'_>) {
    match what {
        Typed::PortAllocated(by) => {
            line.extend_from_slice(b",\"port.by\":\"");
            line.extend_from_slice(by.name().as_bytes());
            line.push(b'"');
            duration(line, b",\"search.duration_ns\":", event);
        }
        Typed::PortReleased => {
            duration(line, b",\"port.held_ns\":", event);
            line.extend_from_slice(if event.flags & event_flag::TIME_WAIT == 0 {
                b",\"port.time_wait\":false"
            } else {
                b",\"port.time_wait\":true"
            });
        }
        Typed::ConnectEstablished => duration(line, b",\"connect.duration_ns\":", event),
        Typed::ConnectFailed(cause) => {
            failure(line, cause, event.errno);
            duration(line, b",\"connect.duration_ns\":", event);
            if cause == Cause::PortsExhausted {
                ports(line, event, context.capacity);
            }
        }
        Typed::BindFailed(cause) => failure(line, cause, event.errno),
        Typed::TcpState => {
            line.extend_from_slice(b",\"tcp.state.old\":\"");
            line.extend_from_slice(state(event.old_state).as_bytes());
            line.extend_from_slice(b"\",\"tcp.state.new\":\"");
            line.extend_from_slice(state(event.new_state).as_bytes());
            line.push(b'"');
        }
    }
}

#[inline]
fn duration(line: &mut Vec<u8>, key: &[u8], event: &Event) {
    if event.flags & event_flag::DURATION != 0 {
        line.extend_from_slice(key);
        json::number(line, event.duration_ns);
    }
}

/// Where the kernel reported no error number, the application gave up, or it cannot be known.
fn failure(line: &mut Vec<u8>, cause: Cause, errno: u16) {
    let error_type = match (errno, cause) {
        (0, Cause::Aborted) => "aborted",
        (0, _) => errno::OTHER,
        _ => errno::error_type(errno),
    };
    line.extend_from_slice(b",\"error.type\":\"");
    line.extend_from_slice(error_type.as_bytes());
    if errno != 0 {
        line.extend_from_slice(b"\",\"errno\":");
        json::number(line, errno);
        line.extend_from_slice(b",\"errno.name\":\"");
        line.extend_from_slice(errno::name(errno).as_bytes());
    }
    line.extend_from_slice(b"\",\"cause\":\"");
    line.extend_from_slice(cause.name().as_bytes());
    line.push(b'"');
}

fn ports(line: &mut Vec<u8>, event: &Event, capacity: Option<u32>) {
    if event.flags & event_flag::PORTS != 0 {
        line.extend_from_slice(b",\"ports.in_use\":");
        json::number(line, event.in_use);
        line.extend_from_slice(b",\"ports.time_wait\":");
        json::number(line, event.time_wait);
    }
    if let Some(capacity) = capacity {
        line.extend_from_slice(b",\"ports.capacity\":");
        json::number(line, capacity);
    }
}

/// OpenTelemetry's word (`network.connection.state`) for a state of include/net/tcp_states.h.
pub const fn state(number: u8) -> &'static str {
    match number {
        1 => "established",
        2 => "syn_sent",
        // TCP_NEW_SYN_RECV is the same state of a socket that is not a full one yet.
        3 | 12 => "syn_received",
        4 => "fin_wait_1",
        5 => "fin_wait_2",
        6 => "time_wait",
        7 => "closed",
        8 => "close_wait",
        9 => "last_ack",
        10 => "listen",
        11 => "closing",
        13 => "bound_inactive",
        _ => "unknown",
    }
}
