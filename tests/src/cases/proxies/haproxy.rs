//! haproxy logs `Connect() failed for backend b: no free ports.` for each connect() that failed with EADDRNOTAVAIL
//! (src/proto_tcp.c, tcp_connect_server()); with `retries 0` each request calls connect() once.
//!
//! haproxy resets its connections to servers, so the range is not filled by TIME_WAIT: the upstream is slow, and more requests
//! are under way than there are ports. The log also has a line for each session; those that failed have status 503 and
//! termination state `SC`, and their number must be the same.

use std::{
    fs::{self, File},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::{PROXY, Scene, UPSTREAM, UPSTREAM_PORT, record};
use crate::harness::process::Process;

/// haproxy logs at least one failure, as many as the tracer counts, and as many sessions with status 503 and state `SC`.
pub(super) fn runs_out() -> Result<()> {
    let folder = tempfile::tempdir()?;
    // The upstream limits each response to 20,000 bytes a second, so that a page of 30,000 bytes takes a while.
    let root = folder.path().to_str().context("path is not UTF-8")?;
    fs::write(folder.path().join("page"), vec![b'x'; 30_000])?;
    let scene = Scene::new(50, &format!("root {root}; limit_rate 20000;"))?;
    let config = folder.path().join("haproxy.cfg");
    fs::write(
        &config,
        format!(
            "global\n log stdout format raw local0 info\n nbthread 1\n maxconn 4096\n\
             defaults\n mode http\n log global\n option httplog\n option http-server-close\n \
             http-reuse never\n retries 0\n timeout connect 5s\n timeout client 10s\n \
             timeout server 10s\n\
             frontend f\n bind {PROXY}:8080\n default_backend b\n\
             backend b\n server s {UPSTREAM}:{UPSTREAM_PORT}\n"
        ),
    )?;
    let log = folder.path().join("haproxy.log");
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(&config).stdin(Stdio::null());
    command.stdout(File::create(&log)?).stderr(Stdio::null());
    let mut haproxy = scene.proxy.run(|| Process::spawn(&mut command))?;
    scene.wait_for_listeners(&[8080])?;
    let record = record()?;
    scene.load(100, 3)?;
    haproxy.signal(Signal::TERM)?;
    haproxy.wait(Duration::from_secs(10))?;
    let recording = record.stop()?;

    let log = fs::read_to_string(&log)?;
    let count = |found: &dyn Fn(&str) -> bool| log.lines().filter(|line| found(line)).count();
    let logged = count(&|line| line.contains("Connect() failed for backend b: no free ports"));
    let sessions = count(&|line| line.contains(" 503 ") && line.contains(" SC-- "));
    let traced = scene.exhaustions(&recording, "haproxy")?;
    ensure!(logged > 0, "haproxy never ran out of ports");
    ensure!(traced == u64::try_from(logged)?, "haproxy logged {logged}, the tracer {traced}");
    ensure!(sessions == logged, "{logged} failures, but {sessions} sessions with 503 and SC");
    Ok(())
}
