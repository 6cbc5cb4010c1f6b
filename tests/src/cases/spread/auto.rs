//! `spread::auto`: `--pool auto` on a host with two interfaces: clients on `front`, servers on `back`. Nothing forwards between
//! the two networks, so a connection from the wrong address gets no answer.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};

use super::{Application, Case, Plan, source};
use crate::{
    cases::errors::{BAD_CONFIG, says},
    harness::{
        netns::NetNs,
        probe::no_ipv6,
        process::Helper,
        sock::Sock,
        tracer::{
            Ended, START_LIMIT, run,
            spread::Spread,
            status::{Candidate, Status},
        },
    },
};

pub(super) fn cases(plan: &Plan) -> Vec<Case> {
    plan.group("spread::auto")
        .once(&[
            ("two_legs", two_legs),
            ("without_destinations", without_destinations),
            ("part_of_a_destination", part_of_a_destination),
            ("multipath", multipath),
            ("dry_run", dry_run),
            ("no_route", no_route),
            ("several_interfaces", several_interfaces),
            ("named_addresses", named_addresses),
            ("follows_routes", follows_routes),
        ])
        .once(&[("ipv6", ipv6)])
        .unless(no_ipv6())
        .cases()
}

/// How many connections a test opens to see which sources they get.
const CONNECTS: usize = 60;

struct Proxy {
    application: Application,
    netns: NetNs,
    clients: NetNs,
    servers: NetNs,
    _inhabitant: Helper,
}

impl Proxy {
    /// Makes the three namespaces (proxy, clients, servers), joined by two links, and the application in the proxy's one; the
    /// proxy's default route leads to the clients.
    fn new() -> Result<Self> {
        let [netns, clients, servers] = [NetNs::new()?, NetNs::new()?, NetNs::new()?];
        let proxy = [(&clients, "front", "10.9.0", "fd09:"), (&servers, "back", "10.3.0", "fd03:")];
        for (other, name, v4, v6) in proxy {
            netns.veth(&[], other, &[&format!("{v4}.254/24"), &format!("{v6}:fe/64 nodad")])?;
            netns.ip("link set t0 down")?;
            netns.ip(&format!("link set t0 name {name}"))?;
            for last in 1..=3 {
                netns.ip(&format!("addr add {v4}.{last}/24 dev {name}"))?;
            }
            netns.ip(&format!("link set {name} up"))?;
            for last in 1..=3 {
                netns.ip(&format!("addr add {v6}:{last}/64 dev {name} nodad"))?;
            }
        }
        netns.ip("route add default via 10.9.0.254")?;
        // With this, a connect() without an answer fails within 3 s.
        netns.sysctl("ipv4/tcp_syn_retries", "1")?;
        let mut inhabitant = netns.run(|| Helper::spawn(&["keep"]))?;
        inhabitant.ready()?;
        let application = Application::new(&netns)?;
        Ok(Self { application, netns, clients, servers, _inhabitant: inhabitant })
    }

    fn spread(&self, arguments: &[&str]) -> Result<Spread> {
        self.application.spread_in(&self.netns, &["auto"], arguments)
    }

    /// Runs a `tracer spread` for the application's cgroup, which ends by itself (a dry run, or an error), in the proxy's
    /// namespace.
    fn run(&self, arguments: &[&str]) -> Result<Ended> {
        let cgroup = self.application.cgroup.path().to_string_lossy().into_owned();
        let mut command = self.application.rule.command(&["--cgroup", &cgroup])?;
        command.args(arguments);
        self.netns.run(|| run(&mut command, START_LIMIT))
    }

    /// Opens `count` connections, each of which must succeed. Returns their source addresses, each once.
    fn sources(&self, peer: &str, count: usize) -> Result<Vec<String>> {
        let peer: SocketAddr = peer.parse()?;
        let mut held = Vec::new();
        let mut sources = Vec::new();
        for number in 0..count {
            let sock = self.application.connect(peer).with_context(|| format!("call {number}"))?;
            sources.push(source(&sock)?.to_string());
            sock.set_reset_on_close()?;
            held.push(sock);
        }
        sources.sort_unstable();
        sources.dedup();
        Ok(sources)
    }

