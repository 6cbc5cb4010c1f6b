//! Targets: what is required, what was measured, and whether it is met.

use std::fmt::Write;

/// The targets that were judged so far.
#[derive(Debug, Default)]
pub(super) struct Targets(Vec<(String, String, bool)>);

impl Targets {
    /// Adds a line to the table: what is required, what was measured, and whether that meets it.
    pub(super) fn judge(&mut self, target: String, measured: String, met: bool) {
        self.0.push((target, measured, met));
    }

    /// The table as Markdown, with the columns of the table for tracing (`xtask/src/bench/markdown.rs`).
    pub(super) fn table(&self) -> String {
        let mut text = "| target | measured | |\n|---|--:|---|\n".to_owned();
        for (target, measured, met) in &self.0 {
            let met = if *met { "met" } else { "**missed**" };
            // Writing to a String cannot fail.
            _ = writeln!(text, "| {target} | {measured} | {met} |");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_target_is_called_missed() {
        let mut targets = Targets::default();
        targets.judge("a".to_owned(), "1 ns".to_owned(), true);
        targets.judge("b".to_owned(), "2 ns".to_owned(), false);
        let table = targets.table();
        assert!(table.ends_with("| a | 1 ns | met |\n| b | 2 ns | **missed** |\n"), "{table}");
    }
}
