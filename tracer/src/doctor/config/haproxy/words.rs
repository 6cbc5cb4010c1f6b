//! The words of a line of HAProxy's configuration (configuration.txt, 2.2 "Quoting and escaping" and 2.3 "Environment
//! variables").
//!
//! A line is never continued by the next one: HAProxy 2.6 reads a backslash at the end of a line as a backslash.

use std::borrow::Cow;

/// HAProxy refuses a line with more words.
const MOST_WORDS: usize = 64;

/// A word without its quotes and escapes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Word<'a> {
    pub(super) text: Cow<'a, str>,
    /// Whether it has an environment variable, which only double quotes can have: then the text is not what HAProxy reads.
    pub(super) variable: bool,
}

/// The words of a line, without a comment; empty: it has none. `None`: HAProxy refuses such a line, because a quote is not
/// closed, or there are more than 64 words.
pub(super) fn words(line: &[u8]) -> Option<Vec<Word<'_>>> {
    let mut reader = Reader { line, ..Reader::default() };
    reader.plain()?;
    while let Some(byte) = reader.next() {
        match byte {
            b' ' | b'\t' | b'\r' => {
                reader.end()?;
                reader.plain()?;
            }
            b'#' => break,
            b'\'' => reader.strong()?,
            b'"' => reader.weak()?,
            b'\\' => reader.escape(false),
            other => reader.put(other),
        }
    }
    reader.end()?;
    Some(reader.words)
}

#[derive(Default)]
struct Reader<'a> {
    line: &'a [u8],
    at: usize,
    words: Vec<Word<'a>>,
    current: Vec<u8>,
    /// Whether a word has begun; it may be empty.
    begun: bool,
    variable: bool,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.line.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    /// Takes the words from here on that have no quotes and no escapes, as nearly all have: they need no copies. `None`: there are
    /// too many.
    fn plain(&mut self) -> Option<()> {
        let line = self.line;
        loop {
            let rest = line.get(self.at..)?;
            let length = rest.iter().position(|byte| b" \t\r#'\"\\".contains(byte));
            let word = rest.get(..length.unwrap_or(rest.len()))?;
            match rest.get(word.len()) {
                Some(b'\'' | b'"' | b'\\') => return Some(()),
                // Here is the end, or a comment, or a space.
                next if word.is_empty() && !matches!(next, Some(b' ' | b'\t' | b'\r')) => {
                    return Some(());
                }
                _ => {}
            }
            self.at += word.len().max(1);
            if !word.is_empty() {
                self.add(Word { text: String::from_utf8_lossy(word), variable: false })?;
            }
        }
    }

    fn add(&mut self, word: Word<'a>) -> Option<()> {
        self.words.push(word);
        (self.words.len() <= MOST_WORDS).then_some(())
    }

    fn put(&mut self, byte: u8) {
        self.begun = true;
        self.current.push(byte);
    }

    /// Ends the word. `None`: there are too many.
    fn end(&mut self) -> Option<()> {
        if !self.begun {
            return Some(());
        }
        let text = String::from_utf8_lossy(&self.current).into_owned().into();
        let variable = self.variable;
        self.current.clear();
        (self.begun, self.variable) = (false, false);
        self.add(Word { text, variable })
    }

    fn strong(&mut self) -> Option<()> {
        self.begun = true;
        loop {
            match self.next()? {
                b'\'' => return Some(()),
                byte => self.put(byte),
            }
        }
    }

    fn weak(&mut self) -> Option<()> {
        self.begun = true;
        loop {
            match self.next()? {
                b'"' => return Some(()),
                b'\\' => self.escape(true),
                b'$' => {
                    self.variable = true;
                    self.put(b'$');
                }
                byte => self.put(byte),
            }
        }
    }

    /// What stands for itself after a backslash, or a character's name; else the backslash is one.
    fn escape(&mut self, weak: bool) {
        let byte = match self.peek() {
            Some(byte @ (b' ' | b'\\' | b'"' | b'\'' | b'#')) => byte,
            Some(b'$') if weak => b'$',
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'x') => {
                if let Some(byte) = self.hexadecimal() {
                    self.at += 3;
                    self.put(byte);
                } else {
                    self.put(b'\\');
                }
                return;
            }
            _ => return self.put(b'\\'),
        };
        self.at += 1;
        self.put(byte);
    }

    /// The byte that the two digits after `x` name.
    fn hexadecimal(&self) -> Option<u8> {
        let digits = self.line.get(self.at + 1..self.at + 3)?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(line: &str) -> Option<Vec<String>> {
        Some(words(line.as_bytes())?.into_iter().map(|word| word.text.into_owned()).collect())
    }

    #[test]
    fn the_three_lines_of_the_manual_are_equal() {
        let expected = Some(vec!["log-format".to_owned(), "%{+Q}o %t %s %{-Q}r".to_owned()]);
        let lines = [
            r"log-format %{+Q}o\ %t\ %s\ %{-Q}r",
            r#"log-format "%{+Q}o %t %s %{-Q}r""#,
            r"log-format '%{+Q}o %t %s %{-Q}r'",
            r#"log-format "%{+Q}o %t"' %s %{-Q}r'"#,
            r#"log-format "%{+Q}o %t"' %s'\ %{-Q}r  # a comment"#,
        ];
        for line in lines {
            assert_eq!(texts(line), expected, "{line}");
        }
    }

    #[test]
    fn escapes_name_characters_and_a_lone_backslash_is_one() {
        let line = r#"\x35\t\#\" a\z "\$x" '\n' \x3 ""  b\"#;
        let expected = ["5\t#\"", "a\\z", "$x", "\\n", "\\x3", "", "b\\"];
        assert_eq!(texts(line).unwrap(), expected);
        assert!(words(line.as_bytes()).unwrap().iter().all(|word| !word.variable));
    }

    #[test]
    fn variables_are_seen_in_weak_quotes_only() {
        let of = |line: &str| {
            words(line.as_bytes()).unwrap().iter().map(|it| it.variable).collect::<Vec<_>>()
        };
        assert_eq!(
            of(r#"$A '$A' "$A" x"${B-1}"y "\$A" z"#),
            [false, false, true, true, false, false]
        );
    }

    #[test]
    fn comments_end_a_line_anywhere_outside_of_quotes() {
        assert_eq!(texts("daemon#daemonize").unwrap(), ["daemon"]);
        assert_eq!(texts("a '#' b # c 'd").unwrap(), ["a", "#", "b"]);
        assert_eq!(texts("  # x").unwrap(), [""; 0]);
    }

    #[test]
    fn what_haproxy_refuses_has_no_words() {
        assert_eq!(texts("maxconn \"5"), None);
        assert_eq!(texts("maxconn '5"), None);
        assert_eq!(texts(&"x ".repeat(65)), None);
        assert_eq!(texts(&"x ".repeat(64)).unwrap().len(), 64);
    }
}
