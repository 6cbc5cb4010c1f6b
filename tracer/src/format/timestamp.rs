//! Formats timestamps (RFC 3339) in UTC with nanoseconds. Each takes only some nanoseconds, because the text of the newest second
//! is kept: the timestamps of one second differ only in their last nine digits.

/// Length of `2026-11-21T02:44:53.123456789Z`.
pub(crate) const LENGTH: usize = 30;
/// Length of the part before the fraction, with the point.
const DATE: usize = 20;

/// Formats timestamps. Keeps the text of the second that was asked for last, so that further timestamps of it are cheap.
#[derive(Clone, Debug)]
pub(crate) struct Timestamp {
    second: u64,
    date: [u8; DATE],
}

impl Default for Timestamp {
    fn default() -> Self {
        Self { second: 0, date: *b"1970-01-01T00:00:00." }
    }
}

impl Timestamp {
    /// The text before the fraction, with the point: ASCII, `2026-11-21T02:44:53.`. `second`: seconds since 1970, which must be
    /// at most those of `u64::MAX` ns (in the year 2554; not checked: from the year 10000 on, the year's digits are wrong).
    #[inline]
    pub(crate) fn date(&mut self, second: u64) -> &[u8; DATE] {
        if second != self.second {
            self.set_second(second);
        }
        &self.date
    }

    /// The text of a time: ASCII, `2026-11-21T02:44:53.123456789Z`. `ns`: nanoseconds since 1970.
    pub(crate) fn text(&mut self, ns: u64) -> [u8; LENGTH] {
        let mut text = [b'Z'; LENGTH];
        text[..DATE].copy_from_slice(self.date(ns / 1_000_000_000));
        let mut fraction = ns % 1_000_000_000;
        for place in text[DATE..LENGTH - 1].iter_mut().rev() {
            *place = digit(fraction);
            fraction /= 10;
        }
        text
    }

    #[cold]
    fn set_second(&mut self, second: u64) {
        let (year, month, day) = civil(second / 86_400);
        let of_day = second % 86_400;
        put_pair(&mut self.date, 0, year / 100);
        put_pair(&mut self.date, 2, year % 100);
        put_pair(&mut self.date, 5, month);
        put_pair(&mut self.date, 8, day);
        put_pair(&mut self.date, 11, of_day / 3600);
        put_pair(&mut self.date, 14, of_day / 60 % 60);
        put_pair(&mut self.date, 17, of_day % 60);
        self.second = second;
    }
}

fn digit(value: u64) -> u8 {
    b'0' + (value % 10) as u8
}

fn put_pair(text: &mut [u8; DATE], at: usize, value: u64) {
    text[at] = digit(value / 10);
    text[at + 1] = digit(value);
}

/// Year, month and day of a number of days since 1970-01-01, in the Gregorian calendar.
///
/// Years begin in March here, so that the leap day is the last day of a year. 400 years always have 146,097 days, and
/// 1 March of the year 0 is 719,468 days before 1970.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (cycle, day_of_cycle) = (days / 146_097, days % 146_097);
    let leap_days = day_of_cycle / 1460 + day_of_cycle / 146_096 - day_of_cycle / 36_524;
    let year_of_cycle = (day_of_cycle - leap_days) / 365;
    let day_of_year =
        day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    // From March on, the lengths of months repeat: 31 30 31 30 31 days, 153 days for five months.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = 400 * cycle + year_of_cycle + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use jiff::{Timestamp as Reference, ToSpan};
    use proptest::prelude::*;

    use super::*;

    fn reference(ns: u64) -> String {
        let timestamp = Reference::from_nanosecond(i128::from(ns)).unwrap();
        format!("{timestamp:.9}")
    }

    fn text(clock: &mut Timestamp, ns: u64) -> String {
        String::from_utf8(clock.text(ns).to_vec()).unwrap()
    }

    #[test]
    fn every_day_up_to_the_last_is_that_of_the_calendar() {
        let mut clock = Timestamp::default();
        let mut day = Reference::UNIX_EPOCH;
        for number in 0..u64::MAX / 86_400_000_000_000 {
            let expected = day.to_string().replace('Z', ".000000000Z");
            assert_eq!(text(&mut clock, number * 86_400_000_000_000), expected);
            day = day.checked_add(24.hours()).unwrap();
        }
        assert_eq!(text(&mut clock, u64::MAX), "2554-07-21T23:34:33.709551615Z");
    }

    proptest! {
        #[test]
        fn any_two_times_in_a_row_are_those_of_the_calendar(first: u64, step in 0_u64..3_000_000_000) {
            let mut clock = Timestamp::default();
            prop_assert_eq!(text(&mut clock, first), reference(first));
            let second = first.saturating_add(step);
            prop_assert_eq!(text(&mut clock, second), reference(second));
        }
    }
}
