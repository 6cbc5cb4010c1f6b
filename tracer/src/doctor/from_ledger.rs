//! Turns readings of the ledger, from a recording or from `tracer top`, into [`Seen`], which the judges take. No I/O.
//!
//! The ledger knows less than a list of sockets: no single port, no FIN_WAIT2, no socket that stays. [`super::judge::of_tuples`]
//! needs none of that.

use std::collections::BTreeMap;

use tracer_common::{Cause, Ports, TupleKey};

use super::{
    activity::Activity,
    finding::{Place, Subject},
    judge::{BoundAddress, Seen},
    tuples::{Ends, Settings, Tuple, Tuples, ip},
};
use crate::{
    host::capacity::{Limits, PortRange, Reuse, is_loopback},
    ledger::stats::Row,
};

/// How many ports a tuple holds, by a reading of the ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Held {
    /// Ports in use, those in TIME_WAIT included.
    pub in_use: u64,
    /// Ports in TIME_WAIT.
    pub time_wait: u64,
    /// Of `time_wait`: ports that connect() can reuse now (`net.ipv4.tcp_tw_reuse`); 0 also if that is not known.
    pub reusable: u64,
    /// The ports that are not in TIME_WAIT, by the state of their socket; `None`: not known.
    pub states: Option<Ports>,
    /// Ports that it can hold, those in use included; `None`: not known.
    pub capacity: Option<u32>,
}

/// A tuple, or an address at which bind(address, 0) takes ports ([`TupleKey::of_bind`]), and what happened to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Counted {
    pub key: TupleKey,
    pub held: Held,
    /// What happened since an earlier reading; `None`: there is none, so only its ports are judged.
    pub activity: Option<Activity>,
}

/// What is known of a network namespace when its tuples are judged.
#[derive(Clone, Debug)]
pub struct Namespace {
    pub place: Place,
    /// The ports that the kernel chooses from. `None`: not known; then the range of `limits` counts, and without these, nothing
    /// is advised about it.
    pub range: Option<PortRange>,
    /// Its range, and how many ports of it are reserved or bound; `None`: not known, so only [`Held::capacity`] says what a tuple
    /// can hold.
    pub limits: Option<Limits>,
    /// Which TIME_WAITs connect() may reuse. `None`: not known; then they hold their ports for as long as they last, and nothing
    /// is advised about it.
    pub reuse: Option<Reuse>,
    /// How long a TIME_WAIT lasts at most on its host, in seconds: [`super::flow::longest_time_wait_s`].
    pub time_wait_s: f64,
}

impl From<&Row> for Held {
    fn from(row: &Row) -> Self {
        Self {
            in_use: row.in_use,
            time_wait: row.time_wait,
            reusable: row.reusable.unwrap_or(0),
            states: row.states,
            capacity: row.capacity,
        }
    }
}

/// The source address and the destination of a tuple of the ledger. Of a key of [`TupleKey::of_bind`], which has no destination,
/// this is `::`, port 0.
pub const fn ends(key: &TupleKey) -> Ends {
    Ends { source: key.source, destination: key.destination, port: key.destination_port }
}

/// A tuple of the ledger as the subject of a finding, v4-mapped addresses as IPv4. `place`: its namespace. `key`: not one of
/// [`TupleKey::of_bind`].
pub fn subject(place: &Place, key: &TupleKey) -> Subject {
    let ends = ends(key);
    Subject::Tuple { place: place.clone(), source: ip(key.source), destination: ends.peer() }
}

/// Infers net.ipv4.tcp_tw_reuse and net.ipv4.tcp_timestamps of a namespace. `tuples`: each with the number of its TIME_WAITs that
/// connect() can reuse; `None`: the settings let connect() reuse none of this tuple; 0: they do, but none is old enough.
///
/// Of the tuples with a number: if one has no loopback address, tcp_tw_reuse is 1; if each has one, 2. Without such a tuple, it
/// is 0, and timestamps count as off, because nothing shows that they are on. The delay is not known.
pub fn reuse<'a>(tuples: impl IntoIterator<Item = (&'a TupleKey, Option<u64>)>) -> Reuse {
    let taking =
        tuples.into_iter().filter(|(key, reusable)| reusable.is_some() && !key.is_of_bind());
    let setting = |key: &TupleKey| {
        if is_loopback(key.source) || is_loopback(key.destination) { 2 } else { 1 }
    };
    // 1 lets connect() take over all, 2 only those of loopback addresses.
    let setting = taking.map(|(key, _)| setting(key)).min();
    Reuse { setting: setting.unwrap_or(0), delay_ms: None, timestamps: setting.is_some() }
}

