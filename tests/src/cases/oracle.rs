//! `oracle::*`: the list of sockets with which the other tests compare the ledger is right.

mod families;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, panic,
    process::Command,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{Case, Plan};
use crate::harness::{
    netns::NetNs,
    oracle,
    probe::{no_ipv6, no_programs},
    sock::Sock,
    stage::{Expected, Stage},
    starting::{late, start},
    tracer::{run, wait_for},
};

/// By how long [`late`] delays the start of a program.
const STARTS_IN: Duration = Duration::from_millis(300);

pub fn cases(plan: &Plan) -> Vec<Case> {
    plan.group("oracle")
        .once(&[("agrees_with_ss", agrees_with_ss)])
        .unless(no_programs(&["ss"]))
        .once(&[("one_list_has_both_families", families::one_list_has_both_families)])
        .unless(no_ipv6())
        .once(&[
            ("ends_close_in_order_while_a_program_starts", close_in_order),
            ("ends_close_in_order_while_programs_start_all_the_time", close_many_in_order),
        ])
        .cases()
}

/// `ss`, which reads sock_diag, and the oracle, which reads /proc/net/tcp, have the same sockets within 5 s: as many in all, in
/// TIME_WAIT (as a timer) and in each of at least four states.
fn agrees_with_ss() -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let server = stage.server("10.1.0.1:7000")?;
    let (mut clients, mut accepted) = stage.netns.run(|| server.pairs(20))?;
    drop((clients.split_off(15), accepted.split_off(15)));
    drop(clients.split_off(10));
    clients[0].shutdown_write()?;
    // Repeated until both agree, because FINs are under way for a moment.
    let limit = Duration::from_secs(5);
    wait_for("ss and /proc/net/tcp to agree", limit, || {
        let mut by_oracle = Counts::default();
        for sockets in oracle::read(&stage.netns, &[].into())?.into_values() {
            by_oracle.all += sockets.in_use;
            by_oracle.waiting += sockets.time_wait;
            for (state, count) in sockets.states {
                *by_oracle.by_state.entry(state.replace('_', "-")).or_insert(0) += count;
            }
        }
        let agree = by_oracle == by_ss(&stage.netns)? && by_oracle.by_state.len() >= 4;
        Ok(agree.then_some(()))
    })
}

/// How many sockets a namespace has, without listeners.
#[derive(Debug, Default, Eq, PartialEq)]
struct Counts {
    all: u64,
    /// Time-wait sockets, in TIME_WAIT or FIN_WAIT2.
    waiting: u64,
    /// By state, in the oracle's names with `-` for `_`.
    by_state: BTreeMap<String, u64>,
}

fn by_ss(netns: &NetNs) -> Result<Counts> {
    let mut command = Command::new("ss");
    command.args(["-t", "-a", "-n", "-H", "-o"]);
    let ended = netns.run(|| run(&mut command, Duration::from_secs(10)))?;
    ensure!(ended.code() == 0, "ss failed: {ended:?}");
    let mut counts = Counts::default();
    for line in ended.stdout.lines() {
        let state = line.split_whitespace().next().context("an empty line")?;
        let state = match state {
            "LISTEN" => continue,
            "ESTAB" => "ESTABLISHED",
            "FIN-WAIT-1" => "FIN-WAIT1",
            "FIN-WAIT-2" => "FIN-WAIT2",
            other => other,
        };
        counts.all += 1;
        counts.waiting += u64::from(line.contains("timer:(timewait,"));
        *counts.by_state.entry(state.to_owned()).or_insert(0) += 1;
    }
    Ok(counts)
}

/// A client that is closed before its accepted end is in TIME_WAIT, even if the test starts a program at that time, which has
/// copies of its descriptors until it runs.
fn close_in_order() -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let server = stage.server("10.1.0.1:7000")?;
    let client = stage.netns.run(|| Sock::connected(server.address))?;
    let mut slow = Command::new("true");
    thread::scope(|scope| -> Result<()> {
        let starting = scope.spawn(|| start(late(&mut slow, STARTS_IN)));
        // The child has a copy of the client, and not of the end that is accepted now.
        thread::sleep(STARTS_IN / 3);
        let accepted = stage.netns.run(|| server.listener.accept())?;
        drop(client);
        drop(accepted);
        let child = starting.join().unwrap_or_else(|panic| panic::resume_unwind(panic));
        ensure!(child?.wait()?.success(), "`true` failed");
        Ok(())
    })?;
    stage.check(&[(server.tuple(), Expected::ports(1, 1))])
}

/// Of each of 900 connections the client's end is closed first, while other threads start programs all the time: no connection
/// may be in TIME_WAIT on the server's side only.
fn close_many_in_order() -> Result<()> {
    const STARTERS: usize = 8;
    const ROUNDS: usize = 30;
    const CONNECTIONS: usize = 30;
    /// TIME_WAIT, and the port 7000, as /proc/net/tcp writes them.
    const WAITING: &str = "06";
    const SERVER: &str = ":1B58";
    let netns = NetNs::new()?;
    let address = "127.0.0.1:7000".parse()?;
    let ends = AtomicBool::new(false);
    let wrong = thread::scope(|scope| -> Result<usize> {
        for _ in 0..STARTERS {
            scope.spawn(|| {
                while !ends.load(Relaxed) {
                    if let Ok(mut child) = start(&mut Command::new("true")) {
                        child.wait().ok();
                    }
                }
            });
        }
        let made = netns.run(|| -> Result<usize> {
            let listener = Sock::tcp(address)?;
            listener.bind(address)?;
            listener.listen(128)?;
            for _ in 0..ROUNDS {
                let mut clients = Vec::new();
                let mut accepted = Vec::new();
                for _ in 0..CONNECTIONS {
                    clients.push(Sock::connected(address)?);
                    accepted.push(listener.accept()?);
                }
                drop(clients);
                drop(accepted);
            }
            let list = fs::read_to_string("/proc/thread-self/net/tcp")?;
            let ends = list.lines().filter_map(|line| {
                let mut words = line.split_whitespace().skip(1);
                let ends = (words.next()?, words.next()?);
                (words.next() == Some(WAITING)).then_some(ends)
            });
            let ends: BTreeSet<(&str, &str)> = ends.collect();
            // If the kernel has not yet given the client's FIN to the server when that closes, both ends are in TIME_WAIT.
            let only_server = |(local, peer): &&(&str, &str)| {
                local.ends_with(SERVER) && !ends.contains(&(*peer, *local))
            };
            Ok(ends.iter().filter(only_server).count())
        });
        ends.store(true, Relaxed);
        made
    })?;
    let all = ROUNDS * CONNECTIONS;
    ensure!(wrong == 0, "{wrong} of {all} are closed in the wrong order");
    Ok(())
}
