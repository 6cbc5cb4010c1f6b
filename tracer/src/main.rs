//! The `tracer` program: parses the command line, runs it, and sets the exit code. If a signal stopped the start, it ends by
//! that signal.

use std::process::ExitCode;

use clap::Parser;
use tracer::{app, cli::Cli, error::Error, runtime::shutdown};

fn main() -> ExitCode {
    app::begin();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return app::refuse(&error),
    };
    match app::run(&cli) {
        Ok(code) => code,
        Err(Error::Interrupted { signal }) => shutdown::die(signal),
        Err(error) => {
            shutdown::final_report(error.report().as_bytes());
            app::exit(&cli, &error)
        }
    }
}
