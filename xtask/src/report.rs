//! Counts test results from what the runners print, without I/O.

use std::fmt::Write as _;

/// The most lines of a failure's message that the table repeats, after the first.
const MESSAGE_LINES: usize = 12;
/// The most characters of each of these lines.
const MESSAGE_WIDTH: usize = 300;

/// The results of one runner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Suite {
    pub(crate) name: String,
    /// Names of passed tests.
    pub(crate) passed: Vec<String>,
    /// Names of failed tests, each with the runner's message if there is one: `NAME: after 3.0 s: WHY`, at most 12 more lines
    /// included.
    pub(crate) failed: Vec<String>,
    /// Names of skipped tests, each with the runner's reason.
    pub(crate) skipped: Vec<(String, String)>,
    /// Names and reasons from the lines `excused: NAME: REASON`, which come before the tests.
    excuses: Vec<(String, String)>,
    /// The test that runs now, if it has printed something, so that its outcome comes on a line of its own; else
    /// `None`.
    open: Option<String>,
    /// How many more lines of output can belong to the message of the last failure; 0 if its message has ended.
    more: usize,
    /// What else the reader should know, such as a guest that was booted twice.
    pub(crate) notes: Vec<String>,
    /// How long the runner ran.
    pub(crate) seconds: u64,
}

impl Suite {
    /// A suite without results.
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// Takes one line of output: libtest's `test NAME ... ok`, or the kernel tests' `excused: NAME: REASON` for a test that
    /// cannot run. If a test prints something, its outcome is on another line. Lines after a failure belong to its message
    /// ([`MESSAGE_LINES`] at most, [`MESSAGE_WIDTH`] characters of each); all other lines are ignored.
    pub(crate) fn line(&mut self, line: &str) {
        let line = line.trim_end();
        if self.continues(line) {
            return;
        }
        if matches!(line, "ok" | "FAILED")
            && let Some(name) = self.open.take()
        {
            if line == "ok" {
                self.passed.push(name);
            } else {
                self.failed.push(name);
            }
            return;
        }
        if let Some(failure) = self.failure(line) {
            self.fails(failure);
            self.open = None;
            return;
        }
        if let Some((name, reason)) =
            line.strip_prefix("excused: ").and_then(|rest| rest.split_once(": "))
        {
            self.excuses.push((name.to_owned(), reason.to_owned()));
        }
        let Some((name, outcome)) =
            line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... "))
        else {
            return;
        };
        // If some tests are `[excused]`, the runner indents the names of the others.
        let name = name.trim();
        if outcome.starts_with("ok") {
            self.passed.push(name.to_owned());
        } else if let Some(reason) = outcome.strip_prefix("ignored") {
            let plain = name.strip_prefix("[excused] ").unwrap_or(name);
            let excuse = self.excuses.iter().find(|(excused, _)| excused == plain);
            let reason = reason.trim_start_matches(", ");
            let reason = excuse.map_or(reason, |(_, excuse)| excuse).to_owned();
            self.skipped.push((plain.to_owned(), reason));
        } else if let Some(why) = outcome.strip_prefix(&format!("FAILED {name} after ")) {
            self.fails(format!("{name}: after {why}"));
        } else if outcome.starts_with("FAILED") {
            self.failed.push(name.to_owned());
        } else {
            self.notes.push(outcome.to_owned());
            self.open = Some(name.to_owned());
        }
    }

    /// The failure of the test in `open`, which has printed something, if the line is its outcome (`FAILED NAME after WHY`).
    /// `None` if there is no such test, or the line is something else.
    fn failure(&self, line: &str) -> Option<String> {
        let name = self.open.as_ref()?;
        let why = line.strip_prefix("FAILED ")?.strip_prefix(name)?.strip_prefix(" after ")?;
        Some(format!("{name}: after {why}"))
    }

    /// Adds a failure, whose message may continue in the next lines.
    fn fails(&mut self, failure: String) {
        self.failed.push(failure);
        self.more = MESSAGE_LINES;
    }

    /// If the line belongs to the message of the last failure, adds it there and returns true. An outcome, another test's line or
    /// [`MESSAGE_LINES`] lines end a message.
    fn continues(&mut self, line: &str) -> bool {
        let ends = matches!(line, "ok" | "FAILED") || line.starts_with("test ");
        if self.more == 0 || ends {
            self.more = 0;
            return false;
        }
        self.more -= 1;
        if let Some(failure) = self.failed.last_mut() {
            failure.push_str("\n  ");
            failure.extend(line.chars().take(MESSAGE_WIDTH));
        }
        true
    }

    /// Adds a failure that is not in the runner's output, as `WHAT: WHY`.
    pub(crate) fn fail(&mut self, what: &str, why: &str) {
        self.failed.push(format!("{what}: {why}"));
    }

    /// Takes the runner's exit code, once [`Self::line`] got its last line. A test without an outcome has failed. If the runner
    /// failed without a failed test, or no test passed or failed (if all were skipped, too), that is a failure.
    pub(crate) fn exit(&mut self, code: i32) {
        if let Some(name) = self.open.take() {
            self.failed.push(name);
        }
        if code != 0 && self.failed.is_empty() {
            self.fail("the test runner", &format!("exit code {code}"));
        }
        if self.passed.is_empty() && self.failed.is_empty() {
            self.fail("the test runner", "it ran no test");
        }
    }
}

