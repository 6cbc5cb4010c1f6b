//! Provides a buffer of formatted lines, and the cursor that writes into it.
//!
//! The buffer is made large enough before a line begins. Then a piece of known length is copied with a few
//! instructions; with a `Vec` that grows by the piece, the checks of its capacity and the calls of memcpy were most
//! of a line's cost.

use std::{net::Ipv6Addr, ops::Range};

use bytes::BytesMut;

/// A buffer of whole lines.
#[derive(Clone, Debug, Default)]
pub struct Lines {
    /// The lines are in `..end`; the bytes after them are initialized, and free for further lines.
    bytes: BytesMut,
    end: usize,
}

impl Lines {
    /// An empty buffer with room for this many bytes; it grows when it is full.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { bytes: BytesMut::zeroed(bytes), end: 0 }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.end]
    }

    /// Length of all lines together, in bytes.
    pub const fn len(&self) -> usize {
        self.end
    }

    pub const fn is_empty(&self) -> bool {
        self.end == 0
    }

    pub const fn clear(&mut self) {
        self.end = 0;
    }

    /// Appends what `write` writes, which must be at most `room` bytes, with the padding of each [`Word`] and number. With more,
    /// it may panic.
    #[inline]
    pub(super) fn append(&mut self, room: usize, write: impl FnOnce(&mut Cursor<'_>)) {
        if self.bytes.len() - self.end < room {
            self.grow(room);
        }
        let mut pen = Cursor { room: &mut self.bytes[self.end..] };
        write(&mut pen);
        let left = pen.room.len();
        self.end = self.bytes.len() - left;
    }

    #[cold]
    fn grow(&mut self, room: usize) {
        self.bytes.resize((self.end + room).next_power_of_two(), 0);
    }
}

/// Writes into free bytes, from left to right. Panics if they do not suffice. Some pieces need more free bytes than they write: a
/// [`Word`] its padding, the parts of a number 8, an IPv4 address 20, an IPv6 address 48.
pub(super) struct Cursor<'a> {
    room: &'a mut [u8],
}

impl Cursor<'_> {
    /// Gives `write` the next `N` bytes, and advances by the number that it returns. Panics if fewer than `N` bytes are free,
    /// even if `write` uses less.
    #[inline]
    fn piece<const N: usize>(&mut self, write: impl FnOnce(&mut [u8; N]) -> usize) {
        let room = std::mem::take(&mut self.room);
        let Some(piece) = room.first_chunk_mut() else { no_room(N) };
        let length = write(piece);
        self.room = &mut room[length..];
    }

    /// Writes text whose length is known at compile time.
    #[inline]
    pub(super) fn put<const N: usize>(&mut self, text: &[u8; N]) {
        self.piece(|piece| {
            *piece = *text;
            N
        });
    }

    /// Writes the text of a [`Word`], without its padding.
    #[inline]
    pub(super) fn word<const N: usize>(&mut self, word: &Word<N>) {
        self.piece(|piece| {
            *piece = word.text;
            word.length
        });
    }

    /// Writes text of any length, as it is.
    #[inline]
    pub(super) fn text(&mut self, text: &[u8]) {
        let (piece, room) = std::mem::take(&mut self.room).split_at_mut(text.len());
        piece.copy_from_slice(text);
        self.room = room;
    }

    /// Writes a number in decimal, without leading zeros.
    #[inline]
    pub(super) fn number(&mut self, value: impl Into<u64>) {
        let value = value.into();
        if value < EIGHT {
            self.up_to_eight(value);
        } else if value < EIGHT * EIGHT {
            self.up_to_eight(value / EIGHT);
            self.eight(value % EIGHT);
        } else {
            self.up_to_eight(value / EIGHT / EIGHT);
            self.eight(value / EIGHT % EIGHT);
            self.eight(value % EIGHT);
        }
    }

    /// Writes a number below [`EIGHT`] without leading zeros.
    #[inline]
    fn up_to_eight(&mut self, value: u64) {
        let digits = digits(value);
        // The first digit is in the lowest byte, so trailing zero bytes are leading zeros. The bit that is set in the highest
        // byte keeps the last digit, even if it is 0.
        let zeros = (digits | 1 << 63).trailing_zeros() / 8;
        self.piece(|piece| {
            *piece = ((digits | ASCII) >> (zeros * 8)).to_le_bytes();
            8 - zeros as usize
        });
    }

    /// Writes the last eight digits of a number, with leading zeros.
    #[inline]
    pub(super) fn eight(&mut self, value: u64) {
        self.put(&(digits(value % EIGHT) | ASCII).to_le_bytes());
    }

    /// Writes an IPv4 address in dotted decimal.
    #[inline]
    pub(super) fn ipv4(&mut self, octets: [u8; 4]) {
        self.piece(|piece: &mut [u8; 20]| {
            let mut end = 0;
            for octet in octets {
                // Always copies four bytes; the next octet overwrites those past `length`.
                let word = &OCTETS[usize::from(octet)];
                piece[end..end + 4].copy_from_slice(&word.text);
                end += word.length;
            }
            end - 1
        });
    }

    /// Writes an IPv6 address in the form of RFC 5952. An IPv4-mapped one is for [`Self::ipv4`].
    pub(super) fn ipv6(&mut self, address: [u8; 16]) {
        let groups = Ipv6Addr::from(address).segments();
        let zeros = longest_zeros(&groups);
        self.piece(|piece: &mut [u8; 48]| {
            let mut end = 0;
            for (index, group) in groups.into_iter().enumerate() {
                if zeros.contains(&index) {
                    // One colon for the whole run of zeros. The group after the run writes the second one; without a
                    // group, the end of this function does.
                    if index == zeros.start {
                        piece[end] = b':';
                        end += 1;
                    }
                    continue;
                }
                if index > 0 {
                    piece[end] = b':';
                    end += 1;
                }
                let (text, length) = hex(group);
                piece[end..end + 4].copy_from_slice(&text);
                end += length;
            }
            if zeros.end == groups.len() {
                piece[end] = b':';
                end += 1;
            }
            end
        });
    }
}

