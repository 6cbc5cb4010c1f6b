//! haproxy resets its connections to the upstream, so that a port is free again immediately. To use up the ports, the upstream is
//! slow, and many requests are under way at the same time.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::{Command, Stdio},
};

use anyhow::{Result, bail, ensure};
use tempfile::TempDir;

use super::{Client, Stage, check_sources};
use crate::{
    cases::proxies::{PROXY, UPSTREAM, UPSTREAM_PORT},
    harness::{lie, oracle, process::Process},
};

const PORTS: usize = 1000;

/// Starts a slow upstream and haproxy. `setting` is added to haproxy's backend; `pages` is a folder for the page that the
/// upstream serves.
fn stage(setting: &str, pages: &TempDir) -> Result<Stage> {
    fs::write(pages.path().join("page"), vec![b'x'; 30_000])?;
    // The upstream sends the first 8 KiB, more than a client reads, without delay; the rest takes longer than the test.
    let serve = format!("root {}; limit_rate_after 8k; limit_rate 100;", pages.path().display());
    Stage::new(PORTS as u64, &serve, |scene| {
        let config = scene.folder.path().join("haproxy.cfg");
        fs::write(
            &config,
            format!(
                "global\n nbthread 1\n maxconn 5000\n\
                 defaults\n mode http\n option http-server-close\n http-reuse never\n retries 0\n \
                 timeout connect 5s\n timeout client 60s\n timeout server 60s\n\
                 frontend f\n bind {PROXY}:8080\n default_backend b\n\
                 backend b\n {setting}\n server s {UPSTREAM}:{UPSTREAM_PORT}\n"
            ),
        )?;
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(&config);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let haproxy = scene.proxy.run(|| Process::spawn(&mut command))?;
        scene.wait_for_listeners(&[8080])?;
        Ok(haproxy)
    })
}

/// Makes `count` requests at the same time. Returns the clients that the upstream is answering; the others got 503. Another
/// status is an error.
fn successes(stage: &Stage, count: usize) -> Result<Vec<Client>> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut client = Client::new(&stage.scene)?;
        client.request()?;
        clients.push(client);
    }
    let mut answered = Vec::new();
    for mut client in clients {
        match client.status()? {
            200 if lie::answered() => answered.push(client),
            200 | 503 => {}
            status => bail!("status {status}"),
        }
    }
    Ok(answered)
}

/// Number of connections to the upstream by source, from the kernel: the upstream logs a request only at its end.
fn sources(stage: &Stage) -> Result<BTreeMap<String, u64>> {
    let sources = oracle::read(&stage.scene.proxy, &BTreeSet::from([8080]))?;
    Ok(sources.iter().map(|(tuple, it)| (tuple.source.to_string(), it.in_use)).collect())
}

/// With spreading off and 1,000 ports, exactly 1,000 of 1,020 requests at once succeed; the others get 503.
pub(super) fn unspread() -> Result<()> {
    let pages = tempfile::tempdir()?;
    let stage = stage("", &pages)?;
    let count = successes(&stage, PORTS + 20)?.len();
    ensure!(count == PORTS, "{count} requests at once succeeded with {PORTS} ports");
    Ok(())
}

/// With a pool of four addresses, with 1,000 ports each, exactly 4,000 requests at once succeed, from all addresses alike, also
/// half-way; at the end, nothing is left of the rule. `setting`: a line for haproxy's backend, empty for none; `arguments`: more
/// of `tracer spread`.
pub(super) fn spread(setting: &str, arguments: &[&str]) -> Result<()> {
    let pages = tempfile::tempdir()?;
    let stage = stage(setting, &pages)?;
    stage.application.cgroup.add(stage.proxy.id())?;
    let spread = stage.spread(arguments)?;
    let mut answered = successes(&stage, PORTS * 2)?;
    ensure!(answered.len() == PORTS * 2, "only {} of {} succeeded", answered.len(), PORTS * 2);
    // With all ports used, the counts must be equal anyway; half-way, they are equal only by spreading.
    check_sources(&sources(&stage)?, PORTS as u64 / 2)?;
    answered.extend(successes(&stage, PORTS * 2 + 20)?);
    let count = answered.len();
    let decisions = stage.application.rule.status()?.decisions();
    ensure!(
        count == PORTS * 4,
        "{count} requests at once succeeded with four times {PORTS} ports: {decisions}"
    );
    check_sources(&sources(&stage)?, PORTS as u64)?;
    spread.stop()?;
    stage.application.rule.check_nothing_left()
}
