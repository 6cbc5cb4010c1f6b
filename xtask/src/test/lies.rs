//! `cargo xtask test lies`: runs every kernel test while what it reads is falsified (`tests/src/harness/lie.rs`). The test must
//! fail: one that passes with every lie checks nothing.

use std::{collections::BTreeMap, process::Command, time::Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::host;
use crate::{exec, vm::guest::Payload};
use outcome::Outcome;
use table::{EVERYWHERE, EXCEPTIONS, kinds};

mod outcome;
mod table;

/// The environment variables with the lie, and with the longest wait for a condition, in seconds: under a lie, most conditions
/// never come true, so this wait is short ([`SHORT`]).
const LIE: &str = "TRACER_TEST_LIE";
const WAIT: &str = "TRACER_TEST_WAIT";
const SHORT: &str = "10";
/// How long a test may take, in seconds.
const LIMIT: &str = "120";
/// The value of `TRACER_TEST_CONNECTS`: the number of calls in the tests that read it, less than by default.
const CONNECTS: &str = "2000";

/// The lie that made a test fail.
struct Shown {
    kind: &'static str,
    /// Whether the test failed because a wait took too long.
    by_time: bool,
}

/// Tries every test whose name contains one of `filters`, or all tests if there are no filters. Fails if a test passes
/// with every lie and is not among [`EXCEPTIONS`], if one of these exceptions is no test that runs here, or if the runner cannot
/// be run.
pub(super) fn test(payload: &Payload, filters: &[String]) -> Result<()> {
    let start = Instant::now();
    let names = names(payload)?;
    for (name, _) in EXCEPTIONS {
        ensure!(
            names.iter().any(|it| it == name),
            "{name} is listed as an exception, but no such test runs here"
        );
    }
    let backends = backends(&names);
    let wanted = |name: &&String| filters.is_empty() || filters.iter().any(|it| name.contains(it));
    let mut shown = BTreeMap::<&str, Vec<&str>>::new();
    let (mut by_time, mut not_shown) = (Vec::new(), Vec::new());
    let names: Vec<_> = names.iter().filter(wanted).collect();
    for name in &names {
        match try_all(payload, &backends, name)? {
            Some(Shown { kind, by_time: late }) => {
                shown.entry(kind).or_default().push(name);
                if late {
                    by_time.push(name.as_str());
                }
            }
            None => not_shown.push(name.as_str()),
        }
    }
    println!();
    for (kind, names) in &shown {
        println!("{:>4} failed by `{kind}`: {}", names.len(), names.join(", "));
    }
    println!("{:>4} of these by a wait that took too long: {}", by_time.len(), by_time.join(", "));
    let excused = |name: &&str| EXCEPTIONS.iter().find(|(exception, _)| exception == name);
    for (name, reason) in not_shown.iter().filter_map(excused) {
        println!("excused: {name}: {reason}");
    }
    not_shown.retain(|name| excused(name).is_none());
    println!("{} tests in {} s", names.len(), start.elapsed().as_secs());
    if !not_shown.is_empty() {
        bail!("no lie makes these tests fail: {}", not_shown.join(", "));
    }
    Ok(())
}

/// The names of the tests that run on this machine, without those that are excused.
fn names(payload: &Payload) -> Result<Vec<String>> {
    let list = exec::output(host(payload).arg("--list"))?;
    let of = |line: &str| Some(line.strip_suffix(": test")?.to_owned());
    let names: Vec<_> = list.lines().filter_map(of).filter(|name| !name.starts_with('[')).collect();
    ensure!(!names.is_empty(), "the runner lists no test");
    Ok(names)
}

/// The backends that work here, for `TRACER_BACKENDS`, so that the runner does not have to find them for each test.
fn backends(names: &[String]) -> String {
    let is_there = |backend: &&str| {
        names.iter().any(|name| name.starts_with("ledger::") && name.ends_with(backend))
    };
    let all = ["fexit", "kprobe", "tracepoint"];
    all.into_iter().filter(is_there).collect::<Vec<_>>().join(",")
}

/// Tries one lie after the other, until with one the test fails, and without it passes. Returns that lie; `None` if there is
/// none.
fn try_all(payload: &Payload, backends: &str, name: &str) -> Result<Option<Shown>> {
    for kind in kinds(name).iter().chain(EVERYWHERE).copied() {
        let (outcome, seconds) = run(payload, backends, name, &[(LIE, kind), (WAIT, SHORT)])?;
        let Outcome::Failed { words, by_time } = outcome else {
            println!("{seconds:>5.1} s {name}: passes with `{kind}`");
            continue;
        };
        println!("{seconds:>5.1} s {name}: failed by `{kind}`: {words}");
        // If a wait took too long, the reason may be the shorter limit and not the lie: then the run without the lie has that
        // limit, too.
        let limit: &[_] = if by_time { &[(WAIT, SHORT)] } else { &[] };
        if let (Outcome::Failed { words, .. }, _) = run(payload, backends, name, limit)? {
            println!("        {name}: fails without a lie, too: {words}");
            continue;
        }
        return Ok(Some(Shown { kind, by_time }));
    }
    Ok(None)
}

/// Runs one test with these environment variables. Returns its outcome, and how many seconds it took.
fn run(
    payload: &Payload,
    backends: &str,
    name: &str,
    variables: &[(&str, &str)],
) -> Result<(Outcome, f64)> {
    let mut command = host(payload);
    command
        .env("TRACER_BACKENDS", backends)
        .env("TRACER_TEST_LIMIT", LIMIT)
        .env("TRACER_TEST_CONNECTS", CONNECTS)
        .envs(variables.iter().copied())
        .args(["--exact", name]);
    let start = Instant::now();
    let text = output(&mut command)?;
    Ok((Outcome::parse(name, &text)?, start.elapsed().as_secs_f64()))
}

/// What the command prints to stdout, whatever its exit status.
fn output(command: &mut Command) -> Result<String> {
    let shown = exec::show(command);
    let output = command.output().with_context(|| format!("cannot run `{shown}`"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
