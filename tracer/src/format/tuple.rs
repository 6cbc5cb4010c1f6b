//! Has the keys of a tuple, and of an address: in the stream of `tracer record`, and in the tables that `tracer tuples`,
//! `tracer top` and `tracer replay` print with `-o json`; most keys of a tuple are columns of `-o csv`, too.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use serde::Serialize;
use tracer_common::{Addr, TupleCount};

use crate::{
    format::text::until_nul,
    host::cgroups::{Name, is_unit},
    ledger::stats::Row,
};

/// A tuple: the keys of `tuple.stats`, and of an entry of `tuples` in the tables of `-o json`. Absent: not known, unless a key
/// says otherwise. Counters that say no period count since the tuple was added to the ledger. `ports.saturation` is rounded to
/// six decimals, rates to three.
#[derive(Clone, Debug, Serialize)]
pub struct Tuple<'a> {
    #[serde(rename = "network.transport")]
    transport: &'static str,
    #[serde(rename = "network.type")]
    family: &'static str,
    /// Source address; `0.0.0.0` or `::`: none was chosen, or the row stands for several.
    #[serde(rename = "network.local.address")]
    pub local_address: String,
    /// Destination address; `::`: the row stands for several.
    #[serde(rename = "network.peer.address")]
    pub peer_address: String,
    /// Port of the destination, host byte order; 0: the row stands for several destinations.
    #[serde(rename = "network.peer.port")]
    pub peer_port: u16,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Its name in /run/netns; absent: it has none, or that is not known.
    #[serde(rename = "netns.name", skip_serializing_if = "Option::is_none")]
    pub netns_name: Option<String>,
    /// Ports in use, TIME_WAIT included.
    #[serde(rename = "ports.in_use")]
    pub in_use: u64,
    /// Of these: ports in TIME_WAIT.
    #[serde(rename = "ports.time_wait")]
    pub time_wait: u64,
    /// TIME_WAITs whose ports connect() can take over now; absent: it never can, or that is not known.
    #[serde(rename = "ports.reusable", skip_serializing_if = "Option::is_none")]
    pub reusable: Option<u64>,
    /// Ports in SYN_SENT; absent: not known.
    #[serde(rename = "ports.connecting", skip_serializing_if = "Option::is_none")]
    pub connecting: Option<u64>,
    /// Ports of `ports.connecting` whose SYN was sent again; absent: not known.
    #[serde(rename = "ports.unanswered", skip_serializing_if = "Option::is_none")]
    pub unanswered: Option<u64>,
    /// Ports in ESTABLISHED; absent: not known.
    #[serde(rename = "ports.established", skip_serializing_if = "Option::is_none")]
    pub established: Option<u64>,
    /// Ports in CLOSE_WAIT; absent: not known.
    #[serde(rename = "ports.close_wait", skip_serializing_if = "Option::is_none")]
    pub close_wait: Option<u64>,
    /// Ports in FIN_WAIT1, FIN_WAIT2, CLOSING or LAST_ACK; absent: not known.
    #[serde(rename = "ports.closing", skip_serializing_if = "Option::is_none")]
    pub closing: Option<u64>,
    /// Ports that the tuple can hold; absent: not known.
    #[serde(rename = "ports.capacity", skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u32>,
    /// Port range of the tuple's network namespace, both ends included: `32768-60999`; absent: not known.
    #[serde(rename = "ports.range", skip_serializing_if = "Option::is_none")]
    pub range: Option<String>,
    /// Ports of the range that are reserved; absent: not known.
    #[serde(rename = "ports.reserved", skip_serializing_if = "Option::is_none")]
    pub reserved: Option<u32>,
    /// Ports of the range that connect() is not given because of bind() or listen(); absent: not known.
    #[serde(rename = "ports.bound", skip_serializing_if = "Option::is_none")]
    pub bound: Option<u32>,
    /// `ports.in_use` / `ports.capacity`; 1 if the capacity is 0. Absent: not known.
    #[serde(rename = "ports.saturation", skip_serializing_if = "Option::is_none")]
    pub saturation: Option<f64>,
    /// Ports that were taken per second, since the reading before (in `tracer top`: over about the last second); absent: there
    /// was no reading before, or no time has passed.
    #[serde(rename = "rate.opened", skip_serializing_if = "Option::is_none")]
    pub rate_opened: Option<f64>,
    /// Calls that failed per second, since the reading before (in `tracer top`: over about the last second); absent: there was no
    /// reading before, or no time has passed.
    #[serde(rename = "rate.failed", skip_serializing_if = "Option::is_none")]
    pub rate_failed: Option<f64>,
    /// 99 of 100 port searches since the reading before took less, ns; if there were none since, of all, or in `tracer top` the
    /// value of the reading before; absent: none was measured.
    #[serde(rename = "search.p99_ns", skip_serializing_if = "Option::is_none")]
    pub search_p99_ns: Option<u64>,
    /// `search.p99_ns` is a lower limit, the longest time that is measured: more than one of 100 searches took that long or
    /// longer.
    #[serde(rename = "search.p99_at_least", skip_serializing_if = "std::ops::Not::not")]
    pub search_p99_at_least: bool,
    /// Seconds until no port is left, 0 if none is left, rounded to one decimal; absent: the tuple is not filling up, or that is
    /// not known.
    #[serde(rename = "eta_s", skip_serializing_if = "Option::is_none")]
    pub eta_s: Option<f64>,
    /// Ports that connect() took, those of sockets that are older than the tracer included.
    #[serde(rename = "ports.opened")]
    pub opened: u64,
    /// Of `ports.opened`: ports that were released again.
    #[serde(rename = "ports.released")]
    pub released: u64,
    /// Ports that entered TIME_WAIT; absent outside of recordings.
    #[serde(rename = "ports.time_wait_begun", skip_serializing_if = "Option::is_none")]
    pub time_wait_begun: Option<u64>,
    /// Only in the first line of a tuple, if it has TIME_WAITs that are older than the recording: how many end in
    /// each of the next 61 seconds (in the last one, also those that end later), without the zeros at the end.
    #[serde(rename = "ports.time_wait_ends", skip_serializing_if = "Vec::is_empty")]
    pub ends: Vec<u32>,
    /// Failed calls by the cause's name, without causes that did not occur.
    #[serde(rename = "connect.failures")]
    pub failures: BTreeMap<&'static str, u64>,
    /// Established connections that ended so far and that this host closed first. Absent, as the next four keys: none ended, or
    /// that is not known.
    #[serde(rename = "connections.closed_here", skip_serializing_if = "Option::is_none")]
    pub closed_here: Option<u64>,
    /// Established connections that ended so far and that the peer closed first.
    #[serde(rename = "connections.closed_by_peer", skip_serializing_if = "Option::is_none")]
    pub closed_by_peer: Option<u64>,
    /// Established connections that ended so far without a FIN: reset, or timed out.
    #[serde(rename = "connections.aborted", skip_serializing_if = "Option::is_none")]
    pub aborted: Option<u64>,
    /// Segments with data that these three kinds of connections sent, those sent again included.
    #[serde(rename = "connections.segments", skip_serializing_if = "Option::is_none")]
    pub segments: Option<u64>,
    /// Segments with data for each connection that ended since the reading before, rounded to two decimals; if none ended since,
    /// of all so far, or in `tracer top` the value of the reading before.
    #[serde(rename = "connections.requests", skip_serializing_if = "Option::is_none")]
    pub requests: Option<f64>,
    /// Connections that ended so far by how long they lasted (the index is a [`tracer_common::ends::lifetime_bucket`]), without
    /// those that are older than the tracer, and without the zeros at the end; absent: none, or outside of recordings.
    #[serde(rename = "connections.lifetimes", skip_serializing_if = "<[u32]>::is_empty")]
    pub lifetimes: &'a [u32],
    /// How often a SYN was sent again, so far; wraps at 2^32. Absent: not known.
    #[serde(rename = "syns.sent_again", skip_serializing_if = "Option::is_none")]
    pub syns_again: Option<u64>,
    /// connect() calls whose SYN had no answer, so far; absent: not known.
    #[serde(rename = "syns.unanswered", skip_serializing_if = "Option::is_none")]
    pub syns_unanswered: Option<u64>,
    /// errno of the newest failure; absent: no call failed, or the newest failure had no errno (the application gave up).
    #[serde(rename = "errno", skip_serializing_if = "Option::is_none")]
    pub errno: Option<u32>,
    /// Id of the process that connected last; absent: not known.
    #[serde(rename = "process.pid", skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Name of that process, or of a thread of it (see the next key); absent: not known.
    #[serde(rename = "process.executable.name", skip_serializing_if = "Option::is_none")]
    pub comm: Option<String>,
    /// Only if the process's name is not known, because its /proc could not be read: `thread` (the name is that of the thread
    /// that called) or `unknown` (it is that of the process or of one of its threads).
    #[serde(rename = "process.executable.name.source", skip_serializing_if = "Option::is_none")]
    pub comm_source: Option<&'static str>,
    /// Name of the thread that connected last; absent: not known.
    #[serde(rename = "thread.name", skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
    /// Path of that process's cgroup, from the root of the hierarchy; absent: not known, or outside of recordings.
    #[serde(rename = "process.linux.cgroup", skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<&'a str>,
    /// Id of that process's container; absent: it is in none, or that is not known.
    #[serde(rename = "container.id", skip_serializing_if = "Option::is_none")]
    pub container: Option<&'a str>,
    /// Systemd unit of the process; absent: the process is in a container or in no unit, or that is not known.
    #[serde(rename = "systemd.unit", skip_serializing_if = "Option::is_none")]
    pub unit: Option<&'a str>,
    /// How many port searches there were so far, by duration ([`tracer_common::tuple::search_bucket`]), without the
    /// zeros at the end.
    #[serde(rename = "search.histogram", skip_serializing_if = "<[u32]>::is_empty")]
    pub search: &'a [u32],
}

