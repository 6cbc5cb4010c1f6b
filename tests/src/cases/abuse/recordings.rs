//! `abuse::recordings`: reading a recording takes at most 256 MiB (32 MiB if nothing of it need be kept) and a minute, whatever
//! is in it, and the output says so when a limit was reached.

mod files;

use std::{
    fs,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::{
    cases::{Case, Plan},
    harness::{
        probe::{Place, no_programs},
        process::Process,
        tracer::{collect, command, finish},
    },
};

/// The most memory that `report`, `replay` and `spread --dry-run --from` may take, KiB.
const MEMORY_KIB: u64 = 256 << 10;
/// The most memory that `report` and `replay` may take for a recording of which they need to keep nothing, KiB: two to three
/// times what they took when this was measured.
const LITTLE_KIB: u64 = 32 << 10;
/// The longest that `report`, `replay` or `spread --dry-run --from` may take.
const LIMIT: Duration = Duration::from_mins(1);

/// Makes a recording in this folder, and returns its files.
type Make = fn(&Path) -> Result<Vec<String>>;

/// Each test: its name, how the recording is made, what must be printed, and the most memory in KiB.
const KINDS: &[(&str, Make, Words, u64)] = &[
    ("a_sparse_file", files::sparse, Words::AsItIs, LITTLE_KIB),
    ("long_lines", files::long_lines, Words::AsItIs, LITTLE_KIB),
    ("a_million_tuples", files::many_tuples, Words::Limit, MEMORY_KIB),
    ("many_tuples_with_ports", files::many_full_tuples, Words::Limit, MEMORY_KIB),
    ("a_million_failures", files::many_failures, Words::Limit, MEMORY_KIB),
    ("a_million_readings", files::many_readings, Words::AsItIs, LITTLE_KIB),
    ("many_names", files::many_names, Words::Limit, MEMORY_KIB),
    ("long_names", files::long_names, Words::AsItIs, LITTLE_KIB),
    ("many_reasons", files::many_reasons, Words::AsItIs, LITTLE_KIB),
    ("a_bomb", files::bomb, Words::AsItIs, LITTLE_KIB),
    ("a_huge_window", files::huge_window, Words::Refused, LITTLE_KIB),
    ("many_files", files::many_files, Words::AsItIs, LITTLE_KIB),
    ("times_far_apart", files::far_apart, Words::AsItIs, LITTLE_KIB),
    ("the_same_file_again", files::same_again, Words::AsTheFirst, LITTLE_KIB),
];

/// What `report` and `replay` must print.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Words {
    /// Nothing in particular; both end with exit code 0.
    AsItIs,
    /// That a limit was reached: on stderr of one of them at least. The last line of the report says it if and only if stderr of
    /// `report` does. Both end with exit code 0.
    Limit,
    /// Exit code 1 of both, and an error of `report` that says how to decompress the recording.
    Refused,
    /// The same report as for the first file alone; both end with exit code 0.
    AsTheFirst,
}

pub(super) fn cases(plan: &Plan) -> Vec<Case> {
    let cheap = |(name, make, words, most_kib): &(&'static str, Make, Words, u64)| {
        let (make, words, most_kib) = (*make, *words, *most_kib);
        (*name, move || cheap(make, words, most_kib))
    };
    let spread = |(name, make, code, says): &(&str, Make, i32, &'static str)| {
        let (make, code, says) = (*make, *code, *says);
        (format!("spread_from_{name}"), move || spread_from(make, code, says))
    };
    plan.group("abuse::recordings")
        .table(KINDS.iter().map(cheap))
        .unless(no_programs(&["zstd"]))
        .table(SPREAD_FROM.iter().map(spread))
        .unless(no_programs(&["zstd"]))
        .cases()
}

/// Tests of `spread --dry-run --from` on some of these recordings: name, recording, exit code, and a text that stderr must have.
const SPREAD_FROM: &[(&str, Make, i32, &str)] = &[
    ("a_sparse_file", files::sparse, 1, "line 3: not a line of"),
    ("long_lines", files::long_lines, 1, "line 2: not a line of"),
    ("a_million_tuples", files::many_tuples, 0, "limit reached"),
    ("a_bomb", files::bomb, 1, "line 2: not a line of"),
    ("a_huge_window", files::huge_window, 1, "too much memory"),
];

