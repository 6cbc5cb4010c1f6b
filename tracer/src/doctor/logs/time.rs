//! Times in lines, as seconds since 1970.

use jiff::{Timestamp, civil::DateTime, tz::Offset};

/// A quarter of an hour, in seconds: offsets of time zones are multiples of it.
const QUARTER_S: i64 = 900;
/// By how much the time of the last line may differ from the time at which its file was last written, in seconds.
const LATE_S: i64 = 2;
/// The largest offset of a time zone, in seconds.
const LARGEST_S: i64 = 14 * 3600;

/// Seconds since 1970 of `2026-11-29T19:15:15.123456789Z`, or with another offset from UTC; `None`: it is no such time.
pub(super) fn rfc3339(text: &[u8]) -> Option<i64> {
    if !(20..=40).contains(&text.len()) || text.get(10) != Some(&b'T') {
        return None;
    }
    let text = std::str::from_utf8(text).ok()?;
    text.parse().ok().map(Timestamp::as_second)
}

/// The local time `2026/11/29 19:15:15` at the beginning, and what follows; `None`: it does not begin so.
pub(super) fn slashed(text: &[u8]) -> Option<(DateTime, &[u8])> {
    const LENGTH: usize = 19;
    let date = text.get(..LENGTH)?;
    let marks = [(4, b'/'), (7, b'/'), (10, b' ')];
    if marks.iter().any(|(at, mark)| date.get(*at) != Some(mark)) {
        return None;
    }
    let (year, month, day) = (field(date, 0, 4)?, field(date, 5, 7)?, field(date, 8, 10)?);
    let time = clock(year, month, day, date.get(11..)?)?;
    Some((time, text.get(LENGTH..)?))
}

/// The local time `29/Nov/2026:19:15:15.123`, without its fraction; `None`: it is no such time.
pub(super) fn of_requests(text: &[u8]) -> Option<DateTime> {
    let marks = [(2, b'/'), (6, b'/'), (11, b':')];
    if marks.iter().any(|(at, mark)| text.get(*at) != Some(mark)) {
        return None;
    }
    let (day, year) = (field(text, 0, 2)?, field(text, 7, 11)?);
    clock(year, month(text.get(3..6)?)?, day, text.get(12..20)?)
}

/// Seconds since 1970 of the local time `Nov 29 19:15:15 ` or `Nov  9 19:15:15 ` at the beginning, and what follows. It
/// has no year: the latest one is taken with which it is at most a day after `to_s` (seconds since 1970), because a wrong
/// time zone must not make it a year older. `offset_s`: how far local time is ahead of UTC, in seconds. `None`: it does
/// not begin so.
pub(super) fn yearless(text: &[u8], to_s: i64, offset_s: i32) -> Option<(i64, &[u8])> {
    const DAY_S: i64 = 86_400;
    // Most lines have another form, and this is the cheapest way to see that.
    if text.get(3) != Some(&b' ') || text.get(6) != Some(&b' ') || text.get(15) != Some(&b' ') {
        return None;
    }
    let month = month(text.get(..3)?)?;
    let day = match text.get(4)? {
        b' ' => field(text, 5, 6)?,
        _ => field(text, 4, 6)?,
    };
    let now = Offset::UTC.to_datetime(Timestamp::from_second(to_s.saturating_add(DAY_S)).ok()?);
    let of = |year| utc_s(clock(year, month, day, text.get(7..15)?)?, offset_s);
    let latest = to_s.saturating_add(DAY_S);
    let this_year = of(now.year()).filter(|at| *at <= latest);
    let at = this_year.or_else(|| of(now.year().checked_sub(1)?))?;
    Some((at, text.get(16..)?))
}

/// Seconds since 1970 of a local time that is `offset_s` ahead of UTC; `None`: it is out of the range of times.
pub(super) fn utc_s(time: DateTime, offset_s: i32) -> Option<i64> {
    let offset = Offset::from_seconds(offset_s).ok()?;
    offset.to_timestamp(time).ok().map(Timestamp::as_second)
}

/// How far local time is ahead of UTC, in seconds: `last` is the local time of the last line, which was written at
/// `written_s` (seconds since 1970). `None`: they are not a whole number of quarters of an hour apart (2 s more or less),
/// or more than 14 hours, and so something else happened to one of them.
pub(super) fn offset_s(last: DateTime, written_s: i64) -> Option<i32> {
    let ahead = utc_s(last, 0)?.checked_sub(written_s)?;
    let offset = ahead.checked_add(LATE_S)?.div_euclid(QUARTER_S).checked_mul(QUARTER_S)?;
    let late = offset.checked_sub(ahead)?;
    if late.abs() > LATE_S || offset.abs() > LARGEST_S {
        return None;
    }
    i32::try_from(offset).ok()
}

