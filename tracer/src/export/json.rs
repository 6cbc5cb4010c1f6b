//! JSON values, written by hand onto the end of a buffer.

use std::{io::Write, net::Ipv6Addr};

use tracer_common::Addr;

/// A number.
#[inline]
pub(super) fn number(out: &mut Vec<u8>, value: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// The inside of a string: any bytes, invalid UTF-8 as U+FFFD. Quotes and backslashes are
/// escaped, and so is every character that could act on a terminal ([`crate::text::is_harmful`]).
#[inline]
pub(super) fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    // All but printable ASCII without `"` and `\`.
    let special = |byte: &u8| matches!(byte, 0..0x20 | b'"' | b'\\' | 0x7f..);
    if bytes.iter().any(special) {
        escaped(out, &String::from_utf8_lossy(bytes));
    } else {
        out.extend_from_slice(bytes);
    }
}

#[cold]
fn escaped(out: &mut Vec<u8>, text: &str) {
    for part in text.split_inclusive(['"', '\\']) {
        match part.as_bytes() {
            [before @ .., quote @ (b'"' | b'\\')] => {
                harmless(out, part.get(..before.len()).unwrap_or_default());
                out.extend_from_slice(&[b'\\', *quote]);
            }
            _ => harmless(out, part),
        }
    }
}

/// Text in which every character that could act on a terminal is a JSON escape.
pub(super) fn harmless(out: &mut Vec<u8>, text: &str) {
    for letter in text.chars() {
        if crate::text::is_harmful(letter) {
            for unit in letter.encode_utf16(&mut [0; 2]) {
                out.extend_from_slice(b"\\u");
                for shift in [12, 8, 4, 0] {
                    out.push(b"0123456789abcdef"[usize::from(*unit >> shift & 0xf)]);
                }
            }
        } else {
            out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
}

/// Four bytes of IPv4 in dotted decimal.
#[inline]
pub(super) fn ipv4(out: &mut Vec<u8>, octets: [u8; 4]) {
    // Each octet is copied as four bytes, of which the next one overwrites what is too much.
    let mut text = [0; 20];
    let mut end = 0;
    for octet in octets {
        let (digits, length) = &OCTETS[usize::from(octet)];
        text[end..end + 4].copy_from_slice(digits);
        end += usize::from(*length);
    }
    // Sixteen bytes hold the longest address; a fixed number of them is copied without a call.
    let begin = out.len();
    if let Some(text) = text.first_chunk::<16>() {
        out.extend_from_slice(text);
    }
    out.truncate(begin + end - 1);
}

/// The digits of each octet with the dot behind them, and their length.
static OCTETS: [([u8; 4], u8); 256] = {
    let mut octets = [([0; 4], 0); 256];
    let mut value = 0;
    while value < 256 {
        let digits = [value / 100, value / 10 % 10, value % 10];
        let mut text = [0; 4];
        let mut length = 0_u8;
        let mut place = if value >= 100 {
            0
        } else if value >= 10 {
            1
        } else {
            2
        };
        while place < 3 {
            text[length as usize] = b"0123456789"[digits[place]];
            length += 1;
            place += 1;
        }
        text[length as usize] = b'.';
        octets[value] = (text, length + 1);
        value += 1;
    }
    octets
};

/// IPv6 as RFC 5952 writes it.
pub(super) fn ipv6(out: &mut Vec<u8>, address: Addr) {
    // Writing to a Vec cannot fail.
    if write!(out, "{}", Ipv6Addr::from(address.0)).is_err() {
        out.extend_from_slice(b"::");
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_octet_is_written_as_std_writes_it_in_every_place() {
        for octet in 0..=255 {
            for octets in [[octet, 0, 0, 0], [255, octet, 10, octet], [1, 22, 133, octet]] {
                let expected = Ipv4Addr::from(octets).to_string();
                assert_eq!(written(|out| ipv4(out, octets)), expected);
            }
        }
    }

    #[test]
    fn what_acts_on_a_terminal_is_escaped() {
        let nasty = "\u{1b}[2J\"\\\u{7f}\u{9b}\u{202e}\u{e0041}é\n";
        let line = written(|out| text(out, nasty.as_bytes()));
        assert_eq!(line, "\\u001b[2J\\\"\\\\\\u007f\\u009b\\u202e\\udb40\\udc41é\\u000a");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_back_as_their_lossy_text(
            bytes in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let line = written(|out| text(out, &bytes));
            prop_assert!(!line.contains(char::is_control));
            let back: String = serde_json::from_str(&format!("\"{line}\"")).unwrap();
            prop_assert_eq!(back, String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn any_text_is_read_back_as_it_was(original: String) {
            let line = written(|out| text(out, original.as_bytes()));
            let back: String = serde_json::from_str(&format!("\"{line}\"")).unwrap();
            prop_assert_eq!(back, original);
        }
    }
}
