//! The `tracer` program: parses the command line, runs it, and sets the exit code. If a signal stopped the start, it ends by
//! that signal.

use std::process::ExitCode;

use clap::Parser;
use tracer::{
    app,
    cli::Cli,
    error::{Error, Exit},
    runtime::shutdown,
};

fn main() -> ExitCode {
    app::begin();
    let cli = Cli::parse();
    match app::run(&cli) {
        Ok(()) => Exit::Ok.into(),
        Err(Error::Interrupted { signal }) => shutdown::die(signal),
        Err(error) => {
            shutdown::final_report(error.report().as_bytes());
            error.exit().into()
        }
    }
}
