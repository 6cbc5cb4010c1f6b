//! Formats numbers for people.

/// A whole number with commas between thousands: `28,232`.
pub(crate) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        let of = [0, 999, 1_000, 28_232, 1_234_567].map(number);
        assert_eq!(of, ["0", "999", "1,000", "28,232", "1,234,567"]);
    }
}
