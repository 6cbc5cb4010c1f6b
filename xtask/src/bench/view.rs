//! What the view costs, which `view-bench` measures (crate `tracer-tests`).

use std::process::Command;

use anyhow::Result;

use super::{Options, Programs};
use crate::{dist, exec};

/// Runs `view-bench` with the program as it is released, and returns the tables, after a line that begins with `machine`
/// ([`super::machine::describe`]). (A build that is not optimized as a whole would have other figures.) Fails if the build or
/// `view-bench` fails.
pub(crate) fn measure(options: &Options, programs: &Programs, machine: &str) -> Result<String> {
    eprintln!("the view");
    let released = dist::program()?;
    let mut command = Command::new(&programs.view);
    command.env("TRACER_BIN", released).args(options.quick.then_some("--quick"));
    let tables = exec::output(&mut command)?;
    let command = options.command();
    Ok(format!("{machine} `{command}`, of the program that `cargo xtask dist` makes.\n\n{tables}"))
}
