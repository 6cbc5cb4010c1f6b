//! Named tests.

pub mod abuse;
pub mod attach;
mod depth;
pub mod drift;
pub mod ending;
pub mod errors;
pub mod events;
pub mod filters;
pub mod ledger;
pub mod losses;
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

/// A named test.
pub struct Case {
    pub name: String,
    pub run: Arc<dyn Fn() -> Result<()> + Send + Sync>,
    /// Why it is skipped here; `None` if it runs.
    pub excuse: Option<String>,
    /// Whether the test mostly waits, so that it can run at the same time as others.
    pub waits: bool,
}

impl Case {
    pub fn new(
        name: impl Into<String>,
        run: impl Fn() -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self { name: name.into(), run: Arc::new(run), excuse: None, waits: false }
    }

    /// Skips the case if `excuse` is a reason for that; a case that has a reason already keeps it.
    #[must_use]
    pub fn unless(self, excuse: Option<String>) -> Self {
        Self { excuse: self.excuse.or(excuse), ..self }
    }
}

/// A test that runs once, and its name within its group.
type Test = (&'static str, fn() -> Result<()>);

/// `GROUP::TEST` for each of these tests.
fn named(group: &str, tests: &[Test]) -> Vec<Case> {
    tests.iter().map(|(name, test)| Case::new(format!("{group}::{name}"), *test)).collect()
}

/// A test that runs once for each backend, and gets its name.
type BackendTest = (&'static str, fn(&str) -> Result<()>);

/// `GROUP::TEST::BACKEND` for every test and each of these backends.
fn per_backend(
    backends: impl Iterator<Item = String>,
    group: &str,
    tests: &[BackendTest],
) -> Vec<Case> {
    let mut cases = Vec::new();
    let backends: Vec<_> = backends.collect();
    for (name, test) in tests {
        for backend in backends.clone() {
            let test = *test;
            let title = format!("{group}::{name}::{backend}");
            cases.push(Case::new(title, move || test(&backend)));
        }
    }
    cases
}

/// What is to be tested, from the environment variables.
#[derive(Clone, Debug)]
pub struct Plan {
    /// `TRACER_BACKENDS`: the backends that must run on this kernel, by default those that do. `none` runs the workloads
    /// without a tracer.
    pub backends: Vec<String>,
    /// `TRACER_DEFAULT_BACKEND`: the backend that `auto` must choose.
    pub default_backend: Option<String>,
    pub place: Place,
    /// How much a guest runs.
    pub depth: Depth,
}

/// Why a guest does not run everything with every backend.
const SAMPLED: &str = "a guest is slow: run with the default backend, and with all of them on the host and in one guest";

impl Plan {
    /// The backends without `none`.
    pub fn tracing_backends(&self) -> impl Iterator<Item = String> {
        self.backends.iter().filter(|backend| *backend != "none").cloned()
    }

    /// `GROUP::TEST::BACKEND` of tests that have the same result with every backend: the host and a thorough guest run all of
    /// them. Other guests, which are slow, run those of the default backend and skip the rest.
    fn sampled(&self, group: &str, tests: &[BackendTest]) -> Vec<Case> {
        let of = |backend: String| {
            let excuse = self.only_sampled(&backend);
            let cases = per_backend([backend].into_iter(), group, tests);
            cases.into_iter().map(move |case| case.unless(excuse.clone()))
        };
        self.tracing_backends().flat_map(of).collect()
    }

    /// The reason to skip a test that has the same result with every backend; `None` if it runs with this one.
    fn only_sampled(&self, backend: &str) -> Option<String> {
        let all = self.place == Place::Host || self.depth == Depth::Thorough;
        let left_out = !all && self.default_backend.as_deref().is_some_and(|it| it != backend);
        left_out.then(|| SAMPLED.to_owned())
    }

    /// The reason for a guest to skip a test that has the same result on every kernel; `None` on the host and in a thorough
    /// guest, which run it.
    fn slow_guest(&self) -> Option<String> {
        let slow = self.place == Place::Vm && self.depth < Depth::Thorough;
        slow.then(|| "a guest is slow: the host and one guest run it".to_owned())
    }

    /// Reads the variables. Without `TRACER_BACKENDS`, runs tracer to find the backends that this kernel has.
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

/// Every case of this plan.
pub fn all(plan: &Plan) -> Vec<Case> {
    let mut cases = oracle::cases();
    cases.extend(ledger::cases(plan));
    if plan.tracing_backends().next().is_some() {
        cases.extend(drift::cases(plan));
        cases.extend(room::cases(plan));
        cases.extend(events::cases(plan));
        cases.extend(filters::cases(plan));
        cases.extend(errors::cases(plan));
        cases.extend(ending::cases(plan));
        cases.extend(attach::cases(plan));
        cases.extend(losses::cases(plan));
        cases.extend(sizes::cases(plan));
        cases.extend(output::cases(plan));
        cases.extend(proxies::cases());
        cases.extend(spread::cases(plan));
        cases.extend(top::cases());
        cases.extend(who::cases(plan));
        cases.extend(abuse::cases(plan));
    }
    let part = |case: Case| {
        let left_out = plan.depth.leaves_out(&case.name);
        case.unless(left_out)
    };
    cases.into_iter().map(part).collect()
}
