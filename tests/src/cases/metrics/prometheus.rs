//! Prometheus scrapes the agent: the dashboard's expressions have values, and the alert of an exhaustion fires.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    io::{Read, Write as _},
    net::{SocketAddr, TcpStream},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::io::Errno;
use serde_json::Value;

use crate::harness::{
    process::Process,
    sock::Sock,
    stage::Stage,
    tracer::{
        agent::{Agent, free_address},
        wait_for,
    },
};

const DASHBOARD: &str = include_str!("../../../../tracer/packaging/grafana/tracer.json");
/// Longest time until all expressions have values: several readings, each 1 s after the one before, and several scrapes of each.
const LIMIT: Duration = Duration::from_mins(1);

/// Prometheus, which scrapes one agent every second; killed on drop.
struct Prometheus {
    address: SocketAddr,
    _process: Process,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    fn start(agent: SocketAddr) -> Result<Self> {
        let folder = super::folder()?;
        let address = free_address()?;
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
             rule_files: [tracer.rules.yml]\n\
             scrape_configs:\n  - job_name: tracer\n    static_configs: [{{targets: ['{agent}']}}]\n"
        );
        fs::write(folder.path().join("prometheus.yml"), config)?;
        let mut command = Command::new("prometheus");
        command.current_dir(folder.path());
        command.args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"]);
        command.arg(format!("--web.listen-address={address}"));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(fs::File::create(folder.path().join("log"))?);
        let process = Process::spawn(&mut command)?;
        let it = Self { address, _process: process, _folder: folder };
        wait_for("Prometheus", Duration::from_secs(30), || Ok(it.query("vector(1)").ok()))?;
        Ok(it)
    }

    /// How many series this expression returns now. An error if Prometheus does not answer, or does not understand it.
    fn query(&self, expression: &str) -> Result<usize> {
        let mut escaped = String::new();
        for byte in expression.bytes() {
            write!(escaped, "%{byte:02X}")?;
        }
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        // HTTP/1.0 has no chunks.
        write!(stream, "GET /api/v1/query?query={escaped} HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").context("no body")?;
        let value: Value = serde_json::from_str(body).with_context(|| body.to_owned())?;
        let result = value.pointer("/data/result").and_then(Value::as_array);
        Ok(result.with_context(|| format!("{expression}: {body}"))?.len())
    }
}

/// The expressions of the dashboard's panels, with all hosts and namespaces chosen.
fn expressions() -> Result<BTreeSet<String>> {
    let dashboard: Value = serde_json::from_str(DASHBOARD)?;
    let panels = dashboard["panels"].as_array().context("no panels")?;
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let chosen = |expression: &str| {
        let all = expression.replace("$instance", ".*").replace("$netns", ".*");
        all.replace("$__rate_interval", "20s")
    };
    Ok(targets.filter_map(|target| target["expr"].as_str()).map(chosen).collect())
}

/// While a tuple of 2,000 ports fills, every expression of the dashboard returns a series. Then calls find no port, and Prometheus
/// says so.
pub(super) fn scrapes_the_agent() -> Result<()> {
    let mut stage = Stage::new(&[])?;
    stage.netns.sysctl("ipv4/ip_local_port_range", "40000 41999")?;
    let server = stage.server("10.1.0.1:7000")?;
    let address = free_address()?;
    let mut agent = Agent::start(&format!(
        "[metrics]\nlisten = \"{address}\"\ninterval = 1\nbpf_stats = true\n\
         [[output]]\npath = \"DIR/all.jsonl\"\nevents = [\"failed\"]\n"
    ))?;
    let prometheus = Prometheus::start(address)?;
    let mut lacking = expressions()?;
    ensure!(lacking.len() > 25, "the dashboard has {} expressions", lacking.len());
    let mut held = Vec::new();
    let end = Instant::now() + LIMIT;
    while !lacking.is_empty() {
        ensure!(Instant::now() < end && held.len() < 1900, "these have no series: {lacking:#?}");
        for _ in 0..5 {
            held.push(stage.netns.run(|| server.pair())?);
        }
        let next = lacking.pop_first().context("none is left")?;
        if prometheus.query(&next)? == 0 {
            lacking.insert(next);
            std::thread::sleep(Duration::from_millis(300));
        }
    }
    stage.netns.sysctl("ipv4/ip_local_port_range", "50000 50001")?;
    stage.netns.run(|| -> Result<()> {
        for _ in 0..3 {
            let sock = Sock::tcp(server.address)?;
            match sock.connect(server.address) {
                Ok(()) => held.push((sock, server.listener.accept()?)),
                Err(Errno::ADDRNOTAVAIL) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        bail!("three connections have found a port of two")
    })?;
    // Of this namespace: calls of other tests can fail meanwhile, which the alert, whose labels name the host, does not tell apart.
    let counted = format!("tracer_tuple_exhausted_total{{netns=\"{}\"}} > 0", stage.netns.inum());
    let firing = "ALERTS{alertname=\"TracerPortsExhausted\", alertstate=\"firing\", cause=\"ports_exhausted\"}";
    for expression in [counted.as_str(), firing] {
        wait_for(expression, Duration::from_secs(30), || {
            Ok((prometheus.query(expression)? == 1).then_some(()))
        })?;
    }
    agent.assert_runs()?;
    agent.stop().map(drop)
}
