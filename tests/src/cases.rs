//! The tests, each with a name, and the plan by which they are chosen. The function `cases` of each module returns the tests of
//! its group, those included that the plan skips. The comment of a test says what must hold; the test returns an error if it does
//! not, or if a call that it needs fails.

pub mod abuse;
pub mod advise;
pub mod agent;
pub mod attach;
mod depth;
pub mod doctor;
pub mod drift;
pub mod ending;
pub mod errors;
pub mod events;
pub mod filters;
mod group;
pub mod ledger;
pub mod losses;
pub mod metrics;
pub mod oracle;
pub mod output;
pub mod proxies;
pub mod room;
pub mod sizes;
pub mod spread;
pub mod top;
pub mod who;

use std::{env, sync::Arc};

use anyhow::Result;
pub use depth::Depth;

use crate::harness::{probe::Place, tracer};

/// A test, with the name by which it is selected.
pub struct Case {
    /// `GROUP::TEST`, or `GROUP::TEST::BACKEND`.
    pub name: String,
    /// Runs the test; an error says why it failed.
    pub run: Arc<dyn Fn() -> Result<()> + Send + Sync>,
    /// Why the test is skipped in this run; `None`: it runs.
    pub excuse: Option<String>,
    /// Whether the test mostly waits, so that it can run at the same time as others.
    pub waits: bool,
}

impl Case {
    fn new(name: impl Into<String>, run: impl Fn() -> Result<()> + Send + Sync + 'static) -> Self {
        Self { name: name.into(), run: Arc::new(run), excuse: None, waits: false }
    }

    /// Skips the case if `excuse` is `Some`, for the reason in it; a case that has a reason already keeps that one.
    #[must_use]
    fn unless(self, excuse: Option<String>) -> Self {
        Self { excuse: self.excuse.or(excuse), ..self }
    }
}

/// What is to be tested, from the environment variables.
#[derive(Clone, Debug)]
pub struct Plan {
    /// `TRACER_BACKENDS`, separated by commas (the names are not checked): the backends that must run on this kernel; by default
    /// all that tracer does not refuse here ([`tracer::backends`]). The name `none` stands for no tracer: a workload that runs
    /// with it alone only compares what it expects with the kernel.
    pub backends: Vec<String>,
    /// `TRACER_DEFAULT_BACKEND`: the backend that `auto` must choose. If it is not set: the first backend that was found, or
    /// `None` if `TRACER_BACKENDS` is set.
    pub default_backend: Option<String>,
    pub place: Place,
    /// How many of the tests run (`TRACER_DEPTH`).
    pub depth: Depth,
}

impl Plan {
    /// The backends without `none`.
    pub fn tracing_backends(&self) -> impl Iterator<Item = String> {
        self.backends.iter().filter(|backend| *backend != "none").cloned()
    }

    /// Reads the variables. Without `TRACER_BACKENDS`, runs tracer to find the backends that this kernel has.
    ///
    /// # Errors
    /// The backends cannot be found, none of them can run, or `TRACER_DEPTH` has a value that is not known.
    pub fn find() -> Result<Self> {
        let mut default_backend = env::var("TRACER_DEFAULT_BACKEND").ok();
        let backends = if let Ok(list) = env::var("TRACER_BACKENDS") {
            list.split(',').map(str::to_owned).collect()
        } else {
            let found = tracer::backends()?;
            default_backend = default_backend.or_else(|| found.first().cloned());
            found
        };
        Ok(Self { backends, default_backend, place: Place::get(), depth: Depth::find()? })
    }
}

/// Every test of this plan, also those that will be skipped. Without a backend that traces: only `oracle::*` and `ledger::*`.
pub fn all(plan: &Plan) -> Vec<Case> {
    let mut cases = oracle::cases(plan);
    cases.extend(ledger::cases(plan));
    if plan.tracing_backends().next().is_some() {
        cases.extend(drift::cases(plan));
        cases.extend(doctor::cases(plan));
        cases.extend(room::cases(plan));
        cases.extend(events::cases(plan));
        cases.extend(agent::cases(plan));
        cases.extend(filters::cases(plan));
        cases.extend(errors::cases(plan));
        cases.extend(ending::cases(plan));
        cases.extend(attach::cases(plan));
        cases.extend(losses::cases(plan));
        cases.extend(sizes::cases(plan));
        cases.extend(metrics::cases(plan));
        cases.extend(output::cases(plan));
        cases.extend(proxies::cases(plan));
        cases.extend(advise::cases(plan));
        cases.extend(spread::cases(plan));
        cases.extend(top::cases(plan));
        cases.extend(who::cases(plan));
        cases.extend(abuse::cases(plan));
    }
    let part = |case: Case| {
        let left_out = plan.depth.leaves_out(&case.name);
        case.unless(left_out)
    };
    cases.into_iter().map(part).collect()
}
