//! `room::*`: a tuple's capacity minus its ports in use is exactly the number of connect() calls that the kernel still grants;
//! the same holds for bind(address, 0) at each address, whatever is bound, connected, reserved, listening and in TIME_WAIT.

mod calls;
mod hall;
mod touched;

use std::env;

use anyhow::{Context, Result, ensure};
use hall::{ADDRESSES, Hall, RANGE};

use super::{Case, Plan};
use crate::{
    harness::probe::{self, Place},
    workloads::random::Random,
};

pub fn cases(plan: &Plan) -> Vec<Case> {
    plan.group("room")
        .sampled(&[
            ("mixes", mixes),
            ("own_ports", own_ports),
            ("bound_over_connections", bound_over_connections),
            ("reserved_and_moved", reserved_and_moved),
            ("none_at_all", none_at_all),
            ("never_more_than_all", never_more_than_all),
        ])
        .sampled(&[("bound_by_mptcp", bound_by_mptcp)])
        .unless(probe::no_mptcp())
        .sampled(&[
            ("forgotten_bound_ports_are_said", touched::losses_are_said),
            ("bound_ports_of_others_stay_noted", touched::others_keep_theirs),
            ("noted_ports_leave_again", touched::entries_leave),
        ])
        .unless(probe::no_blocked_ports())
        .cases()
}

/// Number of random operations before each comparison.
const OPERATIONS: u64 = 60;

/// Two rounds in a guest, six on the host: after each 60 random operations, the room must be what the kernel grants. The seed is
/// CLOCK_MONOTONIC in ns, unless `TRACER_TEST_SEED` has the seed of a run to repeat.
fn mixes(backend: &str) -> Result<()> {
    let seed = match env::var("TRACER_TEST_SEED") {
        Ok(seed) => seed.parse().context("TRACER_TEST_SEED is not a number")?,
        Err(_) => crate::harness::tracer::mono_ns(),
    };
    let rounds = if Place::get() == Place::Vm { 2 } else { 6 };
    play(backend, seed, rounds).with_context(|| format!("TRACER_TEST_SEED={seed}"))
}

fn play(backend: &str, seed: u64, rounds: usize) -> Result<()> {
    let mut hall = Hall::new(backend)?;
    let mut random = Random(seed);
    for round in 1..=rounds {
        for _ in 0..OPERATIONS {
            operate(&mut hall, &mut random)?;
        }
        hall.compare().with_context(|| format!("round {round}"))?;
    }
    Ok(())
}

fn operate(hall: &mut Hall, random: &mut Random) -> Result<()> {
    let address = ADDRESSES[usize::try_from(random.below(3))?];
    let server = usize::try_from(random.below(2))?;
    let port = RANGE.start() + u16::try_from(random.below(200))?;
    // A port that a connection holds (a random one if there is no connection): such ports are bound and listened on more often
    // than by chance.
    let held = hall.a_connected_port(random).unwrap_or(port);
    match random.below(20) {
        0..=6 => hall.connect(address, server),
        7 | 8 => hall.connect_bound(address, 0, server),
        9 => hall.connect_bound(address, port, server),
        10 => hall.connect_bound(address, held, server),
        11 => hall.bind(address, 0),
        12 => hall.bind(address, held),
        13 => hall.bind("0.0.0.0", 0),
        14 => hall.listen(address, port),
        15 => hall.listen("0.0.0.0", held),
        16 => hall.connect_bound(address, 30_000 + port % 1000, server),
        17 => hall.close_into_time_wait(random),
        18 => hall.close_one(random),
        _ if random.below(4) == 0 => {
            let first = RANGE.start() + u16::try_from(random.below(190))?;
            hall.reserve(&format!("{first}-{}", first + 9))
        }
        _ => hall.unbind_one(random),
    }
}

/// As some proxies do, sockets call bind(address, 0) before connect(): the saturation is 50 % when half of the range is in use,
/// and 100 % when all of it is.
fn own_ports(backend: &str) -> Result<()> {
    let mut hall = Hall::new(backend)?;
    for half in 1..=2_u64 {
        for _ in 0..100 {
            hall.connect_bound(ADDRESSES[0], 0, 0)?;
        }
        hall.compare()?;
        hall.expect(ADDRESSES[0], 0, half * 100, 200)?;
    }
    // Ports outside of the range are added to the capacity, and do not lower the room.
    hall.close_all();
    for port in 30_000..30_050 {
        hall.connect_bound(ADDRESSES[0], port, 0)?;
    }
    hall.compare()?;
    hall.expect(ADDRESSES[0], 0, 50, 250)
}

