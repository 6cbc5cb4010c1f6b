//! Which test ran where in this run, as a table.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::report::Suite;

/// The backends by which the names of tests can end; a cell of the table has their first letters.
const BACKENDS: [&str; 3] = ["fexit", "kprobe", "tracepoint"];

/// A Markdown table with a line for each test, skipped ones included, and a column for each suite except the unit tests. A cell
/// has the first letters of the backends with which the test ran, or `x` for a test without a backend in its name, with `!` after
/// each that failed. A cell is empty if the test did not run there.
pub(crate) fn table(suites: &[Suite]) -> String {
    let suites: Vec<&Suite> = suites.iter().filter(|suite| suite.name != "unit").collect();
    let mut tests: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (column, suite) in suites.iter().enumerate() {
        let failed = suite
            .failed
            .iter()
            .map(|failure| failure.split_once(": ").map_or(failure.as_str(), |(name, _)| name));
        let outcomes = suite.passed.iter().map(|name| (name.as_str(), ""));
        let outcomes = outcomes.chain(failed.map(|name| (name, "!")));
        let skipped = suite.skipped.iter().map(|(name, _)| (name.as_str(), None));
        for (name, outcome) in outcomes.map(|(name, mark)| (name, Some(mark))).chain(skipped) {
            let (test, letter) = parts(name);
            let cells = tests.entry(test).or_insert_with(|| vec![String::new(); suites.len()]);
            if let (Some(mark), Some(cell)) = (outcome, cells.get_mut(column)) {
                cell.push_str(letter);
                cell.push_str(mark);
            }
        }
    }
    let mut text = String::from("| test |");
    for suite in &suites {
        write!(text, " {} |", suite.name).unwrap_or_default();
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(suites.len()));
    for (test, cells) in tests {
        write!(text, "\n| `{test}` | {} |", cells.join(" | ")).unwrap_or_default();
    }
    text.push('\n');
    text
}

/// A test's name without its backend, and the first letter of the backend, or `x` if the name has none.
fn parts(name: &str) -> (&str, &'static str) {
    for backend in BACKENDS {
        if let Some(test) = name.strip_suffix(backend).and_then(|rest| rest.strip_suffix("::")) {
            return (test, backend.get(..1).unwrap_or_default());
        }
    }
    (name, "x")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_test_has_a_line_and_each_suite_a_column() {
        let mut host = Suite::new("host");
        let mut guest = Suite::new("vm 5.10");
        for line in ["test a::b::tracepoint ... ok", "test a::c ... ok"] {
            host.line(line);
        }
        for line in [
            "excused: a::c: too slow",
            "test a::b::fexit ... ok",
            "test a::b::kprobe ... FAILED a::b::kprobe after 1.0 s: why",
            "FAILED",
            "test [excused] a::c ... ignored",
        ] {
            guest.line(line);
        }
        let table = table(&[Suite::new("unit"), host, guest]);
        let expected =
            "| test | host | vm 5.10 |\n|---|---|---|\n| `a::b` | t | fk! |\n| `a::c` | x |  |\n";
        assert_eq!(table, expected);
    }
}
