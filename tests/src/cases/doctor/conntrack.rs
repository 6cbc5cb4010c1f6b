//! Connections that this host itself drops: it has no port left to translate them to, or no entry to track them with.

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use super::{
    edge::{begin, listen},
    table,
};
use crate::harness::{
    netns::NetNs,
    process::Process,
    sock::Sock,
    starting::output,
    tracer::{
        doctor::{Diagnosis, doctor},
        wait_for,
    },
};

const WINDOW: &[&str] = &["--window", "3"];
/// Ports of the narrow rule.
const PORTS: &str = ":2000-2049";
const LIMIT: Duration = Duration::from_secs(30);
/// With more entries than this, filling the table takes too long.
const MOST_ENTRIES: u32 = 600_000;

/// A client, a gateway that translates its address, and an upstream.
struct Gateway {
    client: NetNs,
    here: NetNs,
    upstream: SocketAddr,
    _listener: Sock,
    _there: NetNs,
}

impl Gateway {
    fn new() -> Result<Self> {
        let (client, here, there) = (NetNs::new()?, NetNs::new()?, NetNs::new()?);
        client.veth(&["10.2.1.1/24"], &here, &["10.2.1.2/24"])?;
        // The next pair has the same names.
        for step in ["link set t0 down", "link set t0 name in0", "link set in0 up"] {
            here.ip(step)?;
        }
        here.veth(&["10.2.2.1/24"], &there, &["10.2.2.2/24"])?;
        client.ip("route add default via 10.2.1.2")?;
        // Of so few ports, those in use are so many that the client's sockets are looked at.
        client.sysctl("ipv4/ip_local_port_range", "40000 40199")?;
        // SYNs are sent again each second, so that the window has some, however late it begins on a busy machine.
        for name in ["ipv4/tcp_syn_retries", "ipv4/tcp_syn_linear_timeouts"] {
            client.sysctl(name, "120")?;
        }
        here.sysctl("ipv4/ip_forward", "1")?;
        nft(&here, "add table ip nat")?;
        nft(&here, "add chain ip nat post { type nat hook postrouting priority 100; }")?;
        let upstream: SocketAddr = "10.2.2.2:8080".parse()?;
        let listener = there.run(|| listen(upstream, 4_096))?;
        let gateway = Self { client, here, upstream, _listener: listener, _there: there };
        gateway.masquerade(&format!("to {PORTS}"))?;
        Ok(gateway)
    }

    /// Makes this the only rule.
    fn masquerade(&self, ports: &str) -> Result<()> {
        nft(&self.here, "flush chain ip nat post")?;
        let rule = format!("add rule ip nat post oifname t0 meta l4proto tcp masquerade {ports}");
        nft(&self.here, &rule)
    }

    /// Begins this many connections, without waiting for them.
    fn begin(&self, netns: &NetNs, count: usize) -> Result<Vec<Sock>> {
        netns.run(|| (0..count).map(|_| begin(self.upstream)).collect())
    }

    /// Waits until the gateway tracks this many connections.
    fn wait_for(&self, entries: u32) -> Result<()> {
        wait_for(&format!("{entries} entries"), LIMIT, || {
            Ok((setting(&self.here, "count")? == entries).then_some(()))
        })
    }

    /// Looks at the gateway and the client.
    fn look(&self) -> Result<Diagnosis> {
        let client = self.client.inum().to_string();
        doctor(&self.here, &[WINDOW, &["--netns", &client]].concat())
    }
}

fn nft(netns: &NetNs, command: &str) -> Result<()> {
    let nft = netns.run(|| output(Command::new("nft").arg(command)))?;
    ensure!(nft.status.success(), "nft {command:?}: {nft:?}");
    Ok(())
}

/// A number below /proc/sys/net/netfilter, without its prefix.
fn setting(netns: &NetNs, name: &str) -> Result<u32> {
    let path = format!("/proc/sys/net/netfilter/nf_conntrack_{name}");
    let text = netns.run(|| fs::read_to_string(&path)).with_context(|| path.clone())?;
    text.trim().parse().with_context(|| path)
}

/// The diagnosis is that of the scenario, with this exit code.
fn expect(found: &Diagnosis, exit: i32, scenario: &str) -> Result<()> {
    ensure!(found.exit_but_for_the_range() == exit, "not {exit}: {found:?}");
    table::check(scenario, found)
}

