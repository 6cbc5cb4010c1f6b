//! `abuse::shares`: a user who fills the tables takes no room from other users.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;

use crate::{
    cases::{
        Case, Plan,
        spread::{Host, POOL, PORTS, source},
    },
    harness::{
        outsider::{Outsider, Spaces},
        sock::Sock,
        stage::Stage,
        tracer::{
            record::{Record, Recording},
            wait_for,
            watch::{Watch, number},
        },
    },
    workloads::failure::expect_error,
};

pub(super) fn cases(plan: &Plan) -> Vec<Case> {
    plan.group("abuse::shares")
        .once(&[
            ("refused_connects_hide_no_exhaustion", refused),
            ("connections_leave_room", connections),
            ("bound_ports_leave_room", bound),
            ("bound_addresses_hide_no_full_one", full_address),
            ("one_port_at_many_addresses_is_one_port", one_port),
            ("ports_bound_for_a_moment_are_room_again", momentary),
        ])
        .cases()
}

fn lost(recording: &Recording, reason: &str) -> Result<u64> {
    let losses = recording.losses()?;
    Ok(losses.iter().find(|(name, _)| name == reason).map_or(0, |(_, count)| *count))
}

/// An outsider makes 66,000 refused connects in the victim's namespace, and more of them while the victim runs out of ports 20
/// times, each time towards another destination: all of the victim's rows and events must be there. The flood has as many
/// events as its limit of rate allows; the rest is counted as `events_limited`.
fn refused() -> Result<()> {
    const ROUNDS: u16 = 20;
    const FAILURES: usize = 20;
    const FIRST: u16 = 7000;
    const PORTS: usize = 300;
    let mut stage = Stage::new(&[])?;
    stage.netns.sysctl("ipv4/ip_local_port_range", "40000 40299")?;
    let servers = (0..ROUNDS).map(|round| stage.server(&format!("10.1.0.1:{}", FIRST + round)));
    let servers = servers.collect::<Result<Vec<_>>>()?;
    let record = Record::start("auto", &["--events", "failed,stats,lost", "--interval", "2"])?;
    let mut outsider = stage.netns.run(Outsider::spawn)?;
    let flood = outsider.run("refuse 1 66000 9")?[0];
    ensure!(flood == 66_000, "only {flood} were refused");
    outsider.begin("refuse-until-next 66000 9")?;
    let own = SocketAddr::from(([127, 200, 0, 1], 9));
    stage.netns.run(|| -> Result<()> {
        for server in &servers {
            expect_error(Sock::tcp(own)?.connect(own), Errno::CONNREFUSED)?;
            // All ports of the range are free towards this server: the flood takes ports towards other destinations only.
            let all = server.pairs(PORTS)?;
            for _ in 0..FAILURES {
                let one_too_many = Sock::tcp(server.address)?;
                expect_error(one_too_many.connect(server.address), Errno::ADDRNOTAVAIL)?;
            }
            drop(all);
        }
        Ok(())
    })?;
    outsider.begin("close")?;
    let more = outsider.end()?[0];
    outsider.end()?;
    record.wait_for_reading()?;
    let recording = record.stop()?;
    recording.assert_balanced()?;
    let netns = stage.netns.inum();
    let failed = recording.events("connect.failed", netns);
    let stats = recording.events("tuple.stats", netns);
    for port in FIRST..FIRST + ROUNDS {
        let here = failed.iter().filter(|event| event["network.peer.port"] == port);
        let exhausted = here.filter(|event| event["cause"] == "ports_exhausted");
        let with_ports = exhausted.filter(|event| event["ports.in_use"] == PORTS).count();
        ensure!(
            with_ports == FAILURES,
            "{port}: {with_ports} of {FAILURES} have events with ports"
        );
        let row = stats.iter().rfind(|row| row["network.peer.port"] == port);
        let row = row.with_context(|| format!("{port} has no row"))?;
        let counted = number(&row["connect.failures"], "ports_exhausted")?;
        ensure!(
            counted == FAILURES as u64,
            "{port}: {counted} of {FAILURES} are in its row: {row}"
        );
    }
    let owns = failed.iter().filter(|it| it["network.peer.address"] == "127.200.0.1").count();
    ensure!(owns == usize::from(ROUNDS), "the victim's own {ROUNDS} refused have {owns} events");
    let recorded = (failed.len() - usize::from(ROUNDS) * (FAILURES + 1)) as u64;
    ensure!(recorded < 8_000, "{recorded} of {} refused connects have events", flood + more);
    let left_out = lost(&recording, "events_limited")?;
    ensure!(
        recorded + left_out == flood + more,
        "{recorded} recorded, {left_out} left out of {}",
        flood + more
    );
    Ok(())
}

/// An outsider holds 1,000 connections, more than its share of CONNS, which has 1,024 entries: the victim's 50 connections must
/// all be counted, and those of the outsider that found no room are counted as lost.
fn connections() -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let server = stage.server("10.1.0.1:7000")?;
    let mut watch = Watch::start("auto", &["--max-conns", "1024"])?;
    let mut outsider = stage.netns.run(Outsider::spawn)?;
    let held = outsider.run("hold 10.1.0.1:7000 1000")?[0];
    ensure!(held == 1000, "{held} connections");
    let victim = stage.netns.run(|| -> Result<Vec<Sock>> {
        (0..50)
            .map(|_| -> Result<Sock> {
                let sock = Sock::tcp(server.address)?;
                sock.set_bind_address_no_port()?;
                sock.bind("10.1.0.2:0".parse()?)?;
                sock.connect(server.address)?;
                Ok(sock)
            })
            .collect()
    })?;
    let reading = watch.after(SystemTime::now(), Duration::from_secs(5))?;
    let counts = reading.of(stage.netns.inum());
    let counted = counts.get(&server.tuple_from("10.1.0.2")?).map_or(0, |counts| counts.in_use);
    ensure!(counted == 50, "{counted} of the victim's 50 connections are counted");
    let missing = reading.lost("conns_share")?;
    let flood = counts.get(&server.tuple()).map_or(0, |counts| counts.in_use);
    ensure!(missing > 0 && flood + missing >= 1000, "{flood} of 1000 counted, {missing} missing");
    drop(victim);
    watch.stop()
}

