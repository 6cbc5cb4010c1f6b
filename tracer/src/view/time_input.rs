//! Parses a time in a recording, as a person types it. Pure: the time zone is an argument.

use jiff::{Timestamp, Zoned, civil::Time, tz::TimeZone};

use super::model::Direction;

/// What the meaning of a typed time depends on.
#[derive(Clone, Debug)]
pub struct Base {
    /// The time from which a duration counts, ns since 1970.
    pub now_ns: u64,
    /// When the recording begins, ns since 1970: a time of day is one within the recording. 0: not known; then it counts as 1970.
    pub begin_ns: u64,
    /// When the recording ends, ns since 1970; 0: not known; then a time of day is that of the recording's first day.
    pub end_ns: u64,
    /// The zone of times that are typed without one.
    pub zone: TimeZone,
}

const EXPECTED: &str = "expected a time of day (03:34:48), a date and time \
                        (2026-11-21T03:34:48Z) or how far forward or back (90s, 5m, 2h, -30s)";

/// The time that a text means, ns since 1970: a time of day (`03:34:48`), a date and time with or without a zone, or a duration
/// from `base.now_ns` on (`90s`, `5m`, `-1.5h`). It can be outside of the recording. `direction`: that of a duration without a
/// sign.
///
/// # Errors
/// What to write instead, because the text is not a time, or a duration leads to before 1970 or too far; or that the time
/// is before 1970 or out of range.
pub fn parse(text: &str, base: &Base, direction: Direction) -> Result<u64, String> {
    let text = text.trim();
    if let Some(ns) = duration(text) {
        let (back, ns) = match (text.as_bytes().first(), direction) {
            (Some(b'-'), _) => (true, ns),
            (Some(b'+'), _) => (false, ns),
            (_, direction) => (direction == Direction::Back, ns),
        };
        let there = if back { base.now_ns.checked_sub(ns) } else { base.now_ns.checked_add(ns) };
        return there.ok_or_else(|| EXPECTED.to_owned());
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return to_ns(time);
    }
    if let Ok(date_time) = text.parse::<jiff::civil::DateTime>()
        && text.contains(['T', ' '])
    {
        let zoned = date_time.to_zoned(base.zone.clone()).map_err(|error| error.to_string())?;
        return to_ns(zoned.timestamp());
    }
    let time: Time = text.parse().map_err(|_| EXPECTED.to_owned())?;
    time_of_day(time, base)
}

/// The first such time of day within the recording (of its first 400 days), ns since 1970; if there is none, that of the
/// recording's first day.
///
/// # Errors
/// That time is before 1970 or out of range.
fn time_of_day(time: Time, base: &Base) -> Result<u64, String> {
    let begin = zoned(base.begin_ns, &base.zone)?;
    let on = |day: jiff::civil::Date| {
        day.to_datetime(time).to_zoned(base.zone.clone()).map_err(|error| error.to_string())
    };
    let mut day = begin.date();
    for _ in 0..400 {
        let ns = to_ns(on(day)?.timestamp())?;
        if (base.begin_ns..=base.end_ns).contains(&ns) {
            return Ok(ns);
        }
        if ns > base.end_ns {
            break;
        }
        day = day.tomorrow().map_err(|error| error.to_string())?;
    }
    to_ns(on(begin.date())?.timestamp())
}

/// ns since 1970 as a time of that zone.
///
/// # Errors
/// The time is out of range.
pub fn zoned(ns: u64, zone: &TimeZone) -> Result<Zoned, String> {
    let time = Timestamp::from_nanosecond(i128::from(ns)).map_err(|error| error.to_string())?;
    Ok(time.to_zoned(zone.clone()))
}

fn to_ns(time: Timestamp) -> Result<u64, String> {
    u64::try_from(time.as_nanosecond()).map_err(|_| "that is before 1970".to_owned())
}

/// The length of a duration like `90s`, `+5m` or `-2h` in ns, without its sign; `None`: the text is not one, or the ns do
/// not fit into 64 bits.
fn duration(text: &str) -> Option<u64> {
    let text = text.strip_prefix(['+', '-']).unwrap_or(text);
    let unit = text.chars().next_back()?;
    let seconds = match unit {
        's' => 1.0,
        'm' => 60.0,
        'h' => 3600.0,
        _ => return None,
    };
    let value: f64 = text.get(..text.len() - 1)?.parse().ok()?;
    let value = std::time::Duration::try_from_secs_f64(value * seconds).ok()?;
    u64::try_from(value.as_nanos()).ok()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::cast_precision_loss, clippy::float_cmp, reason = "small numbers")]

    use proptest::prelude::*;

    use super::*;

    const HOUR: u64 = 3_600_000_000_000;

    /// 2026-11-20T23:00:00Z to 2026-11-21T05:00:00Z.
    fn base() -> Base {
        let begin: Timestamp = "2026-11-20T23:00:00Z".parse().unwrap();
        let begin_ns = to_ns(begin).unwrap();
        let zone = TimeZone::UTC;
        Base { now_ns: begin_ns + HOUR, begin_ns, end_ns: begin_ns + 6 * HOUR, zone }
    }

    fn hours(text: &str, direction: Direction) -> f64 {
        (parse(text, &base(), direction).unwrap() as f64 - base().begin_ns as f64) / HOUR as f64
    }

    #[test]
    fn every_form_is_understood() {
        assert_eq!(hours("2026-11-21T03:30:00Z", Direction::Forward), 4.5);
        assert_eq!(hours("2026-11-21T03:30:00+01:00", Direction::Back), 3.5);
        assert_eq!(hours("2026-11-21 03:30", Direction::Forward), 4.5);
        assert_eq!(hours("03:30:00", Direction::Forward), 4.5);
        assert_eq!(hours("23:30", Direction::Back), 0.5);
        assert_eq!(hours("30m", Direction::Forward), 1.5);
        assert_eq!(hours("30m", Direction::Back), 0.5);
        assert_eq!(hours("-1800s", Direction::Forward), 0.5);
        assert_eq!(hours("+2h", Direction::Back), 3.0);
        // Not within the recording: the caller handles that.
        assert_eq!(hours("06:00", Direction::Forward), -17.0);
    }

    #[test]
    fn the_error_for_another_text_says_what_to_write() {
        for text in ["", "soon", "25:00", "5", "5d", "-", "s"] {
            let error = parse(text, &base(), Direction::Forward).unwrap_err();
            assert!(error.contains("03:34:48"), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_time_or_an_error(text: String, now_ns: u64) {
            let base = Base { now_ns, ..base() };
            let _any = parse(&text, &base, Direction::Back);
        }
    }
}
