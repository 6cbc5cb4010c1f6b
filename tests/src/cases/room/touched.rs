//! The table TOUCHED has the ports that bind() took at some time: up to Linux 6.17, connect() does not get such a port as long as
//! a connection that is older than that bind() has the port.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};

use crate::harness::{
    behind::Map,
    lie,
    outsider::{Outsider, Spaces},
    probe::Place,
    sock::Sock,
    stage::{CLIENT, Server, Stage},
    tracer::{record::Record, wait_for, watch::Watch},
};

/// Longest time until the tracer has removed all entries that are not needed, even from a full table; longer in a guest
/// ([`Place::limit`]).
const SOON: Duration = Duration::from_mins(1);
/// Number of ports that one outsider binds: more than one user's share of the table, which is 8/9 of 65,536 entries.
const ALL: u64 = 64_000;
const RANGE: &str = "40000 40099";
const PORTS: u64 = 100;
/// Byte offset of the number of entries of TOUCHED in a value of SHARES.
const HELD: usize = 24;

/// Has each outsider bind `ports` ports in its own namespace, all outsiders at the same time; each socket is closed before the
/// next bind(). An error if a bind() failed.
fn flood(outsiders: &mut [Outsider], ports: u64) -> Result<()> {
    for outsider in outsiders.iter_mut() {
        outsider.begin(&format!("bind-and-close 127.0.0.1:1024 {ports}"))?;
    }
    for outsider in outsiders {
        let bound = outsider.end()?;
        ensure!(bound == [ports, 0], "bound, and not bound: {bound:?}");
    }
    Ok(())
}

fn outsiders() -> Result<Vec<Outsider>> {
    (0..2).map(|_| Outsider::spawn_with(Spaces::UserAndNet)).collect()
}

/// Binds the ports of these connections at another address, and releases them.
fn bind_over(pairs: &[(Sock, Sock)]) -> Result<()> {
    for (client, _) in pairs {
        let at = format!("{CLIENT}:{}", client.local()?.port()).parse()?;
        Sock::tcp(at)?.bind(at)?;
    }
    Ok(())
}

fn connections(stage: &Stage, server: &Server, count: usize) -> Result<Vec<(Sock, Sock)>> {
    stage.netns.run(|| (0..count).map(|_| server.pair()).collect())
}

/// Resets connections: their ports are free without TIME_WAIT.
fn reset(pairs: Vec<(Sock, Sock)>) -> Result<()> {
    for (client, _accepted) in pairs {
        client.set_reset_on_close()?;
    }
    Ok(())
}

/// More ports are bound and released than a user's share of the table has entries: the loss `touched_share` is counted, and
/// `degraded` says so until the only connection, which may have one of these ports, has ended.
pub(super) fn losses_are_said(backend: &str) -> Result<()> {
    const TEXT: &str = "found no room in the table of touched ports";
    let mut stage = Stage::new(&[])?;
    let server = stage.server("10.1.0.1:7000")?;
    let record = Record::start(backend, &["--events", "lost"])?;
    let pairs = connections(&stage, &server, 1)?;
    flood(&mut outsiders()?, ALL)?;
    let wait = |key: &str| {
        wait_for(key, SOON, || {
            let lines = lie::file(record.file())?;
            let has = |line: &str| line.split_once(key).is_some_and(|it| it.1.contains(TEXT));
            Ok(lines.lines().any(has).then_some(()))
        })
    };
    wait("\"degraded.added\"")?;
    reset(pairs)?;
    wait("\"degraded.ended\"")?;
    let recording = record.stop()?;
    recording.assert_valid()?;
    let losses = recording.losses()?;
    let lost = losses.iter().find(|(name, _)| name == "touched_share").map_or(0, |(_, it)| *it);
    ensure!(lost > 0, "the flood found room: {losses:?}");
    Ok(())
}

