//! `ledger::WORKLOAD`: the ledger is what the kernel says, after every step.
//!
//! On the host each backend has a run and a tracer of its own (`ledger::WORKLOAD::BACKEND`). In a guest,
//! which is slow, one run is watched by tracers of all backends at once, and they are the same ones
//! for most workloads.

use anyhow::Result;

use super::{Case, Plan};
use crate::{
    probe::Place,
    stage::Stage,
    tracer::shared,
    workloads::{self, Tracer, Workload},
};

pub fn cases(plan: &Plan) -> Vec<Case> {
    let mut cases = Vec::new();
    let together = plan.place == Place::Vm;
    for workload in workloads::ALL {
        let backends = plan.backends.clone();
        if together {
            let name = format!("ledger::{}", workload.name);
            let case = Case::new(name, move || play(workload, &backends, true));
            let waits = workload.tracer == Tracer::Together;
            cases.push(Case { waits, ..case.unless((workload.excuse)()) });
            continue;
        }
        let groups: Vec<Vec<String>> = match workload.tracer {
            Tracer::Together => vec![backends],
            Tracer::First | Tracer::Later => backends.into_iter().map(|it| vec![it]).collect(),
        };
        for backends in groups {
            let name = format!("ledger::{}::{}", workload.name, backends.join("+"));
            let case = Case::new(name, move || play(workload, &backends, false));
            cases.push(case.unless((workload.excuse)()));
        }
    }
    if together {
        cases.push(Case::new("ledger::shared_tracers_end_well", shared::stop));
    }
    cases
}

fn play(workload: &Workload, backends: &[String], share: bool) -> Result<()> {
    let mut stage = Stage::new(backends)?;
    match workload.tracer {
        // The shared tracers see it too, and must not take a later stage for it.
        Tracer::Later if share => stage.netns.keep()?,
        Tracer::Later => {}
        _ if share => stage.watch_shared()?,
        _ => stage.watch()?,
    }
    (workload.play)(&mut stage)?;
    stage.stop()
}
