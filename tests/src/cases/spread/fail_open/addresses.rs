//! Addresses of the pool are removed and added again, with and without an agent that notices; and addresses that cannot be used
//! (no answer, tentative).

mod new;

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Result, ensure};
use rustix::process::Signal;

use super::{KEEP, all_spread, begin, none_spread};
use crate::{
    cases::{
        Case, Plan,
        errors::{BAD_CONFIG, says},
        spread::{Host, POOL, full_pipe::FullPipe, load::Load, source, status::shows_quarantine},
    },
    harness::{
        lateness::Lateness,
        netns::NetNs,
        probe::{self, Place},
        sock::Sock,
        tracer::{START_LIMIT, run, spread::Spread, status::Status, wait_for},
    },
};

pub(super) fn cases(plan: &Plan) -> Vec<Case> {
    plan.group("spread::fail_open")
        .once(&[
            ("address_removed", address_removed),
            ("address_removed_of_a_dead_agent", || removed_unseen(KEEP, Spread::kill)),
            ("address_removed_of_a_detached_rule", || {
                removed_unseen(&["--detach"], |spread| spread.wait().map(drop))
            }),
            ("address_removed_under_a_stopped_agent", removed_under_a_stopped_agent),
            ("address_that_anyone_may_bind", nonlocal_bind),
            ("address_that_nothing_answers_to", || {
                failing_address(20, Duration::from_millis(100), None)
            }),
            ("address_that_nothing_answers_to_seldom_used", || {
                failing_address(1, Duration::from_millis(250), None)
            }),
            ("address_that_nothing_answers_to_and_an_output_that_nobody_reads", || {
                failing_address(20, Duration::from_millis(100), Some(&FullPipe::new()?))
            }),
            ("new_address_that_nothing_answers_to", new::new_address),
            ("all_addresses_gone", all_addresses_gone),
        ])
        .once(&[("address_that_is_tentative", tentative)])
        .unless(probe::no_ipv6())
        .cases()
}

/// How soon a removed address must be left out of the rule in at least three of five tries; longer in a guest ([`Place::limit`]).
const OUT_LIMIT: Duration = Duration::from_millis(100);
/// As [`OUT_LIMIT`], but in each of the five tries: this machine may be busy.
const LATE_LIMIT: Duration = Duration::from_millis(300);
/// How soon an address that is back must be used: it may be left out for some seconds because of earlier failures.
const BACK_LIMIT: Duration = Duration::from_secs(8);

fn remove(host: &Host, address: &str) -> Result<()> {
    host.stage.netns.ip(&format!("addr del {address}/32 dev lo"))
}

fn add(host: &Host, address: &str) -> Result<()> {
    host.stage.netns.ip(&format!("addr add {address}/32 dev lo"))
}

/// Waits until exactly this address is left out. Returns how long after `since` that was written to the state file (0 if the file
/// is older), and the status. The agent changes the rule before it writes the file.
fn out_after(host: &Host, address: IpAddr, since: SystemTime) -> Result<(Duration, Status)> {
    let what = "the address to be left out";
    let status = host.rule.status_when(what, |status| status.left_out() == [address])?;
    Ok((host.rule.state_modified()?.duration_since(since).unwrap_or_default(), status))
}

/// An address of the pool is removed and added again, five times, while an agent runs: it must be left out within 100 ms three
/// times and within 300 ms each time (longer in a guest, and on a machine that wakes up threads late), and used again within 8 s.
fn address_removed() -> Result<()> {
    let host = Host::new()?;
    let (name, gone): (_, IpAddr) = (POOL[1], POOL[1].parse()?);
    let mut took = Vec::new();
    Load::start(&host)?.around(|load| {
        let spread = begin(&host, load, &[])?;
        for _ in 0..5 {
            load.forgive_one();
            let lateness = Lateness::measure();
            let before = SystemTime::now();
            remove(&host, name)?;
            let out = out_after(&host, gone, before)?.0;
            took.push(out.saturating_sub(lateness.end()));
            let made = load.more(100)?;
            ensure!(!made.contains_key(&gone) && made.len() == 3, "spread over {made:?}");
            add(&host, name)?;
            wait_for("the address to be used again", BACK_LIMIT, || {
                Ok(load.more(20)?.contains_key(&gone).then_some(()))
            })?;
            // The agent changes the rule before it writes its state file, so a connection can use the address before the status
            // shows that.
            wait_for("the status to have no address left out", BACK_LIMIT, || {
                Ok(host.rule.status()?.left_out().is_empty().then_some(()))
            })?;
        }
        spread.stop()?;
        host.rule.check_nothing_left()
    })?;
    took.sort_unstable();
    let place = Place::get();
    let right = took[2] <= place.limit(OUT_LIMIT) && took[4] <= place.limit(LATE_LIMIT);
    ensure!(right, "left out after {took:?}, without what this machine was late");
    Ok(())
}

