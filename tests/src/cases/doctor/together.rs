//! A diagnosis is the same while a recording and a rule of `tracer spread` run on the host.

use anyhow::{Result, ensure};

use super::edge::Edge;
use crate::harness::{
    cgroup::Cgroup,
    tracer::{
        doctor::{Diagnosis, doctor},
        record::Record,
        spread::{Rule, Spread},
    },
};

/// What a diagnosis says, without numbers that differ from run to run, such as times: for each finding, in its order, a text with
/// id, severity, certainty, the numbers `ports.in_use`, `ports.capacity` and `ports.usable` of its evidence (`None`: it does not
/// have the number), and what each advice says to do.
pub(super) fn essence(found: &Diagnosis) -> Vec<String> {
    let one = |it: &crate::harness::tracer::doctor::Finding| {
        let numbers = ["ports.in_use", "ports.capacity", "ports.usable"];
        let numbers: Vec<_> = numbers.iter().map(|key| it.evidence.get(*key)).collect();
        let advice: Vec<&str> = it.advice.iter().map(|it| it.what.as_str()).collect();
        format!("{} {} {} {numbers:?} {advice:?}", it.id, it.severity, it.certainty)
    };
    found.findings.iter().map(one).collect()
}

/// With 41 of 50 ports in use, doctor finds `ports_exhausted`. While a recording and a rule of `tracer spread` run in the same
/// namespace, it has the same [`essence`] and the same exit code, and the recording lost nothing.
pub(super) fn record_and_spread() -> Result<()> {
    const WINDOW: &[&str] = &["--window", "0.4"];
    let edge = Edge::new(50)?;
    edge.here.ip("addr add 10.2.0.3/24 dev t0")?;
    let _held = edge.open(41)?;
    let alone = doctor(&edge.here, WINDOW)?;
    ensure!(alone.causes() == ["ports_exhausted"], "{alone:?}");
    let record = Record::start("auto", &["--events", "failed,stats"])?;
    let (cgroup, rule) = (Cgroup::new("doctor")?, Rule::new());
    let cgroup = cgroup.path().display().to_string();
    let pool = ["--pool", "10.2.0.1,10.2.0.3", "--cgroup", &cgroup];
    let spread = edge.here.run(|| Spread::start(&rule, &pool))?;
    let together = doctor(&edge.here, WINDOW)?;
    ensure!(essence(&together) == essence(&alone), "alone: {alone:?}\ntogether: {together:?}");
    ensure!(together.exit == alone.exit, "{together:?}");
    spread.stop()?;
    record.stop()?.assert_nothing_lost()?;
    Ok(())
}
