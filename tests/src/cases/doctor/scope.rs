//! `tracer doctor --pid` and `--cgroup`: what other processes do is counted, and not judged.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use super::edge::Edge;
use crate::harness::{
    cgroup::Cgroup,
    maker::Maker,
    process::Helper,
    sock::Sock,
    tracer::doctor::{Diagnosis, Rounds, doctor},
};

/// A process in the edge's namespace that holds this many connections to `peer`.
fn holder(edge: &Edge, peer: &str, count: usize) -> Result<Helper> {
    let mut helper = edge.here.run(|| Helper::spawn(&["hold", peer, &count.to_string()]))?;
    helper.ready()?;
    Ok(helper)
}

/// The ports of the destinations that are full, or soon are.
fn full(found: &Diagnosis) -> Vec<u16> {
    let full = found.findings.iter().filter(|it| it.id == "ports_exhausted");
    full.filter_map(|it| it.port).collect()
}

/// Two processes have each filled a tuple (49 of 50 ports): with `--pid`, doctor finds only the named one's (exit code 2), and
/// nothing for a third process with 2 ports. Of a tuple that two processes use, all 49 ports count. A port that another process
/// holds by bind() is `poisoned_ports`, with the id of that process.
pub(super) fn of_a_process() -> Result<()> {
    let edge = Edge::new(50)?;
    let (second, _second) = edge.another(8082)?;
    let (third, _third) = edge.another(8083)?;
    let [first, second, third] = [edge.upstream, second, third].map(|peer| peer.to_string());
    let one = holder(&edge, &first, 49)?;
    let other = holder(&edge, &second, 49)?;
    let few = holder(&edge, &third, 2)?;
    let of =
        |helper: &Helper| doctor(&edge.here, &["--window", "0", "--pid", &helper.id().to_string()]);
    let all = doctor(&edge.here, &["--window", "0"])?;
    ensure!(full(&all) == [8081, 8082], "without --pid: {all:?}");
    let (of_one, of_other, of_few) = (of(&one)?, of(&other)?, of(&few)?);
    ensure!(of_one.exit == 2 && full(&of_one) == [8081], "{of_one:?}");
    ensure!(of_other.exit == 2 && full(&of_other) == [8082], "{of_other:?}");
    ensure!(of_few.exit_but_for_the_range() == 0, "a process that does no harm: {of_few:?}");
    let _rest = holder(&edge, &third, 47)?;
    let shared = of(&few)?;
    ensure!(full(&shared) == [8083], "{shared:?}");
    let in_use = shared.finding("ports_exhausted")?.count("ports.in_use")?;
    ensure!(in_use == 49, "{in_use} of 49 ports are counted");
    // No connect() of the process is given the port that the process of this test holds by bind().
    edge.here.sysctl("ipv4/ip_local_port_range", "40000 40059")?;
    let bound: SocketAddr = "10.2.0.1:40055".parse()?;
    let sock = edge.here.run(|| Sock::tcp(bound))?;
    sock.bind(bound)?;
    let poisoned = of(&few)?;
    let finding = poisoned.finding("poisoned_ports")?;
    ensure!(finding.pid == Some(std::process::id()), "{poisoned:?}");
    ensure!(finding.count("ports.bound")? == 1, "{poisoned:?}");
    Ok(())
}

/// With `--cgroup`, 49 connections of another cgroup to the first upstream are not judged; 49 of the chosen one to the second are
/// (exit code 2), and the finding names the container. A TIME_WAIT belongs to the cgroup of the process that called connect(),
/// which is another one: within two more rounds, no tuple is full. SIGTERM ends doctor with the last round's exit code.
pub(super) fn of_a_cgroup() -> Result<()> {
    let edge = Edge::new(50)?;
    let (second, _second) = edge.another(8082)?;
    let chosen = Cgroup::container()?;
    let maker = edge.here.run(|| Maker::spawn(&chosen))?;
    let _others = edge.open(49)?;
    let cgroup = chosen.path().to_str().context("the path of the cgroup")?;
    let options = ["--window", "0.4", "--watch", "0.4", "--cgroup", cgroup];
    let mut rounds = Rounds::start(&edge.here, &options)?;
    let round = rounds.round()?;
    ensure!(round.exit_but_for_the_range() == 0, "another cgroup's sockets: {round:?}");
    let held = (0..49).map(|_| {
        let sock = maker.tcp(second)?;
        sock.connect(second)?;
        Ok(sock)
    });
    let held = held.collect::<Result<Vec<Sock>>>()?;
    let round = rounds.until("a full tuple of the cgroup", |it| it.exit == 2)?;
    ensure!(full(&round) == [8082], "{round:?}");
    let id = chosen.path().file_name().and_then(|name| name.to_str());
    let container = round.finding("ports_exhausted")?.container.as_deref();
    ensure!(container == id, "{container:?} is not {id:?}");
    // TIME_WAITs of the process of this test, which called connect().
    drop(held);
    let round = rounds.round()?;
    let round = if full(&round) == [8082] { rounds.round()? } else { round };
    ensure!(full(&round).is_empty(), "TIME_WAITs of another cgroup: {round:?}");
    let (code, stderr) = rounds.stop(Signal::TERM)?;
    ensure!(code == round.exit, "it ended with {code}: {stderr}");
    Ok(())
}
