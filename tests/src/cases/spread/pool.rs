//! `spread::pool`: all forms of `--pool` and `--netns`.

use std::{collections::BTreeMap, net::IpAddr, process::Command};

use anyhow::{Result, ensure};

use super::{Case, Host, POOL, Plan, source};
use crate::harness::{
    netns::NetNs,
    starting::output,
    tracer::{START_LIMIT, run, spread::Spread},
};

pub(super) fn cases(plan: &Plan) -> Vec<Case> {
    plan.group("spread::pool")
        .once(&[
            ("network", network),
            ("interface", interface),
            ("auto", auto),
            ("weights", weights),
            ("as_many_as_can_be", as_many_as_can_be),
            ("netns_by_name", netns_by_name),
            ("netns_by_path", netns_by_path),
        ])
        .cases()
}

fn addresses(texts: &[&str]) -> Result<Vec<IpAddr>> {
    texts.iter().map(|text| Ok(text.parse()?)).collect()
}

/// Opens `count` connections, and closes them when all are open. Returns how many come from each source.
fn sources(host: &mut Host, count: u32) -> Result<BTreeMap<IpAddr, u32>> {
    let server = host.server("10.1.0.1:7000")?;
    let mut sources = BTreeMap::new();
    let mut held = Vec::new();
    for _ in 0..count {
        let sock = host.connect(server.address)?;
        *sources.entry(source(&sock)?).or_default() += 1;
        held.push(sock);
    }
    held.iter().try_for_each(crate::harness::sock::Sock::set_reset_on_close)?;
    Ok(sources)
}

/// Checks that the pool has exactly these addresses, and that connections are spread evenly over them: 17 to 23 from each, of 20
/// on average.
fn check_pool(host: &mut Host, expected: &[&str]) -> Result<()> {
    let expected = addresses(expected)?;
    let found = host.rule.status()?.pool();
    ensure!(found == expected, "the pool is {found:?}, not {expected:?}");
    let sources = sources(host, 20 * u32::try_from(expected.len())?)?;
    let even = sources.keys().eq(&expected) && sources.values().all(|it| (17..=23).contains(it));
    ensure!(even, "connections come from {sources:?}");
    Ok(())
}

/// `--pool` with a /29 network of which the host has all six addresses except the first and the last one: the pool is these six,
/// evenly used. The other two are the network's own and the broadcast address.
fn network() -> Result<()> {
    let mut host = Host::new()?;
    let hosts = ["10.6.0.9", "10.6.0.10", "10.6.0.11", "10.6.0.12", "10.6.0.13", "10.6.0.14"];
    for address in hosts {
        host.stage.netns.ip(&format!("addr add {address}/32 dev lo"))?;
    }
    let spread = host.spread(&["10.6.0.8/29"], &[])?;
    check_pool(&mut host, &hosts)?;
    spread.stop()?;
    host.rule.check_nothing_left()
}

/// `--pool INTERFACE`: the pool is the two addresses of the interface, evenly used, and a third one, which is added later, is
/// used, too.
fn interface() -> Result<()> {
    let mut host = Host::new()?;
    let other = NetNs::new()?;
    host.stage.netns.veth(&["10.7.0.1/24", "10.7.0.2/24"], &other, &["10.7.0.9/24"])?;
    let spread = host.spread(&["t0"], &[])?;
    check_pool(&mut host, &["10.7.0.1", "10.7.0.2"])?;
    host.stage.netns.ip("addr add 10.7.0.3/24 dev t0")?;
    host.rule.status_when("the new address", |status| status.pool.len() == 3)?;
    let made = sources(&mut host, 60)?;
    ensure!(made.contains_key(&"10.7.0.3".parse::<IpAddr>()?), "the new one is not in {made:?}");
    spread.stop()?;
    host.rule.check_nothing_left()
}

