//! Every task of this repository: `cargo xtask --help` lists the verbs.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a task runner talks to its terminal"
)]

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use vm::kernels::Matrix;

mod bench;
mod build;
mod circles;
mod dependencies;
mod dist;
mod exec;
mod links;
mod lint;
mod markers;
mod readme;
mod report;
mod run;
mod setup;
mod show;
mod test;
mod tidy;
mod vm;
mod words;
mod workspace;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what is missing to build (or, with `test` or `bench`, also for that), nothing else
    Setup {
        #[arg(value_enum, default_value = "build")]
        what: setup::What,
    },
    /// Build the BPF object, then `tracer` with that object inside
    Build {
        /// Build `tracer` with optimizations (the BPF object always is)
        #[arg(long)]
        release: bool,
    },
    /// Set up, build and run `tracer`: `cargo xtask run -- record`
    Run {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<std::ffi::OsString>,
    },
    /// Set up and run the tests: all kinds, with fewer tests in the guests than `ci`; or one kind, completely
    Test {
        #[arg(value_enum)]
        which: Option<test::Which>,
        /// Only these kernels of the matrix, as in `--kernel 6.1`
        #[arg(long = "kernel")]
        kernels: Vec<String>,
        /// A filter, as in `test vm -- ledger::` or `test parsers -- nginx`
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Measure what tracing and spreading bring and cost, compared with the kernel alone and other tools
    Bench(bench::Options),
    /// Check formatting, lints, dependencies and what the compiler cannot check
    Lint,
    /// Run a demo host that runs out of ports, and show it in `tracer top` on this terminal
    Demo,
    /// Make README.md's picture, tracer/doc/top.svg, from the demo host
    Picture,
    /// Lint, then run all tests, with all kernels of the matrix: an hour on two processors
    Ci,
    /// Write the table of kernels in README.md from the source
    Readme,
    /// Build a static release, and make a .deb, a tarball and their checksums of it in target/dist
    Dist,
}

fn main() -> ExitCode {
    match act(Cli::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(verb: Verb) -> Result<()> {
    match verb {
        Verb::Setup { what } => setup::setup(what),
        Verb::Build { release } => build::build(release).map(drop),
        Verb::Run { args } => run::run(&args),
        Verb::Test { which, kernels, args } => {
            let matrix = which.map_or(Matrix::Short, |_| Matrix::Long);
            test::test(which, matrix, &kernels, args)
        }
        Verb::Demo => show::demo(),
        Verb::Picture => show::picture(),
        Verb::Bench(options) => bench::bench(&options),
        Verb::Lint => lint::lint(),
        Verb::Ci => lint::lint().and_then(|()| test::test(None, Matrix::Long, &[], Vec::new())),
        Verb::Readme => readme::write(),
        Verb::Dist => dist::dist().map(|deb| println!("{}", deb.display())),
    }
}
