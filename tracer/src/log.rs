//! The program's own log: stderr only, because stdout carries events.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, fmt};

use crate::{cli::LogFormat, error::Error};

/// Variable that overrides `-v`: directives of `tracing_subscriber::EnvFilter`.
pub const VARIABLE: &str = "TRACER_LOG";

/// Starts logging. `verbosity` 0 shows warnings and errors, each more another level.
///
/// # Errors
/// A directive in `TRACER_LOG` that cannot be read; a log that was started before.
pub fn start(verbosity: u8, format: LogFormat) -> Result<(), Error> {
    let filter = filter(verbosity, std::env::var(VARIABLE).ok())?;
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let log = fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colour);
    let started = match format {
        LogFormat::Text => log.with_target(verbosity > 1).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| Error::Failure(format!("cannot start the log: {error}")))
}

fn filter(verbosity: u8, variable: Option<String>) -> Result<EnvFilter, Error> {
    let level = match verbosity {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    match variable.filter(|directives| !directives.is_empty()) {
        None => Ok(EnvFilter::new(level)),
        Some(directives) => EnvFilter::try_new(&directives).map_err(|error| {
            Error::BadConfig(format!(
                "{VARIABLE} is '{directives}': {error}; expected a level or target=level, \
                 comma-separated"
            ))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_v_shows_one_level_more() {
        let levels: Vec<_> = (0..5).map(|v| filter(v, None).unwrap().to_string()).collect();
        assert_eq!(levels, ["warn", "info", "debug", "trace", "trace"]);
    }

    #[test]
    fn the_variable_overrides_v_and_is_checked() {
        assert_eq!(filter(0, Some("tracer=debug".into())).unwrap().to_string(), "tracer=debug");
        let error = filter(0, Some("tracer=loud".into())).unwrap_err();
        assert!(error.to_string().contains("TRACER_LOG is 'tracer=loud'"), "{error}");
        assert_eq!(error.exit() as u8, 78);
    }
}
