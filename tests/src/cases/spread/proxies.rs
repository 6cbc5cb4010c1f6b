//! `spread::proxies`: requests through real proxies fail when the narrow port range is used up with spreading off, and with a
//! pool of four addresses only when the ports of all four are used up. Spreading needs no change of a proxy's configuration.

mod haproxy;
mod nginx;

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tempfile::NamedTempFile;

use super::{Application, Case, Plan};
use crate::{
    cases::proxies::{PROXY, Scene},
    harness::{lie, process::Process, tracer::spread::Spread},
};

pub(super) fn cases(plan: &Plan) -> Vec<Case> {
    plan.group("spread::proxies")
        .once(&[
            ("nginx_without_us", nginx::unspread),
            ("nginx", || nginx::spread("", &[])),
            ("nginx_proxy_bind", || nginx::spread("proxy_bind 10.2.0.1;", &["--rebind"])),
        ])
        .needs(&["nginx", "wrk"])
        .once(&[
            ("haproxy_without_us", haproxy::unspread),
            ("haproxy", || haproxy::spread("", &[])),
            ("haproxy_source", || haproxy::spread("source 10.2.0.1", &["--rebind"])),
        ])
        .needs(&["nginx", "haproxy"])
        .cases()
}

/// The proxy's own address and three more: when the pool is full, a connection that is not spread finds no room, either.
const POOL: [&str; 4] = [PROXY, "10.2.0.11", "10.2.0.12", "10.2.0.13"];

/// A proxy in its own cgroup, and an upstream that logs the source of each request.
struct Stage {
    proxy: Process,
    application: Application,
    scene: Scene,
    log: NamedTempFile,
}

impl Stage {
    /// Starts the upstream, then the proxy by `start`, which must return before the proxy has a connection. `ports`: how many
    /// source ports each address has. `serve`: nginx directives for the upstream's `server` block.
    fn new(ports: u64, serve: &str, start: impl FnOnce(&Scene) -> Result<Process>) -> Result<Self> {
        let log = NamedTempFile::new()?;
        let scene = Scene::new(ports, &format!("access_log {}; {serve}", log.path().display()))?;
        for address in &POOL[1..] {
            scene.proxy.ip(&format!("addr add {address}/24 dev t0"))?;
        }
        let application = Application::new(&scene.proxy)?;
        let proxy = start(&scene)?;
        Ok(Self { proxy, application, scene, log })
    }

    fn spread(&self, arguments: &[&str]) -> Result<Spread> {
        self.application.spread_in(&self.scene.proxy, &POOL, arguments)
    }

    /// Ends the upstream, then everything else. Returns the source address of each request that the upstream logged, in the log's
    /// order.
    fn sources(mut self) -> Result<Vec<String>> {
        self.scene.end_upstream()?;
        let log = fs::read_to_string(self.log.path())?;
        let source = |line: &str| -> Result<String> {
            let address = line.split(' ').next().unwrap_or_default();
            Ok(lie::source(address.parse().with_context(|| line.to_owned())?, None).to_string())
        };
        log.lines().map(source).collect()
    }
}

/// How many times each source occurs.
fn tally(sources: &[String]) -> BTreeMap<String, u64> {
    let mut tally = BTreeMap::new();
    for source in sources {
        *tally.entry(source.clone()).or_default() += 1;
    }
    tally
}

/// Checks that each address of the pool was seen `each` times, within 1 %, and no other address.
fn check_sources(sources: &BTreeMap<String, u64>, each: u64) -> Result<()> {
    let near = |count: &u64| count.abs_diff(each) * 100 <= each;
    let right = sources.len() == POOL.len()
        && POOL.iter().all(|address| sources.get(*address).is_some_and(near));
    ensure!(right, "the upstream saw {sources:?}, not {each} from each of the pool");
    Ok(())
}

/// A client of the proxy, in the upstream's namespace.
struct Client(TcpStream);

impl Client {
    fn new(scene: &Scene) -> Result<Self> {
        let stream = scene.upstream_netns.run(|| TcpStream::connect((PROXY, 8080)))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(Self(stream))
    }

    /// Sends a request for the page, without waiting for the response.
    fn request(&mut self) -> Result<()> {
        let request = format!("GET /page HTTP/1.1\r\nHost: {PROXY}\r\n\r\n");
        Ok(self.0.write_all(request.as_bytes())?)
    }

    /// Reads the response's header and body, up to 4 KiB together. Returns the HTTP status; an error if nothing comes for 10 s,
    /// or the proxy closes the connection before the header is complete.
    fn status(&mut self) -> Result<u16> {
        let mut answer = [0; 4096];
        let mut length = 0;
        loop {
            let read = self.0.read(answer.get_mut(length..).context("a long answer")?)?;
            length += read;
            let text = String::from_utf8_lossy(&answer[..length]);
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let expected = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
                let expected: usize = expected.unwrap_or("0").trim().parse()?;
                if read == 0 || body.len() >= expected.min(4096 - head.len() - 4) {
                    let status = head.split(' ').nth(1).context("no status")?;
                    return Ok(status.parse()?);
                }
            }
            ensure!(read > 0, "the proxy closed after {text:?}");
        }
    }
}
