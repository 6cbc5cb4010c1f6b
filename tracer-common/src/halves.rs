//! A word that counts even and odd ports.

/// How many even and how many odd ports there are of a kind: connect() searches the ports of one parity
/// first. One addition changes a count, and one load reads both.
///
/// The even ports are in the upper 32 bits. One CPU can count the release of a port before another has counted that it was
/// taken, so either count can be below 0 for a moment. It reads as 0 then.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Halves(pub u64);

impl Halves {
    /// What this port (host byte order) adds to the word: 1 for an odd one, 2^32 for an even one. [`u64::wrapping_neg`] of it
    /// removes the port.
    #[inline(always)]
    pub const fn one(port: u16) -> u64 {
        if port & 1 != 0 { 1 } else { 1 << 32 }
    }

    /// How many odd ports there are.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
    pub const fn odd(self) -> u32 {
        not_negative(self.0 as u32)
    }

    /// How many even ports there are.
    #[inline(always)]
    pub const fn even(self) -> u32 {
        // An odd count below 0 has borrowed 1 from the even count.
        not_negative((self.0.wrapping_add(1 << 31) >> 32) as u32)
    }

    /// Both counts together. While that is below 0 for a moment, it wraps: a number near 2^32.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
    pub const fn sum(self) -> u32 {
        ((self.0.wrapping_add(1 << 31) >> 32) as u32).wrapping_add(self.0 as u32)
    }
}

/// 0 in place of a negative number.
#[inline(always)]
const fn not_negative(count: u32) -> u32 {
    if count >> 31 != 0 { 0 } else { count }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_counts_go_up_and_down_by_themselves() {
        let mut halves = Halves::default();
        for port in 0..=u16::MAX {
            halves.0 = halves.0.wrapping_add(Halves::one(port));
        }
        assert_eq!((halves.even(), halves.odd(), halves.sum()), (32_768, 32_768, 65_536));
        for port in (0..=u16::MAX).step_by(2) {
            halves.0 = halves.0.wrapping_sub(Halves::one(port));
        }
        assert_eq!((halves.even(), halves.odd()), (0, 32_768));
    }

    #[test]
    fn an_end_that_is_counted_before_its_begin_is_nothing() {
        let mut halves = Halves(Halves::one(2).wrapping_mul(5));
        halves.0 = halves.0.wrapping_sub(Halves::one(1));
        assert_eq!((halves.even(), halves.odd(), halves.sum()), (5, 0, 4));
        let none = Halves(Halves::one(2).wrapping_neg());
        assert_eq!((none.even(), none.odd()), (0, 0));
    }
}
