//! Sets up the program's own log, which goes to stderr only, because stdout is for data; and keeps it off a screen.

use std::{
    collections::VecDeque,
    io::{self, IsTerminal, Write},
    mem,
    sync::{Mutex, PoisonError},
};

use tracing_subscriber::{EnvFilter, fmt};

use crate::{cli::LogFormat, error::Error};

/// Name of the environment variable that overrides `-v`: directives of `tracing_subscriber::EnvFilter`.
pub const VARIABLE: &str = "TRACER_LOG";

/// Starts the log, which goes to stderr. `verbosity` (how often `-v` is given): 0 shows warnings and errors, 1 also what is
/// attached, 2 also this program's own decisions, 3 also those of its libraries, 4 and more everything. If `TRACER_LOG` is set
/// and not empty, its directives say instead what is shown. Text has colours if stderr is a terminal and `NO_COLOR` is not set.
///
/// # Errors
/// A directive in `TRACER_LOG` is not valid, or a log was started before.
pub fn start(verbosity: u8, format: LogFormat) -> Result<(), Error> {
    let filter = filter(verbosity, std::env::var(VARIABLE).ok())?;
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let log = fmt().with_env_filter(filter).with_writer(|| Log).with_ansi(colour);
    let started = match format {
        LogFormat::Text => log.with_target(verbosity > 1).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| {
        Error::Failure(format!("cannot start the log: {error}; this is a fault of tracer"))
    })
}

/// Lines that are held back while a screen is on the terminal of stderr; `None`: lines are written immediately.
static HELD: Mutex<Option<Held>> = Mutex::new(None);

/// The most lines that are held back; older ones are dropped.
const HELD_LINES: usize = 200;

/// Lines that are held back.
#[derive(Default)]
struct Held {
    lines: VecDeque<Vec<u8>>,
    /// How many lines have come since [`held`] was called last, including those that were dropped since.
    new: usize,
}

/// Keeps the log off the terminal until this is dropped: then the newest 200 lines are written to stderr, and older ones are
/// lost. If stderr is not a terminal, lines are written immediately. Only one may exist at a time (not checked).
#[must_use]
pub struct Hold(());

/// Begins to keep the log off the terminal: see [`Hold`].
pub fn hold() -> Hold {
    if io::stderr().is_terminal() {
        *HELD.lock().unwrap_or_else(PoisonError::into_inner) = Some(Held::default());
    }
    Hold(())
}

impl Drop for Hold {
    fn drop(&mut self) {
        let held = HELD.lock().unwrap_or_else(PoisonError::into_inner).take();
        for line in held.unwrap_or_default().lines {
            // A closed stderr is not an error.
            _ = io::stderr().write_all(&line);
        }
    }
}

/// The lines that were held back since the last call (the newest 200), without their colours; empty if there are none, or
/// lines are not held back.
pub fn held() -> Vec<String> {
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(held) = held.as_mut() else { return Vec::new() };
    let new = mem::take(&mut held.new).min(held.lines.len());
    held.lines.iter().skip(held.lines.len() - new).map(|line| plain(line)).collect()
}

/// A line of the log as text, without SGR sequences (`ESC [ ... m`), and with control characters replaced.
fn plain(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut parts = text.split("\u{1b}[");
    let first = parts.next().unwrap_or_default().to_owned();
    let rest = parts.map(|part| part.split_once('m').map_or(part, |(_, after)| after));
    let text = rest.fold(first, |text, part| text + part);
    crate::format::text::line(text.trim_end()).into_owned()
}

/// Where the log goes: each call of `write` has one line, which is written to stderr or held back.
struct Log;

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(held) = held.as_mut() else { return io::stderr().write(line) };
        if held.lines.len() == HELD_LINES {
            held.lines.pop_front();
        }
        held.lines.push_back(line.to_owned());
        held.new += 1;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

fn filter(verbosity: u8, variable: Option<String>) -> Result<EnvFilter, Error> {
    let level = match verbosity {
        0 => "warn",
        1 => "info",
        // Not `debug` for all: aya logs thousands of debug records at each start.
        2 => "info,tracer=debug",
        3 => "debug,tracer=trace",
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
        assert_eq!(levels, ["warn", "info", "tracer=debug,info", "tracer=trace,debug", "trace"]);
    }

    #[test]
    fn a_held_line_loses_its_colours_and_nothing_else() {
        let line = b"\x1b[33m WARN\x1b[0m ports of \x1b]0;x\x07 netns\n";
        assert_eq!(plain(line), " WARN ports of \u{fffd}]0;x\u{fffd} netns");
    }

    #[test]
    fn the_variable_overrides_v_and_is_checked() {
        assert_eq!(filter(0, Some("tracer=debug".into())).unwrap().to_string(), "tracer=debug");
        let error = filter(0, Some("tracer=loud".into())).unwrap_err();
        assert!(error.to_string().contains("TRACER_LOG is 'tracer=loud'"), "{error}");
        assert_eq!(error.exit() as u8, 78);
    }
}
