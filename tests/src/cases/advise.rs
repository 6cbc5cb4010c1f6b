//! `advise::*`: programs accept the lines that `tracer advise` prints, and run with them; what it says about taking them back is
//! right, and so is the load that it measures.

mod measured;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{
    Case, Plan,
    proxies::{PROXY, Scene, UPSTREAM, UPSTREAM_PORT, nginx_config, start_nginx},
};
use crate::harness::{
    netns::NetNs,
    process::Process,
    sock::Sock,
    tracer::{self, Ended},
};

pub fn cases(plan: &Plan) -> Vec<Case> {
    plan.group("advise")
        .once(&[("nginx_accepts_it", nginx_accepts)])
        .needs(&["nginx"])
        .once(&[("nginx_uses_every_address", nginx_uses)])
        .needs(&["nginx", "wrk", "ip"])
        .once(&[("haproxy_accepts_it", haproxy_accepts)])
        .needs(&["haproxy"])
        .once(&[("haproxy_uses_every_address", haproxy_uses)])
        .needs(&["nginx", "haproxy", "wrk", "ip"])
        .once(&[("squid_accepts_it", squid_accepts)])
        .needs(&["squid"])
        .once(&[("sysctls_are_set_and_undone", sysctls)])
        .needs(&["sysctl"])
        .once(&[("addresses_are_added_and_undone", adds_addresses)])
        .needs(&["ip"])
        .once(&[("measures_the_load", measured::measures)])
        .waiting()
        .only_host()
        .once(&[("measures_under_nginx", measured::measures_nginx)])
        .needs(&["nginx", "wrk"])
        .once(&[("without_privileges", measured::without_privileges)])
        .kernel_independent()
        .cases()
}

const LIMIT: Duration = Duration::from_secs(20);
/// Addresses of a pool that no host has: programs accept them.
const POOL: [&str; 4] =
    ["10.0.0.5", "10.0.0.5-10.0.0.7", "10.0.0.5-10.0.0.7,fd00::5-fd00::8", "10.3.0.0/24"];
const SERVERS: &str = "10.0.1.7:8080,10.0.1.8:8080,[fd00:1::7]:8080,10.0.1.9:443";
/// The address that the proxy has, and three more.
const SOURCES: &str = "10.2.0.1,10.2.0.3-10.2.0.5";

/// What `tracer advise` prints in this namespace.
fn advice(netns: &NetNs, arguments: &[&str]) -> Result<String> {
    let mut command = tracer::command(&[&["advise"], arguments].concat())?;
    let ended = netns.run(|| tracer::run(&mut command, LIMIT))?;
    ensure!(ended.code() == 0, "{arguments:?}: {ended:?}");
    Ok(ended.stdout)
}

