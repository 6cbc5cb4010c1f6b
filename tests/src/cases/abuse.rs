//! `abuse::*`: what a local user without privileges tries, and the tracer withstands: each test is named
//! by what it defends. SECURITY.md says which promise each of them shows.

mod cgroups;
mod floods;
mod health;
mod namespaces;
mod outsider;
mod pins;
mod reading;
mod recordings;
mod shares;

use std::{env, sync::Arc};

use super::{Case, Plan};
use crate::harness::probe::Place;

/// All of them run on the host, in three minutes together.
pub fn cases(plan: &Plan) -> Vec<Case> {
    let mut cases = outsider::cases();
    cases.extend(cgroups::cases());
    cases.extend(floods::cases());
    cases.extend(health::cases());
    cases.extend(namespaces::cases());
    cases.extend(pins::cases());
    cases.extend(reading::cases());
    cases.extend(recordings::cases());
    cases.extend(shares::cases());
    // Of other files: `cases.extend(FILE::cases());`
    let slow = (plan.place == Place::Vm).then(|| "a guest is slow: the host runs it".to_owned());
    cases = cases.into_iter().map(|case| repeated(case.unless(slow.clone()))).collect();
    cases
}

/// The case as often as `TRACER_TEST_ABUSE_RUNS` says (once): an attack that is a race needs many tries.
fn repeated(case: Case) -> Case {
    let runs = env::var("TRACER_TEST_ABUSE_RUNS").ok().and_then(|runs| runs.parse().ok());
    let runs: u32 = runs.unwrap_or(1);
    let once = Arc::clone(&case.run);
    let run = move || (0..runs).try_for_each(|_| once());
    Case { run: Arc::new(run), ..case }
}

#[cfg(test)]
mod tests;
