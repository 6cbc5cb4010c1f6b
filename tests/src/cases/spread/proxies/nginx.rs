//! nginx keeps no connection to the upstream and closes each first, so that each costs it a port for
//! the 60 s of TIME_WAIT.

use anyhow::{Result, ensure};

use super::{Client, Stage, check_sources};
use crate::cases::proxies::{PROXY, UPSTREAM, UPSTREAM_PORT, nginx_config, start_nginx};

const PORTS: u64 = 1000;

fn stage(setting: &str) -> Result<Stage> {
    Stage::new(PORTS, "location / { return 200 'ok'; }", |scene| {
        let http = format!(
            "upstream backend {{ server {UPSTREAM}:{UPSTREAM_PORT} max_fails=0; }}\n\
             server {{ listen {PROXY}:8080; proxy_http_version 1.1;\n\
             proxy_set_header Connection ''; {setting}\n\
             location / {{ proxy_pass http://backend; }} }}"
        );
        let config = nginx_config(scene.folder.path(), "proxy", &http)?;
        scene.proxy.run(|| start_nginx(&config))
    })
}

/// Requests one after another: so many succeed before the first 502, which comes at once after.
fn successes(stage: &Stage, limit: u64) -> Result<u64> {
    let mut client = Client::new(&stage.scene)?;
    for count in 0..limit {
        client.ask()?;
        match client.status()? {
            200 => {}
            502 => return Ok(count),
            status => anyhow::bail!("request {count}: status {status}"),
        }
    }
    Ok(limit)
}

pub(super) fn without_us() -> Result<()> {
    let stage = stage("")?;
    let count = successes(&stage, PORTS * 2)?;
    ensure!(count == PORTS, "{count} requests succeeded with {PORTS} ports");
    let sources = stage.sources()?;
    ensure!(sources.len() == 1, "the upstream saw {sources:?}");
    Ok(())
}

pub(super) fn with_us(setting: &str, arguments: &[&str]) -> Result<()> {
    let stage = stage(setting)?;
    stage.application.cgroup.add(stage.proxy.id())?;
    let spread = stage.spread(arguments)?;
    let count = successes(&stage, PORTS * 5)?;
    let decisions = stage.application.rule.status()?.decisions();
    ensure!(
        count == PORTS * 4,
        "{count} requests succeeded with four times {PORTS} ports: {decisions}"
    );
    spread.stop()?;
    stage.application.rule.check_nothing_left()?;
    check_sources(&stage.sources()?, PORTS)
}
