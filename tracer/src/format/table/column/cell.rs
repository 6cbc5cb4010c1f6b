//! Makes the texts of cells and reads the values that they show, and compares such values for the order of rows.

use std::cmp::Ordering;

use tracer_common::Addr;

use super::{CRITICAL, HIGH, SLOW};
use crate::{
    format::{errno, text, tuple::address},
    ledger::stats::{P99, Row},
};

/// Shown in place of a destination if the row is about bind(address, 0) at an address.
pub(crate) const BIND: &str = "bind(address, 0)";

/// The name of a row's network namespace, or else its number; `None`: the row stands for several.
pub(super) fn netns(row: &Row) -> Option<String> {
    let number = (row.key.netns != 0).then(|| row.key.netns.to_string())?;
    let name = row.netns_name.as_deref().and_then(|name| not_empty(text::line(name).into_owned()));
    Some(name.unwrap_or(number))
}

/// The ETA of a tuple that can hold no port: `full`, and if its limits say it, what takes the ports: `full (reserved, bound)`.
pub(super) fn full(row: &Row) -> String {
    let words = row.limits.map(|limits| limits.taken_by()).unwrap_or_default();
    if words.is_empty() { "full".to_owned() } else { format!("full ({words})") }
}

/// The state that most ports of a row are in, and its share of the ports in use in whole per cent, rounded down: `time_wait 75%`.
/// If several states have that many, the last of: time_wait, estab, connecting (no SYN sent again), closing, no answer,
/// close_wait. `None`: the states are not known, or there are no ports.
pub(super) fn state(row: &Row) -> Option<String> {
    let ports = row.states?;
    let states = [
        (row.time_wait, "time_wait"),
        (ports.established, "estab"),
        (ports.connecting.saturating_sub(ports.unanswered), "connecting"),
        (ports.closing, "closing"),
        (ports.unanswered, "no answer"),
        (ports.close_wait, "close_wait"),
    ];
    // `max_by_key` returns the last of several maxima: the states are listed from the best to the worst.
    let (most, name) = states.into_iter().max_by_key(|(ports, _)| *ports)?;
    // A reading that was made between two changes can have more ports in a state than in use.
    let all = row.in_use.max(most);
    (most > 0).then(|| format!("{name} {}%", most * 100 / all))
}

/// How many ports of a row wait: for an answer, or for a process or peer to close. `None`: the states are not known.
#[expect(clippy::cast_precision_loss, reason = "to be compared")]
pub(super) fn stuck(row: &Row) -> Option<f64> {
    row.states.map(|ports| (ports.unanswered + ports.close_wait + ports.closing) as f64)
}

/// Segments with data in each connection that ended lately, on average: of [`crate::ledger::uses::Uses::recent`]. `None`: none
/// ended, or that is not known.
pub(super) fn requests(row: &Row) -> Option<f64> {
    row.uses?.recent.per_connection()
}

/// Compares so that larger numbers come first, and unknown ones last.
pub(super) fn most(one: Option<f64>, other: Option<f64>) -> Ordering {
    match (one, other) {
        (Some(one), Some(other)) => other.total_cmp(&one),
        _ => other.is_some().cmp(&one.is_some()),
    }
}

/// Compares so that smaller values come first, and unknown ones last.
pub(super) fn known_first<T: Ord>(one: Option<T>, other: Option<T>) -> Ordering {
    other.is_some().cmp(&one.is_some()).then_with(|| one.cmp(&other))
}

/// The process id; `None`: not known.
pub(super) fn known(pid: u32) -> Option<u32> {
    (pid != 0).then_some(pid)
}

/// The text; `None` if it is empty.
pub(super) fn not_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// The source address; `*`: the row stands for several, or none was chosen.
pub(super) fn source(row: &Row) -> String {
    match row.key.source {
        Addr::UNSPECIFIED if !row.key.is_of_bind() => "*".to_owned(),
        source => address(source),
    }
}

/// The destination with its port; `*`: the row stands for several. For the row of an address, [`BIND`].
pub(super) fn destination(row: &Row) -> String {
    if row.key.is_of_bind() {
        return BIND.to_owned();
    }
    if (row.key.destination, row.key.destination_port) == (Addr::UNSPECIFIED, 0) {
        return "*".to_owned();
    }
    let (address, port) = (address(row.key.destination), row.key.destination_port);
    if row.key.destination.to_v4().is_some() {
        format!("{address}:{port}")
    } else {
        format!("[{address}]:{port}")
    }
}

/// Name of the newest failure's errno; `None`: no call failed, or the newest failure had no errno.
pub(super) fn error(row: &Row) -> Option<std::borrow::Cow<'static, str>> {
    let errno = u16::try_from(row.last_errno).unwrap_or(u16::MAX);
    (errno != 0).then(|| errno::name(errno))
}

/// The 99th percentile of the durations of port searches: `16ms`, or `≥16ms` if it is longer than can be measured.
pub(crate) fn duration(p99: P99) -> String {
    let sign = if p99.at_least { "≥" } else { "" };
    format!("{sign}{}", nanoseconds(p99.ns))
}

/// A share (1 is all) in per cent, rounded down to one decimal, and two characters for how bad it is: `!!` from [`CRITICAL`] on,
/// ` !` from [`HIGH`], ` ~` from [`SLOW`], else spaces: `46.1 ~`.
pub(crate) fn percent(share: f64) -> String {
    let sign = match share {
        CRITICAL.. => "!!",
        HIGH.. => " !",
        SLOW.. => " ~",
        _ => "  ",
    };
    // Rounded down, so that 100 % means that no port is left, and no sign appears below its threshold.
    format!("{:.1}{sign}", (share * 1000.0).floor() / 10.0)
}

/// A rate per second, which must not be negative (not checked): a whole number from 100 on, one decimal below, and `0` for 0.
pub(crate) fn rate(per_second: f64) -> String {
    match per_second {
        0.0 => "0".to_owned(),
        100.0.. => format!("{per_second:.0}"),
        _ => format!("{per_second:.1}"),
    }
}

/// A duration in µs, from 1 ms on in ms; with one decimal below 10, else rounded down: `1.5µs`, `16µs`, `2.0ms`, `90000ms`.
#[expect(clippy::cast_precision_loss, reason = "shown with at most four digits")]
pub(crate) fn nanoseconds(ns: u64) -> String {
    match ns {
        0..10_000 => format!("{:.1}µs", ns as f64 / 1e3),
        10_000..1_000_000 => format!("{}µs", ns / 1000),
        1_000_000..10_000_000 => format!("{:.1}ms", ns as f64 / 1e6),
        _ => format!("{}ms", ns / 1_000_000),
    }
}

/// A duration: in s below 120 s, with one decimal below 10 s; in m below 2 hours, in h below 48 hours, then in d (days); `>99d`
/// from 100 days on.
pub(crate) fn seconds(seconds: f64) -> String {
    match seconds {
        ..10.0 => format!("{seconds:.1}s"),
        ..120.0 => format!("{seconds:.0}s"),
        ..7200.0 => format!("{:.0}m", seconds / 60.0),
        ..172_800.0 => format!("{:.0}h", seconds / 3600.0),
        ..8_640_000.0 => format!("{:.0}d", seconds / 86_400.0),
        _ => ">99d".to_owned(),
    }
}
