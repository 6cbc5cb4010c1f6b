//! Proxies that open more connections than they need, or take a port for each: doctor names the setting that is the cause.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::table;
use crate::{
    cases::proxies::{PROXY, Scene, UPSTREAM, UPSTREAM_PORT},
    harness::{
        process::Process,
        tracer::doctor::{Finding, doctor, doctor_of_nobody},
    },
};

const WINDOW: &[&str] = &["--window", "1.5"];
const SNAPSHOT: &[&str] = &["--window", "0"];

/// How long the slow upstream takes for an answer.
const SLOW: Duration = Duration::from_millis(200);
const SLOW_PORT: u16 = 8_082;

/// Starts an upstream that answers each request after [`SLOW`] and keeps its connections open. Its threads end with this process.
fn start_slow_upstream(scene: &Scene) -> Result<()> {
    let listener = scene.upstream_netns.run(|| TcpListener::bind((UPSTREAM, SLOW_PORT)))?;
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || answer_all(&client).ok());
        }
    });
    Ok(())
}

fn answer_all(client: &TcpStream) -> std::io::Result<()> {
    let mut writer = client;
    for line in BufReader::new(client).lines() {
        // The request ends with an empty line.
        if line?.is_empty() {
            thread::sleep(SLOW);
            writer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
        }
    }
    Ok(())
}

fn why(finding: &Finding) -> Result<&str> {
    finding.why.as_deref().with_context(|| format!("no why: {finding:?}"))
}

/// A HAProxy with a statistics socket, in mode http, with this setting in its backend.
fn start_haproxy(scene: &Scene, reuse: &str) -> Result<Process> {
    let folder = scene.folder.path();
    let config = folder.join("haproxy.cfg");
    let text = format!(
        "global\n nbthread 1\n stats socket {}/stats.sock level user\n\
         defaults\n mode http\n timeout connect 5s\n timeout client 10s\n timeout server 10s\n\
         frontend f\n bind {PROXY}:8080\n default_backend b\n\
         backend b\n http-reuse {reuse}\n server s {UPSTREAM}:{SLOW_PORT}\n",
        folder.display()
    );
    fs::write(&config, text)?;
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(&config).stdin(Stdio::null());
    command.stdout(File::create(folder.join("haproxy.log"))?).stderr(Stdio::null());
    let haproxy = scene.proxy.run(|| Process::spawn(&mut command))?;
    scene.wait_for_listeners(&[8080])?;
    Ok(haproxy)
}

/// Clients send HAProxy one request each. With `http-reuse safe`, 0 of their requests find an open connection, and doctor says so
/// (`churn`, with `http-reuse` in its reason); with `always`, nearly all do, and there is no `churn`. HAProxy resets its
/// connections, so that no port stays behind, and doctor never names tcp_tw_reuse.
pub(super) fn haproxy_reuse() -> Result<()> {
    for (reuse, scenario) in [("safe", "haproxy_reuses_nothing"), ("always", "haproxy_reuses_all")]
    {
        // 16 connections, or twice as many where a busy machine closes them late: a quarter to half of the ports.
        let scene = Scene::new(64, "")?;
        start_slow_upstream(&scene)?;
        let _haproxy = start_haproxy(&scene, reuse)?;
        let options = ["-H", "Connection: close"];
        let found = scene.while_loaded(16, &options, || doctor(&scene.proxy, WINDOW))?;
        table::check(scenario, &found)?;
        ensure!(!format!("{found:?}").contains("tcp_tw_reuse"), "{found:?}");
        let churn = found.finding("churn");
        if reuse == "always" {
            ensure!(churn.is_err(), "{found:?}");
            continue;
        }
        let churn = churn?;
        let none = why(churn)?.starts_with("0 of ") && why(churn)?.contains("http-reuse");
        ensure!(none && churn.text("proxy.program")? == "HAProxy", "{churn:?}");
    }
    Ok(())
}

/// So many tunnels are open at the same time.
const TUNNELS: u64 = 25;

/// Squid before 6.0.1 binds a port for each connection from `tcp_outgoing_address`: doctor names that line and the number of
/// ports. A user without privileges gets the number from the ports' parity.
pub(super) fn squid_binds_ports() -> Result<()> {
    let scene = Scene::new(100, "location / { return 200 'ok'; }")?;
    let folder = scene.folder.path().to_str().context("path is not UTF-8")?.to_owned();
    let config = format!("{folder}/squid.conf");
    let text = format!(
        "http_port {PROXY}:3128\nhttp_access allow all\ncache deny all\nshutdown_lifetime 0 seconds\n\
         tcp_outgoing_address {PROXY}\ncache_effective_user nobody\ncache_effective_group nogroup\n\
         pid_filename {folder}/squid.pid\ncache_log {folder}/cache.log\naccess_log none\n\
         coredump_dir {folder}\nnetdb_filename none\npinger_enable off\n"
    );
    fs::write(&config, text)?;
    // Squid gives up root.
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777))?;
    let mut command = Command::new("squid");
    command.args(["-N", "-f", &config]).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let _squid = scene.proxy.run(|| Process::spawn(&mut command))?;
    scene.wait_for_listeners(&[3_128])?;
    let tunnels =
        scene.upstream_netns.run(|| (0..TUNNELS).map(|_| tunnel()).collect::<Result<Vec<_>>>())?;
    let found = doctor(&scene.proxy, SNAPSHOT)?;
    table::check("squid_binds_ports", &found)?;
    let poisoned = found.finding("poisoned_ports")?;
    ensure!(poisoned.count("ports.bound")? == TUNNELS, "{poisoned:?}");
    let line = format!("{config}:5");
    ensure!(
        why(poisoned)?.contains("tcp_outgoing_address") && why(poisoned)?.contains(&line),
        "{poisoned:?}"
    );
    let found = doctor_of_nobody(&scene.proxy, SNAPSHOT)?;
    let poisoned = found.finding("poisoned_ports")?;
    let by_parity = poisoned.certainty == "inferred" && poisoned.severity == "critical";
    ensure!(by_parity && poisoned.count("ports.bound")? == TUNNELS, "{poisoned:?}");
    drop(tunnels);
    Ok(())
}

/// A connection through Squid to the upstream, in the caller's namespace.
fn tunnel() -> Result<TcpStream> {
    let mut client = TcpStream::connect((PROXY, 3_128))?;
    let upstream = format!("{UPSTREAM}:{UPSTREAM_PORT}");
    client
        .write_all(format!("CONNECT {upstream} HTTP/1.1\r\nHost: {upstream}\r\n\r\n").as_bytes())?;
    client.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut answer = String::new();
    BufReader::new(&client).read_line(&mut answer)?;
    ensure!(answer.contains(" 200 "), "Squid says {answer:?}");
    Ok(client)
}
