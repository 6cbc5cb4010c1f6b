//! `ledger::WORKLOAD`: the ledger has what the kernel has, after every step of a workload.
//!
//! On the host each backend has its own run with its own tracer (`ledger::WORKLOAD::BACKEND`), except for workloads that mostly
//! wait ([`Tracer::Together`]): these run once, watched by one tracer of each backend. In a guest, which is slow, every workload
//! runs once, watched by one tracer of each backend, and most workloads share these tracers.

use anyhow::Result;

use super::{Case, Plan, group::Group};
use crate::{
    harness::{probe::Place, stage::Stage, tracer::shared},
    workloads::{self, Tracer, Workload},
};

pub fn cases(plan: &Plan) -> Vec<Case> {
    if plan.place == Place::Vm { in_a_guest(plan) } else { on_the_host(plan) }
}

fn on_the_host(plan: &Plan) -> Vec<Case> {
    let mut group = plan.group("ledger");
    for workload in workloads::ALL {
        let backends = plan.backends.clone();
        let runs: Vec<Vec<String>> = match workload.tracer {
            Tracer::Together => vec![backends],
            Tracer::First | Tracer::Later => backends.into_iter().map(|it| vec![it]).collect(),
        };
        let tests = runs.into_iter().map(|backends| {
            let name = format!("{}::{}", workload.name, backends.join("+"));
            (name, move || play(workload, &backends, false))
        });
        group = excused(group.table(tests), workload);
    }
    group.cases()
}

/// The workloads that start their own tracers come last: a start takes several times as long while shared tracers run and the
/// namespaces that are kept for them exist.
fn in_a_guest(plan: &Plan) -> Vec<Case> {
    let (later, shared): (Vec<_>, Vec<_>) =
        workloads::ALL.iter().partition(|workload| workload.tracer == Tracer::Later);
    let group = with_all_backends(plan.group("ledger"), plan, &shared)
        .once(&[("shared_tracers_end_well", shared::stop)]);
    with_all_backends(group, plan, &later).cases()
}

/// Adds these workloads, each of which all backends watch at the same time.
fn with_all_backends<'a>(
    mut group: Group<'a>,
    plan: &Plan,
    workloads: &[&'static Workload],
) -> Group<'a> {
    for workload in workloads {
        let (workload, backends) = (*workload, plan.backends.clone());
        let test = (workload.name, move || play(workload, &backends, true));
        group = excused(group.table([test]), workload);
    }
    group
}

/// Skips the cases that were added last if their workload has an excuse, and marks the cases as waiting if the workload
/// mostly waits.
fn excused<'a>(group: Group<'a>, workload: &Workload) -> Group<'a> {
    let group = group.unless((workload.excuse)());
    if workload.tracer == Tracer::Together { group.waiting_in_guests() } else { group }
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
