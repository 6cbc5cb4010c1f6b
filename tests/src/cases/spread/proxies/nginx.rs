//! nginx keeps no connection to the upstream alive and closes each first, so that each takes a port for the 60 s of TIME_WAIT.

use std::fs;

use anyhow::{Result, bail, ensure};

use super::{Stage, check_sources, tally};
use crate::{
    cases::proxies::{PROXY, UPSTREAM, UPSTREAM_PORT, nginx_config, start_nginx},
    harness::lie,
};

const PORTS: usize = 1000;
/// Number of requests at a time.
const CLIENTS: usize = 8;

fn stage(setting: &str) -> Result<Stage> {
    Stage::new(PORTS as u64, "location / { return 200 'ok'; }", |scene| {
        let log = scene.folder.path().join("status");
        let http = format!(
            "log_format status '$status';\n\
             upstream backend {{ server {UPSTREAM}:{UPSTREAM_PORT} max_fails=0; }}\n\
             server {{ listen {PROXY}:8080; proxy_http_version 1.1; access_log {} status;\n\
             proxy_set_header Connection ''; {setting}\n\
             location / {{ proxy_pass http://backend; }} }}",
            log.display()
        );
        let config = nginx_config(scene.folder.path(), "proxy", &http)?;
        scene.proxy.run(|| start_nginx(&config))
    })
}

/// Runs wrk for 3 s, until long after all ports are used. Returns how many requests succeeded before the first 502, and how many
/// in all; an error if none got a 502.
fn successes(stage: &Stage) -> Result<(usize, usize)> {
    stage.scene.load(u32::try_from(CLIENTS)?, 3)?;
    let log = fs::read_to_string(stage.scene.folder.path().join("status"))?;
    let (mut before, mut all, mut failed) = (0, 0, 0);
    for status in log.lines() {
        match status {
            "200" if lie::answered() => {
                all += 1;
                before += usize::from(failed == 0);
            }
            "200" | "502" => failed += 1,
            // 499: wrk, at its end, closed the connection before nginx had answered.
            "499" => {}
            other => bail!("status {other:?} after {all} successes"),
        }
    }
    ensure!(failed > 0, "{all} requests were made, too few for a failure");
    Ok((before, all))
}

/// Checks that every port served one request, and that no request failed before all were used. A failed request can be logged
/// before those that began at the same time and succeed: fewer than [`CLIENTS`].
fn check(successes: (usize, usize), ports: usize, decisions: &str) -> Result<()> {
    let (before, all) = successes;
    let right = all == ports && before + CLIENTS > ports;
    ensure!(right, "{before} requests succeeded before the first 502, {all} in all: {decisions}");
    Ok(())
}

/// With spreading off and 1,000 ports, exactly 1,000 requests succeed in the 3 s of a load, all from one address; the others get
/// 502.
pub(super) fn unspread() -> Result<()> {
    let stage = stage("")?;
    check(successes(&stage)?, PORTS, "with spreading off")?;
    let sources = tally(&stage.sources()?);
    ensure!(sources.len() == 1, "the upstream saw {sources:?}");
    Ok(())
}

/// With a pool of four addresses, with 1,000 ports each, exactly 4,000 requests succeed, from all addresses alike, also half-way;
/// at the end, nothing is left of the rule. `setting`: more of nginx's `server` block, empty for none; `arguments`: more of
/// `tracer spread`.
pub(super) fn spread(setting: &str, arguments: &[&str]) -> Result<()> {
    let stage = stage(setting)?;
    stage.application.cgroup.add(stage.proxy.id())?;
    let spread = stage.spread(arguments)?;
    let successes = successes(&stage)?;
    let decisions = stage.application.rule.status()?.decisions();
    check(successes, PORTS * 4, &decisions)?;
    spread.stop()?;
    stage.application.rule.check_nothing_left()?;
    let sources = stage.sources()?;
    // With all ports used, the counts must be equal anyway; half-way, they are equal only by spreading.
    check_sources(&tally(&sources[..PORTS * 2]), PORTS as u64 / 2)?;
    check_sources(&tally(&sources), PORTS as u64)
}
