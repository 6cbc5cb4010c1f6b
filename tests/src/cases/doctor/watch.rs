//! `tracer doctor --watch`: what is new, worse and solved in a round, and how the command ends.

use std::{collections::BTreeSet, fs};

use anyhow::{Result, ensure};
use rustix::process::Signal;

use super::edge::Edge;
use crate::harness::tracer::doctor::{Diagnosis, Missed, Rounds};

const OPTIONS: [&str; 4] = ["--window", "0.3", "--watch", "0.3"];
const FULL: &str = "ports_exhausted";

fn change<'a>(round: &'a Diagnosis, id: &str) -> Option<&'a str> {
    round.findings.iter().find(|it| it.id == id)?.change.as_deref()
}

/// The ids of the BPF programs and links that a process has open.
fn attached(process: u32) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for file in fs::read_dir(format!("/proc/{process}/fdinfo"))? {
        let text = fs::read_to_string(file?.path()).unwrap_or_default();
        let of_bpf = |line: &&str| line.starts_with("prog_id:") || line.starts_with("link_id:");
        all.extend(text.lines().filter(of_bpf).map(str::to_owned));
    }
    Ok(all)
}

/// With 15 of 100 ports in use, 70 more make `ports_exhausted` `new`, and 13 more `worse` (exit code 2). When these 83 are
/// closed, it is missing for a round, then solved. The hooks stay attached meanwhile, and the exit code after SIGTERM is the last
/// round's, 1.
pub(super) fn an_incident() -> Result<()> {
    let edge = Edge::new(100)?;
    let _always = edge.open(15)?;
    let mut rounds = Rounds::start(&edge.here, &OPTIONS)?;
    let first = rounds.round()?;
    ensure!(first.round == Some(1) && first.exit_but_for_the_range() == 0, "{first:?}");
    ensure!(first.findings.iter().all(|it| it.change.is_none()), "{first:?}");
    let hooks = attached(rounds.id())?;
    ensure!(!hooks.is_empty(), "no hook is attached");
    let mut held = edge.open(70)?;
    let new = rounds.until("a warning", |it| it.finding(FULL).is_ok())?;
    ensure!(change(&new, FULL) == Some("new"), "{new:?}");
    ensure!(change(&new, "small_range") == Some("same"), "{new:?}");
    held.extend(edge.open(13)?);
    let is_critical = |it: &Diagnosis| it.finding(FULL).is_ok_and(|it| it.severity == "critical");
    let worse = rounds.until("a critical one", is_critical)?;
    ensure!(change(&worse, FULL) == Some("worse") && worse.exit == 2, "{worse:?}");
    for (here, _there) in &held {
        here.set_reset_on_close()?;
    }
    drop(held);
    let gone = rounds.until("a round without it", |it| it.finding(FULL).is_err())?;
    let has = |all: &[Missed]| all.iter().any(|it| it.id == FULL);
    ensure!(has(&gone.missing) && !has(&gone.solved), "{gone:?}");
    let solved = rounds.round()?;
    ensure!(has(&solved.solved) && !has(&solved.missing), "{solved:?}");
    ensure!(attached(rounds.id())? == hooks, "the hooks were attached again");
    let (code, stderr) = rounds.stop(Signal::TERM)?;
    ensure!(code == solved.exit && code == 1, "it ended with {code}: {stderr}");
    Ok(())
}

/// With a full tuple, a closed stdout, and SIGINT between two rounds, end `tracer doctor --watch` with the exit code of the last
/// round, 2, and nothing on stderr.
pub(super) fn its_end() -> Result<()> {
    let edge = Edge::new(20)?;
    edge.leave_time_waits(20)?;
    let mut rounds = Rounds::start(&edge.here, &["--window", "0", "--watch", "0.2"])?;
    ensure!(rounds.round()?.exit == 2, "full");
    let ended = rounds.close()?;
    ensure!(ended == (2, String::new()), "a closed stdout: {ended:?}");
    let mut rounds = Rounds::start(&edge.here, &["--window", "0.1", "--watch", "3600"])?;
    let round = rounds.round()?;
    let ended = rounds.stop(Signal::INT)?;
    ensure!(round.exit == 2 && ended == (2, String::new()), "between two rounds: {ended:?}");
    Ok(())
}
