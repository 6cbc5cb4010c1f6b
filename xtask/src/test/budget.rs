//! How long the parts of a test run took, and how long they may take.

use std::{fmt::Write as _, time::Instant};

/// Seconds that each part of `cargo xtask test` may take on two idle CPUs with nothing built before. A part that takes longer is
/// marked in the table; the run does not fail, because machines differ. Raise a budget only in the commit that makes the part
/// slower.
const BUDGET: [(&str, u64); 5] = [
    ("set-up", 45),
    ("BPF object", 35),
    ("unit tests", 155),
    ("builds", 135),
    ("kernel tests", 890),
];

/// The most minutes of all parts together.
#[cfg(test)]
const MINUTES: u64 = 21;

/// The parts that have ended, each with the seconds that it took, and when the part that runs now began.
pub(crate) struct Parts {
    began: Instant,
    ended: Vec<(&'static str, u64)>,
}

impl Parts {
    /// No part has ended; the first begins now.
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), ended: Vec::new() }
    }

    /// Ends the part that runs now, whose name is `part`; the next part begins.
    pub(crate) fn end(&mut self, part: &'static str) {
        self.ended.push((part, self.began.elapsed().as_secs()));
        self.began = Instant::now();
    }

    /// A line for each part that has ended, after a line with the columns: its seconds and its budget.
    pub(crate) fn table(&self) -> String {
        table(&self.ended)
    }
}

/// A line for each part: seconds, and its budget, if it has one.
fn table(ended: &[(&str, u64)]) -> String {
    let mut text = format!("{:<14} {:>7} {:>7}", "part", "seconds", "budget");
    for (part, seconds) in ended {
        write!(text, "\n{part:<14} {seconds:>7}").unwrap_or_default();
        if let Some((_, budget)) = BUDGET.iter().find(|(name, _)| name == part) {
            let over = if seconds > budget { "  over its budget" } else { "" };
            write!(text, " {budget:>7}{over}").unwrap_or_default();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_parts_fit_into_the_whole() {
        let sum: u64 = BUDGET.iter().map(|(_, seconds)| seconds).sum();
        assert!(sum <= MINUTES * 60, "{sum} s");
    }

    #[test]
    fn a_part_over_its_budget_is_marked() {
        let text = table(&[("set-up", 3), ("unit tests", 900), ("parsers", 900)]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "set-up               3      45");
        assert_eq!(lines[2], "unit tests         900     155  over its budget");
        assert_eq!(lines[3], "parsers            900");
    }
}
