//! The load that `tracer advise` measures, and what it says if there is none.

use anyhow::{Context, Result, ensure};

use super::{LIMIT, lines, run};
use crate::{
    cases::{
        doctor::edge::Edge,
        errors::run_as_nobody,
        proxies::{PROXY, Scene, UPSTREAM, UPSTREAM_PORT, nginx_config, start_nginx},
    },
    harness::{
        netns::NetNs,
        probe::Place,
        tracer::{self, Ended},
    },
};

/// Exit code for configuration that cannot be used.
const BAD_CONFIG: i32 = 78;

/// Runs `tracer advise` with these arguments for this namespace, from outside of it.
fn advised(netns: &NetNs, arguments: &[&str]) -> Result<Ended> {
    let inum = netns.inum().to_string();
    let mut command = tracer::command(&["advise"])?;
    tracer::run(command.args(arguments).args(["--netns", &inum]), Place::get().limit(LIMIT * 2))
}

/// The number after `load` in the first comments.
fn rate(text: &str) -> Result<f64> {
    let load = text.lines().find_map(|line| line.strip_prefix("#   load   "));
    let number = load.and_then(|it| it.split(' ').next()).context("no load")?;
    number.replace(',', "").parse().with_context(|| format!("no rate: {text}"))
}

/// `tracer advise` names the destination of a namespace's load, its rate (within 10 %) and who closes first. With `--to` another
/// network, or without a load, it fails with exit code 78 and says why.
pub(super) fn measures() -> Result<()> {
    // More ports than the load takes, also if `advise` begins slowly on a busy machine.
    let edge = Edge::new(20_000)?;
    let (one, load) = edge.under_load(edge.first(), 100, || {
        let narrow = ["nginx", "--to", "10.9.0.0/16", "--window", "0.5"];
        Ok((advised(&edge.here, &["nginx", "--window", "2"])?, advised(&edge.here, &narrow)?))
    })?;
    let (seen, narrow) = one;
    ensure!(seen.code() == 0, "{seen:?}");
    let server = format!("    server {};\n", edge.upstream);
    ensure!(seen.stdout.contains(&server), "no {server} in {}", seen.stdout);
    let (lowest, highest) = load.rates(2.0);
    let rate = rate(&seen.stdout)?;
    ensure!(
        (lowest * 0.9..=highest * 1.1).contains(&rate),
        "{rate}/s, and {lowest}/s to {highest}/s were opened"
    );
    ensure!(load.failed == 0, "{load:?}");
    ensure!(seen.stdout.contains("closes 100 % first"), "{}", seen.stdout);
    // The range of this namespace, not that of the one in which it runs.
    ensure!(seen.stdout.contains("range 40000-59999"), "{}", seen.stdout);
    let said = narrow.stderr.contains("none was seen to these destinations");
    ensure!(narrow.code() == BAD_CONFIG && said, "{narrow:?}");
    let idle = advised(&edge.here, &["nginx", "--window", "0.5"])?;
    let said = idle.stderr.contains("none was seen in 0.5 s") && idle.stderr.contains("--to");
    ensure!(idle.code() == BAD_CONFIG && said && idle.stdout.is_empty(), "{idle:?}");
    Ok(())
}

/// `tracer advise` reads the configuration of the proxy's nginx, not that of the upstream's, which runs in another namespace, and
/// measures more than 100 connections a second; nginx accepts what it advises.
pub(super) fn measures_nginx() -> Result<()> {
    let scene = Scene::new(20_000, "location / { return 200 'ok'; }")?;
    let server = format!("http://{UPSTREAM}:{UPSTREAM_PORT}");
    let http = format!("server {{ listen {PROXY}:8080; location / {{ proxy_pass {server}; }} }}");
    let config = nginx_config(scene.folder.path(), "proxy", &http)?;
    let _nginx = scene.proxy.run(|| start_nginx(&config))?;
    scene.wait_for_listeners(&[8080])?;
    let ended = std::thread::scope(|scope| {
        let load = scope.spawn(|| scene.load(4, 5));
        let ended = advised(&scene.proxy, &["nginx", "--window", "1"]);
        load.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        ended
    })?;
    ensure!(ended.code() == 0, "{ended:?}");
    let text = ended.stdout.replace("\n#          ", " ");
    ensure!(text.contains(&format!("    server {UPSTREAM}:{UPSTREAM_PORT};\n")), "{text}");
    ensure!(text.contains("is for the only worker") && !text.contains("nginx run in"), "{text}");
    ensure!(rate(&text)? > 100.0, "{text}");
    let http = lines(&ended.stdout, "in http { }");
    let config = nginx_config(scene.folder.path(), "advised", &http)?;
    let accepted = run(&scene.proxy, "nginx", &["-t", "-c", &config])?;
    ensure!(accepted.code() == 0, "{accepted:?}");
    Ok(())
}

/// A user without privileges gets lines for the servers that `--to` names, and why no load was measured; without `--to`, exit
/// code 78.
pub(super) fn without_privileges() -> Result<()> {
    let netns = NetNs::new()?;
    let ended = netns.run(|| run_as_nobody(&["advise", "nginx", "--to", "10.0.1.7:8080"]))?;
    let text = ended.stdout.replace("\n#          ", " ");
    let why = text.contains("privileges are missing: CAP_BPF");
    ensure!(ended.code() == 0 && why && text.contains("    server 10.0.1.7:8080;\n"), "{ended:?}");
    let ended = netns.run(|| run_as_nobody(&["advise", "nginx"]))?;
    let said = ended.stderr.contains("CAP_BPF") && ended.stderr.contains("--to");
    ensure!(ended.code() == BAD_CONFIG && said, "{ended:?}");
    Ok(())
}
