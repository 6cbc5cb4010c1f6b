//! `tracer doctor`: looks, watches, looks again, and says what is wrong and what to do.

mod judged;
pub mod recorded;
mod round;
mod spreads;
mod watch;

use std::{io, sync::Arc};

use rustix::thread::CapabilitySet;
use spreads::spreads;

use crate::{
    cli::DoctorFormat,
    config::{DoctorConfig, KernelConfig},
    doctor::{
        changes::History,
        homes::Homes,
        judge::Spreads,
        selection::{self, Selection},
        show::{self, Diagnosis},
        verdict::Missing,
        window::Window,
    },
    error::Error,
    host::netns::{self, Netns, Worker},
    kernel::{btf::Btf, open_files, privilege},
    ledger::trace,
    runtime::{
        sandbox::{self, Role, User},
        shutdown::StopSignals,
        stdout,
    },
};

/// `tracer doctor`: what each of its rounds looks at, and with what.
pub struct Doctor {
    config: DoctorConfig,
    worker: Worker,
    own: u32,
    /// The namespaces to judge; `None`: all that are found.
    chosen: Option<Vec<Netns>>,
    /// Whether other namespaces than the own one can be entered.
    enters: bool,
    /// Where rules of `tracer spread` bind ports, by the pins at the start.
    spreads: Spreads,
    window: Option<Window>,
    /// Why no window is open though one is wanted; `None`: one is, or none is wanted.
    no_window: Option<Missing>,
    /// The processes whose findings are judged; `None`: all are.
    selection: Option<Arc<Selection>>,
    homes: Homes,
    /// What the rounds so far have found; `None`: there is one round.
    history: Option<History>,
}

impl Doctor {
    /// Finds the namespaces that are to be judged, and attaches the hooks for the window. The calling thread, and those that it
    /// starts later, can only read from then on. Hooks that cannot be attached are no error: the window is not made then.
    ///
    /// # Errors
    /// A namespace, process or cgroup that is asked for does not exist, or no such process is in such a namespace; privileges are
    /// missing to read what the processes have open; this network namespace cannot be read; a thread cannot be started;
    /// privileges cannot be dropped; a signal asked to stop.
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
        let selection = Selection::open(&config.pids, &config.cgroups)?.map(Arc::new);
        if let Some(selection) = &selection {
            let there = selection::namespaces(&selection.read());
            if chosen.is_empty() {
                chosen = there;
            } else if !there.iter().any(|it| chosen.iter().any(|netns| netns.inum == it.inum)) {
                return Err(Error::BadConfig(
                    "no process of --pid or --cgroup is in a network namespace of --netns: leave --netns out".into(),
                ));
            }
        }
        let homes = Homes::open();
        let worker = Worker::spawn().map_err(failed)?;
        let enters = worker.enters();
        let spreads = spreads();
        let opened = config.window.map(|_| Window::open(kernel, selection.is_some())).transpose();
        let (window, no_window) = match opened {
            Ok(window) => (window, None),
            Err(error @ Error::Interrupted { .. }) => return Err(error),
            Err(error) => (None, Some(not_attached(&error))),
        };
        let files = match &window {
            Some(window) => window.list(),
            None => Btf::from_kernel().ok().as_ref().and_then(open_files::shared),
        };
        if let Some(files) = files {
            worker.use_list(files);
        }
        let keep = privilege::KEPT_FOR_LOOKING;
        worker
            .run_on_all(move || sandbox::enter(Role::Visits, User::own(), keep))
            .map_err(|error| Error::Failure(format!("cannot drop the privileges: {error}")))?;
        if window.is_none() {
            // The window would have put this thread into its sandbox.
            trace::enter_to_read(CapabilitySet::empty(), User::nobody())?;
        }
        let chosen = (!chosen.is_empty()).then_some(chosen);
        let history = config.watch.map(|_| History::default());
        Ok(Self {
            config,
            worker,
            own: own.inum,
            chosen,
            enters,
            spreads,
            window,
            no_window,
            selection,
            homes,
            history,
        })
    }

    /// Prints a diagnosis. Returns false if the reader of stdout is gone.
    fn print(&self, diagnosis: &Diagnosis, signals: &StopSignals) -> Result<bool, Error> {
        let text = match self.config.format {
            DoctorFormat::Text => show::text(diagnosis),
            DoctorFormat::Json => show::json_line(diagnosis)?,
            DoctorFormat::Plugin => show::plugin(diagnosis),
        };
        signals.writing(true);
        let open = stdout::print(text.as_bytes())?;
        signals.writing(false);
        Ok(open)
    }
}

/// Why the hooks are not attached, and what they need.
fn not_attached(error: &Error) -> Missing {
    let missing = |why: &str, needs| Missing { why: why.to_owned(), needs: Some(needs) };
    match error {
        Error::NoPrivilege { missing: names } => {
            missing("privileges are missing", names.join(", "))
        }
        Error::InUserNamespace { missing: names } => missing(
            "tracer is in a user namespace, whose privileges are none on the host",
            format!("{} outside of a user namespace", names.join(", ")),
        ),
        _ => Missing { why: error.to_string(), needs: None },
    }
}