/// Removes an address while no agent changes the rule: the connect() calls that would get the address must not be spread. Then
/// adds the address again.
fn removed_without_an_agent(host: &Host, load: &Load) -> Result<()> {
    let (gone, default): (IpAddr, IpAddr) = (POOL[1].parse()?, "10.1.0.1".parse()?);
    load.forgive_one();
    remove(host, POOL[1])?;
    let made = load.more(300)?;
    let passed = made.contains_key(&default) && made.len() == 4;
    ensure!(passed && !made.contains_key(&gone), "without {gone}: {made:?}");
    add(host, POOL[1])
}

/// Starts a rule with these arguments and ends its agent by `end`; then an address is removed ([`removed_without_an_agent`]) and
/// added again: then all of the pool is used, and after `--release` nothing is left.
fn removed_unseen(arguments: &[&str], end: fn(Spread) -> Result<()>) -> Result<()> {
    let host = Host::new()?;
    Load::start(&host)?.around(|load| {
        end(begin(&host, load, arguments)?)?;
        removed_without_an_agent(&host, load)?;
        all_spread(load)?;
        host.rule.release()?;
        none_spread(load)?;
        host.rule.check_nothing_left()
    })
}

/// An address is removed and added again while the agent is stopped (SIGSTOP); once the agent goes on, the whole pool is used
/// within 8 s.
fn removed_under_a_stopped_agent() -> Result<()> {
    let host = Host::new()?;
    Load::start(&host)?.around(|load| {
        let spread = begin(&host, load, &[])?;
        spread.process.signal(Signal::STOP)?;
        let played = removed_without_an_agent(&host, load);
        spread.process.signal(Signal::CONT)?;
        played?;
        // The agent now leaves the address out, because bind() was refused, until it finds that the address is back.
        wait_for("the whole pool to be used", BACK_LIMIT, || {
            Ok((load.more(50)?.len() == 4).then_some(()))
        })?;
        spread.stop()?;
        host.rule.check_nothing_left()
    })
}

/// With net.ipv4.ip_nonlocal_bind, bind() accepts an address that the host does not have. So the hook does not notice that an
/// address was removed, and connections from it get no answer: the agent must leave the address out, so that 300 ms later (longer
/// in a guest) none fails. An agent must refuse to start with an address that the host does not have (exit code 78).
fn nonlocal_bind() -> Result<()> {
    let mut host = Host::new()?;
    host.stage.netns.sysctl("ipv4/ip_nonlocal_bind", "1")?;
    let server = host.server("10.1.0.1:7000")?;
    let cgroup = host.cgroup.path().to_string_lossy().into_owned();
    let arguments = ["--pool", "10.9.9.9", "--cgroup", &cgroup, "--on-exit", "keep"];
    let mut command = host.rule.command(&arguments)?;
    let refused = host.stage.netns.run(|| run(&mut command, START_LIMIT))?;
    says(&refused, &[BAD_CONFIG], &["10.9.9.9", "ip addr add 10.9.9.9/32"])?;

    let spread = host.spread(&POOL, &[])?;
    let gone: IpAddr = POOL[1].parse()?;
    let removing = Instant::now();
    remove(&host, POOL[1])?;
    let mut last_failure = Duration::ZERO;
    while removing.elapsed() < LATE_LIMIT * 3 {
        let sock = host.app.tcp(server.address)?;
        sock.set_syn_count(1)?;
        sock.set_reset_on_close()?;
        if sock.connect(server.address).is_err() {
            last_failure = removing.elapsed();
        }
    }
    ensure!(last_failure < Place::get().limit(LATE_LIMIT), "failures for {last_failure:?}");
    let status = host.rule.status()?;
    ensure!(status.left_out() == [gone], "{status:?}");
    add(&host, POOL[1])?;
    wait_for("the address to be used again", BACK_LIMIT, || {
        Ok((source(&host.connect(server.address)?)? == gone).then_some(()))
    })?;
    spread.stop()?;
    host.rule.check_nothing_left()
}

