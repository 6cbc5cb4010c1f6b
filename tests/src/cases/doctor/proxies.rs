//! What `tracer doctor` reads of running proxies: the line of the configuration that is the cause, and lines of logs.

use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};

use super::table;
use crate::{
    cases::proxies::{PROXY, Scene, UPSTREAM, UPSTREAM_PORT, nginx_config, start_nginx},
    harness::{
        netns::NetNs,
        process::Process,
        starting::output,
        tracer::doctor::{Diagnosis, Finding, doctor},
    },
};

const WINDOW: &[&str] = &["--window", "2"];

/// HTTP/1.1 and no `Connection: close`: the server leaves connections open, so nginx closes them first if it does not keep them.
const NEW: &str = "proxy_http_version 1.1; proxy_set_header Connection '';";

/// An nginx with these servers in `upstream backend`, under load while doctor looks: the diagnosis, and where that upstream is.
fn of_nginx(ports: u64, servers: &str, directives: &str) -> Result<(Diagnosis, String)> {
    of_nginx_in(&Scene::new(ports, "location / { return 200 'ok'; }")?, servers, directives)
}

/// As [`of_nginx`], in this scene.
fn of_nginx_in(scene: &Scene, servers: &str, directives: &str) -> Result<(Diagnosis, String)> {
    let http = format!(
        "upstream backend {{ {servers} }}\n\
         server {{ listen {PROXY}:8080; {directives}\n\
         location / {{ proxy_pass http://backend; }} }}"
    );
    let config = nginx_config(scene.folder.path(), "proxy", &http)?;
    let _nginx = scene.proxy.run(|| start_nginx(&config))?;
    let place = format!("{config}:{}", line_of(&config, "upstream backend")?);
    Ok((under_load(scene, 20)?, place))
}

/// The diagnosis of the proxy's namespace in the midst of a load with this many connections.
fn under_load(scene: &Scene, connections: u32) -> Result<Diagnosis> {
    scene.while_loaded(connections, &[], || doctor(&scene.proxy, WINDOW))
}

fn one_server() -> String {
    format!("server {UPSTREAM}:{UPSTREAM_PORT};")
}

fn why(finding: &Finding) -> Result<&str> {
    finding.why.as_deref().with_context(|| format!("no why: {finding:?}"))
}

/// nginx closes first, because its upstream has HTTP/1.1 and no `keepalive`: in `ports_exhausted` (exit code 2) and
/// `closes_first`, doctor names nginx, the upstream, the line of the configuration, and `keepalive` as what to add there.
pub(super) fn nginx_closes_first() -> Result<()> {
    let (found, place) = of_nginx(1_000, &one_server(), NEW)?;
    ensure!(found.exit == 2, "{found:?}");
    table::check("nginx_closes_first", &found)?;
    for id in ["ports_exhausted", "closes_first"] {
        let finding = found.finding(id)?;
        ensure!(finding.text("proxy.program")? == "nginx", "{finding:?}");
        ensure!(finding.text("proxy.upstream")? == "backend", "{finding:?}");
        let cause = format!(
            "nginx closes first: HTTP/1.1 without \"keepalive\" in upstream \"backend\" ({place})"
        );
        ensure!(why(finding)?.contains(&cause), "{cause}: {finding:?}");
        let lasting = finding.advice.iter().find(|it| it.command.is_none());
        let advised = lasting.is_some_and(|it| it.what.starts_with("add \"keepalive "));
        ensure!(advised, "{finding:?}");
    }
    ensure!(found.check("configurations")?.status == "ok", "{found:?}");
    // The log grows with the speed of the machine: it may be too long to be read whole.
    let logs = found.check("logs")?;
    let read = logs.why.as_deref().is_none_or(|why| why.contains("is so long"));
    ensure!(read, "{found:?}");
    Ok(())
}

/// The number of the first line of a file that has this text.
fn line_of(path: &str, text: &str) -> Result<usize> {
    let all = fs::read_to_string(path)?;
    let index = all.lines().position(|line| line.contains(text));
    Ok(1 + index.with_context(|| format!("no {text} in {path}"))?)
}

