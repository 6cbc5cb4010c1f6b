//! Numbers, times and addresses as text, and cutting text to a width. Widths are in columns of a terminal.

use std::borrow::Cow;

use jiff::{Timestamp, tz::TimeZone};
use ratatui::text::Span;
use tracer_common::TupleKey;

use crate::{
    format::{
        table::{BIND, rate},
        text,
        tuple::address,
    },
    host::cgroups::is_unit,
};

/// How many columns of a terminal a text takes.
pub(crate) fn width(text: &str) -> usize {
    Span::raw(text).width()
}

/// A number with commas between the thousands: `28,232`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A rate per second: with one decimal below 100 (`3.5`), else a whole number (`1,204`); `0` for 0.
pub(crate) fn per_second(number: f64) -> String {
    let text = rate(number);
    text.parse().map_or(text, count)
}

/// A count of things: `1 port`, `2 ports`, `0 ports`. `one`: the word for one of them, to which an `s` is added for several.
pub(crate) fn several(number: u64, one: &str) -> String {
    format!("{} {one}{}", count(number), if number == 1 { "" } else { "s" })
}

/// The time of day of `wall_ns` (ns since 1970): `03:34:48`; `--:--:--` if it is 0 (not known) or out of range.
pub(crate) fn clock(wall_ns: u64, zone: &TimeZone) -> String {
    let known = Some(wall_ns).filter(|ns| *ns > 0);
    let moment = known.and_then(|ns| Timestamp::from_nanosecond(ns.into()).ok());
    moment.map_or_else(
        || "--:--:--".to_owned(),
        |moment| moment.to_zoned(zone.clone()).strftime("%H:%M:%S").to_string(),
    )
}

/// Source and destination: `10.0.0.8 → 10.0.1.7:8080`. Without a destination, the source alone; `*` for no source. For the
/// row of an address at which bind(address, 0) is used, the destination is that text.
pub(crate) fn ends(key: &TupleKey) -> String {
    let source = address(key.source);
    if key.is_of_bind() {
        return format!("{source} → {BIND}");
    }
    let from = if key.source.0 == [0; 16] { "*" } else { &source };
    match destination(key) {
        Some(to) => format!("{from} → {to}"),
        None => from.to_owned(),
    }
}

/// [`ends`] in at most `room` columns: if needed, the addresses are cut in their middle. It can be wider if there is no
/// destination (then nothing is cut), or if `room` is less than 3.
pub(crate) fn ends_within(key: &TupleKey, room: usize) -> String {
    let whole = ends(key);
    let Some((from, to)) = whole.split_once(" → ").filter(|_| width(&whole) > room) else {
        return whole;
    };
    let half = room.saturating_sub(3) / 2;
    let from = cut_address(from, half.min(room.saturating_sub(width(to) + 3)).max(half.min(9)));
    let to = cut_address(to, room.saturating_sub(width(&from) + 3));
    format!("{from} → {to}")
}

/// The destination with its port: `10.0.1.7:8080`, `[fd00::1]:8080`. For the row of an address at which bind(address, 0) is
/// used, that text; `None`: there is no destination.
pub(crate) fn destination(key: &TupleKey) -> Option<String> {
    if key.is_of_bind() {
        return Some(BIND.to_owned());
    }
    let port = key.destination_port;
    let to = address(key.destination);
    match key.destination.to_v4() {
        Some(_) => Some(format!("{to}:{port}")),
        None if key.destination.0 == [0; 16] && port == 0 => None,
        None => Some(format!("[{to}]:{port}")),
    }
}

/// A process: `nginx (812)`; if only the name or the id is known, that: `nginx`, `(812)`; if neither is, `-`.
pub(crate) fn who(comm: &[u8; 16], pid: u32) -> String {
    let name = text::kernel(comm);
    match (name.is_empty(), pid) {
        (true, 0) => "-".to_owned(),
        (true, _) => format!("({pid})"),
        (false, 0) => name,
        (false, _) => format!("{name} ({pid})"),
    }
}

/// The first 12 characters of a container's id, or the whole name of a systemd unit; `None`: neither is known.
pub(crate) fn container(id: Option<&str>) -> Option<String> {
    let kept = if is_unit(id?) { usize::MAX } else { 12 };
    let short: String = text::line(id?).chars().take(kept).collect();
    Some(short).filter(|short| !short.is_empty())
}

/// A text; if it is wider than `room` columns, it is cut to them at its end, with an ellipsis (nothing if `room` is 0).
pub(crate) fn cut(text: &str, room: usize) -> Cow<'_, str> {
    if width(text) <= room {
        return Cow::Borrowed(text);
    }
    let mut short = head(text, room.saturating_sub(1)).to_owned();
    if room > 0 {
        short.push('…');
    }
    Cow::Owned(short)
}

