//! The forms of a diagnosis and its exit codes, in each situation that has another one, also when nobody reads stdout.

use std::{fmt::Write as _, process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};

use super::{
    edge::Edge,
    grammar::{self, Report},
};
use crate::harness::{
    netns::NetNs,
    privileges::only,
    probe::Place,
    tracer::{command, doctor::diagnosis, run, run_into},
};

const LIMIT: Duration = Duration::from_secs(30);

/// A namespace, how doctor looks at it, and what it must end with.
struct Situation<'a> {
    name: &'static str,
    netns: &'a NetNs,
    options: &'static [&'static str],
    /// Whether it runs without any capability.
    powerless: bool,
    exit: i32,
    state: &'static str,
    /// `saturation`, where it is known exactly.
    saturation: f64,
}

/// The labels of the first line for monitoring systems.
const LABELS: [&str; 3] = ["saturation", "failed", "search"];

/// Each form ends with the exit code of its situation, whether or not stdout is read; JSON is by the schema, the first line for
/// monitoring systems by their grammar, and the forms say the same.
pub(super) fn exit_codes_of_each_form() -> Result<()> {
    let (idle, nearly, full) = (Edge::new(20_000)?, Edge::new(100)?, Edge::new(100)?);
    let _held = nearly.open(80)?;
    full.leave_time_waits(100)?;
    let of = |name, netns, exit, state, saturation| Situation {
        name,
        netns,
        options: &["--window", "0"],
        powerless: false,
        exit,
        state,
        saturation,
    };
    let situations = [
        of("healthy", &idle.here, 0, "OK", 0.0),
        of("nearly full", &nearly.here, 1, "WARNING", 0.8),
        of("full", &full.here, 2, "CRITICAL", 1.0),
        Situation {
            options: &["--window", "0.1"],
            powerless: true,
            ..of("no window", &idle.here, 3, "UNKNOWN", 0.0)
        },
    ];
    let mut table =
        String::from("exit codes of text, json, plugin, and of each with a closed stdout:\n");
    let mut wrong = String::new();
    for situation in &situations {
        let codes = codes(situation).with_context(|| situation.name.to_owned())?;
        writeln!(table, "{:12} {codes:?}", situation.name)?;
        if codes != [situation.exit; 6] {
            write!(wrong, "{} ends with {codes:?}; ", situation.name)?;
        }
    }
    ensure!(wrong.is_empty(), "{wrong}\n{table}");
    Ok(())
}

/// The exit codes of the three forms, then of the three with a closed stdout. What they print is checked.
fn codes(situation: &Situation<'_>) -> Result<[i32; 6]> {
    let mut codes = [0; 6];
    let mut codes_left = codes.iter_mut();
    for closed in [false, true] {
        for form in ["text", "json", "plugin"] {
            let mut command = command(&["doctor", "--netns", "/proc/self/ns/net", "-o", form])?;
            command.args(situation.options);
            if situation.powerless {
                only(&mut command, []);
            }
            let limit = Place::get().limit(LIMIT);
            let ended = situation.netns.run(|| -> Result<_> {
                if !closed {
                    return run(&mut command, limit);
                }
                let (reader, writer) = std::io::pipe()?;
                drop(reader);
                run_into(&mut command, Stdio::from(writer), limit)
            })?;
            if let Some(code) = codes_left.next() {
                *code = ended.code();
            }
            match form {
                _ if closed => {}
                "json" => check_json(situation, &ended)?,
                "plugin" => check_plugin(situation, &ended.stdout)?,
                _ => check_text(&ended.stdout)?,
            }
        }
    }
    Ok(codes)
}

fn check_json(situation: &Situation<'_>, ended: &crate::harness::tracer::Ended) -> Result<()> {
    let found = diagnosis(ended)?;
    let seen = found.saturation;
    ensure!((seen - situation.saturation).abs() < 1e-3, "saturation {seen}");
    Ok(())
}

fn check_plugin(situation: &Situation<'_>, output: &str) -> Result<()> {
    let Report { state, numbers, more, .. } =
        grammar::read(output).with_context(|| output.to_owned())?;
    ensure!(state == situation.state, "{state}: {output}");
    let labels: Vec<&str> = numbers.iter().map(|it| it.label.as_str()).collect();
    ensure!(labels == LABELS, "{labels:?}");
    let saturation = numbers.first().and_then(|it| it.value).context("saturation")?;
    ensure!((saturation - situation.saturation).abs() < 1e-3, "{output}");
    check_text(&more)
}

/// The first line is the verdict, and nothing but a command is longer than 100 columns.
fn check_text(text: &str) -> Result<()> {
    let first = text.lines().next().context("nothing was printed")?;
    let verdicts = ["healthy", "warning", "critical", "unknown"];
    ensure!(verdicts.iter().any(|it| first.starts_with(it)), "{first}");
    let is_command = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().take(2).collect();
        ["sysctl", "tracer", "ip", "nsenter", "prlimit"].iter().any(|it| words.contains(it))
    };
    let long = text.lines().find(|line| line.chars().count() > 100 && !is_command(line));
    ensure!(long.is_none(), "a long line: {long:?}");
    Ok(())
}
