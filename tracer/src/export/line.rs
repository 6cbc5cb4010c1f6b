//! Formats one line for one socket event, without serde: `tracer record` spends most of its time on this.
//!
//! The result is what `serde_json` would write (tests/line.rs compares them for any event), at a small
//! part of the cost (examples/line_cost.rs measures it).

use std::collections::BTreeMap;

use tracer_common::{Addr, Cause, Event, PortBy, event_flag};

use super::{
    lines::{Cursor, EIGHT, Lines, Word},
    namespaces::Namespaces,
    process::Processes,
};
use crate::{
    format::{errno, json::terminal_safe, tcp_state::state, timestamp::Timestamp},
    host::{cgroups::Name, holder::Holder, process::Called},
    ledger::decode::{DecodeError, Typed, typed},
};

/// The time in a line (when the event happened or the reading was taken; of other lines, when the line was made), and the line's
/// number.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moment {
    /// Number of the line in its stream, from 0.
    pub seq: u64,
    /// CLOCK_MONOTONIC, ns.
    pub mono_ns: u64,
    /// Wall clock minus CLOCK_MONOTONIC, ns.
    pub wall_offset_ns: u64,
}

/// What the line of an event needs in addition to the event.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context {
    /// Number of the line in its stream, from 0.
    pub seq: u64,
    /// Wall clock minus CLOCK_MONOTONIC, ns.
    pub wall_offset_ns: u64,
    /// Number of ports that the event's tuple can hold; `None`: the line does not have it. Only the line of a connect() that
    /// found no port can have it.
    pub capacity: Option<u32>,
    /// Who holds the port that a bind() wanted; `None`: unknown, or the event is no such bind().
    pub holder: Option<Holder>,
    /// The names of the calling process and thread; `None`: those in the event are used.
    pub called: Option<Called>,
}

/// Bytes that suffice for every line, without its parts of unbounded length (namespace, process, holder, members of a
/// rare line), whose lengths are added. A padded piece ([`Word`]) needs room for its padding, too.
const ROOM: usize = 1024;

/// Formats lines. Caches the text that the next line is likely to have again: date, process and namespace.
#[derive(Clone, Debug, Default)]
pub struct LineWriter {
    clock: Timestamp,
    processes: Processes,
    namespaces: Namespaces,
    /// A JSON object; empty: there are no fields.
    fields: Box<[u8]>,
    /// The keys of `fields`.
    keys: Vec<String>,
}

impl LineWriter {
    /// Sets the names of network namespaces, by inode number, for all later lines. Replaces all earlier names. Of two names for
    /// one number, the last counts.
    pub fn name_namespaces<'a>(&mut self, names: impl Iterator<Item = (u32, &'a str)>) {
        self.namespaces.name(names);
    }

    /// Sets members that every later line has at its end: keys and values of strings. A key that a line has by itself, too, would
    /// be there twice (not checked). If they cannot be formatted as JSON, which does not occur, lines have none.
    pub fn set_fields(&mut self, fields: &BTreeMap<String, String>) {
        let object =
            if fields.is_empty() { Vec::new() } else { terminal_safe(fields).unwrap_or_default() };
        self.fields = object.into_boxed_slice();
        self.keys = fields.keys().cloned().collect();
    }

    /// Whether [`Self::set_fields`] has set this key.
    pub fn has_field(&self, key: &str) -> bool {
        self.keys.iter().any(|one| one == key)
    }

    /// Appends the line of one event, with its newline. The time in the line is at most `u64::MAX` ns since 1970. `name` returns
    /// the name of the caller's cgroup (`None`: not known, and the line has no keys of it); it is called only if the caller's
    /// text is not cached.
    ///
    /// # Errors
    /// An event of an unknown kind or with an unknown detail (see [`typed`]); nothing is appended then.
    #[inline]
    pub fn event<'a>(
        &mut self,
        out: &mut Lines,
        event: &Event,
        context: &Context,
        name: impl FnOnce() -> Option<&'a Name>,
    ) -> Result<(), DecodeError> {
        let what = typed(event)?;
        let called = context.called.unwrap_or_else(|| Called::from(event));
        let process = self.processes.text(event, &called, name);
        let netns = self.namespaces.text(event.tuple.netns);
        // Formatting a holder as JSON cannot fail; if it did, the line would go without the holder.
        let holder = context.holder.and_then(|holder| holder.json().ok()).unwrap_or_default();
        let (clock, fields) = (&mut self.clock, &*self.fields);
        let unbounded = netns.len() + process.len() + holder.len() + fields.len();
        out.append(ROOM + unbounded, |pen| {
            envelope(pen, clock, context.seq, event.mono_ns, context.wall_offset_ns);
            pen.word(head(what, is_v4(event)));
            addresses(pen, event);
            pen.text(netns);
            pen.text(process);
            if event.cookie != 0 {
                pen.put(b",\"socket.cookie\":");
                pen.number(event.cookie);
            }
            detail(pen, what, event, context);
            members(pen, &holder);
            members(pen, fields);
            pen.put(b"}\n");
        });
        Ok(())
    }

    /// Appends a rare line, with its newline: the envelope, whose `event.name` is `name` (which must need no escape; not
    /// checked), then the members of `record`, which is a JSON object (any other text counts as an empty one).
    pub(super) fn object(&mut self, out: &mut Lines, moment: Moment, name: &str, record: &[u8]) {
        out.append(ROOM + name.len() + record.len() + self.fields.len(), |pen| {
            envelope(pen, &mut self.clock, moment.seq, moment.mono_ns, moment.wall_offset_ns);
            pen.put(b",\"event.name\":\"");
            pen.text(name.as_bytes());
            pen.put(b"\"");
            members(pen, record);
            members(pen, &self.fields);
            pen.put(b"}\n");
        });
    }
}

