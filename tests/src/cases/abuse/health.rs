//! `abuse::health`: the agent judges the addresses of a pool by the rule's own connections only.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, ensure};

use crate::{
    cases::{
        Case, Plan,
        spread::{Host, POOL, source},
    },
    harness::{outsider::Outsider, tracer::wait_for},
};

pub(super) fn cases(plan: &Plan) -> Vec<Case> {
    plan.group("abuse::health").once(&[("outsider_expels_no_address", nobody_is_expelled)]).cases()
}

/// An outsider, which is not in the rule's cgroup, makes every address of the pool look broken, each towards a port of its own
/// that the rule does not name: there, 10 connections a second from the address time out, while those from the other addresses
/// are established. No address may be left out, and the rule's own connections must use all addresses, each for more than an
/// eighth.
fn nobody_is_expelled() -> Result<()> {
    let mut host = Host::new()?;
    let server = host.server("10.1.0.1:7000")?;
    let spread = host.spread(&POOL, &["--to", "10.1.0.1:7000"])?;
    let mut outsider = host.stage.netns.run(Outsider::spawn)?;
    outsider.begin(&format!("cross 60 10.1.0.2:8000 {}", POOL.join(" ")))?;
    let failures = || -> Result<u64> {
        let status = host.rule.status()?;
        let outside = status.tuples.iter().filter(|it| it.tuple().destination.port() != 7000);
        Ok(outside.map(|it| it.counts.failed).sum())
    };
    let mut made = BTreeMap::new();
    let mut held = Vec::new();
    // The attack goes on until it has made so many connections fail that all addresses would be left out if these counted. The
    // outsider does not count those of its last 2 s, which are some 120 of them.
    wait_for("the attack", Duration::from_secs(50), || {
        held.drain(..held.len().saturating_sub(400));
        for _ in 0..20 {
            let sock = host.connect(server.address)?;
            sock.set_reset_on_close()?;
            *made.entry(source(&sock)?.to_string()).or_insert(0) += 1;
            held.push(sock);
        }
        let status = host.rule.status()?;
        let out = (&status.left_out, &status.left_out_towards);
        ensure!(out.0.is_empty() && out.1.is_empty(), "left out: {out:?}");
        Ok((failures()? > 250).then_some(()))
    })?;
    outsider.begin("close")?;
    let timed_out = outsider.end()?;
    outsider.end()?;
    ensure!(timed_out.first().is_some_and(|count| *count > 60), "timed out: {timed_out:?}");
    let all: u32 = made.values().sum();
    let even = made.len() == POOL.len() && made.values().all(|count| count * 8 > all);
    ensure!(even, "spread over {made:?}");
    spread.stop()?;
    host.rule.check_nothing_left()
}
