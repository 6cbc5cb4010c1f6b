//! `tracer config`: exit codes, and on which stream what is printed. The agent's file itself is tested with the parser.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::BAD_CONFIG;
use crate::harness::tracer::{self, Ended, START_LIMIT};

fn config(arguments: &[&str]) -> Result<Ended> {
    let arguments = [&["config"], arguments].concat();
    tracer::run(&mut tracer::command(&arguments)?, START_LIMIT)
}

fn check(file: &Path) -> Result<Ended> {
    config(&["check", file.to_str().context("the path is not UTF-8")?])
}

/// The example passes the check, which prints `FILE: ok` and ends with 0.
pub(super) fn example_is_right() -> Result<()> {
    let example = config(&["example"])?;
    ensure!(example.code() == 0 && example.stderr.is_empty(), "{example:?}");
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("tracer.toml");
    fs::write(&file, &example.stdout)?;
    let ended = check(&file)?;
    let expected = format!("{}: ok\n", file.display());
    ensure!(ended.code() == 0 && ended.stderr.is_empty(), "{ended:?}");
    ensure!(ended.stdout == expected, "{ended:?}");
    Ok(())
}

/// All faults of a file are on stderr, one a line with its place, and the exit code is 78. The same code for files that are
/// missing, or no files: a FIFO is not waited for.
pub(super) fn faults_end_with_78() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("tracer.toml");
    fs::write(&file, "[[output]]\npath = \"-\"\nevnets = 1\n[metrics]\ntop = 0\n")?;
    let ended = check(&file)?;
    let name = file.display();
    let expected = format!(
        "{name}:3:1: there is no setting output.evnets; write events\n\
         {name}:5:7: metrics.top cannot be `0`: expected a number of tuples, from 1 to 1000\n"
    );
    ensure!(ended.code() == BAD_CONFIG && ended.stdout.is_empty(), "{ended:?}");
    ensure!(ended.stderr == expected, "{ended:?}");
    let fifo = folder.path().join("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR, 0)?;
    for (path, why) in [
        (fifo.as_path(), "it is no regular file"),
        (folder.path(), "it is no regular file"),
        (&folder.path().join("none"), "no such file or directory"),
    ] {
        super::says(&check(path)?, &[BAD_CONFIG], &[why])?;
    }
    Ok(())
}