/// A victim's 20 ports keep their entries, and 20 further ports of the victim's get entries, however many ports outsiders bind in
/// namespaces of their own: connect() can have 80, then 60 of 100 ports, and all once the older connections have ended.
pub(super) fn others_keep_theirs(backend: &str) -> Result<()> {
    let mut stage = Stage::new(&[])?;
    stage.netns.sysctl("ipv4/ip_local_port_range", RANGE)?;
    let servers = [stage.server("10.1.0.1:7000")?, stage.server("10.1.0.1:7001")?];
    let mut watch = Watch::start(backend, &[])?;
    let older = connections(&stage, &servers[0], 60)?;
    // Because of this connection, whose port is outside of the range, the second tuple has a row.
    let _other = stage.netns.run(|| -> Result<Sock> {
        let sock = Sock::tcp(servers[1].address)?;
        sock.bind(format!("{CLIENT}:30000").parse()?)?;
        sock.connect(servers[1].address)?;
        Ok(sock)
    })?;
    let mut outsiders = outsiders()?;
    let tuple = servers[1].tuple_from(CLIENT)?;
    let mut expect = |room| -> Result<u64> {
        let end = Instant::now() + Place::get().limit(Duration::from_secs(20));
        loop {
            let reading = watch.after(SystemTime::now(), Duration::from_secs(10))?;
            let here = reading.of(stage.netns.inum());
            let found = here.get(&tuple).and_then(|it| it.capacity?.checked_sub(it.in_use));
            if found == Some(room) {
                return reading.lost("touched_share");
            }
            ensure!(Instant::now() < end, "connect() can have {found:?} ports, not {room}");
        }
    };
    stage.netns.run(|| bind_over(&older[..20]))?;
    expect(PORTS - 20)?;
    flood(&mut outsiders, ALL)?;
    stage.netns.run(|| bind_over(&older[20..40]))?;
    let lost = expect(PORTS - 40)?;
    ensure!(lost > 0, "the flood found room");
    reset(older)?;
    expect(PORTS)?;
    watch.stop()
}

/// An entry is removed within a minute once no older connection has its port: then another entry has room, so that no port is
/// lost in two floods of 34,000 ports. The number of entries that the map SHARES counts is exact.
pub(super) fn entries_leave(backend: &str) -> Result<()> {
    // More than half of an owner's share (8/9 of 65,536 entries): a second flood finds room only if entries of the first one
    // were removed.
    const MANY: u64 = 34_000;
    let mut stage = Stage::new(&[])?;
    let server = stage.server("10.1.0.1:7000")?;
    let mut watch = Watch::start(backend, &[])?;
    let (touched, shares) = (Map::of(watch.id(), "TOUCHED")?, Map::of(watch.id(), "SHARES")?);
    let netns = stage.netns.inum();
    let wait = |needed: usize| {
        wait_for(&format!("{needed} entries"), SOON, || {
            let totals = shares.get(&0_u32.to_ne_bytes())?.context("no totals")?;
            let held = u64::from_ne_bytes(totals[HELD..HELD + 8].try_into()?);
            if held != needed as u64 {
                return Ok(None);
            }
            let of = |key: &Vec<u8>| Some(u64::from_ne_bytes(key[..].try_into().ok()?) >> 16);
            let right = touched.keys()?.iter().filter(|key| of(key) == Some(netns)).count();
            Ok((right == needed && touched.keys()?.len() == needed).then_some(()))
        })
    };
    let older = connections(&stage, &server, 3)?;
    for mut outsider in outsiders()? {
        stage.netns.run(|| bind_over(&older))?;
        flood(std::slice::from_mut(&mut outsider), MANY)?;
        wait(3)?;
    }
    reset(older)?;
    wait(0)?;
    let reading = watch.after(SystemTime::now(), Duration::from_secs(10))?;
    let lost = reading.lost("touched_share")? + reading.lost("map_busy")?;
    ensure!(lost == 0, "{lost} ports found no room");
    watch.stop()
}
