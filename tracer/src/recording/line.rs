//! Parses the kinds of lines that a command uses ([`super::reader::Entry`]), one type for each. Unknown keys are ignored.

use std::{borrow::Cow, net::IpAddr};

use serde::Deserialize;
use tracer_common::{Addr, Cause, Ends, PortState, States, TupleCount, TupleKey};

mod address;
mod settings;
mod start;
#[cfg(test)]
mod tests;
mod totals;

pub use settings::Settings;
pub use start::{Degraded, Start};
pub use totals::Totals;

use super::value::{Counts, Histogram, Lifetimes, WaitEnds, addr, comm};
use crate::{
    host::{
        capacity::Limits,
        holder::{self, Holder},
        process::{Called, NameOf},
    },
    ledger::stats::P99,
    view::{
        forecast::TIME_WAIT_S,
        reading::{self, Call},
    },
};

/// A line `tuple.stats` or `address.stats`.
#[derive(Debug)]
pub struct Tuple<'a> {
    /// [`TupleKey::of_bind`] for a line `address.stats`.
    pub key: TupleKey,
    /// The counters. Those that the line lacks are derived from the ports in use and in TIME_WAIT, or else 0.
    pub count: TupleCount,
    /// Whether `count` says in which states the ports are: the line has all four of `ports.unanswered`, `ports.established`,
    /// `ports.close_wait` and `ports.closing`. Lines `address.stats`, and lines of older versions, do not have them.
    pub has_states: bool,
    /// Whether `count` says how connections ended, and how often SYNs were sent again: the line has `syns.sent_again`. Lines
    /// `address.stats`, and lines of older versions, do not have it.
    pub has_uses: bool,
    /// Number of ports that the tuple can hold; `None`: the line does not say it.
    pub capacity: Option<u32>,
    /// The port range, and how many of its ports are reserved and bound; `None`: the line has no valid range.
    pub limits: Option<Limits>,
    /// TIME_WAITs that connect() can take over; `None`: connect() takes over none, or the line does not say it.
    pub reusable: Option<u64>,
    /// How many TIME_WAITs that are older than the recording end in each second after the reading; `None`: the line does not
    /// say it (only the first line of a tuple does).
    pub ends: Option<[u16; TIME_WAIT_S]>,
    /// The p99 of the duration of port searches, if the line has it, but no histogram from which it can be computed; else `None`.
    pub search_p99: Option<P99>,
    /// The p99 of the duration of port searches, also if `count` has the histogram; `None`: the line has none.
    pub line_p99: Option<P99>,
    /// Names of the process and of the thread that connected last; all zero: not known.
    pub called: Called,
    /// Path of the cgroup of that process; empty: not known.
    pub cgroup: Cow<'a, str>,
    /// The container of that cgroup, or else its systemd unit; empty: neither, or not known.
    pub container: Cow<'a, str>,
    /// Name of the tuple's network namespace in /run/netns; empty: it has none, or it is not known.
    pub netns_name: Cow<'a, str>,
}

/// A line `connect.failed` or `bind.failed`.
#[derive(Debug)]
pub struct Failure<'a> {
    /// The failure; its `container` is always `None`, the next field has it.
    pub what: reading::Failure,
    /// The caller's container, or else its systemd unit; empty: neither, or not known.
    pub container: Cow<'a, str>,
    /// Name of the network namespace in /run/netns; empty: it has none, or it is not known.
    pub netns_name: Cow<'a, str>,
    /// How many ports the tuple held when the call failed; `None`: the line does not say it.
    pub in_use: Option<u64>,
    /// How many of these were in TIME_WAIT; `None`: the line does not say it.
    pub time_wait: Option<u64>,
    /// How many ports the tuple can hold; `None`: the line does not say it.
    pub capacity: Option<u32>,
}

