//! `spread::foreign`: a rule leaves alone what others have attached and pinned.

use std::{path::Path, time::Duration};

use anyhow::{Result, ensure};

use super::{Case, Host, POOL, Plan, source};
use crate::harness::{
    foreign::Foreign,
    tracer::{spread::PINS, wait_for},
};

pub(super) fn cases(plan: &Plan) -> Vec<Case> {
    plan.group("spread::foreign")
        .once(&[("programs_and_pins_survive", programs_and_pins_survive)])
        .cases()
}

/// A program that is not tracer's is attached to a hook of the rule's cgroup, and pinned in tracer's folder and in the one above:
/// it stays attached and pinned when the rule is taken over and released.
fn programs_and_pins_survive() -> Result<()> {
    let mut host = Host::new()?;
    let server = host.server("10.1.0.1:7000")?;
    // tracer's folder exists once there is a rule.
    let first = host.spread(&POOL, &["--on-exit", "keep"])?;
    let (pins, above) = (Path::new(PINS), Path::new(PINS).parent());
    let folders: Vec<&Path> = above.into_iter().chain([pins]).collect();
    let before = host.cgroup.programs()?;
    let foreign = Foreign::attach(&host.cgroup, &folders)?;
    let new = host.cgroup.programs()?.into_iter().filter(|id| !before.contains(id));
    let new: Vec<u32> = new.collect();
    ensure!(new.len() == 1, "the foreign program is not attached: {new:?}");

    first.stop()?;
    let second = host.spread(&POOL, &["--on-exit", "keep"])?;
    let from = source(&host.connect(server.address)?)?.to_string();
    ensure!(POOL.contains(&&*from), "with another program attached, nothing is spread: {from}");
    second.stop()?;
    let released = host.rule.release()?;
    ensure!(released.code() == 0, "{released:?}");
    ensure!(host.cgroup.programs()? == new, "attached: {:?}, not {new:?}", host.cgroup.programs());
    ensure!(foreign.is_there(), "pins of others are gone: {foreign:?}");
    host.rule.check_nothing_left()?;
    // The next rule is released at the end of its agent.
    host.spread(&POOL, &[])?.stop()?;
    ensure!(host.cgroup.programs()? == new && foreign.is_there(), "gone: {foreign:?}");
    drop(foreign);
    // The kernel frees a link some time after its last reference is gone.
    wait_for("the foreign program to go", Duration::from_secs(5), || {
        Ok((host.cgroup.attached()? == 0).then_some(()))
    })
}
