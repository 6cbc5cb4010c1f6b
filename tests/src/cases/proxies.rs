//! `proxies::*`: real proxies that run out of ports, or use their connections more or less often, and log that.
//!
//! The proxy is in one namespace, wrk and the upstream are in another, joined by a veth pair. The proxy's port range is narrow,
//! and its upstream connections are not kept alive. The proxy must log exactly as many failures as there are `connect.failed`
//! events, those included that exceed a user's rate of events and are only counted (`events_limited`).

mod haproxy;
mod nginx;
mod uses;

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::{Case, Plan};
use crate::harness::{
    netns::NetNs,
    process::Process,
    tracer::{
        self,
        record::{Record, Recording},
        wait_for,
        watch::{number, text},
    },
};

pub fn cases(plan: &Plan) -> Vec<Case> {
    plan.group("proxies")
        .once(&[("nginx", nginx::runs_out)])
        .needs(&["nginx", "wrk"])
        .once(&[("haproxy", haproxy::runs_out)])
        .needs(&["nginx", "haproxy", "wrk"])
        .once(&[("nginx_keepalive", uses::counts_requests)])
        .needs(&["nginx", "wrk"])
        .cases()
}

/// The proxy's address.
pub(crate) const PROXY: &str = "10.2.0.1";
/// The upstream's address.
pub(crate) const UPSTREAM: &str = "10.2.0.2";
/// The port on which the upstream listens.
pub(crate) const UPSTREAM_PORT: u64 = 8081;

/// The two namespaces, with an nginx as the upstream.
pub(crate) struct Scene {
    /// The proxy's namespace, in which the test starts the proxy.
    pub(crate) proxy: NetNs,
    ports: u64,
    /// For the configurations and logs of both.
    pub(crate) folder: TempDir,
    upstream: Process,
    /// The namespace of the upstream and of the clients.
    pub(crate) upstream_netns: NetNs,
}

impl Scene {
    /// Makes the namespaces, and starts the upstream. `ports`: how many source ports the proxy has, from 40000 on (1 to 25,536:
    /// the kernel refuses other ranges). `serve`: nginx directives for the upstream's `server` block. An error if nginx does not
    /// start.
    pub(crate) fn new(ports: u64, serve: &str) -> Result<Self> {
        Self::with(ports, "", serve)
    }

    /// As [`Self::new`]; `http` has nginx directives for the upstream's `http` block.
    pub(crate) fn with(ports: u64, http: &str, serve: &str) -> Result<Self> {
        let proxy = NetNs::new()?;
        let upstream_netns = NetNs::new()?;
        let addresses = [PROXY, UPSTREAM].map(|address| format!("{address}/24"));
        proxy.veth(&[&addresses[0]], &upstream_netns, &[&addresses[1]])?;
        let range = format!("40000 {}", 40_000 + ports - 1);
        proxy.sysctl("ipv4/ip_local_port_range", &range)?;
        let folder = tempfile::tempdir()?;
        let server = format!("{http} server {{ listen {UPSTREAM}:{UPSTREAM_PORT}; {serve} }}");
        let config = nginx_config(folder.path(), "upstream", &server)?;
        let upstream = upstream_netns.run(|| start_nginx(&config))?;
        Ok(Self { proxy, ports, folder, upstream, upstream_netns })
    }

    /// Waits until the proxy listens on these ports, as /proc/net/tcp shows; an error if it does not within 10 s (longer in a
    /// guest). A connection to find that out would be in the proxy's log.
    pub(crate) fn wait_for_listeners(&self, ports: &[u16]) -> Result<()> {
        let listening = |port: &u16| format!(":{port:04X} 00000000:0000 0A");
        wait_for("the proxy to listen", Duration::from_secs(10), || {
            let sockets = self.proxy.run(|| fs::read_to_string("/proc/thread-self/net/tcp"))?;
            Ok(ports.iter().all(|port| sockets.contains(&listening(port))).then_some(()))
        })
    }

    /// Ends the upstream, so that its logs are complete; an error if it does not end within 10 s (longer in a guest).
    pub(crate) fn end_upstream(&mut self) -> Result<()> {
        self.upstream.signal(Signal::TERM)?;
        self.upstream.wait(Duration::from_secs(10))?;
        Ok(())
    }

    /// Runs wrk against port 8080 of the proxy, with `connections` connections for `seconds` seconds (at most 20), from the other
    /// namespace, which has enough ports. An error if wrk fails or takes longer than 30 s, but not if requests do.
    pub(crate) fn load(&self, connections: u32, seconds: u32) -> Result<()> {
        let mut wrk = Command::new("wrk");
        let url = format!("http://{PROXY}:8080/page");
        let (connections, seconds) = (connections.to_string(), seconds.to_string());
        wrk.args(["-t", "2", "-c", &connections, "-d", &seconds, &url]);
        let ended = self.upstream_netns.run(|| tracer::run(&mut wrk, Duration::from_secs(30)))?;
        ensure!(ended.code() == 0, "wrk failed: {ended:?}");
        Ok(())
    }

