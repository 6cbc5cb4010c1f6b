//! Rows of values between commas, as `show stat` has them.

/// Values of a row that are read at most, and bytes of a value that are kept.
const MOST_VALUES: usize = 512;
const LONGEST_VALUE: usize = 256;

/// The rows of a table, up to an empty line or the end of the text: of each the values, 512 at most, each with its first
/// 256 bytes.
pub(super) struct Rows<'a> {
    text: &'a [u8],
}

impl<'a> Rows<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { text }
    }

    /// What is after the rows that were read: it begins with the empty line, or is empty.
    pub(super) fn rest(self) -> &'a [u8] {
        self.text
    }

    fn next_byte(&mut self) -> Option<u8> {
        let (first, rest) = self.text.split_first()?;
        self.text = rest;
        Some(*first)
    }
}

impl Iterator for Rows<'_> {
    type Item = Vec<String>;

    /// A value in quotes can have commas and ends of lines; two quotes in it are one.
    fn next(&mut self) -> Option<Vec<String>> {
        if self.text.is_empty() || self.text.starts_with(b"\n") {
            return None;
        }
        let mut values = Vec::new();
        let mut value = Vec::new();
        let mut quoted = false;
        while let Some(byte) = self.next_byte() {
            match byte {
                b'"' if quoted && self.text.starts_with(b"\"") => {
                    self.next_byte();
                    keep(&mut value, b'"');
                }
                b'"' => quoted = !quoted,
                b',' if !quoted => end(&mut values, &mut value),
                b'\n' if !quoted => break,
                other => keep(&mut value, other),
            }
        }
        end(&mut values, &mut value);
        Some(values)
    }
}

fn keep(value: &mut Vec<u8>, byte: u8) {
    if value.len() < LONGEST_VALUE {
        value.push(byte);
    }
}

fn end(values: &mut Vec<String>, value: &mut Vec<u8>) {
    if values.len() < MOST_VALUES {
        values.push(String::from_utf8_lossy(value).into_owned());
    }
    value.clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_hide_commas_and_ends_of_lines() {
        let mut rows = Rows::new(b"a,\"b,\"\"c\nd\",,e\n1,2\n\nrest");
        assert_eq!(rows.next().unwrap(), ["a", "b,\"c\nd", "", "e"]);
        assert_eq!(rows.next().unwrap(), ["1", "2"]);
        assert_eq!(rows.next(), None);
        assert_eq!(rows.rest(), b"\nrest");
    }

    #[test]
    fn a_row_takes_bounded_memory() {
        let long = [b"x".repeat(1_000), b",".repeat(1_000)].concat();
        let row = Rows::new(&long).next().unwrap();
        assert_eq!((row.len(), row[0].len()), (MOST_VALUES, LONGEST_VALUE));
    }
}
