//! Parses the settings of a network namespace (port range, reserved ports, tcp_tw_reuse) in `netns.settings` and `tracer.start`.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::{range, start::short};
use crate::host::capacity::{self, Reuse};

/// The most runs of reserved ports that are kept: a list of 1,024 bytes has no more.
const MOST_RUNS: usize = 512;

/// Settings in a line `netns.settings` or `tracer.start`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Settings {
    /// The namespace that they are of, by its inode number.
    pub netns: u32,
    /// Its name in /run/netns, cut to 1,024 bytes; empty: it has none, or the line does not say it.
    pub name: String,
    /// First and last port of the range, both inclusive; the first can be above the last (not checked). `None`: the line has no
    /// two port numbers.
    pub range: Option<(u16, u16)>,
    /// Ports of the range that are never chosen; empty: none. `None`: the line does not say it, or it has no valid list or one of
    /// more than 512 runs.
    pub reserved: Option<Vec<RangeInclusive<u16>>>,
    /// Which TIME_WAITs connect() can take over; `None`: the line lacks `tcp_tw_reuse` or `tcp_timestamps`, or one is of another
    /// type.
    pub reuse: Option<Reuse>,
}

impl Settings {
    /// Parses a line `netns.settings` (its `event.name` is not checked).
    ///
    /// # Errors
    /// It is no JSON object, or has no `netns` that is a number of 32 bits. (Other values of another type count as missing.)
    pub(in crate::recording) fn of(line: &[u8]) -> serde_json::Result<Self> {
        let line: Map<String, Value> = serde_json::from_slice(line)?;
        Self::in_line(&line).ok_or_else(|| serde::de::Error::missing_field("netns"))
    }

    /// The settings in a parsed line; `None`: it does not say which namespace it is about.
    pub(super) fn in_line(line: &Map<String, Value>) -> Option<Self> {
        let text = |key| line.get(key).and_then(Value::as_str);
        let reuse =
            number(line, "tcp_tw_reuse").zip(line.get("tcp_timestamps").and_then(Value::as_bool));
        Some(Self {
            netns: number(line, "netns")?,
            name: text("netns.name").map(short).unwrap_or_default(),
            range: text("ports.range").and_then(range),
            reserved: text("ports.reserved_list").and_then(reserved),
            reuse: reuse.map(|(setting, timestamps)| Reuse {
                setting,
                delay_ms: number(line, "tcp_tw_reuse_delay_ms"),
                timestamps,
            }),
        })
    }
}

/// The number that a line has for this key; `None`: it has none, or one that is negative, not whole or too large for `T`.
pub(super) fn number<T: TryFrom<u64>>(line: &Map<String, Value>, key: &str) -> Option<T> {
    T::try_from(line.get(key)?.as_u64()?).ok()
}

/// `None`: it is no list of ports, or has too many runs.
fn reserved(text: &str) -> Option<Vec<RangeInclusive<u16>>> {
    capacity::parse_reserved(text).filter(|runs| runs.len() <= MOST_RUNS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_line_does_not_say_is_not_known() {
        let of = |line: &str| Settings::of(line.as_bytes()).ok();
        assert_eq!(of("{}"), None);
        assert_eq!(of(r#"{"netns":-1}"#), None);
        let none = Settings { netns: 7, ..Settings::default() };
        assert_eq!(of(r#"{"netns":7,"tcp_tw_reuse":1,"ports.reserved_list":"a"}"#), Some(none));
        let all = r#"{"netns":7,"netns.name":"edge","ports.range":"40000-40999","ports.reserved_list":"40001,40010-40019",
            "tcp_tw_reuse":2,"tcp_tw_reuse_delay_ms":1000,"tcp_timestamps":true}"#;
        let settings = Settings {
            netns: 7,
            name: "edge".to_owned(),
            range: Some((40_000, 40_999)),
            reserved: Some(vec![40_001..=40_001, 40_010..=40_019]),
            reuse: Some(Reuse { setting: 2, delay_ms: Some(1_000), timestamps: true }),
        };
        assert_eq!(of(all), Some(settings));
        let many: Vec<String> = (0..5_000).map(|port| (2 * port).to_string()).collect();
        let many = of(&format!(r#"{{"netns":7,"ports.reserved_list":"{}"}}"#, many.join(",")));
        assert_eq!(many.unwrap().reserved, None);
    }
}
