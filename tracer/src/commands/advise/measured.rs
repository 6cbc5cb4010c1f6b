//! The load of this host: hooks in the kernel, for the time of a window.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    advise::{self, Samples, Settings},
    config::{AdviseConfig, KernelConfig},
    doctor::window::Window,
    error::Error,
    format::text,
    runtime::shutdown::StopSignals,
};

use super::Measured;

/// How often a wait checks for signals.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// The time between two readings of open connections, and of the time that a reading takes how many times must be between it and
/// the next.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);
const REST: u32 = 10;

/// Attaches the hooks; the inner `Err` says why that was not possible, as a text for people. The calling thread, and those that
/// it starts later, can only read from then on.
///
/// # Errors
/// A signal asked to stop.
pub(super) fn open(kernel: &KernelConfig) -> Result<Result<Window, String>, Error> {
    match Window::open(kernel, false) {
        Ok(window) => Ok(Ok(window)),
        Err(error @ Error::Interrupted { .. }) => Err(error),
        Err(error) => Ok(Err(why(&error))),
    }
}

/// Why no load is measured, on one line.
fn why(error: &Error) -> String {
    match error {
        Error::NoPrivilege { missing } => {
            format!("it cannot be measured, because privileges are missing: {}", missing.join(", "))
        }
        other => format!("it cannot be measured: {}", text::line(&other.to_string())),
    }
}

/// Watches the connections of a network namespace (inode number) for [`AdviseConfig::window`]; a signal ends that early.
/// Connections to other destinations than the configuration asks about are left out; [`Measured::destinations`] is empty if there
/// were no others.
///
/// # Errors
/// A map cannot be read, or the ledger refuses a command.
pub(super) fn measure(
    mut window: Window,
    config: &AdviseConfig,
    settings: &Settings,
    netns: u32,
    signals: &StopSignals,
) -> Result<Measured, Error> {
    let mut samples = Samples::default();
    window.begin()?;
    let until = Instant::now() + config.window.unwrap_or_default();
    loop {
        let began = Instant::now();
        samples.add(&window.ports(netns)?);
        let next = (began + SAMPLE_INTERVAL).max(Instant::now() + began.elapsed() * REST);
        if !wait(next.min(until), signals) || next >= until {
            break;
        }
    }
    let watched = window.end()?;
    let here = watched.namespaces.get(&netns).cloned().unwrap_or_default();
    let asked = config.destinations();
    let wanted =
        |address: &_, port| tracer_common::spread::Destination::is_spread(&asked, address, port);
    let time_wait_s = |loopback| settings.time_wait_s(loopback);
    let destinations = advise::destinations(&here.tuples, &samples, wanted, time_wait_s);
    Ok(Measured { seconds: watched.seconds, destinations, lost: watched.lost })
}

/// Waits until then. Returns false if a signal ended the wait.
fn wait(until: Instant, signals: &StopSignals) -> bool {
    loop {
        if signals.stop() {
            return false;
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        sleep(left.min(POLL_INTERVAL));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_one_line_and_names_what_is_missing() {
        let missing = Error::NoPrivilege { missing: vec!["CAP_BPF", "CAP_PERFMON"] };
        assert_eq!(
            why(&missing),
            "it cannot be measured, because privileges are missing: CAP_BPF, CAP_PERFMON"
        );
        let none = Error::NoBackend { reasons: vec![("fexit".into(), "a\nb\u{1b}".into())] };
        let why = why(&none);
        assert!(why.contains("fexit") && !why.contains(['\n', '\u{1b}']), "{why}");
    }
}
