//! Which checks a recording allows, and why the others are not made.

use super::window::Window;
use crate::{
    doctor::{
        verdict::{Check, Missing},
        window::NO_ROOM,
    },
    recording::Losses,
};

/// Why a check is not made that needs more than a recording has.
const NOT_RECORDED: &str = "not in a recording";
/// Checks that need more than a recording has. None is a core check here: a verdict on a recording is about what it has.
const OTHERS: [&str; 6] = ["sockets", "descriptors", "conntrack", "snat", "configurations", "logs"];

/// What the runs of a recording had, put together.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// How many complete readings.
    pub(super) readings: u64,
    /// The sum of the lengths of all windows, in seconds.
    pub(super) watched_s: f64,
    /// Whether it is not known of some tuple how many ports it can hold, so that it was not judged.
    pub(super) unknown: bool,
    /// Whether net.ipv4.tcp_tw_reuse and net.ipv4.tcp_timestamps of some namespace are not known.
    pub(super) without_settings: bool,
    /// Whether a line is about a namespace that is to be judged.
    pub(super) has_wanted: bool,
    /// How many lines were left out, because there was no room for their tuples.
    pub(super) left_out: u64,
    /// Ports that were not counted because a table was full.
    lost: u64,
}

/// What of a recording could not be read.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Damage {
    /// How many lines are missing, by gaps in their sequence numbers.
    pub missing: u64,
    /// How many lines, or ends of compressed files, could not be read.
    pub unreadable: u64,
    /// Where the first of `unreadable` is, and why it could not be read, as a text for people; `None`: there is none.
    pub first: Option<String>,
}

impl Counts {
    /// Adds a run that has ended. `lost`: its newest counts of what the tracer could not record.
    pub(super) fn add(&mut self, window: &Window, lost: &Losses) {
        self.readings = self.readings.saturating_add(window.readings());
        self.watched_s += window.watched_s();
        self.left_out = self.left_out.saturating_add(window.left_out());
        let lost = NO_ROOM.iter().map(|loss| lost.get(loss.name()));
        self.lost = lost.fold(self.lost, u64::saturating_add);
    }
}

/// All checks: `recording`, `fill`, `window` (core checks) and `settings`, made or not; and those that need more than a recording
/// has, never made. `is_limited`: whether there were too many findings to keep them all.
pub(super) fn checks(counts: &Counts, damage: &Damage, is_limited: bool) -> Vec<Check> {
    let mut checks = vec![
        Check { id: "recording", core: true, missing: unread(damage, is_limited) },
        Check { id: "fill", core: true, missing: unknown_fill(counts) },
        Check { id: "window", core: true, missing: unwatched(counts) },
        Check { id: "settings", core: false, missing: without_settings(counts) },
    ];
    let missing = || Some(Missing { why: NOT_RECORDED.to_owned(), needs: None });
    checks.extend(OTHERS.map(|id| Check { id, core: false, missing: missing() }));
    checks
}

fn unread(damage: &Damage, is_limited: bool) -> Option<Missing> {
    let Damage { missing, unreadable, first } = damage;
    let mut parts = Vec::new();
    if *missing > 0 {
        parts.push(format!("{} missing", lines(*missing)));
    }
    if *unreadable > 0 {
        let first = first.as_ref().map(|first| format!(", the first in {first}"));
        parts.push(format!("{} unreadable{}", lines(*unreadable), first.unwrap_or_default()));
    }
    if is_limited {
        parts.push("there are more findings than are kept".to_owned());
    }
    let why = format!("{}; the rest was judged", parts.join("; "));
    (!parts.is_empty()).then_some(Missing { why, needs: None })
}

/// `1 line is`, or `3 lines are`.
fn lines(count: u64) -> String {
    if count == 1 { "1 line is".to_owned() } else { format!("{count} lines are") }
}

fn unknown_fill(counts: &Counts) -> Option<Missing> {
    let missing =
        |why: String, needs: Option<&str>| Some(Missing { why, needs: needs.map(str::to_owned) });
    if counts.readings == 0 {
        return missing(
            "it has no readings: how full tuples were is only known where a connect() found no port".to_owned(),
            Some("tracer record --events failed,stats,lost"),
        );
    }
    if !counts.has_wanted {
        return missing(
            "no line is about the network namespaces that are asked for".to_owned(),
            None,
        );
    }
    if counts.left_out > 0 {
        let why =
            format!("it has too many tuples: {} lines about them were left out", counts.left_out);
        return missing(why, Some("a recording with a filter, for example --netns or --dst"));
    }
    let why = "how many ports some tuples can hold is not in it";
    if counts.unknown { missing(why.to_owned(), None) } else { None }
}

fn unwatched(counts: &Counts) -> Option<Missing> {
    if counts.lost > 0 {
        let why = format!("{} ports were not counted, because a table was full", counts.lost);
        let needs = "larger tables: tracer record --max-conns, --max-tuples";
        return Some(Missing { why, needs: Some(needs.to_owned()) });
    }
    let why = "it has no two readings of the same run: how connections come and go is not known";
    let needs = "tracer record for at least two times --interval";
    (counts.watched_s <= 0.0)
        .then(|| Missing { why: why.to_owned(), needs: Some(needs.to_owned()) })
}

fn without_settings(counts: &Counts) -> Option<Missing> {
    let why = "net.ipv4.tcp_tw_reuse and net.ipv4.tcp_timestamps of some network namespace are not in this recording";
    let is_missing = counts.without_settings || counts.readings == 0;
    is_missing.then(|| Missing {
        why: why.to_owned(),
        needs: Some("a recording of this version of tracer".to_owned()),
    })
}
