//! Parses the timestamps of the format.

use crate::format::timestamp::LENGTH;

/// `2026-11-21T02:44:53.123456789Z` as ns since 1970; `None`: the text is not of this form, or the time is before 1970
/// or after July 2554 (the ns do not fit into 64 bits). A day up to 31 is accepted in every month, and a second up to 60.
pub(super) fn parse(text: &[u8]) -> Option<u64> {
    let text: &[u8; LENGTH] = text.try_into().ok()?;
    let marks = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':'), (19, b'.'), (29, b'Z')];
    if marks.iter().any(|(at, mark)| text[*at] != *mark) {
        return None;
    }
    let field = |from: usize, to: usize| number(&text[from..to]);
    let (year, month, day) = (field(0, 4)?, field(5, 7)?, field(8, 10)?);
    let (hour, minute, second) = (field(11, 13)?, field(14, 16)?, field(17, 19)?);
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let seconds = ((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second;
    seconds.checked_mul(1_000_000_000)?.checked_add(field(20, 29)?)
}

/// A decimal number; `None`: the text is empty, is longer than 20 digits or has other characters, or the number does not
/// fit into 64 bits.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 20 {
        return None;
    }
    text.iter().try_fold(0_u64, |sum, digit| {
        let digit = digit.wrapping_sub(b'0');
        (digit < 10).then_some(())?;
        sum.checked_mul(10)?.checked_add(digit.into())
    })
}

/// Days from 1970-01-01 to a day of the Gregorian calendar that is not before it. Years begin in March here, so that
/// the leap day is the last day of a year.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let of_year = (153 * month + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::timestamp::Timestamp;

    #[test]
    fn other_texts_are_not_parsed() {
        for text in [
            "",
            "2026-11-21T02:44:53Z",
            "2026-11-21 02:44:53.123456789Z",
            "2026-13-21T02:44:53.123456789Z",
            "2026-00-21T02:44:53.123456789Z",
            "1969-12-31T23:59:59.999999999Z",
            "2026-11-21T24:44:53.123456789Z",
            "2026-11-21T02:44:53.12345678xZ",
            "9999-11-21T02:44:53.123456789Z",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(number(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(number(b"18446744073709551616"), None);
    }

    proptest! {
        #[test]
        fn every_timestamp_that_is_written_is_read(ns: u64) {
            prop_assert_eq!(parse(&Timestamp::default().text(ns)), Some(ns));
        }
    }
}