/// With HTTP/1.0 (nginx's old default) the server closes first, so that TIME_WAITs hold none of the proxy's ports: doctor does
/// not say that nginx closes first. The ledger knows who closed, and that each connection carried one request.
pub(super) fn nginx_with_old_defaults() -> Result<()> {
    // The upstream answers 40 requests/s, so that each of 20 connections is open for half a second on any machine, and its answers
    // have no length, so that they end when it closes.
    let http = "limit_req_zone $server_port zone=slow:64k rate=40r/s; ssi on; ssi_types *;";
    let scene = Scene::with(64, http, "limit_req zone=slow burst=40; location / { empty_gif; }")?;
    let (found, place) = of_nginx_in(&scene, &one_server(), "")?;
    ensure!(found.finding("closes_first").is_err(), "{found:?}");
    ensure!(!format!("{found:?}").contains("closes first:"), "{found:?}");
    let churn = found.finding("churn")?;
    let cause = format!("no \"keepalive\" in upstream \"backend\" ({place}); HTTP/1.0 by default");
    ensure!(why(churn)?.contains(&cause), "{cause}: {churn:?}");
    let requests = churn.number("connection.requests")?;
    let [here, there] =
        ["closed_here", "closed_by_peer"].map(|who| churn.number(&format!("connections.{who}")));
    ensure!((0.9..=1.1).contains(&requests) && here? * 20.0 < there?, "{churn:?}");
    Ok(())
}

/// nginx's log says that servers of an upstream failed, although this host had no port: doctor finds `blamed_upstream` with the
/// upstream's name, inferred from lines of the log (at least one), as a consequence of `ports_exhausted`, which it finds exactly
/// once.
pub(super) fn blamed_upstream() -> Result<()> {
    let (found, _) = of_nginx(200, &one_server().repeat(2), NEW)?;
    table::check("blamed_upstream", &found)?;
    let blamed = found.finding("blamed_upstream")?;
    ensure!(blamed.consequence_of.as_deref() == Some("ports_exhausted"), "{found:?}");
    ensure!(blamed.what.contains("upstream backend"), "{blamed:?}");
    ensure!(blamed.certainty == "inferred" && blamed.number("log.lines")? > 0.0, "{blamed:?}");
    let exhausted = found.findings.iter().filter(|it| it.id == "ports_exhausted").count();
    ensure!(exhausted == 1, "the log says nothing that the window has not counted: {found:?}");
    Ok(())
}

/// A HAProxy in the proxy's namespace with this backend in mode http, which logs to a file.
fn start_haproxy(scene: &Scene, backend: &str) -> Result<(Process, String)> {
    let config = scene.folder.path().join("haproxy.cfg");
    fs::write(
        &config,
        format!(
            "global\n nbthread 1\n maxconn 4096\n\
             defaults\n mode http\n retries 0\n timeout connect 5s\n timeout client 10s\n \
             timeout server 10s\n\
             frontend f\n bind {PROXY}:8080\n default_backend b\n\
             backend b\n{backend} server s {UPSTREAM}:{UPSTREAM_PORT}\n"
        ),
    )?;
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(&config).stdin(Stdio::null());
    command.stdout(File::create(scene.folder.path().join("haproxy.log"))?).stderr(Stdio::null());
    let haproxy = scene.proxy.run(|| Process::spawn(&mut command))?;
    scene.wait_for_listeners(&[8080])?;
    Ok((haproxy, config.to_str().context("path is not UTF-8")?.to_owned()))
}

/// HAProxy resets its connections to servers: its ports are held by those that are open. Doctor finds `ports_exhausted` with
/// failed calls and the line of the server, not `closes_first`, and no finding about HAProxy names TIME_WAIT or tcp_tw_reuse.
pub(super) fn haproxy_at_its_limit() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let root = folder.path().to_str().context("path is not UTF-8")?;
    fs::write(folder.path().join("page"), vec![b'x'; 30_000])?;
    let scene = Scene::new(50, &format!("root {root}; limit_rate 20000;"))?;
    let (_haproxy, config) = start_haproxy(&scene, " http-reuse never\n")?;
    let found = under_load(&scene, 100)?;
    table::check("haproxy_at_its_limit", &found)?;
    let full = found.finding("ports_exhausted")?;
    ensure!(full.number("failed")? > 0.0 && full.text("proxy.program")? == "HAProxy", "{full:?}");
    let line = line_of(&config, "server s")?;
    ensure!(why(full)?.contains(&format!("server \"s\" ({config}:{line})")), "{full:?}");
    ensure!(found.finding("closes_first").is_err(), "{found:?}");
    for finding in found.findings.iter().filter(|it| it.evidence.contains_key("proxy.program")) {
        let text = format!("{:?} {:?} {:?}", finding.what, finding.why, finding.advice);
        ensure!(!text.contains("TIME_WAIT") && !text.contains("tcp_tw_reuse"), "{text}");
    }
    Ok(())
}

