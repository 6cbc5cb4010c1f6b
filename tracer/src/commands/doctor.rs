//! `tracer doctor`: looks, watches, looks again, and says what is wrong and what to do.

mod round;

use std::{io, time::Duration};

use rustix::thread::CapabilitySet;

use crate::{
    cli::DoctorFormat,
    config::{DoctorConfig, KernelConfig},
    doctor::{
        show,
        verdict::{Missing, Verdict},
        window::Window,
    },
    error::Error,
    host::netns::{self, Netns, Worker},
    kernel::{privilege, spread::pinned::Pins},
    ledger::trace,
    runtime::{
        sandbox::{self, Role, User},
        shutdown::StopSignals,
        stdout,
    },
};

/// What a round looks at, and with what.
pub struct Doctor {
    config: DoctorConfig,
    worker: Worker,
    own: u32,
    /// The namespaces to judge; `None`: all that are found.
    chosen: Option<Vec<Netns>>,
    /// Whether other namespaces than the own one can be entered.
    enters: bool,
    /// Whether a rule of `tracer spread` is active on this host.
    spreads: bool,
    window: Option<Window>,
    /// How long the window was, in this round.
    watched_for: Duration,
    /// Why no window is open though one is wanted; `None`: one is, or none is wanted.
    no_window: Option<Missing>,
}

impl Doctor {
    /// Finds the namespaces that are to be judged, and attaches the hooks for the window. The calling thread, and those that it
    /// starts later, can only read from then on.
    ///
    /// # Errors
    /// A namespace that is asked for does not exist; a thread cannot be started; a signal asked to stop. Hooks that cannot be
    /// attached are no error: the window is not made then.
    pub fn start(kernel: &KernelConfig, config: DoctorConfig) -> Result<Self, Error> {
        let failed = |error: io::Error| Error::Failure(format!("cannot start a thread: {error}"));
        let own = netns::own().map_err(|error| {
            Error::Failure(format!("cannot read this network namespace: {error}"))
        })?;
        let chosen = config.netns.iter().map(|it| netns::resolve(&it.to_string()));
        let mut chosen: Vec<Netns> = chosen
            .collect::<Result<_, _>>()
            .map_err(|error| Error::BadConfig(error.to_string()))?;
        // The same one may have two names.
        chosen.sort_by_key(|netns| netns.inum);
        chosen.dedup_by_key(|netns| netns.inum);
        let worker = Worker::spawn().map_err(failed)?;
        let enters = privilege::effective().is_ok_and(|it| it.contains(CapabilitySet::SYS_ADMIN));
        let spreads = !Pins::all().rules.is_empty();
        let opened = config.window.map(|_| Window::open(kernel)).transpose();
        let (window, no_window) = match opened {
            Ok(window) => (window, None),
            Err(error @ Error::Interrupted { .. }) => return Err(error),
            Err(error) => (None, Some(not_attached(&error))),
        };
        let keep = privilege::KEPT_FOR_LOOKING;
        worker
            .run_on_all(move || sandbox::enter(Role::Visits, User::own(), keep))
            .map_err(|error| Error::Failure(format!("cannot drop the privileges: {error}")))?;
        if window.is_none() {
            // The window would have put this thread into its sandbox.
            trace::enter_to_read(CapabilitySet::empty(), User::nobody())?;
        }
        let chosen = (!chosen.is_empty()).then_some(chosen);
        Ok(Self {
            config,
            worker,
            own: own.inum,
            chosen,
            enters,
            spreads,
            window,
            watched_for: Duration::ZERO,
            no_window,
        })
    }

    /// Makes a diagnosis, prints it, and returns its verdict. A reader of stdout that is gone changes nothing.
    ///
    /// # Errors
    /// A map cannot be read; stdout cannot be written.
    pub fn run(mut self, signals: &StopSignals) -> Result<Verdict, Error> {
        let diagnosis = self.diagnose(signals)?;
        let text = match self.config.format {
            DoctorFormat::Text => show::text(&diagnosis),
            DoctorFormat::Json => show::json_line(&diagnosis)?,
            DoctorFormat::Plugin => show::plugin(&diagnosis),
        };
        signals.writing(true);
        stdout::print(text.as_bytes())?;
        signals.writing(false);
        Ok(diagnosis.verdict)
    }
}

/// Why the hooks are not attached, and what they need.
fn not_attached(error: &Error) -> Missing {
    let needs = match error {
        Error::NoPrivilege { missing } => Some(missing.join(", ")),
        _ => None,
    };
    let why = if needs.is_some() { "privileges are missing".to_owned() } else { error.to_string() };
    Missing { why, needs }
}