    fn status(&self) -> Result<Status> {
        self.application.rule.status()
    }
}

fn listen(netns: &NetNs, address: &str) -> Result<Sock> {
    let address: SocketAddr = address.parse()?;
    netns.run(|| {
        let listener = Sock::tcp(address)?;
        listener.bind(address)?;
        listener.listen(4096)?;
        Ok(listener)
    })
}

/// The addresses in a list of the status.
fn addresses(list: &[Candidate]) -> Vec<&str> {
    list.iter().map(|one| one.address.as_str()).collect()
}

const BACK: [&str; 3] = ["10.3.0.1", "10.3.0.2", "10.3.0.3"];
const FRONT: [&str; 3] = ["10.9.0.1", "10.9.0.2", "10.9.0.3"];

/// With `--to` a network behind `back`, the pool is the three addresses of that interface: 60 of 60 connections succeed, from all
/// of them. The status and stderr have those of `front` as passed over, with the reason.
fn two_legs() -> Result<()> {
    let proxy = Proxy::new()?;
    let _server = listen(&proxy.servers, "10.3.0.254:7000")?;
    let spread = proxy.spread(&["--to", "10.3.0.0/24"])?;
    let sources = proxy.sources("10.3.0.254:7000", CONNECTS)?;
    ensure!(sources == BACK, "connections come from {sources:?}");
    let status = proxy.status()?;
    ensure!(addresses(&status.taken) == BACK, "{status:?}");
    let first = Candidate {
        address: FRONT[0].to_owned(),
        interface: "front".to_owned(),
        reason: Some("no route to 10.3.0.0/24 uses front".to_owned()),
    };
    ensure!(status.passed_over.first() == Some(&first), "{status:?}");
    let line = "passed over: 10.9.0.1 (front): no route to 10.3.0.0/24 uses front";
    let ended = spread.stop()?;
    ensure!(ended.stderr.contains(line), "{ended:?}");
    proxy.application.rule.check_nothing_left()
}

/// Without `--to`, the pool is the three addresses of the default route's interface, `front`. The network behind `back` is in the
/// status as left alone: 60 connections to it come from the first address of `back`, and are exempt (`other_destination`).
fn without_destinations() -> Result<()> {
    let proxy = Proxy::new()?;
    let _server = listen(&proxy.servers, "10.3.0.254:7000")?;
    let _client = listen(&proxy.clients, "10.9.0.254:7000")?;
    let spread = proxy.spread(&[])?;
    let status = proxy.status()?;
    ensure!(addresses(&status.taken) == FRONT, "{status:?}");
    let elsewhere = status.left_alone.first().map(|it| it.network.as_str());
    ensure!(elsewhere == Some("10.3.0.0/24"), "{status:?}");
    let sources = proxy.sources("10.9.0.254:7000", CONNECTS)?;
    ensure!(sources == FRONT, "connections come from {sources:?}");
    let sources = proxy.sources("10.3.0.254:7000", CONNECTS)?;
    ensure!(sources == BACK[..1], "connections come from {sources:?}");
    let status = proxy.application.rule.status()?;
    let exempt = status.decided("other_destination")?;
    ensure!(exempt == CONNECTS as u64, "{status:?}");
    spread.stop()?;
    proxy.application.rule.check_nothing_left()
}

/// `--to` names a network (/16) of which a part (/24) is reached over `back`, the rest over the default route: connections to the
/// part come from the three addresses of `back`, those to the rest from the first one of `front`.
fn part_of_a_destination() -> Result<()> {
    let proxy = Proxy::new()?;
    proxy.clients.ip("addr add 10.3.7.7/32 dev lo")?;
    let _server = listen(&proxy.servers, "10.3.0.254:7000")?;
    let _other = listen(&proxy.clients, "10.3.7.7:7000")?;
    let spread = proxy.spread(&["--to", "10.3.0.0/16"])?;
    let sources = proxy.sources("10.3.0.254:7000", CONNECTS)?;
    ensure!(sources == BACK, "connections come from {sources:?}");
    let sources = proxy.sources("10.3.7.7:7000", CONNECTS)?;
    ensure!(sources == FRONT[..1], "connections come from {sources:?}");
    spread.stop()?;
    proxy.application.rule.check_nothing_left()
}

