//! Makes text that other users chose (names of threads, paths of cgroups) safe to print on a terminal.
//!
//! Escape sequences, bidirectional overrides and invisible characters in a name can hide or forge what an operator
//! reads, so all of them are replaced.

use std::borrow::Cow;

/// One line of text: every character that is harmful (see [`is_harmful`]), also a newline, is replaced by U+FFFD.
pub fn line(text: &str) -> Cow<'_, str> {
    filter(text, |_| false)
}

/// Several lines of text: every harmful character except newlines is replaced by U+FFFD.
pub fn lines(text: &str) -> Cow<'_, str> {
    filter(text, |letter| letter == '\n')
}

/// Bytes from the kernel, up to the first NUL, as one line of text: see [`line()`].
pub fn kernel(bytes: &[u8]) -> String {
    line(&String::from_utf8_lossy(until_nul(bytes))).into_owned()
}

/// The bytes before the first NUL; all if there is none.
pub fn until_nul(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    &bytes[..end]
}

fn filter(text: &str, keep: impl Fn(char) -> bool) -> Cow<'_, str> {
    let bad = |letter: char| is_harmful(letter) && !keep(letter);
    if text.bytes().all(|byte| matches!(byte, 0x20..=0x7e)) || !text.contains(bad) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.replace(bad, "\u{fffd}"))
}

/// Whether a character can act on a terminal, is invisible, or has no fixed look: Unicode categories Cc, Cf, Zl and Zp
/// (DerivedGeneralCategory.txt, Unicode 16), private use, noncharacters, variation selectors, and invisible letters and marks
/// (fillers of Hangul, the combining grapheme joiner).
pub fn is_harmful(letter: char) -> bool {
    letter.is_control()
        || matches!(u32::from(letter),
            0x00ad
            | 0x034f
            | 0x0600..=0x0605
            | 0x061c
            | 0x06dd
            | 0x070f
            | 0x0890..=0x0891
            | 0x08e2
            | 0x115f..=0x1160
            | 0x17b4..=0x17b5
            | 0x180b..=0x180f
            | 0x200b..=0x200f
            | 0x2028..=0x202e
            | 0x2060..=0x206f
            | 0x3164
            | 0xe000..=0xf8ff
            | 0xfe00..=0xfe0f
            | 0xfdd0..=0xfdef
            | 0xfeff
            | 0xffa0
            | 0xfff0..=0xfffb
            | 0x110bd
            | 0x110cd
            | 0x13430..=0x1343f
            | 0x1bca0..=0x1bca3
            | 0x1d173..=0x1d17a
            | 0xe0000..=0x10_ffff)
        || u32::from(letter) & 0xfffe == 0xfffe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_all_one_byte_strings_only_printable_ascii_gets_through() {
        for byte in 0..=u8::MAX {
            let shown = kernel(&[byte]);
            let expected = match byte {
                0 => String::new(),
                0x20..=0x7e => char::from(byte).to_string(),
                _ => "\u{fffd}".to_owned(),
            };
            assert_eq!(shown, expected, "byte {byte:#x}");
        }
    }

    #[test]
    fn no_bidirectional_control_gets_through() {
        let bidi = "\u{61c}\u{200e}\u{200f}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}";
        for letter in bidi.chars() {
            assert_eq!(line(&letter.to_string()), "\u{fffd}", "{letter:?}");
        }
    }

    #[test]
    fn no_c1_control_separator_or_invisible_character_gets_through() {
        for code in (0x7f..=0x9f).chain([0x2028, 0x2029, 0xfeff, 0x200b, 0xe0041, 0xad]) {
            let letter = char::from_u32(code).unwrap();
            assert_eq!(line(&letter.to_string()), "\u{fffd}", "{letter:?}");
        }
    }

    #[test]
    fn ordinary_text_is_not_changed() {
        for text in ["nginx: worker", "größe", "日本語", "Ω🚀", "\u{fffd}"] {
            assert_eq!(line(text), text);
        }
        assert_eq!(lines("a\nb\tc"), "a\nb\u{fffd}c");
        assert_eq!(line("a\nb"), "a\u{fffd}b");
    }

    #[test]
    fn kernel_bytes_end_at_the_first_nul() {
        assert_eq!(kernel(b"curl\0\x1b[2J"), "curl");
        assert_eq!(kernel(b"\xff\xfe"), "\u{fffd}\u{fffd}");
    }
}