/// The indices of the groups that `::` stands for: the first of the longest runs of at least two zeros; empty: there is none.
fn longest_zeros(groups: &[u16; 8]) -> Range<usize> {
    let (mut longest, mut begin) = (0..0, 0);
    for (index, group) in groups.iter().enumerate() {
        if *group != 0 {
            begin = index + 1;
        } else if index + 1 - begin > longest.len().max(1) {
            longest = begin..index + 1;
        }
    }
    longest
}

/// A number in hexadecimal without leading zeros, padded to four bytes, and its length without the padding.
fn hex(group: u16) -> ([u8; 4], usize) {
    let [high, low] = group.to_be_bytes().map(u32::from);
    // One digit in each byte, the first one in the lowest.
    let digits = (high >> 4) | ((high & 0xf) << 8) | ((low >> 4) << 16) | ((low & 0xf) << 24);
    // In ASCII, 'a' to 'f' are 39 higher than they would be if they followed '9'.
    let letters = ((digits + 0x0606_0606) >> 4) & 0x0101_0101;
    let ascii = digits + 0x3030_3030 + letters * 39;
    // Trailing zero bytes are leading zeros. The bit that is set in the highest byte keeps the last digit, even if it is 0.
    let zeros = (digits | 1 << 31).trailing_zeros() / 8;
    ((ascii >> (zeros * 8)).to_le_bytes(), 4 - zeros as usize)
}

#[cold]
fn no_room(bytes: usize) -> ! {
    panic!("no room for {bytes} bytes of a line");
}

/// The number of values that eight decimal digits have.
pub(super) const EIGHT: u64 = 100_000_000;

/// `'0'` in every byte.
const ASCII: u64 = 0x3030_3030_3030_3030;

/// The eight digits of a number below [`EIGHT`], one in each byte, the first digit in the lowest byte. Each step divides all
/// parts at the same time, in one register: into two parts of four digits, then four of two, then eight of one.
#[inline]
const fn digits(value: u64) -> u64 {
    // n * 10486 >> 20 is n / 100 for n < 10,000; n * 103 >> 10 is n / 10 for n < 100.
    let fours = (value / 10_000) | ((value % 10_000) << 32);
    let hundreds = ((fours * 10_486) >> 20) & 0x7f_0000_007f;
    let twos = hundreds | ((fours - 100 * hundreds) << 16);
    let tens = ((twos * 103) >> 10) & 0x000f_000f_000f_000f;
    tens | ((twos - 10 * tens) << 8)
}

