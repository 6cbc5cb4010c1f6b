//! A group of tests: which run once, which run with each backend, and which are skipped where.

use anyhow::Result;

use super::{Case, Depth, Plan};
use crate::harness::probe::{Place, no_programs};

/// The name of a test within its group, and the test, which runs once.
pub(super) type Test = (&'static str, fn() -> Result<()>);

/// The name of a test within its group, and the test, which gets the name of the backend that it runs with.
pub(super) type BackendTest = (&'static str, fn(&str) -> Result<()>);

/// Why a guest skips a test with a backend that is not the default one.
const SAMPLED: &str = "a guest is slow: run with the default backend, and with all of them on the host and in one guest";

/// The tests of a group, in the order in which they are added. Their names are `GROUP::TEST`, or `GROUP::TEST::BACKEND`.
///
/// Some functions add tests, the others change the tests that were added last: these are skipped for a reason (a test that has a
/// reason already keeps that one), or can run at the same time as others. [`Self::cases`] ends the group.
#[must_use]
pub(super) struct Group<'a> {
    plan: &'a Plan,
    name: &'a str,
    cases: Vec<Case>,
    /// Index in `cases` of the first of the tests that were added last.
    last: usize,
}

impl Plan {
    /// A group without tests yet. `name` is what the names of its tests begin with, as in `name::test`.
    pub(super) fn group<'a>(&'a self, name: &'a str) -> Group<'a> {
        Group { plan: self, name, cases: Vec::new(), last: 0 }
    }
}

/// Adding tests.
impl Group<'_> {
    /// Adds tests that run once.
    pub(super) fn once(self, tests: &[Test]) -> Self {
        self.table(tests.iter().copied())
    }

    /// Adds tests that run once and are made from a table: each entry has the name within the group, and what to run.
    pub(super) fn table<N: AsRef<str>, R: Fn() -> Result<()> + Send + Sync + 'static>(
        self,
        tests: impl IntoIterator<Item = (N, R)>,
    ) -> Self {
        let group = self.name;
        let case = |(name, run): (N, R)| Case::new(format!("{group}::{}", name.as_ref()), run);
        self.with(tests.into_iter().map(case))
    }

    /// Adds tests that run with each of the plan's backends, except `none`.
    pub(super) fn each_backend(self, tests: &[BackendTest]) -> Self {
        let mut cases = Vec::new();
        for test in tests {
            cases.extend(self.plan.tracing_backends().map(|backend| self.on(backend, *test)));
        }
        self.with(cases)
    }

    /// Adds tests that have the same result with every backend: the host and a thorough guest run all of them. Other guests,
    /// which are slow, run those of the default backend and skip the rest; if the default backend is not known, they run all.
    /// All tests of a backend come before those of the next one.
    pub(super) fn sampled(self, tests: &[BackendTest]) -> Self {
        let mut cases = Vec::new();
        for backend in self.plan.tracing_backends() {
            let excuse = self.left_out_of_sample(&backend);
            let of_backend = tests.iter().map(|test| self.on(backend.clone(), *test));
            cases.extend(of_backend.map(|case| case.unless(excuse.clone())));
        }
        self.with(cases)
    }

    /// Adds tests of this backend only, which have the same result with every backend: skipped where [`Self::sampled`] skips
    /// those of this backend. None if the plan does not have the backend.
    pub(super) fn sampled_on(self, backend: &str, tests: &[BackendTest]) -> Self {
        let excuse = self.left_out_of_sample(backend);
        self.on_backend(backend, tests).unless(excuse)
    }

    /// Adds tests of this backend; none if the plan does not have it.
    pub(super) fn on_backend(self, backend: &str, tests: &[BackendTest]) -> Self {
        let there = self.plan.tracing_backends().find(|there| there == backend);
        self.on_one(there, tests)
    }

    /// Adds tests that run with the default backend, or with the plan's first one if the default one is not known; none if the
    /// plan has no backend that traces.
    pub(super) fn on_default_backend(self, tests: &[BackendTest]) -> Self {
        let default = self.plan.default_backend.clone();
        let backend = default.or_else(|| self.plan.tracing_backends().next());
        self.on_one(backend, tests)
    }

    /// Adds tests that have their full names already, which may be of another group.
    pub(super) fn with(mut self, cases: impl IntoIterator<Item = Case>) -> Self {
        self.last = self.cases.len();
        self.cases.extend(cases);
        self
    }

    fn on_one(self, backend: Option<String>, tests: &[BackendTest]) -> Self {
        let mut cases = Vec::new();
        if let Some(backend) = backend {
            cases.extend(tests.iter().map(|test| self.on(backend.clone(), *test)));
        }
        self.with(cases)
    }

    /// Why a test that has the same result with every backend is skipped with this one; `None` if it runs.
    fn left_out_of_sample(&self, backend: &str) -> Option<String> {
        let Plan { default_backend, place, depth, .. } = self.plan;
        let all = *place == Place::Host || *depth == Depth::Thorough;
        let left_out = !all && default_backend.as_deref().is_some_and(|it| it != backend);
        left_out.then(|| SAMPLED.to_owned())
    }

    fn on(&self, backend: String, (name, test): BackendTest) -> Case {
        Case::new(format!("{}::{name}::{backend}", self.name), move || test(&backend))
    }
}