/// Runs `spread --dry-run --from` within [`MEMORY_KIB`] and [`LIMIT`], and checks its exit code and stderr.
fn spread_from(make: Make, code: i32, says: &str) -> Result<()> {
    let folder = TempDir::new()?;
    let files = make(folder.path())?;
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let arguments = ["spread", "--pool", "10.99.0.1-10.99.0.4", "--dry-run", "--from"];
    let ended = look(&[&arguments[..], &files[..]].concat(), MEMORY_KIB)?;
    ensure!(ended.code == Some(code), "it ended with {:?}: {}", ended.code, ended.stderr);
    ensure!(ended.stderr.contains(says), "{says:?} is not in {:?}", ended.stderr);
    Ok(())
}

/// Runs `report` and `replay` within `most_kib` KiB of memory and [`LIMIT`], and checks their exit codes and what they print.
fn cheap(make: Make, words: Words, most_kib: u64) -> Result<()> {
    let folder = TempDir::new()?;
    let files = make(folder.path())?;
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let report = look(&[&["report"], &files[..]].concat(), most_kib)?;
    // `-n 20` prints 20 of the readings: with all of a million, replay would print a million tables.
    let begin = ["replay", "-b", "-n", "20", "--limit", "5", "--at", "0s"];
    let replay = look(&[&begin[..], &files[..]].concat(), most_kib)?;
    let expected = i32::from(words == Words::Refused);
    for ended in [&report, &replay] {
        ensure!(ended.code == Some(expected), "it ended with {:?}: {}", ended.code, ended.stderr);
    }
    match words {
        Words::AsItIs => {}
        Words::AsTheFirst => {
            let alone = look(&[&["report"], &files[..1]].concat(), most_kib)?;
            ensure!(alone.stdout.len() > 100, "the report is {:?}", alone.stdout);
            ensure!(report.stdout == alone.stdout, "{}\nis not\n{}", report.stdout, alone.stdout);
        }
        Words::Refused => {
            ensure!(report.stderr.contains("zstd -d"), "what to do is not in {:?}", report.stderr);
        }
        Words::Limit => {
            ensure!(
                report.stderr.contains("limit reached") || replay.stderr.contains("limit reached"),
                "no limit is said: {:?}, {:?}",
                report.stderr,
                replay.stderr
            );
            let last = report.stdout.trim_end().lines().next_back().unwrap_or_default();
            let in_report = report.stderr.contains("limit reached");
            ensure!(
                last.starts_with("limit reached") == in_report,
                "the report ends with {last:?}, and stderr is {:?}",
                report.stderr
            );
        }
    }
    Ok(())
}

/// The result of a run; `code` is `None` if a signal ended it.
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs the program to its end; an error if it takes more than `most_kib` KiB of memory, or more time than [`LIMIT`].
fn look(arguments: &[&str], most_kib: u64) -> Result<Ended> {
    let mut command = command(arguments)?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = Process::spawn(&mut command)?;
    let stdout = collect(process.child.stdout.take());
    let stderr = collect(process.child.stderr.take());
    let begun = Instant::now();
    let mut most = 0;
    let status = loop {
        // A process that has ended has no VmHWM any more: the highest value from before counts.
        most = peak_kib(process.id()).unwrap_or(0).max(most);
        ensure!(most <= most_kib, "{:?} took {most} KiB", arguments.first());
        if let Ok(status) = process.wait(Duration::from_millis(5)) {
            break status;
        }
        if begun.elapsed() > Place::get().limit(LIMIT) {
            bail!("{:?} did not end within {LIMIT:?}", arguments.first());
        }
    };
    Ok(Ended { code: status.code(), stdout: finish(stdout), stderr: finish(stderr) })
}

/// The most memory that a process has had so far, KiB; an error if the process has ended.
fn peak_kib(id: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next()).context("no VmHWM")?;
    Ok(number.parse()?)
}
