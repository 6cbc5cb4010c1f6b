//! `cargo xtask test`: unit tests, tests on this kernel, and tests on every kernel of the matrix; and, only by name, the longer
//! ones of [`Which`].

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::{
    build, exec,
    report::{self, Suite},
    setup::{self, What},
    vm, workspace,
};
use vm::{guest::Payload, kernels::Matrix};

mod budget;
mod coverage;
mod lies;
mod packages;
mod parsers;

/// Which tests to run.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Which {
    Unit,
    Host,
    Vm,
    /// Attacks by a local user without privileges, on this kernel; `host` has them, too
    Abuse,
    /// The tests on this kernel under a load of 500 connections a second and two busy threads; runs only by name
    Busy,
    /// Each test on this kernel while what it reads is falsified, so that it must fail; runs only by name
    Lies,
    /// The packages: installed, upgraded and removed in a Debian of their own under systemd; runs only by name
    Packages,
    /// Each parser of configurations, logs and answers of the kernel with a million damaged inputs; runs only by name
    Parsers,
    /// A million calls while everything goes wrong, 100 upgrades, and each attack ten times; runs only by name
    Soak,
}

/// The least number of calls in each of the two runs (with the rule, and with spreading off) of the soak's first test; in its
/// tests with a narrow range, a quarter of that.
const SOAK_CALLS: &str = "500000";
/// Number of seeds with which the soak's tests in a narrow range run.
const SOAK_SEEDS: &str = "25";
/// Number of agents that take over from one another under load in the soak.
const SOAK_UPGRADES: &str = "100";
/// How long the soak removes tuples while they are opened, in seconds.
const SOAK_FORGET_SECONDS: &str = "60";
/// How many times the soak tries each attack.
const SOAK_ABUSE_RUNS: &str = "10";
/// How long each test of the soak may take, in seconds.
const SOAK_LIMIT: &str = "3600";

/// The load during [`Which::Busy`]: connections a second, and threads that never wait.
const BUSY_CONNECTS: &str = "500";
const BUSY_LOOPS: &str = "2";

/// The beginning of the names of the tests of [`Which::Abuse`].
const ABUSE: &str = "abuse::";

const UNIT_PACKAGES: [&str; 4] = ["tracer-common", "tracer", "tracer-tests", "xtask"];

/// Sets up, and runs one kind of tests, or with `None` all kinds except those that run only by name. Prints tables of what passed
/// and how long it took. In the guests, `matrix` says how many tests run; only the kernels whose versions (such as `6.1`) are in
/// `kernels` are booted (empty: all; a version that the matrix does not have is ignored). `args` go to the kernel tests' runner
/// (with [`Which::Abuse`], they replace the filter that chooses its tests); of [`Which::Lies`] and [`Which::Parsers`] they are
/// parts of the tests' names; the unit tests and [`Which::Packages`] ignore them.
///
/// # Errors
/// A test failed; the set-up or a build fails; a runner cannot be started; the table `tests.md` cannot be written into the target
/// directory.
pub(crate) fn test(
    which: Option<Which>,
    matrix: Matrix,
    kernels: &[String],
    args: Vec<String>,
) -> Result<()> {
    if which == Some(Which::Packages) {
        setup::setup(What::Build)?;
        return packages::test();
    }
    let only_by_name = [Which::Soak, Which::Abuse, Which::Busy, Which::Lies, Which::Parsers];
    let on_kernels = !matches!(which, Some(Which::Unit | Which::Parsers));
    let wanted = |one| which.map_or(!only_by_name.contains(&one), |which| which == one);
    let mut parts = budget::Parts::new();
    if on_kernels {
        setup::setup(What::Test)?;
        parts.end("set-up");
        build::object()?;
        parts.end("BPF object");
    }
    if which == Some(Which::Lies) {
        return lies::test(&payload(Vec::new())?, &args);
    }
    let mut suites = Vec::new();
    if wanted(Which::Unit) {
        suites.push(unit()?);
        parts.end("unit tests");
    }
    if wanted(Which::Parsers) {
        suites.extend(parsers::test(&args)?);
        parts.end("parsers");
    }
    if on_kernels {
        let payload = payload(args)?;
        parts.end("builds");
        let mut of_host = None;
        let mut run_host = || {
            if wanted(Which::Host) {
                of_host = Some(follow("host", &mut host(&payload)));
            }
        };
        let of_guests = if wanted(Which::Vm) {
            vm::test(&payload, matrix, kernels, run_host)
        } else {
            run_host();
            Vec::new()
        };
        suites.extend(of_host.transpose()?);
        if wanted(Which::Abuse) {
            let mut command = host(&payload);
            if payload.args.is_empty() {
                command.arg(ABUSE);
            }
            suites.push(follow("abuse", &mut command)?);
        }
        if wanted(Which::Busy) {
            suites.push(busy(&payload)?);
        }
        if wanted(Which::Soak) {
            suites.extend(soak(&payload)?);
        }
        suites.extend(of_guests);
        parts.end("kernel tests");
        let path = workspace::target().join("tests.md");
        fs::write(&path, coverage::table(&suites))
            .with_context(|| format!("cannot write {}", path.display()))?;
        println!("\nwhich test ran where: {}", path.display());
    }
    println!("\n{}", parts.table());
    println!("\n{}", report::table(&suites));
    if suites.iter().any(|suite| !suite.failed.is_empty()) {
        bail!("there are failed tests");
    }
    Ok(())
}

