//! Measures what spreading brings and costs on this machine's kernel, as root: `cargo xtask bench` runs it.
//!
//! `TRACER_BIN` is the program that is measured. With `--quick`, the measurements are too short to mean anything: they show that
//! everything works.
#![expect(clippy::print_stdout, reason = "the tables go to stdout")]

use std::env;

use anyhow::{Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracer_tests::bench::{self, Size};

fn main() -> Result<()> {
    let limit = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit })?;
    let arguments: Vec<String> = env::args().skip(1).collect();
    match &arguments[..] {
        [] => println!("{}", bench::run(Size::FULL)?),
        [quick] if quick == "--quick" => println!("{}", bench::run(Size::QUICK)?),
        [dial, plan @ ..] if dial == "dial" => bench::serve(plan)?,
        // The stage starts this program as a helper process in its namespace, by which tracer finds the namespace.
        [helper, rest @ ..] if helper == "helper" => tracer_tests::helper::main(rest)?,
        _ => bail!("usage: spread-bench [--quick]"),
    }
    Ok(())
}
