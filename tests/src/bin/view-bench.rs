//! Measures what `tracer top` costs on this machine, as root: `cargo xtask bench view` runs it.
//!
//! `TRACER_BIN` is the program that is measured. With `--quick`, the measurements are too short to mean anything: they show that
//! everything works.
#![expect(clippy::print_stdout, reason = "the tables go to stdout")]

use std::env;

use anyhow::{Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracer_tests::bench::view::{self, Amount};

fn main() -> Result<()> {
    let limit = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit })?;
    let arguments: Vec<String> = env::args().skip(1).collect();
    match &arguments[..] {
        [] => println!("{}", view::run(Amount::FULL)?),
        [quick] if quick == "--quick" => println!("{}", view::run(Amount::QUICK)?),
        _ => bail!("usage: view-bench [--quick]"),
    }
    Ok(())
}
