//! Parses the lines `tracer.start` and `tracer.degraded`. A value of another type than the format's counts as missing.

use std::time::Duration;

use serde_json::{Map, Value};

use super::{
    range,
    settings::{Settings, number},
};
use crate::view::reading::About;

/// A line `tracer.start`.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// What the line says about the recording and its host. Texts are cut to 1,024 bytes; one that the line lacks is empty.
    pub about: About,
    /// Whether the stream has `tuple.stats`; `None`: the line does not say it.
    pub stats: Option<bool>,
    /// Whether the stream has `connect.failed` or `bind.failed`; `None`: the line does not say it.
    pub failures: Option<bool>,
    /// Time between two readings, ns; 0: the line does not say it, or its value is no duration.
    pub interval_ns: u64,
    /// The settings of the namespace in which tracer was started; `None`: the line does not say which namespace that is.
    pub own: Option<Settings>,
}

/// A line `tracer.degraded`.
#[derive(Clone, Debug, Default)]
pub struct Degraded {
    /// All that does not work as well as it could from this line on, one text each: at most 64, each cut to 1,024 bytes.
    pub now: Vec<String>,
    /// Which of `now` are new since the line before with such a list; with the same limits.
    pub added: Vec<String>,
}

impl Start {
    /// Parses a line `tracer.start` (its `event.name` is not checked).
    ///
    /// # Errors
    /// It is no JSON object.
    pub(in crate::recording) fn of(line: &[u8]) -> serde_json::Result<Self> {
        let line: Map<String, Value> = serde_json::from_slice(line)?;
        let text = |key| short(line.get(key).and_then(Value::as_str).unwrap_or_default());
        let range = range(&text("ports.range"));
        let interval = line.get("settings.stats_interval_s").and_then(Value::as_f64);
        let interval = interval.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let interval_ns = interval.map(crate::runtime::clock::as_ns);
        let own = Settings::in_line(&line);
        let mask = line.get("settings.event_mask").and_then(Value::as_u64);
        Ok(Self {
            about: About {
                host: text("host.name"),
                kernel: text("kernel"),
                version: text("version"),
                backend: text("backend"),
                degraded: reasons(line.get("degraded")),
                range,
                filter: text("settings.filter"),
                netns: own.as_ref().map(|own| own.netns),
                hz: number(&line, "kernel.hz").filter(|hz| *hz > 0),
            },
            stats: line.get("settings.stats").and_then(Value::as_bool),
            interval_ns: interval_ns.unwrap_or(0),
            failures: mask.map(|mask| mask & u64::from(FAILURES) != 0),
            own,
        })
    }
}

impl Degraded {
    /// Parses a line `tracer.degraded` (its `event.name` is not checked). A list that it lacks is empty.
    ///
    /// # Errors
    /// It is no JSON object.
    pub(in crate::recording) fn of(line: &[u8]) -> serde_json::Result<Self> {
        let line: Map<String, Value> = serde_json::from_slice(line)?;
        Ok(Self { now: reasons(line.get("degraded")), added: reasons(line.get("degraded.added")) })
    }
}

/// The texts of a list; none if it is missing. Their number and length are limited, because the file is not trusted.
fn reasons(list: Option<&Value>) -> Vec<String> {
    let list = list.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).take(DEGRADED).map(short).collect()
}

/// The text, cut between two characters to at most 1,024 bytes.
pub(super) fn short(text: &str) -> String {
    text[..text.floor_char_boundary(LONGEST_TEXT)].to_owned()
}

/// Longest text that is kept, in bytes; longer ones are cut.
const LONGEST_TEXT: usize = 1024;
/// The most texts of `degraded` that are kept.
const DEGRADED: usize = 64;

/// The bits of `connect.failed` and `bind.failed` in an event mask.
const FAILURES: u32 =
    tracer_common::Kind::ConnectFailed.bit() | tracer_common::Kind::BindFailed.bit();