/// A host with these addresses on a link, and another host with a server at the other end of the link.
fn linked(own: &[&str], server: &str) -> Result<(Host, NetNs, Sock)> {
    let (host, other) = (Host::new()?, NetNs::new()?);
    let server: IpAddr = server.parse()?;
    let end = if server.is_ipv6() { "/64 nodad" } else { "/24" };
    let own: Vec<String> = own.iter().map(|it| format!("{it}{end}")).collect();
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    host.stage.netns.veth(&own, &other, &[&format!("{server}{end}")])?;
    let listener = other.run(|| listening(SocketAddr::new(server, 7000)))?;
    Ok((host, other, listener))
}

fn listening(address: SocketAddr) -> Result<Sock> {
    let listener = Sock::tcp(address)?;
    listener.bind(address)?;
    listener.listen(4096)?;
    listener.set_nonblocking()?;
    Ok(listener)
}

/// Opens `count` connections, and closes each before the next. Returns the sources of those that succeeded, and how many failed.
fn connect_many(host: &Host, listener: &Sock, count: u32) -> Result<(Vec<IpAddr>, u32)> {
    let (mut sources, mut failed) = (Vec::new(), 0);
    let peer = listener.local()?;
    for _ in 0..count {
        let sock = host.app.tcp(peer)?;
        sock.set_syn_count(1)?;
        match sock.connect(peer) {
            Ok(()) => sources.push(source(&sock)?),
            Err(_) => failed += 1,
        }
        sock.set_reset_on_close()?;
        while listener.accept().is_ok() {}
    }
    Ok((sources, failed))
}

/// One destination does not answer to one address of the pool: the agent must leave the address out towards that destination
/// only, and use it again once it gets answers. `count` connections begin at a time, then there is a pause. `output`: a pipe for
/// the decisions that is not read; `None`: decisions are not written.
fn failing_address(count: usize, pause: Duration, output: Option<&FullPipe>) -> Result<()> {
    let pool = ["10.2.0.11", "10.2.0.12", "10.2.0.13", "10.2.0.14"];
    let (host, other, listener) = linked(&pool, "10.2.0.2")?;
    other.ip("addr add 10.2.0.3/24 dev t0")?;
    let elsewhere = other.run(|| listening("10.2.0.3:7000".parse()?))?;
    let (failing, peer): (IpAddr, _) = (pool[0].parse()?, listener.local()?);
    let arguments = output.map(FullPipe::arguments).unwrap_or_default();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let spread = host.spread(&pool, &arguments)?;
    if let Some(output) = output {
        wait_for("the pipe to be full", BACK_LIMIT, || {
            connect_many(&host, &listener, 50)?;
            Ok(output.is_full()?.then_some(()))
        })?;
    }
    other.ip("rule add from 10.2.0.2 to 10.2.0.11 blackhole")?;
    // Sockets are held until the failures of those that began at the same time are known: otherwise the failing address would
    // be the emptiest, and be used more than others.
    let mut held = VecDeque::new();
    wait_for("the address to be left out", BACK_LIMIT * 3, || {
        for _ in 0..count {
            let sock = host.app.tcp(peer)?;
            sock.set_syn_count(1)?;
            sock.set_nonblocking()?;
            // The result does not matter here: the agent sees it.
            _ = sock.connect(peer);
            sock.set_reset_on_close()?;
            held.push_back((Instant::now(), sock, listener.accept().ok()));
        }
        while held.front().is_some_and(|(since, ..)| since.elapsed() > Duration::from_secs(4)) {
            held.pop_front();
        }
        thread::sleep(pause);
        let why = "its connections fail where others succeed";
        let shown = shows_quarantine(&host, (pool[0], peer), why)?;
        let out = host.rule.status()?.left_out_towards(peer);
        Ok((shown && out.len() == 1 && out[0].0 == failing).then_some(()))
    })?;
    let (sources, failed) = connect_many(&host, &listener, 100)?;
    ensure!(failed == 0 && !sources.contains(&failing), "{failed} of 100 failed; {sources:?}");
    let (sources, failed) = connect_many(&host, &elsewhere, 100)?;
    ensure!(failed == 0 && sources.contains(&failing), "elsewhere: {failed} failed; {sources:?}");
    other.ip("rule del from 10.2.0.2 to 10.2.0.11 blackhole")?;
    held.clear();
    wait_for("the address to be used again", BACK_LIMIT, || {
        let (sources, failed) = connect_many(&host, &listener, 10)?;
        ensure!(failed == 0, "{failed} of 10 failed");
        Ok(sources.contains(&failing).then_some(()))
    })?;
    if let Some(output) = output {
        // A removed address is left out and in the status, although the output is blocked.
        host.stage.netns.ip(&format!("addr del {}/24 dev t0", pool[1]))?;
        let gone: IpAddr = pool[1].parse()?;
        host.rule.status_when("the address to be left out", |it| it.left_out() == [gone])?;
        let (sources, failed) = connect_many(&host, &elsewhere, 100)?;
        ensure!(failed == 0 && !sources.contains(&gone), "{failed} failed; {sources:?}");
        ensure!(output.is_full()?, "the output has room again");
        output.read_while(|| spread.stop())?;
    } else {
        spread.stop()?;
    }
    host.rule.check_nothing_left()
}