/// A short text, padded to `N` bytes, so that it is copied by a move of constant size, without a call of memcpy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Word<const N: usize> {
    text: [u8; N],
    length: usize,
}

impl<const N: usize> Word<N> {
    /// A word of this text. Panics if it is longer than `N` bytes; in a constant, that is an error at compile time.
    pub(super) const fn new(text: &str) -> Self {
        let mut word = Self { text: [0; N], length: text.len() };
        word.text.split_at_mut(text.len()).0.copy_from_slice(text.as_bytes());
        word
    }
}

/// Each octet in decimal, followed by a dot.
static OCTETS: [Word<4>; 256] = {
    let mut octets = [Word { text: *b"000.", length: 0 }; 256];
    let mut octet = 0_u8;
    loop {
        let Word { text, length } = &mut octets[octet as usize];
        if octet >= 100 {
            text[*length] = b'0' + octet / 100;
            *length += 1;
        }
        if octet >= 10 {
            text[*length] = b'0' + octet / 10 % 10;
            *length += 1;
        }
        text[*length] = b'0' + octet % 10;
        text[*length + 1] = b'.';
        *length += 2;
        if octet == u8::MAX {
            break;
        }
        octet += 1;
    }
    octets
};

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn written(write: impl FnOnce(&mut Cursor<'_>)) -> String {
        let mut lines = Lines::default();
        lines.append(100, write);
        String::from_utf8(lines.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn every_octet_is_written_as_std_writes_it_in_every_place() {
        for octet in 0..=255 {
            for octets in [[octet, 0, 0, 0], [255, octet, 10, octet], [1, 22, 133, octet]] {
                let expected = Ipv4Addr::from(octets).to_string();
                assert_eq!(written(|pen| pen.ipv4(octets)), expected);
            }
        }
    }

    #[test]
    fn numbers_are_right_where_their_length_changes() {
        let powers = (0..20).map(|power| 10_u64.pow(power));
        for value in powers.flat_map(|power| [power - 1, power, power + 1]).chain([u64::MAX]) {
            assert_eq!(written(|pen| pen.number(value)), value.to_string());
        }
    }

    #[test]
    fn what_was_there_stays_when_room_is_made() {
        let mut lines = Lines::default();
        for length in [3, 0, 5000, 1] {
            let before = lines.as_bytes().to_vec();
            lines.append(length, |pen| pen.text(&vec![b'x'; length]));
            assert_eq!(lines.as_bytes(), [before, vec![b'x'; length]].concat());
        }
    }

    #[test]
    #[should_panic(expected = "no room for 8 bytes")]
    fn more_than_was_asked_for_is_not_written() {
        let mut room = [0; 7];
        Cursor { room: &mut room }.eight(0);
    }

    proptest! {
        #[test]
        fn any_number_is_written_as_std_writes_it(value: u64, shift in 0_u32..64) {
            let value = value >> shift;
            prop_assert_eq!(written(|pen| pen.number(value)), value.to_string());
            let last = format!("{:08}", value % EIGHT);
            prop_assert_eq!(written(|pen| pen.eight(value)), last);
        }

        #[test]
        fn any_ipv6_address_is_written_as_std_writes_it(
            groups in any::<[u16; 8]>(), mask: u8, shifts in any::<[u8; 8]>(),
        ) {
            // Zeros in all places, and groups of all lengths.
            let groups = std::array::from_fn::<u16, 8, _>(|index| {
                if (mask >> index) & 1 == 0 { 0 } else { groups[index] >> (shifts[index] % 16) }
            });
            let address = Ipv6Addr::from(groups);
            // std writes these in dotted decimal; here `Cursor::ipv4` writes them.
            prop_assume!(address.to_ipv4_mapped().is_none());
            prop_assert_eq!(written(|pen| pen.ipv6(address.octets())), address.to_string());
        }
    }
}