/// An outsider binds 600 ports in its own namespace, more than the table of bound ports has entries (512). The victim binds 20
/// ports of a range of 1,000: within 10 s its capacity must be 980, and ports of the outsider must be counted as lost.
fn bound() -> Result<()> {
    let mut stage = Stage::new(&[])?;
    stage.netns.sysctl("ipv4/ip_local_port_range", "40000 40999")?;
    let server = stage.server("10.1.0.1:7000")?;
    let mut watch = Watch::start("auto", &["--max-binds", "512"])?;
    let mut outsider = Outsider::spawn_with(Spaces::UserAndNet)?;
    let bound = outsider.run("bind 127.0.0.1:0 600")?[0];
    ensure!(bound == 600, "{bound} were bound");
    let _victim = stage.netns.run(|| -> Result<_> {
        let bound = (0..20).map(|_| -> Result<Sock> {
            let sock = Sock::tcp(server.address)?;
            sock.bind("10.1.0.2:0".parse()?)?;
            Ok(sock)
        });
        Ok((bound.collect::<Result<Vec<_>>>()?, server.pair()?))
    })?;
    // The first readings may not have the right capacity yet.
    let mut capacity = None;
    let reading = wait_for("the victim's capacity", Duration::from_secs(10), || {
        let reading = watch.after(SystemTime::now(), Duration::from_secs(5))?;
        let counts = reading.of(stage.netns.inum());
        capacity = counts.get(&server.tuple()).and_then(|counts| counts.capacity);
        Ok((capacity == Some(980)).then_some(reading))
    });
    let reading = reading.with_context(|| format!("it is {capacity:?}, not 980"))?;
    ensure!(reading.lost("binds_share")? > 0, "the flood found room");
    watch.stop()
}

/// An outsider binds one port at 3,000 addresses: this counts as one bound port, and connections are spread as before.
fn one_port() -> Result<()> {
    const ADDRESSES: u64 = PORTS * 3;
    spread_after_each(|outsider, round| {
        let bound =
            outsider.run(&format!("bind-everywhere 127.1.0.1:{} {ADDRESSES}", 40_100 + round))?[0];
        ensure!(bound == ADDRESSES, "{bound} addresses were bound");
        Ok(())
    })
}

/// An outsider binds all 1,000 ports of the range, each for a moment: afterwards, connections are spread as before.
fn momentary() -> Result<()> {
    spread_after_each(|outsider, _| {
        let bound = outsider.run(&format!("bind-and-close 127.1.0.1:40000 {PORTS}"))?[0];
        ensure!(bound == PORTS, "{bound} ports were bound");
        Ok(())
    })
}

/// Runs `act` four times; right after each time, 20 connections must all be spread.
fn spread_after_each(mut act: impl FnMut(&mut Outsider, u16) -> Result<()>) -> Result<()> {
    let mut host = Host::new()?;
    let server = host.server("10.1.0.1:7000")?;
    let spread = host.spread(&POOL[..1], &[])?;
    let mut outsider = host.stage.netns.run(Outsider::spawn)?;
    let mut held = Vec::new();
    // Four rounds, so that in at least one the agent makes no health check between `act` and the connections.
    for round in 0..4 {
        act(&mut outsider, round)?;
        for turn in 0..20 {
            let sock = host.connect(server.address)?;
            let from = source(&sock)?.to_string();
            ensure!(
                from == POOL[0],
                "round {round}, connect {turn} is from {from}: {:?}",
                host.rule.status()?
            );
            held.push(sock);
        }
        outsider.run("close")?;
    }
    drop(held);
    spread.stop()?;
    host.rule.check_nothing_left()
}

/// An outsider binds a port for a moment at each of 4,200 addresses, and all ports of the pool's second address are bound: with
/// `--rebind`, each of 50 bind() calls must succeed, and be moved to the first address of the pool, which has ports left.
fn full_address() -> Result<()> {
    let host = Host::new()?;
    let spread = host.spread(&POOL[..2], &["--rebind"])?;
    let mut outsider = host.stage.netns.run(Outsider::spawn)?;
    let bound = outsider.run("bind-addresses 127.1.0.1 4200")?[0];
    ensure!(bound == 4200, "{bound} addresses were bound");
    let all_of_one = |address: &str| -> Result<Vec<Sock>> {
        let ports = 40_000..40_000 + u16::try_from(PORTS)?;
        let bind = |port| -> Result<Sock> {
            let address = SocketAddr::new(address.parse()?, port);
            let sock = Sock::tcp(address)?;
            sock.bind(address)?;
            Ok(sock)
        };
        host.stage.netns.run(|| ports.map(bind).collect())
    };
    let _others = all_of_one(POOL[1])?;
    let chosen: SocketAddr = "10.1.0.2:0".parse()?;
    let mut held = Vec::new();
    for turn in 0..50 {
        let sock = host.app.tcp(chosen)?;
        sock.bind(chosen)
            .with_context(|| format!("bind {turn}, which succeeds with spreading off"))?;
        let from = source(&sock)?.to_string();
        ensure!(from == POOL[0], "bind {turn} is at {from}, not at {}", POOL[0]);
        held.push(sock);
    }
    spread.stop()?;
    host.rule.check_nothing_left()
}
