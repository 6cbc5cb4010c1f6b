//! The `tracer` program: parse, run, exit code.

use std::{
    io::{Write, stderr},
    process::ExitCode,
};

use clap::Parser;
use tracer::{
    app,
    cli::Cli,
    error::{Error, Exit},
    shutdown,
};

fn main() -> ExitCode {
    app::begin();
    let cli = Cli::parse();
    match app::run(&cli) {
        Ok(()) => Exit::Ok.into(),
        Err(Error::Interrupted { signal }) => shutdown::die(signal),
        Err(error) => {
            // Where stderr is closed too, the exit code has to do.
            _ = stderr().write_all(error.report().as_bytes());
            error.exit().into()
        }
    }
}
