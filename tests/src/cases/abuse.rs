//! `abuse::*`: attacks by a local user without privileges, which the tracer must withstand. Each test is named by what must
//! not happen; SECURITY.md lists the promises, each with its test.

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

/// The host runs them all; guests, which are slow, run none.
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
    let slow = (plan.place == Place::Vm).then(|| "a guest is slow: the host runs it".to_owned());
    cases = cases.into_iter().map(|case| repeated(case.unless(slow.clone()))).collect();
    cases
}

/// The case, run `TRACER_TEST_ABUSE_RUNS` times (by default once), because some attacks succeed only if the timing is right.
fn repeated(case: Case) -> Case {
    let runs = env::var("TRACER_TEST_ABUSE_RUNS").ok().and_then(|runs| runs.parse().ok());
    let runs: u32 = runs.unwrap_or(1);
    let once = Arc::clone(&case.run);
    let run = move || (0..runs).try_for_each(|_| once());
    Case { run: Arc::new(run), ..case }
}

#[cfg(test)]
mod tests;
