//! Two costs that do not depend on connect(): one JSON line, and one reading of a large table of tuples.

use std::{
    fs::{self, File},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{Plan, Programs, float, load::Generator, process, tool::lines};
use crate::{build, exec, workspace};

/// The least number of readings that are measured.
const READINGS: u64 = 8;
/// A clock tick of /proc/PID/stat, ns (USER_HZ is 100 on every architecture that BPF is built for here).
const TICK_NS: f64 = 10e6;
/// Longest time to wait for one step of the measurement.
const LIMIT: Duration = Duration::from_secs(40);

/// Time to write one JSON line, ns, as the example `line_cost` measures it. Fails if that cannot be built or run, or prints no
/// such time.
pub(crate) fn line_cost() -> Result<f64> {
    let mut command = workspace::cargo("run");
    command.args(["--release", "--quiet", "--package", "tracer", "--example", "line_cost"]);
    let text = exec::output(build::embed(&mut command))?;
    parse_line_cost(&text).with_context(|| format!("line_cost printed {text:?}"))
}

fn parse_line_cost(text: &str) -> Option<f64> {
    text.lines()
        .find_map(|line| line.strip_prefix("by hand")?.split_whitespace().next()?.parse().ok())
}

/// What reading the table costs: `tracer tuples --interval` with one tuple in its output.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// Number of tuples in the table.
    pub(crate) tuples: u32,
    /// CPU time of one reading and its output, ns.
    pub(crate) cpu: f64,
    /// The part of `cpu` in the kernel: batch look-ups, and copying their results.
    pub(crate) system: f64,
    /// Time of one refused connect() with the tracer attached, ns.
    pub(crate) refused: f64,
}

impl Reading {
    /// The figures as a sentence.
    pub(crate) fn describe(&self) -> String {
        format!(
            "Reading {} tuples: {:.1} ms of CPU for one turn of `tracer tuples --interval --limit 1` (batch look-ups, rates, \
             sorting), {:.1} ms of it in the kernel. A refused connect() took {:.1} µs while the table filled.",
            self.tuples,
            self.cpu / 1e6,
            self.system / 1e6,
            self.refused / 1e3
        )
    }
}

/// Fills the table with refused connections and measures 8 readings ([`READINGS`]), or a few more: the figures are means over
/// these. Fails if it waits longer than 40 s ([`LIMIT`]) for a step, or tracer or the load generator fails.
pub(crate) fn tuples(
    plan: &Plan,
    programs: &Programs,
    generator: &mut Generator,
) -> Result<Reading> {
    eprintln!("reading {} tuples", plan.tuples);
    let output = programs.scratch.join("stdout");
    let process = Command::new(&programs.tracer)
        .args(["--max-tuples", "131072", "tuples", "--interval", "0.5", "--limit", "1"])
        .args(["-o", "json"])
        .stdin(Stdio::null())
        .stdout(File::create(&output)?)
        .spawn()
        .with_context(|| format!("cannot run {}", programs.tracer.display()))?;
    let watch = Watch { process };
    let readings = || -> Result<u64> {
        let text = fs::read(&output)?;
        Ok(lines(&text))
    };
    wait("the first reading", || Ok(readings()? > 0))?;
    let refused = generator.refuse(plan.tuples)? / f64::from(plan.tuples);
    let first = readings()? + 2;
    wait("the table to be read", || Ok(readings()? >= first))?;
    let pid = watch.process.id();
    let now =
        || -> Result<_> { Ok((readings()?, process::cpu_ns(pid)?, process::system_ticks(pid)?)) };
    let before = now()?;
    wait("the readings", || Ok(readings()? >= before.0 + READINGS))?;
    let after = now()?;
    let each = |more: u64| float(more) / float(after.0 - before.0);
    Ok(Reading {
        tuples: plan.tuples,
        cpu: each(after.1.saturating_sub(before.1)),
        system: each(after.2 - before.2) * TICK_NS,
        refused,
    })
}

fn wait(what: &str, mut reached: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !reached()? {
        ensure!(Instant::now() < deadline, "waited {LIMIT:?} in vain for {what}");
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// A running `tracer tuples`; killed on drop.
struct Watch {
    process: Child,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.process
            .kill()
            .and_then(|()| self.process.wait())
            .map_or_else(|error| eprintln!("tracer tuples cannot be ended: {error}"), drop);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_of_a_line_is_the_first_number_of_its_row() {
        let text = "by hand       98.6 ns a line of 512 bytes\nserde_json   400.1 ns a line\n";
        assert_eq!(parse_line_cost(text), Some(98.6));
        assert_eq!(parse_line_cost("serde_json 1 ns"), None);
    }
}