fn unit() -> Result<Suite> {
    let mut command = workspace::cargo("test");
    command.arg("--no-fail-fast");
    for package in UNIT_PACKAGES {
        command.args(["--package", package]);
    }
    follow("unit", build::embed(&mut command))
}

/// The command that runs the kernel tests on this kernel.
fn host(payload: &Payload) -> Command {
    // Daemons are in directories that a user's PATH may not have.
    let path = env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let mut command = Command::new(&payload.runner);
    command.env("PATH", path);
    command
        .env("TRACER_BIN", &payload.tracer)
        .env("TRACER_TEST_ENV", "host")
        .args(["--test-threads=1", "--color=never"])
        .args(&payload.args);
    command
}

/// Runs the tests on this kernel under a load.
fn busy(payload: &Payload) -> Result<Suite> {
    let mut command = Command::new(&payload.load);
    command.args(["foreign", BUSY_CONNECTS, BUSY_LOOPS]);
    let shown = exec::show(&command);
    eprintln!("$ {shown} &");
    // The load ends when its stdin is closed, at the latest by the end of this process.
    let load = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut load = load.with_context(|| format!("cannot run `{shown}`"))?;
    let mut suite = follow("busy", &mut host(payload))?;
    drop(load.stdin.take());
    let ended = load.wait_with_output()?;
    let made = String::from_utf8_lossy(&ended.stdout).trim().to_owned();
    if !ended.status.success() {
        suite.fail("the load", &format!("`{shown}` ended with {}", ended.status));
    }
    suite.notes.push(format!("{made} connections of others in {} s", suite.seconds));
    Ok(suite)
}

/// Runs the tests of [`Which::Soak`], one after the other.
fn soak(payload: &Payload) -> Result<Vec<Suite>> {
    let suite = |(name, filter): &(&str, &str)| {
        let mut command = host(payload);
        command
            .env("TRACER_TEST_CONNECTS", SOAK_CALLS)
            .env("TRACER_TEST_SEEDS", SOAK_SEEDS)
            .env("TRACER_TEST_UPGRADES", SOAK_UPGRADES)
            .env("TRACER_TEST_FORGET_SECONDS", SOAK_FORGET_SECONDS)
            .env("TRACER_TEST_ABUSE_RUNS", SOAK_ABUSE_RUNS)
            .env("TRACER_TEST_LIMIT", SOAK_LIMIT)
            .arg(filter);
        follow(name, &mut command)
    };
    let tests = [
        ("soak", "spread::fail_open::differential"),
        ("upgrades", "spread::fail_open::restarts"),
        ("forgetting", "losses::forgotten_and_opened_at_once"),
        ("abuse", ABUSE),
    ];
    tests.iter().map(suite).collect()
}

/// Builds the program under test, optimized, and the tests' programs, not optimized, because they mostly wait. `unit` builds
/// most of these with the same settings, so they are built already if it ran before.
fn payload(args: Vec<String>) -> Result<Payload> {
    let mut tracer = workspace::cargo("build");
    tracer.args(["--release", "--package", "tracer"]);
    exec::run(build::embed(&mut tracer))?;
    let mut tests = workspace::cargo("build");
    // The same targets as in `unit`, so that the crates on which they depend have the same features.
    tests.args(["--bins", "--tests"]);
    for package in UNIT_PACKAGES {
        tests.args(["--package", package]);
    }
    exec::run(build::embed(&mut tests))?;
    let folder = workspace::target().join("debug");
    let dialer = folder.join("examples/static-dialer");
    let source = workspace::root().join("tests/examples/static-dialer.rs");
    let mut rustc = workspace::rustc();
    rustc.args(["--edition", "2024", "-C", "target-feature=+crt-static", "-o"]);
    exec::run(rustc.arg(&dialer).arg(source))?;
    let built = |path: PathBuf| -> Result<PathBuf> {
        if !path.exists() {
            bail!("{} was not built", path.display());
        }
        Ok(path)
    };
    Ok(Payload {
        tracer: built(workspace::target().join("release/tracer"))?,
        runner: built(folder.join("kernel-tests"))?,
        load: built(folder.join("connect-load"))?,
        dialer: built(dialer)?,
        args,
    })
}

/// Runs a test runner, prints its output, and counts its results.
fn follow(name: &str, command: &mut Command) -> Result<Suite> {
    let shown = exec::show(command);
    eprintln!("$ {shown}");
    let start = Instant::now();
    let mut runner = command
        .current_dir(workspace::root())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{shown}`"))?;
    let mut suite = Suite::new(name);
    if let Some(output) = runner.stdout.take() {
        for line in BufReader::new(output).split(b'\n') {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            suite.line(&line);
        }
    }
    let status = runner.wait()?;
    suite.exit(status.code().unwrap_or(-1));
    suite.seconds = start.elapsed().as_secs();
    Ok(suite)
}