/// `--pool auto` takes no link-local and host-scope address, and no deprecated one: the pool is the other six addresses of the
/// host, evenly used.
fn auto() -> Result<()> {
    let mut host = Host::new()?;
    host.stage.netns.ip("addr add 169.254.7.7/32 dev lo")?;
    host.stage.netns.ip("addr add 10.8.0.1/32 dev lo scope host")?;
    host.stage.netns.ip("addr add 10.8.0.2/32 dev lo preferred_lft 0")?;
    // The destination's network is local to this host.
    host.stage.netns.ip("route add local 10.1.0.0/24 dev lo")?;
    let spread = host.spread(&["auto"], &["--to", "10.1.0.0/24"])?;
    let all = ["10.1.0.1", "10.1.0.2", POOL[0], POOL[1], POOL[2], POOL[3]];
    check_pool(&mut host, &all)?;
    spread.stop()?;
    host.rule.check_nothing_left()
}

/// `--pool ADDRESS=2`: of 900 connections, that address gets twice as many as the other one, within 10 %.
fn weights() -> Result<()> {
    let mut host = Host::new()?;
    let heavy = format!("{}=2", POOL[0]);
    let spread = host.spread(&[&heavy, POOL[1]], &[])?;
    let made = sources(&mut host, 900)?;
    let of = |address: &str| -> Result<u32> {
        Ok(made.get(&address.parse()?).copied().unwrap_or_default())
    };
    let right = of(POOL[0])?.abs_diff(600) <= 60 && of(POOL[1])?.abs_diff(300) <= 30;
    ensure!(right, "two to one: {made:?}");
    spread.stop()?;
    host.rule.check_nothing_left()
}

/// A pool of 256 addresses, the most that there can be, which are local by a route: of 2,560 connections, each address gets 5 to
/// 15.
fn as_many_as_can_be() -> Result<()> {
    let mut host = Host::new()?;
    host.stage.netns.ip("route add local 10.5.0.0/16 dev lo")?;
    let spread = host.spread(&["10.5.0.0-10.5.0.255"], &[])?;
    let made = sources(&mut host, 2560)?;
    let in_pool =
        |address: &IpAddr| matches!(address, IpAddr::V4(v4) if v4.octets()[..3] == [10, 5, 0]);
    ensure!(made.len() == 256 && made.keys().all(in_pool), "{} sources: {made:?}", made.len());
    ensure!(made.values().all(|count| (5..=15).contains(count)), "not 10 of each: {made:?}");
    spread.stop()?;
    host.rule.check_nothing_left()
}

/// A name of the application's namespace in /run/netns; removed on drop.
struct Name(String);

impl Name {
    fn new(host: &Host) -> Result<Self> {
        let name = Self(host.rule.name().to_owned());
        let process = host.app.id().to_string();
        let mut command = Command::new("ip");
        let ended = run(command.args(["netns", "attach", &name.0, &process]), START_LIMIT)?;
        ensure!(ended.code() == 0, "ip netns attach: {ended:?}");
        Ok(name)
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        output(Command::new("ip").args(["netns", "delete", &self.0])).ok();
    }
}

/// `tracer spread` runs in another namespace than the pool's, and gets the pool's by `--netns`, with the value that `path`
/// returns: the pool is used evenly, and the status has the namespace's name.
fn from_outside(path: impl Fn(&Name) -> String) -> Result<()> {
    let mut host = Host::new()?;
    let name = Name::new(&host)?;
    let cgroup = host.cgroup.path().to_string_lossy().into_owned();
    let netns = path(&name);
    let arguments = ["--cgroup", &cgroup, "--netns", &netns, "--on-exit", "release", "--pool"];
    let spread = Spread::start(&host.rule, &[&arguments[..], &POOL].concat())?;
    check_pool(&mut host, &POOL)?;
    let status = host.rule.status()?;
    ensure!(status.netns_name.as_deref() == Some(name.0.as_str()), "{status:?}");
    spread.stop()?;
    host.rule.check_nothing_left()
}

/// `--netns` with a name in /run/netns: see [`from_outside`].
fn netns_by_name() -> Result<()> {
    from_outside(|name| name.0.clone())
}

/// `--netns` with the path `/run/netns/NAME`: see [`from_outside`].
fn netns_by_path() -> Result<()> {
    from_outside(|name| format!("/run/netns/{}", name.0))
}