impl<'a> From<&'a Row> for Tuple<'a> {
    fn from(row: &'a Row) -> Self {
        let v4 = row.key.destination.to_v4().is_some();
        let text = |name: &[u8; 16]| String::from_utf8_lossy(until_nul(name)).into_owned();
        let (comm, thread) = (text(&row.called.name), text(&row.called.thread));
        let known = row.pid != 0;
        let closed = row.uses.map(|uses| uses.closed).filter(|closed| closed.all() > 0);
        let requests = row.uses.and_then(|uses| uses.recent.per_connection());
        Self {
            transport: "tcp",
            family: if v4 { "ipv4" } else { "ipv6" },
            local_address: match row.key.source {
                Addr::UNSPECIFIED if v4 => Ipv4Addr::UNSPECIFIED.to_string(),
                source => address(source),
            },
            peer_address: address(row.key.destination),
            peer_port: row.key.destination_port,
            netns: row.key.netns,
            netns_name: row.netns_name.as_deref().map(str::to_owned),
            in_use: row.in_use,
            time_wait: row.time_wait,
            reusable: row.reusable,
            connecting: row.states.map(|ports| ports.connecting),
            unanswered: row.states.map(|ports| ports.unanswered),
            established: row.states.map(|ports| ports.established),
            close_wait: row.states.map(|ports| ports.close_wait),
            closing: row.states.map(|ports| ports.closing),
            capacity: row.capacity,
            range: row.limits.map(|limits| limits.range()),
            reserved: row.limits.map(|limits| limits.reserved),
            bound: row.limits.map(|limits| limits.bound),
            saturation: row.saturation.map(|value| rounded(value, 1e6)),
            rate_opened: row.rates.map(|rates| rounded(rates.opened, 1e3)),
            rate_failed: row.rates.map(|rates| rounded(rates.failed, 1e3)),
            search_p99_ns: row.search_p99.map(|p99| p99.ns),
            search_p99_at_least: row.search_p99.is_some_and(|p99| p99.at_least),
            eta_s: row.eta_s.filter(|eta| eta.is_finite()).map(|eta| rounded(eta, 1e1)),
            opened: row.opened,
            released: row.released,
            time_wait_begun: None,
            ends: Vec::new(),
            failures: row.failures_by_cause().map(|(cause, count)| (cause.name(), count)).collect(),
            closed_here: closed.map(|closed| closed.here),
            closed_by_peer: closed.map(|closed| closed.by_peer),
            aborted: closed.map(|closed| closed.aborted),
            segments: closed.map(|closed| closed.segments),
            requests: requests.map(|requests| rounded(requests, 1e2)),
            lifetimes: &[],
            syns_again: row.uses.map(|uses| uses.syns_again),
            syns_unanswered: row.uses.map(|uses| uses.unanswered),
            errno: (row.last_errno != 0).then_some(row.last_errno),
            pid: known.then_some(row.pid),
            comm: (known || !comm.is_empty()).then_some(comm),
            comm_source: row.called.of.word(),
            thread: (!thread.is_empty()).then_some(thread),
            cgroup: None,
            container: row.container.as_deref().filter(|place| !is_unit(place)),
            unit: row.container.as_deref().filter(|place| is_unit(place)),
            search: &[],
        }
    }
}

