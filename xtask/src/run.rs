//! `cargo xtask run`: set up, build, and become `tracer`.

use std::{ffi::OsString, os::unix::process::CommandExt as _, process::Command};

use anyhow::{Error, Result};

use crate::{
    build, exec,
    setup::{self, What},
};

/// Replaces this process, so that signals and the terminal belong to `tracer`.
pub(crate) fn run(args: &[OsString]) -> Result<()> {
    setup::setup(What::Build)?;
    let tracer = build::build(true)?;
    let mut command = Command::new(tracer);
    command.args(args);
    eprintln!("$ {}", exec::show(&command));
    Err(Error::new(command.exec()).context(format!("cannot run `{}`", exec::show(&command))))
}