/// A neighbour's connections are translated to one address with 50 ports. Half of them is well; from the 51st connection on, the
/// gateway drops SYNs; and with the advice they get through.
pub(super) fn snat_exhausted() -> Result<()> {
    let gateway = Gateway::new()?;
    let _half = gateway.begin(&gateway.client, 25)?;
    gateway.wait_for(25)?;
    expect(&gateway.look()?, 0, "snat_half_full")?;

    let _rest = gateway.begin(&gateway.client, 29)?;
    gateway.wait_for(50)?;
    let found = gateway.look()?;
    expect(&found, 2, "snat_exhausted")?;
    let full = found.finding("snat_exhausted")?;
    for (key, number) in
        [("snat.live", 50), ("snat.capacity", 50), ("snat.untranslated", 0), ("syn.unanswered", 4)]
    {
        ensure!(full.count(key)? == number, "{key}: {full:?}");
    }
    let failed = full.count("conntrack.insert_failed")?;
    ensure!(failed > 0 && failed == full.count("conntrack.drop")?, "{full:?}");
    ensure!(full.severity == "critical" && full.certainty == "measured", "{full:?}");
    ensure!(full.advice.iter().all(|it| !it.what.contains("spread")), "{full:?}");

    gateway.masquerade("")?;
    gateway.wait_for(54)?;
    expect(&gateway.look()?, 0, "snat_with_more_ports")
}

/// The gateway's own five connections, which keep their ports, hold five of the rule's 50, and a neighbour's connections the
/// other 45. Doctor finds `snat_exhausted`: 50 ports live, five of them untranslated.
pub(super) fn snat_shared_with_own_connections() -> Result<()> {
    let gateway = Gateway::new()?;
    let own = |port: u16| -> Result<Sock> {
        let sock = Sock::tcp(gateway.upstream)?;
        sock.bind(format!("10.2.2.1:{port}").parse()?)?;
        sock.connect(gateway.upstream)?;
        Ok(sock)
    };
    let _own: Vec<Sock> = gateway.here.run(|| (2_000..2_005).map(own).collect::<Result<_>>())?;
    let _others = gateway.begin(&gateway.client, 49)?;
    gateway.wait_for(50)?;
    let found = gateway.look()?;
    expect(&found, 2, "snat_exhausted")?;
    let full = found.finding("snat_exhausted")?;
    ensure!(full.count("snat.live")? == 50, "{full:?}");
    ensure!(full.count("snat.untranslated")? == 5, "{full:?}");
    Ok(())
}

/// At 3/4 of nf_conntrack_max, doctor finds nothing; with the table full, it finds `conntrack_full`, and that packets are dropped.
/// Only the test's namespace is full: the kernel compares the limit with the count of each namespace (`__nf_conntrack_alloc` in
/// net/netfilter/nf_conntrack_core.c). An error also if the limit is above [`MOST_ENTRIES`].
pub(super) fn conntrack_full() -> Result<()> {
    let netns = NetNs::new()?;
    nft(&netns, "add table ip f")?;
    nft(&netns, "add chain ip f out { type filter hook output priority 0; }")?;
    nft(&netns, "add rule ip f out ct state new accept")?;
    let max = setting(&netns, "max")?;
    ensure!(max <= MOST_ENTRIES, "nf_conntrack_max is {max}: this test fills the table");
    track(&netns, 0..max / 4 * 3)?;
    expect(&doctor(&netns, WINDOW)?, 0, "conntrack_not_full")?;

    track(&netns, max / 4 * 3..max)?;
    let peer: SocketAddr = "127.0.0.1:8080".parse()?;
    let _waiting: Vec<Sock> = netns.run(|| (0..3).map(|_| begin(peer)).collect::<Result<_>>())?;
    let found = doctor(&netns, WINDOW)?;
    expect(&found, 2, "conntrack_full")?;
    let full = found.finding("conntrack_full")?;
    ensure!(full.count("conntrack.count")? == u64::from(max), "{full:?}");
    ensure!(full.number("conntrack.drop")? > 0.0, "{full:?}");
    ensure!(full.count("conntrack.insert_failed")? == 0, "{full:?}");
    Ok(())
}

/// Makes entries of established connections, which the kernel does not remove early.
fn track(netns: &NetNs, numbers: std::ops::Range<u32>) -> Result<()> {
    let mut lines = String::new();
    for number in numbers {
        let (host, port) = (number / 60_000, 1_024 + number % 60_000);
        writeln!(
            lines,
            "-I -s 10.9.{host}.2 -d 10.8.0.7 -p tcp --sport {port} --dport 443 --state ESTABLISHED --timeout 600 -u ASSURED,SEEN_REPLY"
        )?;
    }
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), lines)?;
    let mut command = Command::new("conntrack");
    command.arg("-R").arg(file.path()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut restore = netns.run(|| Process::spawn(&mut command))?;
    let status = restore.wait(LIMIT)?;
    if !status.success() {
        bail!("conntrack -R: {status}");
    }
    Ok(())
}

/// In a new namespace, where nothing is translated or tracked, the checks `conntrack` and `snat` are ok, and doctor finds nothing
/// (exit code 0).
pub(super) fn not_in_use() -> Result<()> {
    let netns = NetNs::new()?;
    let none: &[&str] = &["--window", "0"];
    let found = doctor(&netns, none)?;
    for check in ["conntrack", "snat"] {
        ensure!(found.check(check)?.status == "ok", "{found:?}");
    }
    expect(&found, 0, "conntrack_not_in_use")
}
