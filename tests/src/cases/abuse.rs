//! `abuse::*`: attacks by a local user without privileges, which the tracer must withstand. SECURITY.md lists the promises, each
//! with its tests.

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

/// The tests of attacks on the program. The host runs all of them, each `TRACER_TEST_ABUSE_RUNS` times (by default once); guests,
/// which are slow, run none.
pub fn cases(plan: &Plan) -> Vec<Case> {
    let parts = [
        outsider::cases(plan),
        cgroups::cases(plan),
        floods::cases(plan),
        health::cases(plan),
        namespaces::cases(plan),
        pins::cases(plan),
        reading::cases(plan),
        recordings::cases(plan),
        shares::cases(plan),
    ];
    plan.group("abuse").with(parts.into_iter().flatten().map(repeated)).only_host().cases()
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
