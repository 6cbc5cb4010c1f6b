//! `top::answer`: what `top` says is to be done about a full tuple.

use anyhow::{Context, Result, ensure};
use std::time::Duration;

use crate::harness::{
    pty::{Pty, Size},
    sock::Sock,
    stage::{SERVER, Stage},
    tracer::{START_LIMIT, STOP_LIMIT, command, run},
};

/// The lines of a text's finding `ports_exhausted`, up to an empty line.
fn finding(text: &str) -> Result<Vec<&str>> {
    let begin = |line: &&str| !line.starts_with("CRITICAL ports_exhausted");
    let lines: Vec<&str> =
        text.lines().skip_while(begin).take_while(|line| !line.trim().is_empty()).collect();
    ensure!(!lines.is_empty(), "no critical ports_exhausted:\n{text}");
    Ok(lines)
}

/// The command after `now` on a screen, and how many lines it takes; `None`: there is none.
fn now(text: &str) -> Option<(String, usize)> {
    let begins = |line: &&str| !line.trim_start().starts_with("now ");
    let lines = text.lines().skip_while(begins);
    let mut whole = String::new();
    for (count, line) in (1..).zip(lines) {
        let line = line.trim();
        let Some(part) = line.strip_suffix('\\') else {
            whole.push_str(line);
            return Some((whole.strip_prefix("now")?.trim().to_owned(), count));
        };
        whole.push_str(part);
    }
    None
}

/// A tuple holds all 20 ports: `top -b` prints what `doctor` prints, and the screen of an 80x24 terminal says what to type in its
/// header, below the failure, in the detail and in the view `6 doctor`.
pub(super) fn is_what_doctor_says() -> Result<()> {
    let mut stage = Stage::new(&[])?;
    stage.netns.sysctl("ipv4/ip_local_port_range", "40000 40019")?;
    let server = stage.server(&format!("{SERVER}:7000"))?;
    let _pairs = stage.netns.run(|| server.pairs(20))?;
    let netns = stage.netns.inum().to_string();

    // In the namespace itself: only doctor knows how to enter one that has no name.
    let run_there =
        |arguments: &[&str]| stage.netns.run(|| run(&mut command(arguments)?, START_LIMIT));
    let printed = run_there(&["top", "-b", "-n", "1", "--netns", &netns])?;
    ensure!(printed.code() == 0, "{printed:?}");
    let said = run_there(&["doctor", "--window", "0", "--netns", &netns])?;
    let (printed, said) = (finding(&printed.stdout)?, finding(&said.stdout)?);
    ensure!(printed == said, "top: {printed:#?}\ndoctor: {said:#?}");
    let all = said.join("\n");
    for part in ["20 of 20 ports in use", "now   tracer spread --pool auto", "--dry-run"] {
        ensure!(all.contains(part), "no {part:?}:\n{all}");
    }

    let spread = format!("--dry-run --netns {netns}");
    let mut command = command(&["top"])?;
    command.args(["--netns", &netns]);
    let mut top = Pty::spawn(&command, Size(80, 24))?;
    let soon = Duration::from_secs(10);
    let types = |text: &str| {
        now(text).is_some_and(|(command, _)| {
            command.starts_with("tracer spread --pool auto") && command.contains(&spread)
        })
    };
    top.wait("the header's command", START_LIMIT, types)?;
    let failed = stage.netns.run(|| Sock::tcp(server.address)?.connect(server.address));
    ensure!(failed.is_err(), "the range has a port more than there are");
    top.press("4")?;
    top.wait("the failure with its command", soon, |text| {
        let below = text.lines().skip_while(|line| !line.contains("EADDRNOTAVAIL"));
        types(&below.collect::<Vec<_>>().join("\n"))
    })?;
    top.press("1\r")?;
    top.wait("the detail", soon, |text| {
        let below: Vec<_> =
            text.lines().skip_while(|line| !line.starts_with("CRITICAL ports_exhausted")).collect();
        types(&below.join("\n"))
    })?;
    top.press("6")?;
    let screen = top.wait("the view", soon, |text| text.contains("1 critical finding"))?;
    let below = screen.lines().skip_while(|line| !line.starts_with("CRITICAL ports_exhausted"));
    let below = below.collect::<Vec<_>>().join("\n");
    ensure!(types(&below), "{screen}");
    let (_, lines) = now(&below).context("no command")?;
    ensure!(lines <= 3, "{screen}");
    top.press("q")?;
    ensure!(top.wait_for_end(STOP_LIMIT)?.success(), "q is no failure");
    Ok(())
}
