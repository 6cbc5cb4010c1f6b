//! `cargo xtask run`: sets up, builds, and runs `tracer`.

use std::{ffi::OsString, os::unix::process::CommandExt as _, process::Command};

use anyhow::{Error, Result};

use crate::{
    build, exec,
    setup::{self, What},
};

/// Sets up, builds, and replaces this process by `tracer` with these arguments, so that signals and the terminal go to it.
/// Returns only on an error: of the set-up, of a build, or because `tracer` cannot be executed.
pub(crate) fn run(args: &[OsString]) -> Result<()> {
    setup::setup(What::Build)?;
    let tracer = build::build(true)?;
    let mut command = Command::new(tracer);
    command.args(args);
    eprintln!("$ {}", exec::show(&command));
    Err(Error::new(command.exec()).context(format!("cannot run `{}`", exec::show(&command))))
}