#[derive(Deserialize)]
struct TupleLine<'a> {
    #[serde(rename = "network.local.address")]
    local: IpAddr,
    #[serde(rename = "network.peer.address")]
    peer: IpAddr,
    #[serde(rename = "network.peer.port")]
    port: u16,
    netns: u32,
    #[serde(rename = "ports.in_use")]
    in_use: u64,
    #[serde(rename = "ports.time_wait")]
    time_wait: u64,
    #[serde(rename = "ports.unanswered")]
    unanswered: Option<u64>,
    #[serde(rename = "ports.established")]
    established: Option<u64>,
    #[serde(rename = "ports.close_wait")]
    close_wait: Option<u64>,
    #[serde(rename = "ports.closing")]
    closing: Option<u64>,
    #[serde(rename = "ports.capacity")]
    capacity: Option<u32>,
    #[serde(rename = "ports.range", borrow, default)]
    range: Cow<'a, str>,
    #[serde(rename = "ports.reserved", default)]
    reserved: u32,
    #[serde(rename = "ports.bound", default)]
    bound: u32,
    #[serde(rename = "ports.reusable")]
    reusable: Option<u64>,
    #[serde(rename = "ports.time_wait_ends")]
    ends: Option<WaitEnds>,
    #[serde(rename = "search.p99_ns")]
    search_p99_ns: Option<u64>,
    #[serde(rename = "search.p99_at_least", default)]
    search_p99_at_least: bool,
    #[serde(rename = "ports.opened")]
    opened: Option<u64>,
    #[serde(rename = "ports.released")]
    released: Option<u64>,
    #[serde(rename = "ports.time_wait_begun")]
    time_wait_begun: Option<u64>,
    #[serde(rename = "connect.failures", default)]
    failures: Counts,
    #[serde(rename = "connections.closed_here", default)]
    closed_here: u64,
    #[serde(rename = "connections.closed_by_peer", default)]
    closed_by_peer: u64,
    #[serde(rename = "connections.aborted", default)]
    aborted: u64,
    #[serde(rename = "connections.segments", default)]
    segments: u64,
    #[serde(rename = "connections.lifetimes")]
    lifetimes: Option<Lifetimes>,
    #[serde(rename = "syns.sent_again")]
    syns_again: Option<u64>,
    #[serde(default)]
    errno: u32,
    #[serde(rename = "process.pid", default)]
    pid: u32,
    #[serde(rename = "process.executable.name", borrow, default)]
    comm: Cow<'a, str>,
    #[serde(rename = "process.executable.name.source", borrow, default)]
    comm_source: Cow<'a, str>,
    #[serde(rename = "thread.name", borrow, default)]
    thread: Cow<'a, str>,
    #[serde(rename = "process.linux.cgroup", borrow, default)]
    cgroup: Cow<'a, str>,
    #[serde(rename = "container.id", borrow, default)]
    container: Cow<'a, str>,
    #[serde(rename = "systemd.unit", borrow, default)]
    unit: Cow<'a, str>,
    #[serde(rename = "netns.name", borrow, default)]
    netns_name: Cow<'a, str>,
    #[serde(rename = "search.histogram")]
    search: Option<Histogram>,
}

impl TupleLine<'_> {
    /// The ports by state, packed as in the ledger; `None`: the line lacks one of the four counts.
    fn states(&self) -> Option<States> {
        let all = [
            (PortState::Unanswered, self.unanswered?),
            (PortState::Established, self.established?),
            (PortState::CloseWait, self.close_wait?),
            (PortState::Closing, self.closing?),
        ];
        // Each state has 16 bits: a count above 65,535 would change those of other states, so it is cut.
        let add = |sum: u64, (state, ports): (PortState, u64)| {
            let one = States::one(state.flags());
            sum.wrapping_add(one.wrapping_mul(ports.min(u16::MAX.into())))
        };
        Some(States(all.into_iter().fold(0, add)))
    }
}

impl<'a> Tuple<'a> {
    /// Parses a line `tuple.stats` (its `event.name` is not checked). A count of ports in a state that is above 65,535 is cut to
    /// that; failures of an unknown cause count as [`Cause::Other`].
    ///
    /// # Errors
    /// It is no JSON object; it lacks `network.local.address`, `network.peer.address`, `network.peer.port`, `netns`,
    /// `ports.in_use` or `ports.time_wait`; a value has another type than the format's; or a list has more counts than the format
    /// allows.
    pub(super) fn of(line: &'a [u8]) -> serde_json::Result<Self> {
        let line: TupleLine<'_> = serde_json::from_slice(line)?;
        // A line without counters has only the ports in use: they are taken as opened.
        let opened = line.opened.unwrap_or(line.in_use);
        let time_wait_begun = line.time_wait_begun.unwrap_or(line.time_wait);
        let at_least = line.search_p99_at_least;
        let line_p99 = line.search_p99_ns.map(|ns| P99 { ns, at_least });
        let states = line.states();
        Ok(Self {
            key: TupleKey {
                source: addr(line.local),
                destination: addr(line.peer),
                netns: line.netns,
                destination_port: line.port,
                zero: 0,
            },
            count: TupleCount {
                opened,
                released: line.released.unwrap_or(opened.saturating_sub(line.in_use)),
                time_wait_begun,
                time_wait_ended: time_wait_begun.saturating_sub(line.time_wait),
                failed: line.failures.0,
                states: states.unwrap_or_default().0,
                last_errno: line.errno,
                pid: line.pid,
                search: line.search.map_or_else(Default::default, |search| search.0),
                ends: Ends {
                    closed_here: line.closed_here,
                    closed_by_peer: line.closed_by_peer,
                    aborted: line.aborted,
                    segments: line.segments,
                    lifetimes: line.lifetimes.map_or_else(Default::default, |it| it.0),
                },
                syns_again: line.syns_again.map_or(0, |it| u32::try_from(it).unwrap_or(u32::MAX)),
                ..TupleCount::default()
            },
            has_states: states.is_some(),
            has_uses: line.syns_again.is_some(),
            capacity: line.capacity,
            limits: limits(&line.range, line.reserved, line.bound),
            reusable: line.reusable,
            ends: line.ends.map(|ends| ends.0),
            search_p99: line_p99.filter(|_| line.search.is_none()),
            line_p99,
            called: called(&line.comm, &line.comm_source, &line.thread),
            cgroup: line.cgroup,
            container: container_or_unit(line.container, line.unit),
            netns_name: line.netns_name,
        })
    }
}

