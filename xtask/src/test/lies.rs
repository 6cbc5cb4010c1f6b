//! `cargo xtask test lies`: every kernel test is run while what it reads is changed on purpose (`tests/src/harness/lie.rs`), and
//! has to fail. One that passes whatever it is told checks nothing.

use std::{collections::BTreeMap, process::Command, time::Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::host;
use crate::{exec, vm::guest::Payload};
use outcome::Outcome;
use table::{EVERYWHERE, EXCEPTIONS, kinds};

mod outcome;
mod table;

/// What a test reads otherwise, and the seconds that it waits for a condition at most: under a lie most never come.
const LIE: &str = "TRACER_TEST_LIE";
const WAIT: &str = "TRACER_TEST_WAIT";
const SHORT: &str = "10";
/// Seconds that a test may take.
const LIMIT: &str = "120";
/// Calls of a test that makes as many as it is told to.
const CONNECTS: &str = "2000";

/// How a test came to fail.
struct Shown {
    kind: &'static str,
    by_time: bool,
}

/// Tries every test whose name contains one of `filters`, all if there is none.
pub(super) fn test(payload: &Payload, filters: &[String]) -> Result<()> {
    let start = Instant::now();
    let names = names(payload)?;
    for (name, _) in EXCEPTIONS {
        ensure!(
            names.iter().any(|it| it == name),
            "{name}, an exception, is no test that runs here"
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
    println!("{:>4} of these by a wait that ended in vain: {}", by_time.len(), by_time.join(", "));
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

/// The tests that run here, by name.
fn names(payload: &Payload) -> Result<Vec<String>> {
    let list = exec::output(host(payload).arg("--list"))?;
    let of = |line: &str| Some(line.strip_suffix(": test")?.to_owned());
    let names: Vec<_> = list.lines().filter_map(of).filter(|name| !name.starts_with('[')).collect();
    ensure!(!names.is_empty(), "the runner lists no test");
    Ok(names)
}

/// The backends that work here: with their names the runner need not find them out for each test.
fn backends(names: &[String]) -> String {
    let is_there = |backend: &&str| {
        names.iter().any(|name| name.starts_with("ledger::") && name.ends_with(backend))
    };
    let all = ["fexit", "kprobe", "tracepoint"];
    all.into_iter().filter(is_there).collect::<Vec<_>>().join(",")
}

/// Lie after lie, until one makes the test fail that passes without it.
fn try_all(payload: &Payload, backends: &str, name: &str) -> Result<Option<Shown>> {
    for kind in kinds(name).iter().chain(EVERYWHERE).copied() {
        let (outcome, seconds) = run(payload, backends, name, &[(LIE, kind), (WAIT, SHORT)])?;
        let Outcome::Failed { words, by_time } = outcome else {
            println!("{seconds:>5.1} s {name}: passes with `{kind}`");
            continue;
        };
        println!("{seconds:>5.1} s {name}: failed by `{kind}`: {words}");
        // A wait that ended in vain may have been too short for this test anyway.
        let limit: &[_] = if by_time { &[(WAIT, SHORT)] } else { &[] };
        if let (Outcome::Failed { words, .. }, _) = run(payload, backends, name, limit)? {
            println!("        {name}: fails without a lie, too: {words}");
            continue;
        }
        return Ok(Some(Shown { kind, by_time }));
    }
    Ok(None)
}

/// Runs one test with these variables, and says how long that took.
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
    let said = output(&mut command)?;
    Ok((Outcome::parse(name, &said)?, start.elapsed().as_secs_f64()))
}

/// What it prints, however it ends.
fn output(command: &mut Command) -> Result<String> {
    let shown = exec::show(command);
    let output = command.output().with_context(|| format!("cannot run `{shown}`"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