/// Ports that MPTCP sockets bind are counted, although the kernel takes them in other functions than those of TCP sockets: with
/// ten of 200 ports bound, the tuple of one connection has the capacity 190, and after their release 200. Ten more, at another
/// address, are counted where the kernel counts them.
fn bound_by_mptcp(backend: &str) -> Result<()> {
    let mut hall = Hall::new(backend)?;
    for port in RANGE.take(10) {
        hall.bind_mptcp(ADDRESSES[0], port)?;
    }
    hall.connect(ADDRESSES[0], 0)?;
    hall.compare()?;
    hall.expect(ADDRESSES[0], 0, 1, 190)?;
    for _ in 0..10 {
        hall.bind_mptcp(ADDRESSES[1], 0)?;
    }
    hall.compare()?;
    hall.unbind_all();
    hall.compare()?;
    hall.expect(ADDRESSES[0], 0, 1, 200)
}

/// 40 ports that connections hold, and 50 others, are bound at another address, and released: the room is right while they are
/// bound, after their release, and when the connections are closed, too.
fn bound_over_connections(backend: &str) -> Result<()> {
    let mut hall = Hall::new(backend)?;
    for _ in 0..60 {
        hall.connect(ADDRESSES[0], 0)?;
    }
    hall.connect(ADDRESSES[1], 0)?;
    let ports = hall.connected_ports();
    for port in ports.iter().take(40) {
        hall.bind(ADDRESSES[2], *port)?;
    }
    for _ in 0..50 {
        hall.bind(ADDRESSES[2], 0)?;
    }
    hall.compare()?;
    // Whether connect() can be given these ports now depends on the kernel's version.
    hall.unbind_all();
    hall.compare()?;
    hall.close_all();
    hall.connect(ADDRESSES[0], 0)?;
    hall.connect(ADDRESSES[1], 0)?;
    hall.compare()
}

/// Ports that connections hold are reserved, the port range moves, the reservation ends, and the range shrinks to four ports: the
/// room is right after each of these changes.
fn reserved_and_moved(backend: &str) -> Result<()> {
    let mut hall = Hall::new(backend)?;
    for server in [0, 0, 1] {
        for _ in 0..40 {
            hall.connect(ADDRESSES[0], server)?;
        }
    }
    hall.bind(ADDRESSES[1], 0)?;
    hall.reserve("40000-40049,40150,50000")?;
    hall.compare()?;
    hall.set_range("40100 40299")?;
    hall.compare()?;
    hall.reserve("")?;
    hall.compare()?;
    hall.set_range("40000 40003")?;
    hall.compare()
}

/// Time-wait sockets end, and their ports are taken again immediately: the reading with the most ports in use has all that exist,
/// and at most a tenth more, plus one for each hook that may have been skipped. (More are possible: the hook for an end can run
/// after another socket has taken the port, and an end whose hook the kernel skipped is corrected by the next comparison only.)
fn never_more_than_all(backend: &str) -> Result<()> {
    const PORTS: u64 = 50;
    const OPENED: u64 = 3 * PORTS;
    let mut hall = Hall::new(backend)?;
    hall.shorten_time_waits()?;
    hall.set_range("40000 40049")?;
    let (most, missed) = hall.most_in_use(ADDRESSES[0], OPENED)?;
    let unseen = probe::unseen(missed, OPENED);
    let limit = PORTS + PORTS / 10 + unseen;
    ensure!(
        (PORTS..=limit).contains(&most),
        "{most} of {PORTS} ports in use; {unseen} ends may not have been seen"
    );
    Ok(())
}

/// All 16 ports are reserved, or eight of them reserved and the others bound: the row has the capacity 0 and a saturation of 100
/// %, not an unknown one, and these numbers of reserved and of bound ports.
fn none_at_all(backend: &str) -> Result<()> {
    let mut hall = Hall::new(backend)?;
    hall.set_range("40000 40015")?;
    hall.reserve("40000-40999")?;
    hall.refuse(ADDRESSES[0], 0)?;
    hall.compare()?;
    hall.expect(ADDRESSES[0], 0, 0, 0)?;
    hall.expect_taken(ADDRESSES[0], 0, (16, 0))?;
    hall.reserve("40000-40007")?;
    for port in 40_008..40_016 {
        hall.listen("0.0.0.0", port)?;
    }
    hall.compare()?;
    hall.expect(ADDRESSES[0], 0, 0, 0)?;
    hall.expect_taken(ADDRESSES[0], 0, (8, 8))
}
