//! What only the log of a real proxy shows: a source address that is missing, descriptors that ran out, and an upstream that is
//! blamed for that.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::{proxies::write_log, table};
use crate::{
    cases::proxies::{PROXY, Scene, UPSTREAM, UPSTREAM_PORT, nginx_config, start_nginx},
    harness::{
        netns::NetNs,
        tracer::{doctor::doctor, run, wait_for},
    },
};

const SNAPSHOT: &[&str] = &["--window", "0"];

/// The text of a file when it has this text in it.
fn wait_for_line(path: &std::path::Path, text: &str) -> Result<()> {
    wait_for(&format!("{text:?} in {}", path.display()), Duration::from_secs(10), || {
        Ok(fs::read_to_string(path)?.contains(text).then_some(()))
    })
}

/// One request to the proxy, from the upstream's namespace: the status line of the answer.
fn request(scene: &Scene) -> Result<String> {
    scene.upstream_netns.run(|| {
        let mut client = TcpStream::connect((PROXY, 8_080))?;
        client.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        client.read_to_string(&mut answer)?;
        Ok(answer.lines().next().unwrap_or_default().to_owned())
    })
}

/// nginx has `proxy_bind` with an address that this host does not have: requests fail (500), and doctor finds `bad_source`,
/// measured, with that address. After the first command that it prints, requests succeed (200).
pub(super) fn nginx_without_its_source() -> Result<()> {
    let scene = Scene::new(1_000, "location / { return 200 'ok'; }")?;
    let http = format!(
        "server {{ listen {PROXY}:8080; proxy_bind 10.2.0.77;\n\
         location / {{ proxy_pass http://{UPSTREAM}:{UPSTREAM_PORT}; }} }}"
    );
    let config = nginx_config(scene.folder.path(), "proxy", &http)?;
    let _nginx = scene.proxy.run(|| start_nginx(&config))?;
    scene.wait_for_listeners(&[8080])?;
    let answer = request(&scene)?;
    ensure!(answer.contains(" 500 "), "{answer}");
    wait_for_line(&scene.folder.path().join("proxy.error.log"), "bind(10.2.0.77) failed (99:")?;
    let name = scene.proxy.name(&format!("source-{}", std::process::id()))?;
    let netns = name.path().file_name().and_then(|it| it.to_str()).context("no name")?.to_owned();
    let found = crate::harness::tracer::doctor::doctor_of_names(&[netns], SNAPSHOT)?;
    table::check("nginx_without_its_source", &found)?;
    let bad = found.finding("bad_source")?;
    ensure!(bad.text("source")? == "10.2.0.77" && bad.certainty == "measured", "{bad:?}");
    let command = bad.advice.first().and_then(|it| it.command.as_deref()).unwrap_or_default();
    let mut shell = std::process::Command::new("sh");
    let ended = run(shell.args(["-c", command]), Duration::from_secs(10))?;
    ensure!(ended.code() == 0 && command.contains("10.2.0.77"), "{command}: {ended:?}");
    let answer = request(&scene)?;
    ensure!(answer.contains(" 200 "), "after {command}: {answer}");
    Ok(())
}

/// nginx may have 64 descriptors, and 74 clients connect: doctor finds `descriptors`, critical, of that process, with lines of
/// its log, and no lack of ports.
pub(super) fn nginx_without_descriptors() -> Result<()> {
    const LIMIT: u64 = 64;
    let scene = Scene::new(1_000, "location / { return 200 'ok'; }")?;
    let http = format!(
        "server {{ listen {PROXY}:8080; location / {{ proxy_pass http://{UPSTREAM}:{UPSTREAM_PORT}; }} }}"
    );
    let config = nginx_config(scene.folder.path(), "proxy", &http)?;
    let nginx = scene.proxy.run(|| start_nginx(&config))?;
    scene.wait_for_listeners(&[8080])?;
    let pid = Pid::from_raw(i32::try_from(nginx.id())?).context("no such process")?;
    let limit = Rlimit { current: Some(LIMIT), maximum: Some(LIMIT) };
    prlimit(Some(pid), Resource::Nofile, limit)?;
    let connect = |_| TcpStream::connect((PROXY, 8_080));
    let _clients: Vec<TcpStream> =
        scene.upstream_netns.run(|| (0..LIMIT + 10).map(connect).collect::<Result<_, _>>())?;
    wait_for_line(&scene.folder.path().join("proxy.error.log"), "failed (24:")?;
    let found = doctor(&scene.proxy, SNAPSHOT)?;
    table::check("nginx_without_descriptors", &found)?;
    let full = found.finding("descriptors")?;
    ensure!(full.severity == "critical" && full.number("log.lines")? > 0.0, "{full:?}");
    ensure!(full.pid == Some(nginx.id()), "{full:?}");
    Ok(())
}

/// `no live upstreams` in a log of 5 s ago is `blamed_upstream`, a consequence of `ports_exhausted`, if a line before it says
/// that connect() found no port; after a line about a refused connection, doctor finds nothing: the upstream did fail.
pub(super) fn blamed_by_log() -> Result<()> {
    const NO_PORT: &str = "[crit] 1#1: *1 connect() to 10.0.0.1:80 failed (99: Cannot assign requested address) \
         while connecting to upstream";
    const REFUSED: &str = "[error] 1#1: *1 connect() failed (111: Connection refused) while \
         connecting to upstream, upstream: \"http://10.0.0.1:80/\"";
    const NO_LIVE: &str = "[error] 1#1: *2 no live upstreams while connecting to upstream, \
         upstream: \"http://backend/\"";
    let netns = NetNs::new()?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("error.log");
    let of = |lines: &[&str]| {
        write_log(&path, 5, lines)?;
        let path = path.to_str().context("path is not UTF-8")?;
        doctor(&netns, &["--window", "0", "--log", path])
    };
    let found = of(&[NO_PORT, NO_LIVE])?;
    table::check("blamed_by_log", &found)?;
    let blamed = found.finding("blamed_upstream")?;
    ensure!(blamed.consequence_of.as_deref() == Some("ports_exhausted"), "{blamed:?}");
    ensure!(blamed.what.contains("upstream backend"), "{blamed:?}");
    table::check("failed_upstream", &of(&[REFUSED, NO_LIVE])?)
}
