//! `tracer agent`: a service that watches with one set of hooks and tables, writes several outputs and offers metrics.

mod folders;
mod notify;
mod readings;
mod reloads;

use std::path::Path;

use tracer_common::Filter;

use self::{notify::Notifier, readings::Readings, reloads::Reloads};
use super::record::{
    output::Output,
    queue::Queue,
    recorder::{Ended, Recorder, Work},
    stream::Stream,
};
use crate::{
    config::{AgentConfig, RecordConfig},
    error::Error,
    export::Sink,
    host::callers::Callers,
    ledger::trace,
    metrics::ConfigReading,
    runtime::{
        clock,
        sandbox::User,
        shutdown::{self, StopSignals},
    },
};

/// The key of every line that has the name of this host.
const HOST: &str = "host.name";

/// An agent whose hooks are attached.
pub struct Agent {
    recorder: Recorder,
    service: Service,
}

/// What an agent does besides its outputs.
struct Service {
    notifier: Notifier,
    /// `None`: there are no metrics.
    readings: Option<Readings>,
    reloads: Reloads,
    /// What the agent runs with.
    config: AgentConfig,
    state: ConfigReading,
}

impl Agent {
    /// Checks that all outputs can be opened and the metrics' address can be listened on, then attaches. The threads of outputs,
    /// metrics and configuration are in their sandboxes when this returns, as is the calling one. `file`: where `config` is from,
    /// to read it again.
    ///
    /// # Errors
    /// A name in a filter means nothing on this host (exit code 78); an output cannot be opened, or its folder cannot be made;
    /// metrics cannot be offered there; a thread cannot be started; those of `trace::start`.
    pub fn start(config: AgentConfig, file: &Path) -> Result<Self, Error> {
        end_with_any_thread();
        let config = with_host(config);
        // Everything that can be wrong is checked before anything is attached.
        let filters = config.outputs.iter().map(|output| trace::resolve(&output.filter));
        let filters = filters.collect::<Result<Vec<_>, _>>()?;
        trace::check_privileges()?;
        let notifier = Notifier::new();
        let reloads = Reloads::start(file)?;
        let readings = Readings::start(&config)?;
        let outputs = config.outputs.iter().map(|it| open(it, &config));
        let outputs = outputs.collect::<Result<Vec<_>, _>>()?;
        let names = trace::cgroup_names(&config.kernel)?;
        let common = common_filter(&filters);
        let mask = config.outputs.iter().fold(0, |mask, output| mask | output.events.mask);
        let tracer =
            trace::start(&config.kernel, mask, &common.unwrap_or_default(), User::nobody())?;
        let streams = outputs.into_iter().zip(config.outputs.clone()).zip(filters);
        let streams = streams.map(|((output, config), filter)| {
            Stream::new(output, config, &filter, common.is_some())
        });
        let recorder = Recorder::new(tracer, Callers::new(names), streams.collect());
        let state = ConfigReading { is_newest: true, since_s: now_s() };
        let service = Service { notifier, readings, reloads, config, state };
        Ok(Self { recorder, service })
    }

    /// Writes the outputs and keeps the metrics fresh, until a signal asks to stop. SIGHUP has the outputs opened again, and the
    /// configuration read again.
    ///
    /// # Errors
    /// A BPF map cannot be read, or the ledger refuses a command; the readers of all outputs are gone, and there are no metrics.
    pub fn run(mut self, signals: &StopSignals) -> Result<(), Error> {
        match self.recorder.run(signals, None, &mut self.service) {
            Ok(()) => Ok(()),
            Err(Ended::Failed(error)) => {
                self.recorder.close();
                Err(error)
            }
            Err(Ended::Closed) => Err(Error::Failure(
                "the readers of all outputs are gone, and there are no metrics: nothing is left to do"
                    .into(),
            )),
        }
    }
}

