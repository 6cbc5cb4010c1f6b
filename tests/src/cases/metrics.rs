//! `metrics::*`: promtool reads the metrics, and the alerts that come with them; Prometheus scrapes the agent.

mod prometheus;

use std::{fs, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::{Case, Plan};
use crate::harness::tracer;

/// The text of a reading in which every metric has a value, as a unit test of the program keeps it, after a header of insta.
const SNAPSHOT: &str = include_str!(
    "../../../tracer/src/metrics/encode/snapshots/tracer__metrics__encode__tests__the_text_of_0_0_4.snap"
);
/// The rules, and the tests of them.
const RULES: [(&str, &str); 2] = [
    ("tracer.rules.yml", include_str!("../../../tracer/packaging/prometheus/tracer.rules.yml")),
    (
        "tracer.rules.test.yml",
        include_str!("../../../tracer/packaging/prometheus/tracer.rules.test.yml"),
    ),
];
const LIMIT: Duration = Duration::from_secs(20);

pub fn cases(plan: &Plan) -> Vec<Case> {
    plan.group("metrics")
        .once(&[
            ("promtool_accepts_the_text", promtool_accepts_the_text),
            ("rules_are_valid", rules_are_valid),
            ("alerts_fire_when_they_should", alerts_fire_when_they_should),
        ])
        .needs(&["promtool"])
        .waiting()
        .once(&[("prometheus_scrapes_the_agent", prometheus::scrapes_the_agent)])
        .needs(&["prometheus"])
        .cases()
}

/// `promtool check metrics` has nothing to say about the text of all metrics.
fn promtool_accepts_the_text() -> Result<()> {
    let (_, text) = SNAPSHOT.split_once("\n---\n").context("the snapshot has no header")?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("metrics");
    fs::write(&path, text)?;
    let mut command = Command::new("sh");
    command.args(["-c", "exec promtool check metrics <\"$0\""]).arg(&path);
    check(&mut command, "")
}

/// `promtool check rules` reads as many rules as the file has.
fn rules_are_valid() -> Result<()> {
    let [(name, text), _] = RULES;
    let is_rule = |line: &&str| line.contains("- alert: ") || line.contains("- record: ");
    let rules = text.lines().filter(is_rule).count();
    let folder = folder()?;
    let mut command = Command::new("promtool");
    command.args(["check", "rules"]).arg(folder.path().join(name));
    check(&mut command, &format!("SUCCESS: {rules} rules found"))
}

/// Each alert has a test in which it fires, with its texts, and one in which it does not; promtool finds that they hold.
fn alerts_fire_when_they_should() -> Result<()> {
    let [(_, rules), (name, tests)] = RULES;
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        let named = format!("alertname: {alert}\n");
        let cases: Vec<_> = tests.split(&named).skip(1).collect();
        let silent = |case: &&str| case.trim_start().starts_with("exp_alerts: []");
        let quiet = cases.iter().filter(|case| silent(case)).count();
        ensure!(
            quiet > 0 && quiet < cases.len(),
            "{alert}: {quiet} of {} do not fire",
            cases.len()
        );
    }
    let folder = folder()?;
    let mut command = Command::new("promtool");
    command.args(["test", "rules"]).arg(folder.path().join(name));
    check(&mut command, "SUCCESS")
}

/// A folder with the two files.
fn folder() -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    for (name, text) in RULES {
        fs::write(folder.path().join(name), text)?;
    }
    Ok(folder)
}

/// Runs promtool. Fails unless it ends with 0, says `expected` on stdout, and nothing on stderr.
fn check(command: &mut Command, expected: &str) -> Result<()> {
    let ended = tracer::run(command, LIMIT)?;
    let said = format!("{}{}", ended.stdout, ended.stderr);
    ensure!(ended.code() == 0, "promtool ended with {}: {said}", ended.code());
    ensure!(ended.stdout.contains(expected) && ended.stderr.is_empty(), "promtool: {said}");
    Ok(())
}