/// The container's id, or if there is none, the systemd unit; empty if there is neither.
fn container_or_unit<'a>(container: Cow<'a, str>, unit: Cow<'a, str>) -> Cow<'a, str> {
    if container.is_empty() { unit } else { container }
}

/// The names of the calling process and thread, from the values of a line. `source`: whose name `name` is, as a line's
/// `process.executable.name.source` says it.
fn called(name: &str, source: &str, thread: &str) -> Called {
    Called { name: comm(name), of: NameOf::of_word(source), thread: comm(thread) }
}

/// The first and last port of `32768-60999`; `None`: the text is not such a range. The first can be above the last.
fn range(text: &str) -> Option<(u16, u16)> {
    let (low, high) = text.split_once('-')?;
    Some((low.parse().ok()?, high.parse().ok()?))
}

fn limits(text: &str, reserved: u32, bound: u32) -> Option<Limits> {
    let (low, high) = range(text)?;
    Some(Limits { low, high, reserved, bound })
}

#[derive(Deserialize)]
struct FailureLine<'a> {
    #[serde(rename = "network.local.address")]
    local: IpAddr,
    #[serde(rename = "network.local.port", default)]
    local_port: u16,
    #[serde(rename = "network.peer.address")]
    peer: Option<IpAddr>,
    #[serde(rename = "network.peer.port", default)]
    port: u16,
    netns: u32,
    cause: &'a str,
    #[serde(default)]
    errno: u16,
    #[serde(rename = "process.pid", default)]
    pid: u32,
    #[serde(rename = "process.executable.name", borrow, default)]
    comm: Cow<'a, str>,
    #[serde(rename = "process.executable.name.source", borrow, default)]
    comm_source: Cow<'a, str>,
    #[serde(rename = "container.id", borrow, default)]
    container: Cow<'a, str>,
    #[serde(rename = "systemd.unit", borrow, default)]
    unit: Cow<'a, str>,
    #[serde(rename = "netns.name", borrow, default)]
    netns_name: Cow<'a, str>,
    #[serde(rename = "ports.in_use")]
    in_use: Option<u64>,
    #[serde(rename = "ports.time_wait")]
    time_wait: Option<u64>,
    #[serde(rename = "ports.capacity")]
    capacity: Option<u32>,
    #[serde(rename = "port.holder.state", borrow)]
    holder_state: Option<Cow<'a, str>>,
    #[serde(rename = "port.holder.pid", default)]
    holder_pid: u32,
    #[serde(rename = "port.holder.name", borrow, default)]
    holder_name: Cow<'a, str>,
    #[serde(rename = "port.holder.peer.address")]
    holder_peer: Option<IpAddr>,
    #[serde(rename = "port.holder.peer.port", default)]
    holder_peer_port: u16,
}

impl<'a> Failure<'a> {
    /// Parses a line `connect.failed` or `bind.failed`; `call`: of which call (not checked). `wall_ns`: the line's time, ns since
    /// 1970. A local or peer port, errno or process id that the line lacks is 0, a peer [`Addr::UNSPECIFIED`]; an unknown cause
    /// is [`Cause::Other`].
    ///
    /// # Errors
    /// It is no JSON object; it lacks `network.local.address`, `netns` or `cause`; or a value has another type than the format's.
    pub(super) fn of(line: &'a [u8], call: Call, wall_ns: u64) -> serde_json::Result<Self> {
        let line: FailureLine<'_> = serde_json::from_slice(line)?;
        let what = reading::Failure {
            count: 1,
            wall_ns,
            call,
            key: TupleKey {
                source: addr(line.local),
                destination: line.peer.map_or(Addr::UNSPECIFIED, addr),
                netns: line.netns,
                destination_port: line.port,
                zero: 0,
            },
            local_port: line.local_port,
            cause: super::value::cause(line.cause).unwrap_or(Cause::Other),
            errno: line.errno,
            pid: line.pid,
            comm: called(&line.comm, &line.comm_source, "").shown(),
            container: None,
            holder: line.holder_state.as_deref().map(|state| Holder {
                pid: line.holder_pid,
                comm: comm(&line.holder_name),
                state: holder::number(state),
                peer: line.holder_peer.map_or(Addr::UNSPECIFIED, addr),
                peer_port: line.holder_peer_port,
            }),
        };
        let FailureLine { container, unit, netns_name, in_use, time_wait, capacity, .. } = line;
        let container = container_or_unit(container, unit);
        Ok(Self { what, container, netns_name, in_use, time_wait, capacity })
    }
}

/// A line `lost`.
#[derive(Debug, Deserialize)]
pub struct Lost<'a> {
    /// Name of the loss (`tracer/doc/losses.md`).
    #[serde(rename = "lost.reason", borrow)]
    pub reason: Cow<'a, str>,
    /// How many were lost for this reason since the line before with the same reason.
    #[serde(rename = "lost.count")]
    pub count: u64,
}