/// An IPv6 address during duplicate address detection is left out (`tentative`), because it may be another host's: 50 of 50
/// connections succeed from the other address. A rule cannot begin with it (exit code 78). Once the detection is over, it is
/// used.
fn tentative() -> Result<()> {
    let pool = ["fd00:2::11", "fd00:2::12"];
    let (host, _other, listener) = linked(&pool, "fd00:2::2")?;
    let new: IpAddr = pool[1].parse()?;
    // Three probes take three seconds.
    host.stage.netns.sysctl("ipv6/conf/t0/dad_transmits", "3")?;
    let spread = host.spread(&pool, &[])?;
    host.stage.netns.ip(&format!("addr del {new}/64 dev t0"))?;
    host.stage.netns.ip(&format!("addr add {new}/64 dev t0"))?;
    let status = host.rule.status_when("the address to be left out", |status| {
        status.left_out.first().is_some_and(|(_, reason)| reason == "tentative")
    })?;
    ensure!(status.left_out() == [new], "{status:?}");
    let (sources, failed) = connect_many(&host, &listener, 50)?;
    let right = failed == 0 && sources.iter().all(|it| it.to_string() == pool[0]);
    ensure!(right, "while it is tentative: {failed} of 50 failed; {sources:?}");
    // A rule cannot begin with a tentative address.
    let cgroup = host.cgroup.path().to_string_lossy().into_owned();
    let mut command = host.rule.command(&["--pool", pool[1], "--cgroup", &cgroup, "--dry-run"])?;
    let refused = host.stage.netns.run(|| run(&mut command, START_LIMIT))?;
    says(&refused, &[BAD_CONFIG], &[pool[1], "tentative"])?;

    wait_for("the address to be used", BACK_LIMIT, || {
        Ok(connect_many(&host, &listener, 10)?.0.contains(&new).then_some(()))
    })?;
    spread.stop()?;
    host.rule.check_nothing_left()
}

/// All four addresses of the pool are removed: the status has them as left out, and nothing is spread until they are back; then
/// all are used again, and none is left out.
fn all_addresses_gone() -> Result<()> {
    let host = Host::new()?;
    Load::start(&host)?.around(|load| {
        let spread = begin(&host, load, &[])?;
        for address in POOL {
            load.forgive_one();
            remove(&host, address)?;
        }
        host.rule.status_when("all to be left out", |status| status.left_out().len() == 4)?;
        none_spread(load)?;
        POOL.iter().try_for_each(|address| add(&host, address))?;
        wait_for("the pool to be used again", BACK_LIMIT, || {
            Ok((load.more(50)?.len() == 4).then_some(()))
        })?;
        host.rule.status_when("none to be left out", |status| status.left_out().is_empty())?;
        all_spread(load)?;
        spread.stop()?;
        Ok(())
    })
}