/// What holds for the tests that were added last.
impl Group<'_> {
    /// These tests are skipped if `excuse` is `Some`, for the reason in it.
    pub(super) fn unless(mut self, excuse: Option<String>) -> Self {
        self.change_last(|case| case.unless(excuse.clone()));
        self
    }

    /// Those of these tests whose names end with `::BACKEND` are skipped if `excuse` is `Some`, for the reason in it.
    pub(super) fn unless_on(mut self, backend: &str, excuse: Option<String>) -> Self {
        let end = format!("::{backend}");
        self.change_last(|case| {
            let excuse = excuse.clone().filter(|_| case.name.ends_with(&end));
            case.unless(excuse)
        });
        self
    }

    /// These tests have the same result on every kernel: the host and a thorough guest run them, other guests do not.
    pub(super) fn kernel_independent(self) -> Self {
        let slow = self.plan.place == Place::Vm && self.plan.depth < Depth::Thorough;
        self.unless(slow.then(|| "a guest is slow: the host and one guest run it".to_owned()))
    }

    /// No guest runs these tests.
    pub(super) fn only_host(self) -> Self {
        let slow = self.plan.place == Place::Vm;
        self.unless(slow.then(|| "a guest is slow: the host runs it".to_owned()))
    }

    /// These tests run `programs`, which guests do not have: only the host runs the tests, if all programs are in PATH there.
    /// With an empty list, the host always runs them.
    pub(super) fn needs(self, programs: &[&str]) -> Self {
        let excuse = match self.plan.place {
            Place::Vm => Some("the guest has no proxies; the host runs these".to_owned()),
            Place::Host => no_programs(programs),
        };
        self.unless(excuse)
    }

    /// These tests mostly wait: on the host, they can run at the same time as others. In a guest, the programs that they start
    /// would have the kernel skip hooks of the others, each of which then waits for a comparison of its ledger: the tests of
    /// `ledger::*` took four times as long.
    pub(super) fn waiting(self) -> Self {
        match self.plan.place {
            Place::Host => self.waiting_in_guests(),
            Place::Vm => self,
        }
    }

    /// As [`Self::waiting`], also in a guest: these tests start no tracer that no other test uses.
    pub(super) fn waiting_in_guests(mut self) -> Self {
        self.change_last(|case| Case { waits: true, ..case });
        self
    }

    /// All tests of the group.
    pub(super) fn cases(self) -> Vec<Case> {
        self.cases
    }

    fn change_last(&mut self, change: impl Fn(Case) -> Case) {
        let last = self.cases.split_off(self.last);
        self.cases.extend(last.into_iter().map(change));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_of_the_tests_that_were_added_last_and_stays() {
        let backends = ["fexit", "kprobe"].map(str::to_owned).into();
        let default_backend = Some("fexit".to_owned());
        let plan = Plan { backends, default_backend, place: Place::Vm, depth: Depth::Whole };
        let group = plan
            .group("g")
            .once(&[("a", || Ok(()))])
            .sampled(&[("b", |_| Ok(())), ("c", |_| Ok(()))])
            .unless_on("fexit", Some("first".to_owned()))
            .only_host()
            .each_backend(&[("d", |_| Ok(())), ("e", |_| Ok(()))])
            .on_backend("tracepoint", &[("f", |_| Ok(()))])
            .only_host()
            .on_default_backend(&[("h", |_| Ok(()))])
            .waiting();
        let found: Vec<_> = group.cases().into_iter().map(|it| (it.name, it.excuse)).collect();
        let reasons =
            |name: &str, excuse: Option<&str>| (name.to_owned(), excuse.map(str::to_owned));
        let expected = [
            reasons("g::a", None),
            reasons("g::b::fexit", Some("first")),
            reasons("g::c::fexit", Some("first")),
            reasons("g::b::kprobe", Some(SAMPLED)),
            reasons("g::c::kprobe", Some(SAMPLED)),
            reasons("g::d::fexit", None),
            reasons("g::d::kprobe", None),
            reasons("g::e::fexit", None),
            reasons("g::e::kprobe", None),
            reasons("g::h::fexit", None),
        ];
        assert_eq!(found, expected);
    }
}