/// Ports that bind(address, 0) uses at an address: the keys of `address.stats`, and of an entry of `addresses` in the tables of
/// `-o json`. Keys without a comment are as those of [`Tuple`]. Absent: not known.
#[derive(Clone, Debug, Serialize)]
pub struct AddressStats {
    #[serde(rename = "network.transport")]
    transport: &'static str,
    #[serde(rename = "network.type")]
    family: &'static str,
    #[serde(rename = "network.local.address")]
    address: String,
    netns: u32,
    #[serde(rename = "netns.name", skip_serializing_if = "Option::is_none")]
    netns_name: Option<String>,
    /// Ports of the range, without reserved ones, that bind(address, 0) cannot be given at this address.
    #[serde(rename = "ports.in_use")]
    in_use: u64,
    /// Ports that bind(address, 0) could be given at an address without bound ports; absent: not known.
    #[serde(rename = "ports.capacity", skip_serializing_if = "Option::is_none")]
    capacity: Option<u32>,
    #[serde(rename = "ports.range", skip_serializing_if = "Option::is_none")]
    range: Option<String>,
    #[serde(rename = "ports.reserved", skip_serializing_if = "Option::is_none")]
    reserved: Option<u32>,
    #[serde(rename = "ports.bound", skip_serializing_if = "Option::is_none")]
    bound: Option<u32>,
    #[serde(rename = "ports.saturation", skip_serializing_if = "Option::is_none")]
    saturation: Option<f64>,
    #[serde(rename = "eta_s", skip_serializing_if = "Option::is_none")]
    eta_s: Option<f64>,
    /// Sum of all increases of `ports.in_use` from one reading to the next; the first reading with this address counts as an
    /// increase from 0.
    #[serde(rename = "ports.opened")]
    opened: u64,
}