/// The lines to paste of those blocks whose title has this text, without the comments above them.
fn lines(advice: &str, title: &str) -> String {
    let has_title = |block: &&str| {
        let first: String = block.lines().take_while(|line| !line.starts_with("#   ")).collect();
        first.contains(title)
    };
    let blocks = advice.split("\n\n").filter(has_title);
    let lines = blocks.flat_map(str::lines).filter(|line| !line.starts_with('#'));
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// The commands that take the blocks back, by their comments.
fn undo(advice: &str) -> Vec<&str> {
    let comments = advice.lines().filter_map(|line| line.strip_prefix('#'));
    comments.map(str::trim).filter(|text| text.starts_with("sysctl -w ")).collect()
}

fn run(netns: &NetNs, program: &str, arguments: &[&str]) -> Result<Ended> {
    let mut command = Command::new(program);
    command.args(arguments);
    netns.run(|| tracer::run(&mut command, LIMIT))
}

/// nginx accepts what `tracer advise nginx` prints for each pool of [`POOL`], with exit code 0 and without a warning, in a
/// namespace that has none of these addresses. For [`SERVERS`], it prints lines for three locations.
fn nginx_accepts() -> Result<()> {
    let netns = NetNs::new()?;
    let folder = tempfile::tempdir()?;
    for (number, pool) in (0..).zip(POOL) {
        let advice = advice(&netns, &["nginx", "--to", SERVERS, "--pool", pool, "--rate", "1000"])?;
        let locations: Vec<String> = (0..)
            .zip(lines(&advice, "in its location { }").split("proxy_pass").skip(1))
            .map(|(number, rest)| format!("location /{number} {{ proxy_pass{rest} }}"))
            .collect();
        let locations = locations.join("\n");
        ensure!(locations.matches("location").count() == 3, "{advice}");
        let http = format!(
            "{}\nserver {{ listen 127.0.0.1:8080;\n{locations} }}",
            lines(&advice, "in http { }")
        );
        let config = nginx_config(folder.path(), &format!("nginx{number}"), &http)?;
        let ended = run(&netns, "nginx", &["-t", "-c", &config])?;
        let accepted = ended.code() == 0 && !ended.stderr.contains("[warn]");
        ensure!(accepted, "{pool}: {}\n{http}", ended.stderr);
    }
    Ok(())
}

/// The proxy with its four addresses, which `ip` added by the lines of `tracer advise ip`, and an upstream that answers at once.
fn scene() -> Result<Scene> {
    let scene = Scene::new(100, "location / { return 200 'ok'; }")?;
    let batch = scene.folder.path().join("addresses");
    let to = format!("{UPSTREAM}:{UPSTREAM_PORT}");
    let text = advice(&scene.proxy, &["ip", "--pool", SOURCES, "--to", &to, "--window", "0"])?;
    fs::write(&batch, text)?;
    let ended = run(&scene.proxy, "ip", &["-batch", path(&batch)?])?;
    ensure!(ended.code() == 0, "{ended:?}");
    Ok(scene)
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("path is not UTF-8")
}

/// The source addresses of connections to the upstream that are open, by /proc/net/tcp.
fn sources(scene: &Scene) -> Result<BTreeSet<String>> {
    let [a, b, c, d] = UPSTREAM.parse::<std::net::Ipv4Addr>()?.octets();
    let to = format!(" {d:02X}{c:02X}{b:02X}{a:02X}:{UPSTREAM_PORT:04X} 01 ");
    let sockets = scene.proxy.run(|| fs::read_to_string("/proc/thread-self/net/tcp"))?;
    let open = sockets.lines().filter(|line| line.contains(&to));
    Ok(open
        .filter_map(|line| line.split_whitespace().nth(1)?.split(':').next())
        .map(str::to_owned)
        .collect())
}

/// nginx with the advised lines: under a load that would use up the 100 ports of one address within a second, each of the four
/// addresses is used and no connect() fails.
fn nginx_uses() -> Result<()> {
    let scene = scene()?;
    let to = format!("{UPSTREAM}:{UPSTREAM_PORT}");
    let text = advice(&scene.proxy, &["nginx", "--to", &to, "--pool", SOURCES, "--rate", "2000"])?;
    let http = format!(
        "{}\nserver {{ listen {PROXY}:8080; location / {{ {} }} }}",
        lines(&text, "in http { }"),
        lines(&text, "in its location { }")
    );
    let config = nginx_config(scene.folder.path(), "proxy", &http)?;
    let _nginx = scene.proxy.run(|| start_nginx(&config))?;
    scene.load(60, 3)?;
    let log = fs::read_to_string(scene.folder.path().join("proxy.error.log"))?;
    ensure!(!log.contains("failed ("), "{log}");
    let sources = sources(&scene)?;
    ensure!(sources.len() == 4, "connections from {sources:?}");
    Ok(())
}

const DEFAULTS: &str =
    "defaults\n mode http\n timeout connect 5s\n timeout client 10s\n timeout server 10s\n";

/// haproxy accepts what `tracer advise haproxy` prints for each pool of [`POOL`], with exit code 0 and without a warning, in a
/// namespace that has none of these addresses.
fn haproxy_accepts() -> Result<()> {
    let netns = NetNs::new()?;
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("haproxy.cfg");
    for pool in POOL {
        let advice =
            advice(&netns, &["haproxy", "--to", SERVERS, "--pool", pool, "--rate", "1000"])?;
        let frontend = "frontend f\n bind 127.0.0.1:8080\n default_backend app_8080\n";
        fs::write(&config, format!("{DEFAULTS}{frontend}{advice}"))?;
        let ended = run(&netns, "haproxy", &["-c", "-f", path(&config)?])?;
        let accepted = ended.code() == 0 && !ended.stderr.contains("[WARNING]");
        ensure!(accepted, "{pool}: {}\n{advice}", ended.stderr);
    }
    Ok(())
}

/// haproxy with the advised lines: under a load that would use up the 100 ports of one address within a second, each of the four
/// addresses is used, and haproxy logs no connect() and no bind() that failed.
fn haproxy_uses() -> Result<()> {
    let scene = scene()?;
    let to = format!("{UPSTREAM}:{UPSTREAM_PORT}");
    let text =
        advice(&scene.proxy, &["haproxy", "--to", &to, "--pool", SOURCES, "--rate", "2000"])?;
    let config = scene.folder.path().join("haproxy.cfg");
    let frontend = format!("frontend f\n bind {PROXY}:8080\n default_backend app\n");
    fs::write(
        &config,
        format!(
            "global\n log stdout format raw local0\n nbthread 1\n{DEFAULTS} log global\n{frontend}{text}"
        ),
    )?;
    let log = scene.folder.path().join("haproxy.log");
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(&config).stdin(Stdio::null());
    command.stdout(File::create(&log)?).stderr(Stdio::null());
    let _haproxy = scene.proxy.run(|| Process::spawn(&mut command))?;
    scene.wait_for_listeners(&[8080])?;
    scene.load(60, 3)?;
    let sources = sources(&scene)?;
    ensure!(sources.len() == 4, "connections from {sources:?}");
    let log = fs::read_to_string(&log)?;
    ensure!(!log.contains("Connect() failed") && !log.contains("Cannot bind"), "{log}");
    Ok(())
}

/// squid accepts what `tracer advise squid` prints for each pool of [`POOL`] and three kinds of `--to`, with exit code 0 and
/// without an error.
fn squid_accepts() -> Result<()> {
    let netns = NetNs::new()?;
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("squid.conf");
    for to in ["*:443", "10.0.1.7:8080", "10.0.0.0/8,fd00:1::/64"] {
        for pool in POOL {
            let advice = advice(&netns, &["squid", "--to", to, "--pool", pool, "--rate", "1000"])?;
            let folder = path(folder.path())?;
            fs::write(
                &config,
                format!("http_port 127.0.0.1:3128\ncoredump_dir {folder}\n{advice}"),
            )?;
            let ended = run(&netns, "squid", &["-k", "parse", "-f", path(&config)?])?;
            let said = ended.stderr.contains("Bungled") || ended.stderr.contains("ERROR");
            ensure!(ended.code() == 0 && !said, "{pool} {to}: {}\n{advice}", ended.stderr);
        }
    }
    Ok(())
}

/// The sysctls that `tracer advise sysctl` may set, as they are.
fn settings(netns: &NetNs) -> Result<Vec<String>> {
    let names =
        ["ip_local_port_range", "ip_local_reserved_ports", "tcp_tw_reuse", "tcp_timestamps"];
    let read = |name: &str| {
        let text = fs::read_to_string(format!("/proc/sys/net/ipv4/{name}"))?;
        Ok(text.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    netns.run(|| names.iter().map(|name| read(name)).collect())
}

/// sysctl(8) sets what `tracer advise sysctl` prints: a range from 10240 to 65535, in which the port of a listening service is
/// reserved, too, tcp_tw_reuse 1 and tcp_timestamps 1. After that, there is nothing more to advise; and the two commands in the
/// comments restore all four settings.
fn sysctls() -> Result<()> {
    let netns = NetNs::new()?;
    netns.sysctl("ipv4/tcp_timestamps", "0")?;
    netns.sysctl("ipv4/ip_local_reserved_ports", "40000-40003")?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("60-tracer.conf");
    let address = "127.0.0.1:15432".parse()?;
    let _service = netns.run(|| -> Result<Sock> {
        let sock = Sock::tcp(address)?;
        sock.bind(address)?;
        sock.listen(1)?;
        Ok(sock)
    })?;
    let before = settings(&netns)?;
    let text = advice(&netns, &["sysctl", "--rate", "1000"])?;
    fs::write(&file, &text)?;
    let ended = run(&netns, "sysctl", &["-p", path(&file)?])?;
    ensure!(ended.code() == 0 && ended.stderr.is_empty(), "{ended:?}\n{text}");
    let set = settings(&netns)?;
    ensure!(set == ["10240 65535", "15432,40000-40003", "1", "1"], "{set:?}\n{text}");
    let again = advice(&netns, &["sysctl", "--window", "0"])?;
    ensure!(again.lines().all(|line| line.starts_with('#') || line.is_empty()), "{again}");
    let undo = undo(&text);
    ensure!(undo.len() == 2, "{text}");
    for command in undo {
        let ended = run(&netns, "sh", &["-c", command])?;
        ensure!(ended.code() == 0 && ended.stderr.is_empty(), "{command}: {ended:?}");
    }
    let after = settings(&netns)?;
    ensure!(after == before, "{before:?} was not restored: {after:?}");
    Ok(())
}

/// Addresses of this namespace, each with the length of its prefix.
fn addresses(netns: &NetNs) -> Result<Vec<String>> {
    let ended = run(netns, "ip", &["-o", "address", "show", "dev", "t0", "scope", "global"])?;
    Ok(ended
        .stdout
        .lines()
        .filter_map(|line| line.split_whitespace().nth(3))
        .map(str::to_owned)
        .collect())
}

/// `ip -batch` adds the addresses of the pool that the host does not have yet, as `tracer advise ip` prints them: all (three, or
/// four with IPv6) are deprecated, so that the kernel still chooses the first one. After that, `advise` prints none to add; and
/// the same lines with `delete` restore what was there.
fn adds_addresses() -> Result<()> {
    let (netns, other) = (NetNs::new()?, NetNs::new()?);
    netns.veth(&["10.2.0.1/24"], &other, &["10.2.0.2/24"])?;
    let folder = tempfile::tempdir()?;
    let batch = folder.path().join("addresses");
    let pool = if crate::harness::probe::no_ipv6().is_some() {
        SOURCES
    } else {
        "10.2.0.1,10.2.0.3-10.2.0.5,fd00::3"
    };
    let arguments = ["ip", "--pool", pool, "--to", "10.2.0.2:80", "--rate", "1000"];
    let text = advice(&netns, &arguments)?;
    fs::write(&batch, &text)?;
    let before = addresses(&netns)?;
    let ended = run(&netns, "ip", &["-batch", path(&batch)?])?;
    ensure!(ended.code() == 0, "{ended:?}\n{text}");
    let count = if pool == SOURCES { 4 } else { 5 };
    let added = addresses(&netns)?;
    ensure!(added.len() == count && added.contains(&"10.2.0.5/32".to_owned()), "{added:?}");
    // The kernel chooses none of them by itself: they are deprecated.
    let shown = run(&netns, "ip", &["-o", "address", "show", "dev", "t0", "scope", "global"])?;
    let deprecated = shown.stdout.lines().filter(|line| line.contains(" deprecated "));
    ensure!(deprecated.count() == count - 1, "{}", shown.stdout);
    let route = run(&netns, "ip", &["route", "get", "10.2.0.2"])?;
    ensure!(route.stdout.contains("src 10.2.0.1 "), "{}", route.stdout);
    let again = advice(&netns, &arguments)?;
    ensure!(!again.contains("\naddress add "), "{again}");
    fs::write(
        &batch,
        text.replace("address add", "address delete").replace(" preferred_lft 0", ""),
    )?;
    let ended = run(&netns, "ip", &["-batch", path(&batch)?])?;
    ensure!(ended.code() == 0, "{ended:?}");
    ensure!(addresses(&netns)? == before, "{:?}", addresses(&netns)?);
    Ok(())
}