/// A table of the suites, their notes, skipped and failed tests, and on the last line, which has no line end, the sum.
pub(crate) fn table(suites: &[Suite]) -> String {
    let mut text = String::new();
    let mut line = |args: std::fmt::Arguments<'_>| {
        text.push_str(&args.to_string());
        text.push('\n');
    };
    line(format_args!(
        "{:<12} {:>7} {:>7} {:>8} {:>8}",
        "suite", "passed", "failed", "skipped", "seconds"
    ));
    for suite in suites {
        let (failed, skipped) = (suite.failed.len(), suite.skipped.len());
        line(format_args!(
            "{:<12} {:>7} {failed:>7} {skipped:>8} {:>8}",
            suite.name,
            suite.passed.len(),
            suite.seconds
        ));
    }
    for suite in suites {
        for note in &suite.notes {
            line(format_args!("note: {}: {note}", suite.name));
        }
    }
    for suite in suites {
        for (reason, tests) in by_reason(&suite.skipped) {
            line(format_args!("skipped: {}: {reason}: {}", suite.name, tests.join(", ")));
        }
    }
    for suite in suites {
        for test in &suite.failed {
            line(format_args!("failed: {}: {test}", suite.name));
        }
    }
    let sum = |count: fn(&Suite) -> usize| suites.iter().map(count).sum::<usize>();
    let (passed, failed, skipped) = (
        sum(|suite| suite.passed.len()),
        sum(|suite| suite.failed.len()),
        sum(|suite| suite.skipped.len()),
    );
    write!(text, "{passed} passed, {failed} failed, {skipped} skipped").unwrap_or_default();
    text
}

/// The skipped tests by reason, in the order in which the reasons first occur.
fn by_reason(skipped: &[(String, String)]) -> Vec<(&str, Vec<&str>)> {
    let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
    for (test, reason) in skipped {
        match reasons.iter_mut().find(|(known, _)| known == reason) {
            Some((_, tests)) => tests.push(test),
            None => reasons.push((reason, vec![test])),
        }
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failures_message_is_kept_with_all_its_lines() {
        let mut suite = Suite::new("vm");
        for line in [
            "test           a::b ... FAILED a::b after 3.0 s: it was late",
            "with a second line",
            "FAILED",
            "test           a::c ... c: 40000 calls in all",
            "FAILED a::c after 4.0 s: too",
            "FAILED",
            "test           a::d ... ok",
            "test           a::e ... e: and then the guest ended",
        ] {
            suite.line(line);
        }
        suite.exit(1);
        assert_eq!(suite.passed, ["a::d"]);
        let failed = [
            "a::b: after 3.0 s: it was late\n  with a second line",
            "a::c: after 4.0 s: too",
            "a::e",
        ];
        assert_eq!(suite.failed, failed);
    }

    #[test]
    fn a_test_may_print_something_before_it_ends() {
        let mut suite = Suite::new("host");
        for line in
            ["test a::b  ... a::b: 40000 calls in all", "ok", "test a::c ... c: none", "FAILED"]
        {
            suite.line(line);
        }
        suite.exit(1);
        assert_eq!(
            (suite.passed, suite.failed),
            (vec!["a::b".to_owned()], vec!["a::c".to_owned()])
        );
        assert_eq!(suite.notes, ["a::b: 40000 calls in all", "c: none"]);
    }

    #[test]
    fn lines_of_libtest_are_counted_and_others_are_not() {
        let mut suite = Suite::new("unit");
        for line in [
            "running 4 tests",
            "test exec::a ... ok",
            "test [vm] with a kind ... ok <0.5s>",
            "test b ... FAILED",
            "test e ... FAILED e after 0.1 s: why",
            "FAILED",
            "test c ... ignored, needs a clock",
            "excused: mptcp::d: no MPTCP: switched off",
            "test [excused] mptcp::d ... ignored",
            "test result: FAILED. 2 passed; 1 failed; 1 ignored",
        ] {
            suite.line(line);
        }
        suite.exit(101);
        assert_eq!(suite.passed, ["exec::a", "[vm] with a kind"]);
        assert_eq!(suite.failed, ["b", "e: after 0.1 s: why"]);
        let skipped = [("c", "needs a clock"), ("mptcp::d", "no MPTCP: switched off")];
        assert_eq!(suite.skipped, skipped.map(|(test, why)| (test.to_owned(), why.to_owned())));
    }

    #[test]
    fn a_runner_that_fails_or_runs_nothing_is_a_failed_test() {
        let mut crashed = Suite::new("host");
        crashed.line("test a ... ok");
        crashed.exit(139);
        assert_eq!(crashed.failed, ["the test runner: exit code 139"]);
        let mut empty = Suite::new("host");
        empty.exit(0);
        assert_eq!(empty.failed, ["the test runner: it ran no test"]);
    }

    #[test]
    fn the_last_line_is_the_sum_alone() {
        let skipped = [("x", "why"), ("z", "when"), ("w", "why")];
        let skipped = skipped.map(|(test, reason)| (test.to_owned(), reason.to_owned())).into();
        let one = Suite { passed: vec![String::new(); 3], skipped, ..Suite::new("unit") };
        let two = Suite {
            passed: vec![String::new(); 4],
            failed: vec!["y".to_owned()],
            ..Suite::new("host")
        };
        let table = table(&[one, two]);
        let named = "\nskipped: unit: why: x, w\nskipped: unit: when: z\nfailed: host: y\n";
        assert!(table.contains(named), "{table}");
        assert_eq!(table.lines().last(), Some("7 passed, 1 failed, 3 skipped"));
    }
}
