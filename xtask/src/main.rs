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
mod run;
mod setup;
mod show;
mod test;
mod tidy;
mod vm;
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
    /// Run the tests, after setting up: all but what `ci` has more of, or all of one kind
    Test {
        #[arg(value_enum)]
        which: Option<test::Which>,
        /// Only these kernels of the matrix, as in `--kernel 6.1`
        #[arg(long = "kernel")]
        kernels: Vec<String>,
        /// For the kernel tests' runner: a filter, as in `test vm -- ledger::`
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Measure what tracing and spreading cost and bring, against the kernel alone and other tools
    Bench(bench::Options),
    /// Check formatting, lints, dependencies and what the compiler cannot check
    Lint,
    /// Let a host of its own run out of ports, and show that in `tracer top` on this terminal
    Demo,
    /// Make README.md's picture anew from such a host: tracer/doc/top.svg
    Picture,
    /// Lint, then test, in every kernel of the matrix everything: an hour on two processors
    Ci,
    /// Write the tables in README.md that are made from the source
    Readme,
    /// Build a static release with man page, completions and checksums into target/dist
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
        Verb::Dist => dist::dist(),
    }
}