/// The route to the destination has two next hops: a dry run (exit code 0) takes all three addresses of each of the two
/// interfaces.
fn multipath() -> Result<()> {
    let proxy = Proxy::new()?;
    proxy.netns.ip("route add 10.5.0.0/16 nexthop via 10.9.0.254 nexthop via 10.3.0.254")?;
    let ended = proxy.run(&["--pool", "auto", "--to", "10.5.0.0/16", "--dry-run"])?;
    let all = "taken: 10.3.0.1 (back), 10.3.0.2 (back), 10.3.0.3 (back), 10.9.0.1 (front), 10.9.0.2 (front), \
               10.9.0.3 (front)\n";
    ensure!(ended.code() == 0 && ended.stdout.contains(all), "{ended:?}");
    Ok(())
}

/// `--dry-run` ends with exit code 0, and prints the three addresses of the interface to the servers as taken, all others as
/// passed over, each with the reason, and the size of the pool, 3.
fn dry_run() -> Result<()> {
    let proxy = Proxy::new()?;
    proxy.netns.ip("addr add 10.8.0.1/32 dev lo")?;
    let ended = proxy.run(&["--pool", "auto", "--to", "10.3.0.0/24", "--dry-run"])?;
    ensure!(ended.code() == 0, "{ended:?}");
    for line in [
        "taken: 10.3.0.1 (back), 10.3.0.2 (back), 10.3.0.3 (back)\n",
        "passed over: 10.8.0.1 (lo): no route to 10.3.0.0/24 uses lo\n",
        "passed over: 10.9.0.1 (front): no route to 10.3.0.0/24 uses front\n",
        "passed over: 127.0.0.1 (lo): loopback\n",
        "pool of 3 addresses",
    ] {
        ensure!(ended.stdout.contains(line), "{line:?} is missing: {ended:?}");
    }
    Ok(())
}

/// For an IPv6 destination, the pool is the three global IPv6 addresses of `back` that are not deprecated. The status has the
/// deprecated one, those of `front` and the IPv4 ones as passed over, each with its reason.
fn ipv6() -> Result<()> {
    let proxy = Proxy::new()?;
    proxy.netns.ip("addr add fd03::9/64 dev back nodad preferred_lft 0")?;
    let _server = listen(&proxy.servers, "[fd03::fe]:7000")?;
    let spread = proxy.spread(&["--to", "[fd03::/64]:7000"])?;
    let status = proxy.status()?;
    let back = ["fd03::1", "fd03::2", "fd03::3"];
    ensure!(addresses(&status.taken) == back, "{status:?}");
    let has = |address: &str, reason: &str| {
        let is = |it: &Candidate| it.address == address && it.reason.as_deref() == Some(reason);
        status.passed_over.iter().any(is)
    };
    let right = has("fd03::9", "deprecated")
        && has("fd09::1", "no route to [fd03::/64]:7000 uses front")
        && has("10.3.0.1", "no destination is an IPv4 one");
    ensure!(right, "{status:?}");
    let sources = proxy.sources("[fd03::fe]:7000", CONNECTS)?;
    ensure!(sources == back, "connections come from {sources:?}");
    spread.stop()?;
    proxy.application.rule.check_nothing_left()
}

/// No route to the destination, or no usable address: an error (exit code 78) with the reasons, and nothing is attached.
fn no_route() -> Result<()> {
    let proxy = Proxy::new()?;
    proxy.netns.ip("route add unreachable 10.4.0.0/16")?;
    let ended = proxy.run(&["--pool", "auto", "--to", "10.4.0.0/16", "--on-exit", "keep"])?;
    says(&ended, &[BAD_CONFIG], &["--pool auto", "no route to 10.4.0.0/16", "name the addresses"])?;
    proxy.netns.ip("link add side type veth peer name edis")?;
    proxy.netns.ip("addr add 10.6.0.1/24 dev side preferred_lft 0")?;
    proxy.netns.ip("link set side up")?;
    let ended = proxy.run(&["--pool", "auto", "--to", "10.6.0.0/24", "--on-exit", "keep"])?;
    let reasons =
        ["10.9.0.1 (front): no route to 10.6.0.0/24 uses front", "10.6.0.1 (side): deprecated"];
    says(&ended, &[BAD_CONFIG], &reasons)?;
    let attached = proxy.application.cgroup.attached()?;
    ensure!(attached == 0, "{attached} programs are attached");
    proxy.application.rule.check_nothing_left()
}

