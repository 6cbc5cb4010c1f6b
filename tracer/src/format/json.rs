//! Writes JSON in which no character can act on a terminal: strings without serde, and values with it.

use serde::Serialize;

/// Appends bytes as the inside of a JSON string, without the quotes around it; invalid UTF-8 becomes U+FFFD. Escapes quotes and
/// backslashes, and every character that could act on a terminal ([`crate::format::text::is_harmful`]).
#[inline]
pub(crate) fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    // Everything except printable ASCII without `"` and `\`.
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

/// Appends text, with a JSON escape (`\u001b`; above U+FFFF, two) for every character that could act on a terminal
/// ([`crate::format::text::is_harmful`]), so also for a newline. Quotes and backslashes stay as they are.
pub(crate) fn harmless(out: &mut Vec<u8>, text: &str) {
    for letter in text.chars() {
        if crate::format::text::is_harmful(letter) {
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

/// A value as JSON, without a newline, with an escape (`\u001b`) for every character that could act on a terminal
/// ([`crate::format::text::is_harmful`]). Such characters occur only inside of strings, where an escape has the same meaning.
///
/// # Errors
/// That of `serde_json`: `record` cannot be serialized.
pub(crate) fn terminal_safe(record: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let json = serde_json::to_string(record)?;
    // Nearly all lines are printable ASCII, and need no escape.
    if json.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Ok(json.into_bytes());
    }
    let mut out = Vec::with_capacity(json.len());
    harmless(&mut out, &json);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
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
