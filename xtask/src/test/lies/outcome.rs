//! The outcome of a test, from what the runner prints, without I/O.

use anyhow::{Context as _, Result};

/// The outcome of one test.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Outcome {
    Passed,
    Failed {
        /// The first and the last line of the message, with ` ... ` between them; the line alone if it has one only.
        words: String,
        /// Whether the message has one of [`BY_TIME`]: a wait took too long.
        by_time: bool,
    },
}

/// Texts in the messages of waits that took too long.
const BY_TIME: [&str; 4] =
    ["in vain for", "did not end within", "printed nothing for", "no reading of the tracer within"];

impl Outcome {
    /// Parses the output of a runner that ran only the test `name`. Fails if the output has no outcome of that test.
    pub(super) fn parse(name: &str, output: &str) -> Result<Self> {
        let failed = format!("FAILED {name} after ");
        if let Some((_, message)) = output.split_once(&failed) {
            let message = message.split_once("\nFAILED\n").map_or(message, |(message, _)| message);
            let message = message.split_once(": ").map_or(message, |(_, message)| message);
            let by_time = BY_TIME.iter().any(|part| message.contains(part));
            let mut lines = message.lines();
            let first = lines.next().unwrap_or_default();
            // The lines between the first and the last are a screen, or many tuples.
            let last = lines.next_back().map(|last| format!(" ... {last}"));
            let words = first.to_owned() + &last.unwrap_or_default();
            return Ok(Self::Failed { words, by_time });
        }
        let passed = output.contains("1 passed; 0 failed").then_some(Self::Passed);
        passed.with_context(|| {
            format!("{name}: the runner's output has neither a success nor a failure: {output}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(words: &str, by_time: bool) -> Outcome {
        Outcome::Failed { words: words.to_owned(), by_time }
    }

    #[test]
    fn a_failure_has_its_words_and_whether_it_was_a_wait() {
        let of = |message: &str| {
            let output = format!("test a::b ... FAILED a::b after 0.1 s: {message}\nFAILED\n");
            Outcome::parse("a::b", &output).unwrap()
        };
        assert_eq!(of("no: number"), failed("no: number", false));
        assert_eq!(
            of("a screen:\nx\n: waited 5s in vain for it"),
            failed("a screen: ... : waited 5s in vain for it", true)
        );
        assert_eq!(of("waited 5s in vain for it"), failed("waited 5s in vain for it", true));
    }

    #[test]
    fn output_without_a_test_is_an_error() {
        let passed = "test result: ok. 1 passed; 0 failed; 0 ignored";
        assert_eq!(Outcome::parse("a", passed).unwrap(), Outcome::Passed);
        assert!(Outcome::parse("a", "test result: ok. 0 passed; 0 failed").is_err());
    }
}
