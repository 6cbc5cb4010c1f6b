//! Finds the keys that every line of a recording has. In a line as tracer writes it, nothing else is parsed: most lines of a long
//! recording are not needed.

use memchr::memchr;
use serde::Deserialize;

use super::time;
use crate::format::timestamp::LENGTH;

/// The keys that every line has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Envelope<'a> {
    /// The number of the line in its stream, from 0.
    pub(super) seq: u64,
    /// The value of `ts`: the time as text, for [`time::parse`]; not checked.
    pub(super) ts: &'a [u8],
    /// CLOCK_MONOTONIC, ns.
    pub(super) mono_ns: u64,
    /// The value of `event.name`.
    pub(super) name: &'a [u8],
}

impl<'a> Envelope<'a> {
    /// The keys of a line; `None`: it lacks one of them, one has a value of another type, `ts` or `event.name` has an escape, or
    /// `v` is not 1. In a line that begins as tracer writes it, what follows `event.name` is not checked, except its last `}`.
    pub(super) fn of(line: &'a [u8]) -> Option<Self> {
        quick(line).or_else(|| slow(line))
    }

    /// The line's time, ns since 1970; `None`: `ts` is not a time from 1970 to July 2554.
    pub(super) fn wall_ns(&self) -> Option<u64> {
        time::parse(self.ts)
    }
}

/// The keys of a line in the form that tracer writes; `None`: it has another form (or a number of more than 64 bits).
fn quick(line: &[u8]) -> Option<Envelope<'_>> {
    let line = line.strip_suffix(b"}")?;
    let rest = line.strip_prefix(b"{\"v\":1,\"seq\":")?;
    let (seq, rest) = split(rest, b',')?;
    let rest = rest.strip_prefix(b"\"ts\":\"")?;
    let (ts, rest) = rest.split_at_checked(LENGTH)?;
    let rest = rest.strip_prefix(b"\",\"mono_ns\":")?;
    let (mono_ns, rest) = split(rest, b',')?;
    let rest = rest.strip_prefix(b"\"event.name\":\"")?;
    let (name, rest) = split(rest, b'"')?;
    // A name with an escape may have an escaped quote in it.
    if !matches!(rest.first(), None | Some(b',')) || name.contains(&b'\\') {
        return None;
    }
    Some(Envelope { seq: time::number(seq)?, ts, mono_ns: time::number(mono_ns)?, name })
}

/// The text before and after the first `at`; `None`: there is no `at`.
fn split(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let end = memchr(at, text)?;
    Some((&text[..end], &text[end + 1..]))
}

#[derive(Deserialize)]
struct Keys<'a> {
    v: u64,
    seq: u64,
    ts: &'a str,
    mono_ns: u64,
    #[serde(rename = "event.name")]
    name: &'a str,
}

/// The keys of a line, by parsing it as JSON; `None`: it is no JSON object, lacks a key, has a value of another type, an
/// escape in `ts` or `event.name`, or another version than 1.
fn slow(line: &[u8]) -> Option<Envelope<'_>> {
    let keys: Keys<'_> = serde_json::from_slice(line).ok()?;
    let Keys { seq, mono_ns, .. } = keys;
    let (ts, name) = (keys.ts.as_bytes(), keys.name.as_bytes());
    (keys.v == 1).then_some(Envelope { seq, ts, mono_ns, name })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TS: &str = "2026-11-21T02:44:53.123456789Z";

    #[test]
    fn the_keys_are_found_in_any_order_and_form() {
        let lines = [
            format!(r#"{{"v":1,"seq":7,"ts":"{TS}","mono_ns":9,"event.name":"lost"}}"#),
            format!(r#"{{"v":1,"seq":7,"ts":"{TS}","mono_ns":9,"event.name":"lost","a":"}}"}}"#),
            format!(
                r#" {{"event.name": "lost", "x": [1], "seq":7,"ts":"{TS}","mono_ns":9,"v":1}}"#
            ),
        ];
        for line in lines {
            let found = Envelope::of(line.as_bytes()).expect(&line);
            assert_eq!((found.seq, found.mono_ns, found.name), (7, 9, &b"lost"[..]), "{line}");
            assert_eq!(found.wall_ns(), Some(1_795_229_093_123_456_789));
        }
    }

    #[test]
    fn a_line_needs_all_keys() {
        let lines = [
            String::new(),
            "{}".to_owned(),
            "null".to_owned(),
            format!(r#"{{"v":2,"seq":7,"ts":"{TS}","mono_ns":9,"event.name":"lost"}}"#),
            format!(r#"{{"v":1,"seq":-7,"ts":"{TS}","mono_ns":9,"event.name":"lost"}}"#),
            format!(r#"{{"v":1,"ts":"{TS}","mono_ns":9,"event.name":"lost"}}"#),
            format!(r#"{{"v":1,"seq":7,"ts":"{TS}","mono_ns":9,"event.name":"lost","lost.c"#),
            format!(r#"{{"v":1,"seq":7,"ts":"{TS}","mono_ns":9}}"#),
        ];
        for line in lines {
            assert_eq!(Envelope::of(line.as_bytes()), None, "{line}");
        }
    }
}