/// Writes the members of a JSON object (`{...}`), with a comma before them; nothing for an empty object or any other text.
fn members(pen: &mut Cursor<'_>, object: &[u8]) {
    if let [b'{', members @ .., b'}'] = object
        && !members.is_empty()
    {
        pen.put(b",");
        pen.text(members);
    }
}

/// Writes what every line starts with. The sum of the clocks saturates at `u64::MAX` ns (the year 2554),
/// so that no reading of a clock can make it panic.
#[inline]
fn envelope(
    pen: &mut Cursor<'_>,
    clock: &mut Timestamp,
    seq: u64,
    mono_ns: u64,
    wall_offset_ns: u64,
) {
    const SECOND: u64 = 1_000_000_000;
    pen.put(b"{\"v\":1,\"seq\":");
    pen.number(seq);
    pen.put(b",\"ts\":\"");
    let ns = mono_ns.saturating_add(wall_offset_ns);
    pen.put(clock.date(ns / SECOND));
    let fraction = ns % SECOND;
    pen.put(&[b'0' + (fraction / EIGHT) as u8]);
    pen.eight(fraction);
    pen.put(b"Z\",\"mono_ns\":");
    pen.number(mono_ns);
}

/// The constant text between the envelope and the local address.
const fn head(what: Typed, v4: bool) -> &'static Word<128> {
    macro_rules! head {
        ($name:literal) => {
            if v4 { head!($name, "ipv4") } else { head!($name, "ipv6") }
        };
        ($name:literal, $family:literal) => {
            const {
                &Word::new(concat!(
                    ",\"event.name\":\"",
                    $name,
                    "\",\"network.transport\":\"tcp\",\"network.type\":\"",
                    $family,
                    "\",\"network.local.address\":\""
                ))
            }
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

/// Whether the line has a peer. The event of a bind() has destination port 0. So has that of a connect() to port 0, which
/// always fails, because nobody can listen on it: its line has no peer either.
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

/// Writes both addresses and ports and the namespace's number. [`head`] has opened the local address's string.
#[inline]
fn addresses(pen: &mut Cursor<'_>, event: &Event) {
    let tuple = &event.tuple;
    address(pen, local(event));
    if event.local_port == 0 {
        pen.put(b"\"");
    } else {
        pen.put(b"\",\"network.local.port\":");
        pen.number(event.local_port);
    }
    if has_peer(event) {
        pen.put(b",\"network.peer.address\":\"");
        address(pen, tuple.destination);
        pen.put(b"\",\"network.peer.port\":");
        pen.number(tuple.destination_port);
    }
    pen.put(b",\"netns\":");
    pen.number(tuple.netns);
}

/// The local address; if none was chosen yet, the unspecified address of the peer's family.
#[inline]
fn local(event: &Event) -> Addr {
    let source = event.tuple.source;
    if source == Addr::UNSPECIFIED && is_v4(event) { Addr::v4([0; 4]) } else { source }
}

#[inline]
fn address(pen: &mut Cursor<'_>, address: Addr) {
    match address.to_v4() {
        Some(octets) => pen.ipv4(octets),
        None => pen.ipv6(address.0),
    }
}

/// Writes the keys that only this kind of event has, each with a comma before it.
#[inline]
fn detail(pen: &mut Cursor<'_>, what: Typed, event: &Event, context: &Context) {
    match what {
        Typed::PortAllocated(by) => {
            pen.word(port_by(by));
            duration(pen, b",\"search.duration_ns\":", event);
        }
        Typed::PortReleased => {
            duration(pen, b",\"port.held_ns\":", event);
            if event.flags & event_flag::TIME_WAIT == 0 {
                pen.put(b",\"port.time_wait\":false");
            } else {
                pen.put(b",\"port.time_wait\":true");
            }
        }
        Typed::ConnectEstablished => duration(pen, b",\"connect.duration_ns\":", event),
        Typed::ConnectFailed(cause) => {
            failure(pen, cause, event.errno);
            duration(pen, b",\"connect.duration_ns\":", event);
            if cause == Cause::PortsExhausted {
                ports(pen, event, context.capacity);
            }
        }
        Typed::BindFailed(cause) => failure(pen, cause, event.errno),
        Typed::TcpState => {
            pen.put(b",\"tcp.state.old\":\"");
            pen.word(state_word(event.old_state));
            pen.put(b"\",\"tcp.state.new\":\"");
            pen.word(state_word(event.new_state));
            pen.put(b"\"");
        }
    }
}

#[inline]
const fn port_by(by: PortBy) -> &'static Word<24> {
    match by {
        PortBy::Connect => const { &Word::new(",\"port.by\":\"connect\"") },
        PortBy::Bind => const { &Word::new(",\"port.by\":\"bind\"") },
        PortBy::Listen => const { &Word::new(",\"port.by\":\"listen\"") },
        PortBy::Spread => const { &Word::new(",\"port.by\":\"spread\"") },
    }
}

/// Writes `key` and the event's duration in ns; nothing if the event has no duration.
#[inline]
fn duration<const N: usize>(pen: &mut Cursor<'_>, key: &[u8; N], event: &Event) {
    if event.flags & event_flag::DURATION != 0 {
        pen.put(key);
        pen.number(event.duration_ns);
    }
}

/// Writes the error and its cause. `errno` 0 means that the kernel reported no error: the application gave up (`aborted`), or
/// the error is unknown (`_OTHER`).
fn failure(pen: &mut Cursor<'_>, cause: Cause, errno: u16) {
    let error_type = match (errno, cause) {
        (0, Cause::Aborted | Cause::NoAnswer) => "aborted",
        (0, _) => errno::OTHER,
        _ => errno::error_type(errno),
    };
    pen.put(b",\"error.type\":\"");
    pen.text(error_type.as_bytes());
    if errno != 0 {
        pen.put(b"\",\"errno\":");
        pen.number(errno);
        pen.put(b",\"errno.name\":\"");
        pen.text(errno::name(errno).as_bytes());
    }
    pen.put(b"\",\"cause\":\"");
    pen.text(cause.name().as_bytes());
    pen.put(b"\"");
}

/// Writes how many ports the tuple has in use and in TIME_WAIT, if the event has that, and its capacity, if it is known.
fn ports(pen: &mut Cursor<'_>, event: &Event, capacity: Option<u32>) {
    if event.flags & event_flag::PORTS != 0 {
        pen.put(b",\"ports.in_use\":");
        pen.number(event.in_use);
        pen.put(b",\"ports.time_wait\":");
        pen.number(event.time_wait);
    }
    if let Some(capacity) = capacity {
        pen.put(b",\"ports.capacity\":");
        pen.number(capacity);
    }
}

/// The name that [`state`] returns, as a [`Word`].
#[inline]
fn state_word(number: u8) -> &'static Word<16> {
    static STATES: [Word<16>; 15] = {
        let mut words = [Word::new(""); 15];
        let mut number = 0_u8;
        while (number as usize) < words.len() {
            words[number as usize] = Word::new(state(number));
            number += 1;
        }
        words
    };
    // The last entry stands for every number that is no TCP state.
    &STATES[usize::from(number).min(STATES.len() - 1)]
}