    /// Runs `work` once wrk, with this many connections and these options, has loaded port 8080 of the proxy for a second, and
    /// ends wrk after it: however slow the machine is, the proxy is under load until then. An error if `work` fails, or wrk has
    /// ended before (it runs for 100 s).
    pub(crate) fn while_loaded<T>(
        &self,
        connections: u32,
        options: &[&str],
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let mut command = Command::new("wrk");
        command.args(["-t", "2", "-c", &connections.to_string(), "-d", "100"]).args(options);
        command.arg(format!("http://{PROXY}:8080/page")).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut load = self.upstream_netns.run(|| Process::spawn(&mut command))?;
        std::thread::sleep(Duration::from_secs(1));
        let done = work()?;
        ensure!(load.child.try_wait()?.is_none(), "wrk has ended");
        load.signal(Signal::INT)?;
        load.wait(Duration::from_secs(10))?;
        Ok(done)
    }

    /// Number of connect() calls without a free port that the tracer counts: those with an event, which must have the right tuple
    /// and process, and those whose event was left out because the proxy exceeded the allowed rate (`events_limited`).
    fn exhaustions(&self, recording: &Recording, comm: &str) -> Result<u64> {
        recording.assert_nothing_lost_but(&["events_limited"])?;
        let losses = recording.losses()?;
        let left_out = losses.iter().find(|(kind, _)| kind == "events_limited");
        let left_out = left_out.map_or(0, |(_, count)| *count);
        let failed = recording.events("connect.failed", self.proxy.inum());
        let exhausted: Vec<&Value> = failed
            .into_iter()
            .filter(|event| text(event, "cause").ok() == Some("ports_exhausted"))
            .collect();
        for event in &exhausted {
            let right = text(event, "network.local.address")? == PROXY
                && text(event, "network.peer.address")? == UPSTREAM
                && number(event, "network.peer.port")? == UPSTREAM_PORT
                && text(event, "process.executable.name")? == comm
                && text(event, "errno.name")? == "EADDRNOTAVAIL";
            let right = right
                && event.get("ports.capacity").is_none_or(|it| it.as_u64() == Some(self.ports));
            ensure!(right, "another tuple or process: {event}");
            // A port may become free between the search and the reading of the counter.
            let in_use = number(event, "ports.in_use")?;
            ensure!(in_use * 10 > self.ports * 9, "{in_use} in use is not full: {event}");
        }
        // The capacity is read once a second, so the first events of a new tuple do not have it.
        let known = exhausted.iter().any(|event| event.get("ports.capacity").is_some());
        ensure!(known, "no event has the capacity");
        let count = u64::try_from(exhausted.len())?;
        // No event is left out before the allowed burst of 20,000 is used up.
        ensure!(left_out == 0 || count >= 20_000, "{count} events, and {left_out} are left out");
        Ok(count + left_out)
    }
}

fn record() -> Result<Record> {
    Record::start("auto", &["--events", "failed,stats", "--interval", "1"])
}

/// Writes the configuration `NAME.conf` of an nginx that is one process and writes only inside `folder`. `http`: further
/// directives for its `http` block. Returns the path. An error if the file cannot be written, or the path is not UTF-8.
pub(crate) fn nginx_config(folder: &Path, name: &str, http: &str) -> Result<String> {
    let path = folder.join(format!("{name}.conf"));
    let folder = folder.to_str().context("path is not UTF-8")?;
    // One process, so that SIGKILL leaves no other.
    let text = format!(
        "daemon off; master_process off; user root; pid {folder}/{name}.pid;\n\
         error_log {folder}/{name}.error.log notice;\n\
         events {{ worker_connections 8192; }}\n\
         http {{ access_log off; keepalive_requests 1000000;\n\
         client_body_temp_path {folder}/{name}.body; proxy_temp_path {folder}/{name}.proxy;\n\
         fastcgi_temp_path {folder}/{name}.fastcgi; uwsgi_temp_path {folder}/{name}.uwsgi;\n\
         scgi_temp_path {folder}/{name}.scgi;\n{http}\n}}\n"
    );
    fs::write(&path, text)?;
    Ok(path.to_str().context("path is not UTF-8")?.to_owned())
}

/// Starts nginx with the configuration of [`nginx_config`] at this path in the caller's namespace, and waits until it listens: it
/// writes its pid file after that. An error if it does not within 10 s (longer in a guest).
pub(crate) fn start_nginx(config: &str) -> Result<Process> {
    let pid = config.replace(".conf", ".pid");
    let process = Process::spawn(Command::new("nginx").args(["-c", config]))?;
    wait_for("nginx", Duration::from_secs(10), || Ok(fs::metadata(&pid).ok().map(drop)))?;
    Ok(process)
}
