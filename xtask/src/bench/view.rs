//! What the view costs, which `view-bench` measures (crate `tracer-tests`).

use std::process::Command;

use anyhow::Result;

use super::{Options, Programs};
use crate::exec;

/// The tables.
pub(crate) fn measure(options: &Options, programs: &Programs, machine: &str) -> Result<String> {
    eprintln!("the view");
    let mut command = Command::new(&programs.view);
    command.env("TRACER_BIN", &programs.tracer).args(options.quick.then_some("--quick"));
    let tables = exec::output(&mut command)?;
    Ok(format!("{machine} `{}`.\n\n{tables}", options.command()))
}
