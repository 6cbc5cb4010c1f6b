//! `ledger::WORKLOAD`: the ledger has what the kernel has, after every step of a workload.
//!
//! On the host each backend has its own run with its own tracer (`ledger::WORKLOAD::BACKEND`). In a guest, which is slow, the
//! tracers of all backends watch one run, and most workloads share these tracers.

use anyhow::Result;

use super::{Case, Plan};
use crate::{
    harness::{probe::Place, stage::Stage, tracer::shared},
    workloads::{self, Tracer, Workload},
};

pub fn cases(plan: &Plan) -> Vec<Case> {
    if plan.place == Place::Vm { in_a_guest(plan) } else { on_the_host(plan) }
}

fn on_the_host(plan: &Plan) -> Vec<Case> {
    let mut cases = Vec::new();
    for workload in workloads::ALL {
        let backends = plan.backends.clone();
        let waits = workload.tracer == Tracer::Together;
        let groups: Vec<Vec<String>> = match workload.tracer {
            Tracer::Together => vec![backends],
            Tracer::First | Tracer::Later => backends.into_iter().map(|it| vec![it]).collect(),
        };
        for backends in groups {
            let name = format!("ledger::{}::{}", workload.name, backends.join("+"));
            let case = Case::new(name, move || play(workload, &backends, false));
            cases.push(Case { waits, ..case.unless((workload.excuse)()) });
        }
    }
    cases
}

/// The workloads that start their own tracers come last: while the shared ones run, and the namespaces that are kept for them
/// exist, a start takes several times as long.
fn in_a_guest(plan: &Plan) -> Vec<Case> {
    let case = |workload: &'static Workload| {
        let backends = plan.backends.clone();
        let name = format!("ledger::{}", workload.name);
        let case = Case::new(name, move || play(workload, &backends, true));
        let waits = workload.tracer == Tracer::Together;
        Case { waits, ..case.unless((workload.excuse)()) }
    };
    let (later, shared): (Vec<_>, Vec<_>) =
        workloads::ALL.iter().partition(|workload| workload.tracer == Tracer::Later);
    let end = Case::new("ledger::shared_tracers_end_well", shared::stop);
    shared.into_iter().map(case).chain([end]).chain(later.into_iter().map(case)).collect()
}

fn play(workload: &Workload, backends: &[String], share: bool) -> Result<()> {
    let mut stage = Stage::new(backends)?;
    match workload.tracer {
        Tracer::Later => {}
        _ if share => stage.watch_shared()?,
        _ => stage.watch()?,
    }
    (workload.play)(&mut stage)?;
    stage.stop()
}