impl From<&Row> for AddressStats {
    fn from(row: &Row) -> Self {
        let tuple = Tuple::from(row);
        let v4 = row.key.source.to_v4().is_some();
        Self {
            transport: tuple.transport,
            family: if v4 { "ipv4" } else { "ipv6" },
            address: address(row.key.source),
            netns: tuple.netns,
            netns_name: tuple.netns_name,
            in_use: tuple.in_use,
            capacity: tuple.capacity,
            range: tuple.range,
            reserved: tuple.reserved,
            bound: tuple.bound,
            saturation: tuple.saturation,
            eta_s: tuple.eta_s,
            opened: tuple.opened,
        }
    }
}

impl<'a> Tuple<'a> {
    /// The tuple with the keys that only a recording needs, so that it can be replayed like a live one, except
    /// `ports.time_wait_ends`. `count`: the counters that `row` was made from. `name`: of the cgroup of the process that
    /// connected last; `None`: not known, so that cgroup, container and unit are absent.
    pub fn recorded(row: &'a Row, count: &'a TupleCount, name: Option<&'a Name>) -> Self {
        Self {
            time_wait_begun: Some(count.time_wait_begun),
            cgroup: name.map(|name| &*name.path),
            container: name.and_then(|name| name.container.as_deref()),
            unit: name.and_then(|name| name.unit.as_deref()),
            lifetimes: without_zeros(&count.ends.lifetimes),
            search: without_zeros(&count.search),
            ..Self::from(row)
        }
    }
}

/// The counts without the zeros at the end.
fn without_zeros(counts: &[u32]) -> &[u32] {
    let end = counts.iter().rposition(|count| *count != 0).map_or(0, |last| last + 1);
    counts.get(..end).unwrap_or_default()
}

/// The value rounded to multiples of 1 / `factor`: further digits say nothing. A value that is too large for that stays as it
/// is.
fn rounded(value: f64, factor: f64) -> f64 {
    let scaled = (value * factor).round();
    if scaled.is_finite() { scaled / factor } else { value }
}

/// An address as text: as IPv4 if it is v4-mapped, else as IPv6 in the form of RFC 5952.
pub fn address(address: Addr) -> String {
    match address.to_v4() {
        Some(octets) => Ipv4Addr::from(octets).to_string(),
        None => Ipv6Addr::from(address.0).to_string(),
    }
}