/// The longest beginning of a text that is not wider than `room`. Each beginning is measured as a whole, because a variation
/// selector makes the character before it wider.
fn head(text: &str, room: usize) -> &str {
    let ends = text.char_indices().map(|(at, letter)| at + letter.len_utf8());
    let beginnings = ends.map(|end| text.get(..end).unwrap_or_default());
    beginnings.take_while(|beginning| width(beginning) <= room).last().unwrap_or_default()
}

/// The longest end of a text that is not wider than `room`.
fn tail(text: &str, room: usize) -> &str {
    let starts = text.char_indices().map(|(at, _)| at).chain([text.len()]);
    starts.map(|at| text.get(at..).unwrap_or_default()).find(|end| width(end) <= room).unwrap_or("")
}

/// An address, with or without a port; if it is wider than `room` columns, it is cut to them in its middle. Its first and
/// last groups and the whole port are kept as long as there is room.
pub(crate) fn cut_address(text: &str, room: usize) -> Cow<'_, str> {
    if width(text) <= room {
        return Cow::Borrowed(text);
    }
    let (inner, port) = match (text.rfind(']'), text.split_once(':')) {
        (Some(end), _) => text.split_at(end),
        // An IPv4 address has one colon, before its port.
        (None, Some((before, after))) if !after.contains(':') => text.split_at(before.len()),
        _ => (text, ""),
    };
    let all = room;
    let room = room.saturating_sub(width(port));
    let groups: Vec<&str> = inner.split(':').collect();
    let last = groups.last().copied().unwrap_or_default();
    let shorter = (1..groups.len().saturating_sub(1)).rev().map(|heads| {
        let heads = groups.get(..heads).unwrap_or_default();
        format!("{}:…:{last}", heads.join(":").trim_end_matches(':'))
    });
    let fits = shorter.into_iter().find(|short| width(short) <= room);
    let middle = fits.unwrap_or_else(|| {
        let end = tail(inner, room.saturating_sub(1).div_ceil(2));
        let begin = head(inner, room.saturating_sub(1 + width(end)));
        if room == 0 { String::new() } else { format!("{begin}…{end}") }
    });
    let short = format!("{middle}{port}");
    Cow::Owned(if width(&short) > all { tail(&short, all).to_owned() } else { short })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_character_that_the_next_one_makes_wider_is_measured_with_it() {
        assert_eq!(cut("0\u{fe0f}Aa", 2), "0…");
    }

    #[test]
    fn numbers_have_their_thousands_apart() {
        let pairs = [(0, "0"), (999, "999"), (28_232, "28,232"), (1_000_000, "1,000,000")];
        for (number, text) in pairs {
            assert_eq!(count(number), text);
        }
        assert_eq!((per_second(3.54), per_second(12_345.6)), ("3.5".into(), "12,346".into()));
    }

    #[test]
    fn an_address_keeps_its_network_its_end_and_its_port() {
        let long = "[2001:db8:1:2:3:4:5:7]:443";
        for (room, short) in [
            (26, long),
            (25, "[2001:db8:1:2:3:…:7]:443"),
            (18, "[2001:db8:…:7]:443"),
            (14, "[2001:…:7]:443"),
            (11, "[2…5:7]:443"),
        ] {
            assert_eq!(cut_address(long, room), short, "{room}");
        }
        assert_eq!(cut_address("10.121.134.200:8080", 14), "10.1….200:8080");
        assert_eq!(cut_address("fd00::1:2:3:4", 9), "fd00:…:4");
        assert_eq!(cut_address("10.0.0.8", 8), "10.0.0.8");
    }

    #[test]
    fn wide_letters_count_twice() {
        assert_eq!((width("日本"), cut("日本語", 5).as_ref()), (4, "日本…"));
        assert_eq!(cut("日本語", 4), "日…");
    }

    proptest! {
        #[test]
        fn nothing_is_ever_wider_than_its_room(
            text in "\\PC{0,30}", v6: [u8; 16], port: u16, room in 0_usize..60,
        ) {
            let v6 = std::net::Ipv6Addr::from(v6);
            let address = format!("[{v6}]:{port}");
            for text in [&text, &address, &v6.to_string()] {
                prop_assert!(width(&cut(text, room)) <= room);
                prop_assert!(width(&cut_address(text, room)) <= room, "{}", cut_address(text, room));
            }
            let end = format!(":{port}");
            prop_assert!(room < 9 || cut_address(&address, room).ends_with(&end));
        }
    }
}
