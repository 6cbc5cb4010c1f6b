//! [`Block`], a part of the output: comments that say what it gains, what to mind and how to take it back, then the lines to
//! paste. And how these comments show numbers and addresses.

pub(super) use crate::format::number::number as count;
use std::net::IpAddr;

/// Columns of a line of comments at most.
const WIDTH: usize = 100;
/// Columns of a label, such as `gain`, with the space after it.
const LABEL: usize = 7;

/// Comments and lines to paste. Every program that is advised reads `#` as the begin of a comment.
#[derive(Clone, Debug, Default)]
pub(super) struct Block {
    comments: String,
    body: String,
}

impl Block {
    /// A block without lines to paste. `title`: what it does, and where it belongs.
    pub(super) fn new(title: &str) -> Self {
        Self { comments: wrapped("# ", "# ", title), body: String::new() }
    }

    /// Adds a comment with a label, broken between words into lines of at most 100 columns (a wider word has a wider line).
    /// `label`: at most 6 letters, so that the texts stand below each other.
    #[must_use]
    pub(super) fn note(mut self, label: &str, text: &str) -> Self {
        let first = format!("#   {label:<LABEL$}");
        let rest = format!("#   {:LABEL$}", "");
        self.comments += &wrapped(&first, &rest, text);
        self
    }

    /// Adds a comment: what the block gains.
    #[must_use]
    pub(super) fn gain(self, text: &str) -> Self {
        self.note("gain", text)
    }

    /// Adds comments: what can go wrong, one each.
    #[must_use]
    pub(super) fn mind<T: AsRef<str>>(self, texts: impl IntoIterator<Item = T>) -> Self {
        texts.into_iter().fold(self, |block, text| block.note("mind", text.as_ref()))
    }

    /// Adds a comment: how to take the block back.
    #[must_use]
    pub(super) fn undo(self, text: &str) -> Self {
        self.note("undo", text)
    }

    /// Adds a command to type as a comment: on one line, however long it is, so that it can be copied.
    #[must_use]
    pub(super) fn command(mut self, command: &str) -> Self {
        self.comments.extend(["#   ", &" ".repeat(LABEL), command, "\n"]);
        self
    }

    /// Adds a line to paste.
    pub(super) fn line(&mut self, text: impl AsRef<str>) {
        self.body += text.as_ref();
        self.body.push('\n');
    }

    /// The block with these lines to paste.
    #[must_use]
    pub(super) fn lines<T: AsRef<str>>(mut self, lines: impl IntoIterator<Item = T>) -> Self {
        for line in lines {
            self.line(line);
        }
        self
    }

    /// All of it, each line with its end.
    pub(super) fn text(&self) -> String {
        format!("{}{}", self.comments, self.body)
    }
}

/// The text in lines of at most [`WIDTH`] columns, if its words allow it.
fn wrapped(first: &str, rest: &str, text: &str) -> String {
    let mut out = String::new();
    let mut line = first.to_owned();
    let mut empty = true;
    for word in text.split_ascii_whitespace() {
        if !empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            out += line.trim_end();
            out.push('\n');
            rest.clone_into(&mut line);
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line += word;
        empty = false;
    }
    out + line.trim_end() + "\n"
}

/// A rate or a time: one decimal below 10, none above; `unlimited` if it is not finite. Rounded down, so that no more is
/// promised than there is.
pub(super) fn short(number: f64) -> String {
    if !number.is_finite() {
        return "unlimited".to_owned();
    }
    if number < 10.0 {
        return format!("{:.1}", (number * 10.0).floor() / 10.0);
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
    count(number as u64)
}

/// `1 address`, `4 addresses`.
pub(super) fn addresses(number: u32) -> String {
    format!("{} {}", count(number.into()), if number == 1 { "address" } else { "addresses" })
}

/// An address and a port: `10.0.1.7:8080`, `[fd00::7]:8080`.
pub(super) fn socket(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

/// The first four addresses, and how many more there are: `10.0.0.1, 10.0.0.2, 10.0.0.3, 10.0.0.4 and 3 more`. Without addresses,
/// an empty text.
pub(super) fn list(addresses: &[IpAddr]) -> String {
    const SHOWN: usize = 4;
    let shown: Vec<_> = addresses.iter().take(SHOWN).map(ToString::to_string).collect();
    match addresses.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_comments_are_wrapped_below_their_label() {
        let block = Block::new("Title").gain(&"word ".repeat(40)).lines(["a 1;", "b 2;"]);
        let text = block.text();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "# Title");
        assert!(lines[1].starts_with("#   gain   word word"), "{text}");
        assert!(lines[2].starts_with("#          word"), "{text}");
        assert!(lines.iter().all(|line| line.len() <= WIDTH), "{text}");
        assert_eq!(text.matches("word").count(), 40);
        assert!(text.ends_with("\na 1;\nb 2;\n"));
    }

    #[test]
    fn a_word_that_is_too_long_has_a_line_of_its_own() {
        let text = Block::new(&format!("a {} b", "x".repeat(200))).text();
        assert_eq!(text, format!("# a\n# {}\n# b\n", "x".repeat(200)));
    }

    #[test]
    fn rates_promise_no_more_than_there_is() {
        assert_eq!(
            [0.0, 0.19, 9.99, 454.9, 28_232.0].map(short),
            ["0.0", "0.1", "9.9", "454", "28,232"]
        );
        assert_eq!(short(f64::INFINITY), "unlimited");
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
    }
}