/// The tuples and addresses of one namespace as they are judged, and how many tuples are left out, because how many ports they
/// can hold is not known and no call failed for lack of one.
///
/// `before`, `details` and `growth` are `None`. Without a range the range is 1 to 65535, without limits [`Tuples::usable`] is 0.
/// Whether the parity that connect() tries first is used up is estimated: if at least half of the capacity is in use, reusable
/// TIME_WAITs not counted. Of several readings of a tuple, the last one counts; each reading of an address is kept.
pub fn seen(namespace: Namespace, tuples: impl IntoIterator<Item = Counted>) -> (Seen, usize) {
    let Namespace { place, range, limits, reuse, time_wait_s } = namespace;
    let usable = limits.map(|limits| limits.usable());
    let range = range.or_else(|| limits.map(|it| range_of(&it)));
    // A recording may have any.
    let range = range.filter(|it| it.low <= it.high);
    let mut by_ends = BTreeMap::new();
    let mut activity = BTreeMap::new();
    let mut bound = Vec::new();
    let mut left_out = 0;
    for counted in tuples {
        if counted.key.is_of_bind() {
            bound.push(bound_address(&counted));
            continue;
        }
        let Some(tuple) = tuple(&counted, usable) else {
            left_out += 1;
            continue;
        };
        let ends = ends(&counted.key);
        by_ends.insert(ends, tuple);
        activity.extend(counted.activity.map(|it| (ends, it)));
    }
    // Where it is not known, one that cannot be made wider.
    let unknown = PortRange { low: 1, high: u16::MAX, reserved: Vec::new() };
    let now = Tuples { by_ends, usable: usable.unwrap_or(0), ..Tuples::default() };
    let seen = Seen {
        place,
        settings: Settings { range: range.unwrap_or(unknown), reuse: reuse.unwrap_or_default() },
        now,
        before: None,
        time_wait_s,
        activity,
        bound,
        details: None,
        growth: None,
    };
    (seen, left_out)
}

fn range_of(limits: &Limits) -> PortRange {
    PortRange { low: limits.low, high: limits.high, reserved: Vec::new() }
}

/// `usable`: ports that a tuple which holds none can be given. `None`: how many ports it can hold is not known.
fn tuple(counted: &Counted, usable: Option<u32>) -> Option<Tuple> {
    let Held { in_use, time_wait, reusable, states, capacity } = counted.held;
    let held = number(in_use);
    let failed = counted.activity.as_ref().map_or(0, Activity::exhausted);
    // A call that found no port shows that the tuple holds all that it can.
    let full = (failed > 0).then_some(held);
    let capacity = capacity.or_else(|| usable.map(|it| it.max(held))).or(full)?;
    let states = states.unwrap_or_default();
    let taken = held.saturating_sub(number(reusable));
    Some(Tuple {
        held,
        time_wait: number(time_wait),
        reusable: number(reusable),
        close_wait: number(states.close_wait),
        established: number(states.established),
        syn_sent: number(states.connecting),
        unanswered: number(states.unanswered),
        capacity,
        // connect() takes the other half only when it finds nothing in the first one.
        first_half_full: capacity > 0 && taken >= capacity.div_ceil(2),
        ..Tuple::default()
    })
}

fn bound_address(counted: &Counted) -> BoundAddress {
    let activity = counted.activity.as_ref();
    BoundAddress {
        address: counted.key.source,
        ports: counted.held.capacity.map(|capacity| (counted.held.in_use, capacity)),
        failed: activity.map_or(0, |it| it.failures(Cause::BindExhausted)),
        not_local: activity.map_or(0, |it| it.failures(Cause::AddressNotLocal)),
        seconds: activity.map_or(0.0, |it| it.seconds),
        caller: activity.and_then(|it| it.caller.clone()),
    }
}

/// A number of ports: a larger one than there are is none that the ledger counted.
fn number(ports: u64) -> u32 {
    u32::try_from(ports).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
