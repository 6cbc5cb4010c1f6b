//! Words, blocks and comments of nginx's configuration language.

use std::borrow::Cow;

use memchr::{memchr, memchr_iter, memchr2};

/// The longest word, as nginx has it (NGX_CONF_BUFFER).
const LONGEST_WORD: usize = 4096;
/// The most words that are kept of a directive: all that are read here have fewer.
const MOST_WORDS: usize = 64;

/// What comes next in a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Token<'a> {
    /// The words of a directive that ends with `;`, and the line of its first word. Of more than 64 words, the first 64.
    Statement(Vec<Cow<'a, str>>, u32),
    /// The words before a `{`, and the line of the first one. Of more than 64 words, the first 64.
    Open(Vec<Cow<'a, str>>, u32),
    /// A `}`.
    Close,
    /// The end of the file.
    End,
}

/// Why a file cannot be read further, and at which line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Broken {
    pub(super) line: u32,
    pub(super) why: &'static str,
}

/// Reads a file from its beginning to its end, or to the first place that nginx refuses.
#[derive(Debug)]
pub(super) struct Lexer<'a> {
    bytes: &'a [u8],
    at: usize,
    line: u32,
}

impl<'a> Lexer<'a> {
    /// Begins at the first byte of a file, or after its byte order mark.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        // Editors on other systems put it at the beginning of a file, and nginx skips it.
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        Self { bytes, at: 0, line: 1 }
    }

    /// The line that is read next, from 1 on.
    pub(super) fn line(&self) -> u32 {
        self.line
    }

    /// The next token; at the end of the file, [`Token::End`] each time.
    ///
    /// # Errors
    /// nginx refuses the file at this place: it ends within a directive, a block ends within one, a directive has no name, a word
    /// has more than 4,096 bytes, or no space comes after a quoted word.
    pub(super) fn next(&mut self) -> Result<Token<'a>, Broken> {
        let mut words = Vec::new();
        let mut line = self.line;
        loop {
            let Some(byte) = self.peek() else {
                return if words.is_empty() {
                    Ok(Token::End)
                } else {
                    Err(self.broken("the file ends within a directive"))
                };
            };
            match byte {
                byte if is_space(byte) => {
                    self.advance(self.until(self.rest().iter().position(|byte| !is_space(*byte))));
                }
                b'#' => self.advance(self.until(memchr(b'\n', self.rest()))),
                b';' | b'{' if words.is_empty() => {
                    return Err(self.broken("a directive has no name"));
                }
                b'}' if !words.is_empty() => {
                    return Err(self.broken("a block ends within a directive"));
                }
                b';' => return Ok(self.end_with(Token::Statement(words, line))),
                b'{' => return Ok(self.end_with(Token::Open(words, line))),
                b'}' => return Ok(self.end_with(Token::Close)),
                _ => {
                    if words.is_empty() {
                        line = self.line;
                    }
                    let word = self.word(byte)?;
                    if words.len() < MOST_WORDS {
                        words.push(word);
                    }
                }
            }
        }
    }

    /// Skips Lua up to the `}` that ends its block. To be called after the [`Token::Open`] of such a block. Braces in its strings
    /// and comments do not count.
    ///
    /// # Errors
    /// The block does not end; nothing is skipped then.
    pub(super) fn skip_lua(&mut self) -> Result<(), Broken> {
        match super::lua::end(self.rest()) {
            Some(end) => {
                self.advance(end);
                Ok(())
            }
            None => Err(self.broken("a block of Lua does not end")),
        }
    }

    fn word(&mut self, first: u8) -> Result<Cow<'a, str>, Broken> {
        let quoted = matches!(first, b'"' | b'\'');
        let length = if quoted { self.quoted(first) } else { self.bare() };
        let Some(length) = length else {
            return Err(self.broken("the file ends within a word"));
        };
        if length > LONGEST_WORD {
            return Err(self.broken("a word has more than 4,096 bytes"));
        }
        let text = self.rest().get(..length).unwrap_or_default();
        let text = if quoted { text.get(1..length - 1).unwrap_or_default() } else { text };
        let word = unescaped(text);
        self.advance(length);
        let ends =
            self.peek().is_none_or(|next| is_space(next) || matches!(next, b';' | b'{' | b')'));
        if quoted && !ends {
            return Err(self.broken("there is no space after a quoted word"));
        }
        Ok(word)
    }

    /// Length of the word in quotes that begins here, with these; `None`: it does not end.
    fn quoted(&self, quote: u8) -> Option<usize> {
        let rest = self.rest();
        let mut at = 1;
        loop {
            at += memchr2(quote, b'\\', rest.get(at..)?)?;
            if rest.get(at) == Some(&quote) {
                return Some(at + 1);
            }
            at += 2;
        }
    }

    /// Length of the word without quotes that begins here; `None`: it does not end. `${` begins a variable, not a block.
    fn bare(&self) -> Option<usize> {
        let mut of_variable = false;
        let mut escaped = false;
        for (at, byte) in self.rest().iter().enumerate() {
            let first = at == 0;
            match byte {
                _ if escaped => escaped = false,
                b'{' if of_variable => {}
                b'\\' => {
                    escaped = true;
                    of_variable = false;
                }
                b'$' => of_variable = true,
                b';' | b'{' if !first => return Some(at),
                byte if !first && is_space(*byte) => return Some(at),
                _ => of_variable = false,
            }
        }
        None
    }

    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// A place that was found in the rest; without one, its end.
    fn until(&self, found: Option<usize>) -> usize {
        found.unwrap_or(self.rest().len())
    }

    fn advance(&mut self, length: usize) {
        let passed = self.rest().get(..length).unwrap_or_default();
        let lines = memchr_iter(b'\n', passed).count();
        self.line = self.line.saturating_add(u32::try_from(lines).unwrap_or(u32::MAX));
        self.at += length;
    }

    fn end_with(&mut self, token: Token<'a>) -> Token<'a> {
        self.advance(1);
        token
    }

    fn broken(&self, why: &'static str) -> Broken {
        Broken { line: self.line, why }
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// The word with its backslashes undone: before a quote or a backslash, and for tab, newline and return. Others stay.
fn unescaped(text: &[u8]) -> Cow<'_, str> {
    if memchr(b'\\', text).is_none() {
        return String::from_utf8_lossy(text);
    }
    let mut word = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let escaped = match (first, tail.first()) {
            (b'\\', Some(b'"')) => Some(b'"'),
            (b'\\', Some(b'\'')) => Some(b'\''),
            (b'\\', Some(b'\\')) => Some(b'\\'),
            (b'\\', Some(b't')) => Some(b'\t'),
            (b'\\', Some(b'r')) => Some(b'\r'),
            (b'\\', Some(b'n')) => Some(b'\n'),
            _ => None,
        };
        word.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { tail.get(1..).unwrap_or_default() } else { tail };
    }
    String::from_utf8_lossy(&word).into_owned().into()
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    /// All directives, as `line:word|word;` or with `{`, `}`; at the end the reason why the file cannot be read further.
    fn shown(text: &str) -> String {
        let mut lexer = Lexer::new(text.as_bytes());
        let mut out = String::new();
        loop {
            let (words, line, end) = match lexer.next() {
                Ok(Token::End) => return out,
                Ok(Token::Close) => {
                    out += "}";
                    continue;
                }
                Ok(Token::Statement(words, line)) => (words, line, ";"),
                Ok(Token::Open(words, line)) => (words, line, "{"),
                Err(broken) => return format!("{out} {}: {}", broken.line, broken.why),
            };
            write!(out, "{line}:{}{end}", words.join("|")).unwrap_or_default();
        }
    }

    #[test]
    fn words_end_as_nginx_ends_them() {
        for (text, expected) in [
            ("a b;c;", "1:a|b;1:c;"),
            ("a\tb\r\n\n  c ;\nd;", "1:a|b|c;4:d;"),
            ("# ; {\na;#b\n", "2:a;"),
            ("a b#c;", "1:a|b#c;"),
            ("a{b;}", "1:a{1:b;}"),
            ("a }b;", " 1: a block ends within a directive"),
            ("a b};", "1:a|b};"),
            ("\u{feff}a;", "1:a;"),
            ("a \"b c\" '';", "1:a|b c|;"),
            ("if (\"a\") {}", "1:if|(\"a\"){}"),
            ("a \"b\")c;", "1:a|b|)c;"),
            ("a 'b\\'c' \"d\\\"e\" \\\\ \\t\\d;", "1:a|b'c|d\"e|\\|\t\\d;"),
            ("a '\n' b;\nc;", "1:a|\n|b;3:c;"),
            ("set $a ${b}c;", "1:set|$a|${b}c;"),
            ("a ${{;", "1:a|${{;"),
            ("a b\\ c\\;d;", "1:a|b\\ c\\;d;"),
            ("a $;", "1:a|$;"),
            ("a \"$\";", "1:a|$;"),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
    }

    #[test]
    fn what_nginx_refuses_ends_the_file_there() {
        for (text, expected) in [
            (";", " 1: a directive has no name"),
            ("a;\n{", "1:a; 2: a directive has no name"),
            ("a", " 1: the file ends within a word"),
            ("a b ", " 1: the file ends within a directive"),
            ("a \"b", " 1: the file ends within a word"),
            ("a 'b\\", " 1: the file ends within a word"),
            ("a \"b\"c;", " 1: there is no space after a quoted word"),
            ("a\\", " 1: the file ends within a word"),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
        let long = |length| format!("a {};", "b".repeat(length));
        assert!(shown(&long(4096)).starts_with("1:a|b"));
        assert_eq!(shown(&long(4097)), " 1: a word has more than 4,096 bytes");
    }

    #[test]
    fn of_very_many_words_some_are_kept() {
        let text = format!("a{};", " b".repeat(100_000));
        assert_eq!(shown(&text).matches('|').count(), 63);
    }
}
