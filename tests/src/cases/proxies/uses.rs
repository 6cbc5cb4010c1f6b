//! How nginx uses its upstream connections: with keepalive on, off, and on but without effect, by tracer and by the upstream's
//! access log.

use std::{collections::BTreeSet, fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::{PROXY, Scene, UPSTREAM, nginx_config, start_nginx};
use crate::harness::tracer::{
    self,
    record::{Record, Recording},
    watch::{Uses, number},
};

/// One way to use upstream connections.
struct Way {
    name: &'static str,
    port: u64,
    /// nginx directives of the proxy's `upstream` block and of its `location`, and of the upstream's server.
    upstream: &'static str,
    location: &'static str,
    server: &'static str,
}

const WAYS: [Way; 3] = [
    Way {
        name: "on",
        port: 9081,
        upstream: "keepalive 64;",
        location: "proxy_http_version 1.1; proxy_set_header Connection '';",
        server: "",
    },
    // The upstream leaves the connection open, so nginx closes it first.
    Way {
        name: "off",
        port: 9082,
        upstream: "",
        location: "proxy_http_version 1.1; proxy_set_header Connection '';",
        server: "",
    },
    // Without the version and the empty header, each request asks the upstream to close. An answer in which ssi could change
    // something has no Content-Length, so that nginx waits for the upstream's FIN, which is its end.
    Way {
        name: "inert",
        port: 9083,
        upstream: "keepalive 64;",
        location: "proxy_http_version 1.0; proxy_set_header Connection close;",
        server: "ssi on; default_type text/html;",
    },
];

/// What the upstream logged of a way.
struct Logged {
    requests: u64,
    connections: u64,
}

/// The tracer has, of each way, as many requests and connections as the upstream's log (± 1 %), and the right end closed first:
/// with keepalive on, ten requests or more for each connection, otherwise one.
pub(super) fn counts_requests() -> Result<()> {
    let mut scene = Scene::new(20_000, "return 200 'ok';")?;
    let folder = scene.folder.path().to_owned();
    let servers = WAYS.map(|way| {
        format!(
            "server {{ listen {UPSTREAM}:{}; access_log {}/{}.log uses; {} return 200 'ok'; }}",
            // The scene's own server has the first port.
            way.port,
            folder.display(),
            way.name,
            way.server
        )
    });
    let upstream = format!("log_format uses '$connection';\n{}", servers.concat());
    let upstream = nginx_config(&folder, "logging", &upstream)?;
    let mut upstream = scene.upstream_netns.run(|| start_nginx(&upstream))?;
    let proxies = WAYS.map(|way| {
        format!(
            "upstream {0} {{ server {UPSTREAM}:{1} max_fails=0; {2} }}\n\
             server {{ listen {PROXY}:{1}; {3} location / {{ proxy_pass http://{0}; }} }}",
            way.name, way.port, way.upstream, way.location
        )
    });
    let proxy = nginx_config(&folder, "proxy", &proxies.concat())?;
    let record = Record::start("auto", &["--events", "stats,lost", "--interval", "1"])?;
    let mut proxy = scene.proxy.run(|| start_nginx(&proxy))?;
    for way in &WAYS {
        load(&scene, way.port)?;
    }
    // Ends the connections that are kept, and completes the logs.
    proxy.signal(Signal::TERM)?;
    proxy.wait(Duration::from_secs(10))?;
    upstream.signal(Signal::TERM)?;
    upstream.wait(Duration::from_secs(10))?;
    scene.end_upstream()?;
    let recording = record.stop()?;
    recording.assert_valid()?;
    recording.assert_nothing_lost()?;
    for way in &WAYS {
        check(way, &logged(&folder, way)?, &uses(&scene, &recording, way)?)?;
    }
    Ok(())
}

/// wrk for a second, with 8 connections.
fn load(scene: &Scene, port: u64) -> Result<()> {
    let mut wrk = Command::new("wrk");
    wrk.args(["-t", "1", "-c", "8", "-d", "1", &format!("http://{PROXY}:{port}/page")]);
    let ended = scene.upstream_netns.run(|| tracer::run(&mut wrk, Duration::from_secs(30)))?;
    ensure!(ended.code() == 0, "wrk failed: {ended:?}");
    Ok(())
}

fn logged(folder: &Path, way: &Way) -> Result<Logged> {
    let log = fs::read_to_string(folder.join(format!("{}.log", way.name)))?;
    let connections: BTreeSet<_> = log.lines().collect();
    Ok(Logged {
        requests: log.lines().count().try_into()?,
        connections: connections.len().try_into()?,
    })
}

/// The newest counters of the way's tuple.
fn uses(scene: &Scene, recording: &Recording, way: &Way) -> Result<Uses> {
    let lines = recording.events("tuple.stats", scene.proxy.inum());
    let of_way =
        |line: &&&serde_json::Value| number(line, "network.peer.port").ok() == Some(way.port);
    let last = lines.iter().rfind(of_way).with_context(|| format!("{}: no line", way.name))?;
    Ok(Uses::of(last))
}

fn check(way: &Way, logged: &Logged, uses: &Uses) -> Result<()> {
    let name = way.name;
    let ended = uses.closed_here + uses.closed_by_peer + uses.aborted;
    let within = |traced: u64, logged: u64| traced.abs_diff(logged) * 100 <= logged;
    ensure!(logged.requests > 100, "{name}: only {} requests", logged.requests);
    ensure!(
        within(uses.segments, logged.requests) && within(ended, logged.connections),
        "{name}: {} requests of {} connections are logged, tracer has {uses:?}",
        logged.requests,
        logged.connections
    );
    // wrk gives up its last requests, whose connections nginx then closes first.
    let (first, right) = match name {
        "on" => (uses.closed_here, uses.segments >= 10 * ended),
        "off" => (uses.closed_here, uses.segments <= ended + ended / 100),
        _ => (uses.closed_by_peer, uses.segments <= ended + ended / 100),
    };
    ensure!(right, "{name}: the requests of each connection are wrong: {uses:?}");
    ensure!(first + 8 >= ended, "{name}: the other end closed first: {uses:?}");
    Ok(())
}
