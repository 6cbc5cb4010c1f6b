//! `cargo xtask demo` and `cargo xtask picture`: run `show` (crate `tracer-tests`), which makes a host that runs out of ports.

use std::{fs, os::unix::process::CommandExt as _, process::Command};

use anyhow::{Context as _, Error, Result, ensure};

use crate::{
    build, exec,
    setup::{self, What},
    workspace,
};

/// Programs that `show` needs.
const PROGRAMS: [&str; 5] = ["nginx", "haproxy", "wrk", "ip", "unshare"];

/// Runs `show demo`. It replaces this process, so that the terminal belongs to it. Returns only on an error: this process is not
/// root, one of [`PROGRAMS`] is missing, the set-up or a build fails, or `show` cannot be executed.
pub(crate) fn demo() -> Result<()> {
    let mut command = show("run the demo")?;
    command.arg("demo");
    Err(Error::new(command.exec()).context(format!("cannot run `{}`", exec::show(&command))))
}

/// Runs `show picture`, which writes the picture of README.md, tracer/doc/top.svg. Fails if this process is not root, a program
/// is missing, or the set-up, a build or `show` fails.
pub(crate) fn picture() -> Result<()> {
    let mut command = show("make the picture")?;
    let folder = workspace::root().join("tracer/doc");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    exec::run(command.arg("picture").arg(folder.join("top.svg")))
}

/// Sets up and builds, and returns the command `show`. `what` is the task that an error names (`cannot …: …`).
fn show(what: &str) -> Result<Command> {
    ensure!(
        exec::is_root(),
        "cannot {what}: tracing and network namespaces need root; run it as root"
    );
    let missing: Vec<_> =
        PROGRAMS.into_iter().filter(|program| exec::which(program).is_none()).collect();
    ensure!(
        missing.is_empty(),
        "cannot {what}: {} not installed; `cargo xtask setup test` installs what is missing",
        missing.join(", ")
    );
    setup::setup(What::Build)?;
    let tracer = build::build(true)?;
    exec::run(workspace::cargo("build").args([
        "--release",
        "--package",
        "tracer-tests",
        "--bin",
        "show",
    ]))?;
    let mut command = Command::new(workspace::target().join("release/show"));
    command.env("TRACER_BIN", tracer);
    Ok(command)
}
