//! What spreading brings and costs, which `spread-bench` measures (crate `tracer-tests`).

use std::process::Command;

use anyhow::Result;

use super::{Options, Programs};
use crate::exec;

/// Runs `spread-bench`, and returns the tables, after a line that begins with `machine` ([`super::machine::describe`]). Fails if
/// `spread-bench` fails.
pub(crate) fn measure(options: &Options, programs: &Programs, machine: &str) -> Result<String> {
    eprintln!("spreading");
    let mut command = Command::new(&programs.spread);
    command.env("TRACER_BIN", &programs.tracer).args(options.quick.then_some("--quick"));
    let tables = exec::output(&mut command)?;
    Ok(format!("{machine} `{}`.\n\n{tables}", options.command()))
}