impl Service {
    /// Takes a configuration over that was read while the agent runs, all of it or nothing; the log says which.
    ///
    /// # Errors
    /// A BPF map cannot be read, or a command fails.
    fn reload(
        &mut self,
        read: Result<AgentConfig, Error>,
        recorder: &mut Recorder,
    ) -> Result<(), Error> {
        match read.and_then(|config| takeable(config, &self.config)) {
            Ok(config) => {
                if config == self.config {
                    tracing::debug!("the configuration is as it was");
                } else {
                    recorder.set_fields(&config.fields);
                    if let Some(readings) = &mut self.readings {
                        readings.change(&config);
                    }
                    tracing::info!("the configuration was taken over");
                }
                self.config = config;
                self.state = ConfigReading { is_newest: true, since_s: now_s() };
            }
            Err(error) => {
                self.state.is_newest = false;
                let faults = error.to_string();
                for fault in faults.lines() {
                    tracing::error!("the configuration was not taken over: {fault}");
                }
            }
        }
        self.notifier.status(&self.status(recorder));
        // The metrics say it at once.
        self.readings.as_mut().map_or(Ok(()), |readings| readings.read(recorder, self.state))
    }

    /// The agent's state in one line, for the service manager.
    fn status(&self, recorder: &Recorder) -> String {
        let tracer = &recorder.shared.tracer;
        let degraded = tracer.degraded();
        let backend = tracer.session.backend.name();
        let refused = if self.state.is_newest {
            ""
        } else {
            "; the newest configuration was refused: see the log"
        };
        match degraded.len() {
            0 => format!("tracing ({backend}){refused}"),
            1 => format!("tracing ({backend}), degraded: {}{refused}", degraded.concat()),
            more => format!("tracing ({backend}), degraded for {more} reasons{refused}"),
        }
    }
}

impl Work for Service {
    fn begun(&mut self, recorder: &mut Recorder) -> Result<(), Error> {
        if let Some(readings) = &mut self.readings {
            readings.read(recorder, self.state)?;
        }
        self.notifier.ready(&self.status(recorder));
        Ok(())
    }

    fn tick(&mut self, recorder: &mut Recorder) -> Result<(), Error> {
        if let Some(read) = self.reloads.answer() {
            self.reload(read, recorder)?;
        }
        if let Some(readings) = self.readings.as_mut().filter(|readings| readings.is_due()) {
            readings.read(recorder, self.state)?;
        }
        // Only now: the ring buffer, the comparison and the readings have all made progress.
        self.notifier.alive();
        Ok(())
    }

    fn hung_up(&mut self) {
        self.reloads.ask();
    }

    fn ending(&mut self) {
        self.notifier.stopping();
    }

    fn outlasts_outputs(&self) -> bool {
        self.readings.is_some()
    }
}

/// Opens an output and starts its thread.
fn open(output: &RecordConfig, config: &AgentConfig) -> Result<Output, Error> {
    folders::make(&output.output.target)?;
    let sink = Sink::open(&output.output)?;
    let mut opened = Output::queued(Queue::start(sink)?, output.output.rotation.as_ref());
    opened.set_fields(&config.fields);
    Ok(opened)
}

/// The filter that all outputs have: the kernel side then leaves out the events that it does not let through. `None`: they have
/// different ones, or there are no outputs.
fn common_filter(filters: &[Filter]) -> Option<Filter> {
    let (first, rest) = filters.split_first()?;
    rest.iter().all(|other| other == first).then_some(*first)
}

/// The configuration, with the name of this host among its fields unless it has another one there.
fn with_host(mut config: AgentConfig) -> AgentConfig {
    config.fields.entry(HOST.into()).or_insert_with(host_name);
    config
}

/// The configuration as an agent takes it over that runs with `running`.
///
/// # Errors
/// Something that cannot change while it runs differs.
fn takeable(config: AgentConfig, running: &AgentConfig) -> Result<AgentConfig, Error> {
    let differing = config.needs_restart(running);
    if differing.is_empty() {
        return Ok(with_host(config));
    }
    Err(Error::BadConfig(format!(
        "these differ, and take effect only with a restart (`systemctl restart tracer`): {}; nothing else was taken over either",
        differing.join(", ")
    )))
}

/// Now, in seconds since 1970.
fn now_s() -> f64 {
    clock::seconds(clock::wall_ns())
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// A panic in any thread ends the process: an agent without one of its threads would look healthy.
fn end_with_any_thread() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        shutdown::die(libc::SIGABRT);
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_filters_only_what_no_output_wants() {
        let nginx = Filter { pid_count: 1, active: 1, ..Filter::default() };
        assert_eq!(common_filter(&[]), None);
        assert_eq!(common_filter(&[nginx, nginx]), Some(nginx));
        assert_eq!(common_filter(&[nginx, Filter::default()]), None);
    }
}