/// HAProxy's configuration has a source address that no interface has: doctor finds `bad_source` (exit code 2), with the address
/// and the line. With `ip_nonlocal_bind`, by which the address can be bound, it does not.
pub(super) fn haproxy_without_its_source() -> Result<()> {
    let scene = Scene::new(1_000, "location / { return 200 'ok'; }")?;
    let (_haproxy, config) = start_haproxy(&scene, " source 10.2.0.77\n")?;
    let found = doctor(&scene.proxy, &["--window", "0"])?;
    table::check("haproxy_without_its_source", &found)?;
    let bad = found.finding("bad_source")?;
    let line = line_of(&config, "source")?;
    ensure!(why(bad)?.contains(&format!("{config}:{line}")), "{bad:?}");
    ensure!(bad.text("source.address")? == "10.2.0.77" && found.exit == 2, "{found:?}");
    scene.proxy.sysctl("ipv4/ip_nonlocal_bind", "1")?;
    let found = doctor(&scene.proxy, &["--window", "0"])?;
    ensure!(found.finding("bad_source").is_err(), "{found:?}");
    Ok(())
}

/// Without a window, a log (`--log`) is the only witness of failures that are over. A line of 5 s ago counts (`ports_exhausted`,
/// inferred, exit code 2), one of an hour ago does not (exit code 0); a log that does not exist is a check that was not made.
pub(super) fn log_that_is_named() -> Result<()> {
    let netns = NetNs::new()?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("error.log");
    let of = |before_s: u64| -> Result<Diagnosis> {
        let line = "[crit] 1#1: *1 connect() to 10.0.0.1:80 failed (99: Cannot assign requested \
                    address) while connecting to upstream";
        write_log(&path, before_s, &[line])?;
        let path = path.to_str().context("path is not UTF-8")?;
        doctor(&netns, &["--window", "0", "--log", path])
    };
    let found = of(5)?;
    table::check("log_that_is_named", &found)?;
    let full = found.finding("ports_exhausted")?;
    ensure!(
        full.certainty == "inferred"
            && full.evidence.get("log.lines").and_then(serde_json::Value::as_u64) == Some(1),
        "{full:?}"
    );
    ensure!(found.exit == 2 && found.check("logs")?.status != "not_made", "{found:?}");
    let found = of(3_600)?;
    ensure!(found.exit == 0 && found.check("logs")?.status == "ok", "{found:?}");
    fs::remove_file(&path)?;
    let none = doctor(&netns, &["--window", "0", "--log", path.to_str().unwrap_or_default()])?;
    ensure!(none.check("logs")?.status == "not_made" && none.exit == 0, "{none:?}");
    Ok(())
}

/// Writes a log of nginx with these lines, each without its time, as they were written `before_s` seconds ago, in a container's
/// log (CRI format), which has UTC. Replaces a file that exists. An error if the file cannot be written, or date(1) cannot be
/// run.
pub(super) fn write_log(path: &Path, before_s: u64, lines: &[&str]) -> Result<()> {
    let at = SystemTime::now() - Duration::from_secs(before_s);
    let since = at.duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let mut date = Command::new("date");
    date.args(["-u", "-d", &format!("@{since}"), "+%Y-%m-%dT%H:%M:%S"]);
    let date = output(&mut date)?;
    let date = String::from_utf8(date.stdout)?;
    let date = date.trim();
    let local = date.replace('-', "/").replace('T', " ");
    let line = |line: &&str| format!("{date}.000000000Z stderr F {local} {line}\n");
    Ok(fs::write(path, lines.iter().map(line).collect::<String>())?)
}