/// A date with `19:15:15`.
fn clock(year: i16, month: i16, day: i16, text: &[u8]) -> Option<DateTime> {
    if text.get(2) != Some(&b':') || text.get(5) != Some(&b':') {
        return None;
    }
    let (hour, minute, second) = (field(text, 0, 2)?, field(text, 3, 5)?, field(text, 6, 8)?);
    let small = |number: i16| i8::try_from(number).ok();
    // A leap second is the last one of its minute twice.
    let second = small(second.min(59))?;
    let (month, day, hour, minute) = (small(month)?, small(day)?, small(hour)?, small(minute)?);
    DateTime::new(year, month, day, hour, minute, second, 0).ok()
}

/// The number at these places; `None`: they are not only digits.
fn field(text: &[u8], from: usize, to: usize) -> Option<i16> {
    text.get(from..to)?.iter().try_fold(0_i16, |sum, digit| {
        let digit = i16::from(digit.checked_sub(b'0').filter(|digit| *digit < 10)?);
        sum.checked_mul(10)?.checked_add(digit)
    })
}

/// The number of a month, 1 to 12, by its English name of three letters, which these programs write in every language.
fn month(name: &[u8]) -> Option<i16> {
    const NAMES: &[u8] = b"JanFebMarAprMayJunJulAugSepOctNovDec";
    let at = NAMES.chunks(3).position(|it| it == name)?;
    i16::try_from(at).ok()?.checked_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-29 19:15:15 UTC.
    const AT: i64 = 1_795_979_715;

    #[test]
    fn every_form_gives_the_same_second() {
        assert_eq!(rfc3339(b"2026-11-29T19:15:15.123456789Z"), Some(AT));
        assert_eq!(rfc3339(b"2026-11-29T20:15:15+01:00"), Some(AT));
        let (local, rest) = slashed(b"2026/11/29 20:15:15 [crit]").unwrap();
        assert_eq!((utc_s(local, 3_600), rest), (Some(AT), &b" [crit]"[..]));
        let local = of_requests(b"29/Nov/2026:19:15:15.123").unwrap();
        assert_eq!(utc_s(local, 0), Some(AT));
        assert_eq!(yearless(b"Nov 29 19:15:15 host", AT, 0), Some((AT, &b"host"[..])));
    }

    #[test]
    fn other_texts_are_no_times() {
        for text in ["", "2026-11-29 19:15:15.1234Z", "2026-11-29T19:15:15", "2026-13-29T19:15:15Z"]
        {
            assert_eq!(rfc3339(text.as_bytes()), None, "{text}");
        }
        for text in
            ["2026/11/29", "2026-11-29 19:15:15", "2026/02/30 19:15:15", "2026/11/29 19.15.15"]
        {
            assert_eq!(slashed(text.as_bytes()), None, "{text}");
        }
        assert_eq!(of_requests(b"29/Foo/2026:19:15:15"), None);
        assert_eq!(yearless(b"Nov 31 19:15:15 x", AT, 0), None);
    }

    #[test]
    fn a_date_without_a_year_is_of_the_last_months() {
        let new_year = 1_798_761_600; // 2027-01-01 00:00:00 UTC
        let at = |text: &str, to_s| yearless(text.as_bytes(), to_s, 0).unwrap().0;
        assert_eq!(at("Dec 31 23:59:58 x", new_year), new_year - 2);
        assert_eq!(at("Jan  1 00:00:00 x", new_year), new_year);
        // A host one hour ahead, seen just before the new year in UTC.
        assert_eq!(at("Jan  1 00:30:00 x", new_year - 1_800), new_year + 1_800);
        assert_eq!(at("Jun 30 12:00:00 x", new_year), new_year - 185 * 86_400 + 43_200);
    }

    #[test]
    fn the_offset_follows_from_when_the_file_was_written() {
        let (local, _) = slashed(b"2026/11/29 20:15:15").unwrap();
        for (written, expected) in [
            (AT, Some(3_600)),
            (AT + 2, Some(3_600)),
            (AT + 3, None),
            (AT + 3_600, Some(0)),
            (AT + 3_600 - 20_700, Some(20_700)),
            (AT + 3_600 + 18_000, Some(-18_000)),
            (AT + 90_000, None),
            (AT + 400, None),
        ] {
            assert_eq!(offset_s(local, written), expected, "{written}");
        }
    }
}