/// Two destinations that are reached over different interfaces: an error (exit code 78) that names both, because addresses of one
/// would be used towards the other.
fn several_interfaces() -> Result<()> {
    let proxy = Proxy::new()?;
    let arguments = ["--pool", "auto", "--to", "10.3.0.0/24", "10.9.0.0/24", "--on-exit", "keep"];
    let says_both =
        ["10.3.0.0/24 is reached over back", "10.9.0.0/24 is reached over front", "--rule"];
    says(&proxy.run(&arguments)?, &[BAD_CONFIG], &says_both)?;
    proxy.application.rule.check_nothing_left()
}

/// Named addresses of another interface than that of the routes, or of loopback, are used, with a warning each: in the status, on
/// stderr, and in a dry run (exit code 0), which has none for an address that fits.
fn named_addresses() -> Result<()> {
    let proxy = Proxy::new()?;
    let _server = listen(&proxy.servers, "10.3.0.254:7000")?;
    let pool = [BACK[0], FRONT[0], "::1"];
    let arguments = ["--to", "10.3.0.0/24", "--on-exit", "release"];
    let spread = proxy.application.spread_in(&proxy.netns, &pool, &arguments)?;
    let warnings = [
        "--pool 10.9.0.1: of front, but routes to 10.3.0.0/24 use back",
        "--pool ::1 is a loopback address",
    ];
    let status = proxy.status()?.warnings.join("\n");
    let stderr = spread.stop()?.stderr;
    let mut all = vec!["--pool"];
    all.extend(pool);
    all.extend(["--to", "10.3.0.0/24", "--dry-run"]);
    let ended = proxy.run(&all)?;
    ensure!(ended.code() == 0, "{ended:?}");
    for warning in warnings {
        for text in [&status, &stderr, &ended.stdout] {
            ensure!(text.contains(warning), "{warning:?} is missing: {text}");
        }
    }
    let ended = proxy.run(&["--pool", BACK[0], "--to", "10.3.0.0/24", "--dry-run"])?;
    ensure!(ended.code() == 0 && !ended.stdout.contains("warning"), "{ended:?}");
    proxy.application.rule.check_nothing_left()
}

/// An address that is added to the right interface is taken, one of the other interface passed over. When routes lead to the
/// network over the other interface, and then an address is added, the pool is all five addresses of that interface.
fn follows_routes() -> Result<()> {
    let proxy = Proxy::new()?;
    let spread = proxy.spread(&["--to", "10.3.0.0/24"])?;
    let rule = &proxy.application.rule;
    proxy.netns.ip("addr add 10.9.0.4/24 dev front")?;
    proxy.netns.ip("addr add 10.3.0.4/24 dev back")?;
    rule.status_when("the new addresses", |status| {
        status.pool.len() == 4 && addresses(&status.passed_over).contains(&"10.9.0.4")
    })?;
    // Two routes now lead to that network over the other interface; when an address is added, the agent reads the routes again.
    proxy.netns.ip("route add 10.3.0.0/25 via 10.9.0.254")?;
    proxy.netns.ip("route add 10.3.0.128/25 via 10.9.0.254")?;
    proxy.netns.ip("addr add 10.9.0.5/24 dev front")?;
    rule.status_when("the other interface", |status| {
        addresses(&status.taken) == ["10.9.0.1", "10.9.0.2", "10.9.0.3", "10.9.0.4", "10.9.0.5"]
    })?;
    spread.stop()?;
    rule.check_nothing_left()
}
