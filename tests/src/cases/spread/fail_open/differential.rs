//! The same sequence of calls runs twice: with a rule, while agents, addresses, cgroups and so on come and go, and with spreading
//! off. Each call must have the same result in both runs.
//!
//! `TRACER_TEST_CONNECTS` is the least number of calls in each run (20,000 by default, a quarter of that in a narrow range),
//! `TRACER_TEST_SEED` repeats a run, and `TRACER_TEST_SEEDS` is the number of seeds for a narrow range, from that one on.

mod calls;
mod trouble;

use std::{
    ops::RangeInclusive,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;

use super::number;
use crate::{
    cases::{
        Case, Plan,
        spread::{Host, POOL, fill::others},
    },
    harness::netns::NetNs,
};
use calls::{Calls, Ends};
use trouble::{Seen, Trouble};

pub(super) fn cases(plan: &Plan) -> Vec<Case> {
    plan.group("spread::fail_open")
        .once(&[
            ("differential", wide),
            (NARROW, || narrow_ranges(NARROW, ["2", "1", "0"], || Ok((Host::new()?, None)))),
            (VETH, || narrow_ranges(VETH, ["1", "0", "2"], over_veth)),
        ])
        .cases()
}

const NARROW: &str = "differential_in_a_narrow_range";
const VETH: &str = "differential_over_veth";

const SEED: u64 = 20_261_124;

/// Prints the number of calls of both runs together, and of the rounds of trouble, which `cargo xtask test soak` reports.
#[expect(clippy::print_stdout, reason = "how much was compared is a result")]
fn report(name: &str, calls: usize, rounds: u64) {
    println!("{name}: {} calls in all, {rounds} rounds of trouble", 2 * calls);
}

/// Each address has 1,000 ports, few of which are in use. All kinds of trouble ([`trouble::round`]): the ring of decisions and
/// the table of connections must have been full.
fn wide() -> Result<()> {
    let calls = number("TRACER_TEST_CONNECTS", 20_000)?;
    let host = Host::new()?;
    let app = Calls::new(&host, None, number("TRACER_TEST_SEED", SEED)?, 3, 60)?;
    let seen = compare(&host, &app, "differential", calls, trouble::round)?;
    ensure!(seen.ring_full > 0, "the ring was never full");
    ensure!(seen.uncounted > 0, "the table of connections was never full");
    Ok(())
}

/// The servers' namespace; `None` if it is the application's own.
type Far = Option<NetNs>;

/// Runs the test with `TRACER_TEST_SEEDS` seeds (by default one), and with the values in `reuse` of `net.ipv4.tcp_tw_reuse` in
/// turn. `host` makes the host for each run, and the servers' namespace.
fn narrow_ranges(name: &str, reuse: [&str; 3], host: fn() -> Result<(Host, Far)>) -> Result<()> {
    let first = number("TRACER_TEST_SEED", SEED)?;
    for (seed, reuse) in (first..first + number("TRACER_TEST_SEEDS", 1)?).zip(reuse.iter().cycle())
    {
        let (host, far) = host()?;
        host.stage.netns.sysctl("ipv4/tcp_tw_reuse", reuse)?;
        narrow_range(name, &host, far.as_ref(), seed)
            .with_context(|| format!("seed {seed}, tcp_tw_reuse {reuse}"))?;
    }
    Ok(())
}

/// Each address has 40 ports. The application holds up to 36 connections to one destination, which have room with spreading off.
/// Others hold ten ports of the pool's only address, so that the pool is full when the application holds 30.
fn narrow_range(name: &str, host: &Host, far: Option<&NetNs>, seed: u64) -> Result<()> {
    let calls = number("TRACER_TEST_CONNECTS", 20_000)? / 4;
    host.stage.netns.sysctl("ipv4/ip_local_port_range", "40000 40039")?;
    let app = Calls::new(host, far, seed, 1, 36)?;
    let peer = app.servers[0].local()?;
    let _others = others(host, POOL[0], peer, 10)?;
    let _accepted = (0..10).map(|_| app.servers[0].accept()).collect::<Result<Vec<_>, _>>()?;
    let decisions = compare(host, &app, name, calls, trouble::narrow_round)?;
    ensure!(decisions.pool_full > 0, "the pool was never full");
    ensure!(decisions.fast_port > 0, "there was no fast port");
    Ok(())
}

/// The servers are in another namespace, because the kernel has other rules for connections over loopback.
fn over_veth() -> Result<(Host, Far)> {
    let (host, far) = (Host::new()?, NetNs::new()?);
    host.stage.netns.veth(&["10.7.0.1/24"], &far, &[&format!("{}/24", calls::FAR_SERVERS)])?;
    for address in POOL {
        far.ip(&format!("route add {address}/32 via 10.7.0.1"))?;
    }
    Ok((host, Some(far)))
}

/// What the application and the thread that makes trouble know of each other.
#[derive(Default)]
struct Progress {
    /// Number of calls that the application has made.
    calls: AtomicU64,
    /// Whether the application is to stop.
    stop: AtomicBool,
    /// Whether the application has ended.
    over: AtomicBool,
}

impl Progress {
    fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Waits until the application has made `count` more calls; an error if it ends before.
    fn more(&self, count: u64) -> Result<()> {
        let until = self.calls() + count;
        while self.calls() < until {
            ensure!(!self.is_over(), "the application has ended");
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

/// Runs the calls with a rule while `round` makes trouble, again and again until there were at least `calls` calls; then runs as
/// many with spreading off, and compares their results.
fn compare(
    host: &Host,
    app: &Calls<'_>,
    name: &str,
    calls: u64,
    round: fn(&mut Trouble<'_>) -> Result<()>,
) -> Result<Seen> {
    let progress = Progress::default();
    let (with, made) = thread::scope(|scope| {
        let load = scope.spawn(|| {
            let with = app.play(&progress);
            progress.over.store(true, Ordering::Relaxed);
            with
        });
        let made = make_trouble(host, &progress, calls, round);
        progress.stop.store(true, Ordering::Relaxed);
        (load.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), made)
    });
    let with = with.context("the calls with the rule")?;
    let (seen, rounds) = made.context("the trouble maker")?;
    host.rule.check_nothing_left()?;
    let again = Progress::default();
    let without = app.play_count(with.len(), &again).context("the calls with spreading off")?;
    report(name, with.len(), rounds);
    let wrong = unexplained(&without, &with, &seen.removals, &seen.ends);
    let first = wrong.get(..wrong.len().min(20)).unwrap_or_default().join("\n");
    ensure!(wrong.is_empty(), "{} of {} calls, first\n{first}", wrong.len(), with.len());
    Ok(seen)
}

fn make_trouble(
    host: &Host,
    progress: &Progress,
    calls: u64,
    round: fn(&mut Trouble<'_>) -> Result<()>,
) -> Result<(Seen, u64)> {
    let mut trouble = Trouble { host, progress, seen: Seen::default() };
    let mut rounds = 0;
    while rounds == 0 || progress.calls() < calls {
        round(&mut trouble).with_context(|| format!("round {rounds}"))?;
        rounds += 1;
    }
    Ok((trouble.seen, rounds))
}

/// Errors of a connect() whose source was removed: from the route look-up (EINVAL on older kernels), from the port search, or
/// from the second route look-up in `tcp_connect` (EHOSTUNREACH, `net/ipv4/tcp_output.c`); ETIME if it is non-blocking and the
/// address is removed before the SYN is answered.
const GONE: [Errno; 5] =
    [Errno::NETUNREACH, Errno::INVAL, Errno::ADDRNOTAVAIL, Errno::HOSTUNREACH, Errno::TIME];

/// The calls whose results differ between the two runs, as texts, without those that the removal of an address explains. A call
/// whose source is removed between its choice and the route look-up fails, as it would if the kernel had chosen that address.
/// Each removal explains at most one of the calls that were under way at that time. Each end of a rule (`ends`) explains at most
/// one EADDRNOTAVAIL of a socket's second connect(): its first one was spread, and the full address of the pool stays
/// (`tracer/doc/limits.md`).
fn unexplained(
    without: &[Ends],
    with: &[Ends],
    removals: &[RangeInclusive<usize>],
    ends: &[RangeInclusive<usize>],
) -> Vec<String> {
    let mut left = removals.to_vec();
    let mut ends = ends.to_vec();
    let mut wrong = Vec::new();
    for (call, (without, with)) in without.iter().zip(with).enumerate() {
        if without == with {
            continue;
        }
        let first = without.iter().zip(with).find(|(without, with)| without != with);
        // With spreading off the call reached its peer, which may have refused it.
        let fits = matches!(
            first,
            Some((None | Some(Errno::CONNREFUSED | Errno::INPROGRESS), Some(errno)))
                if GONE.contains(errno)
        );
        let is_second = without.first() == with.first()
            && matches!(first, Some((None, Some(Errno::ADDRNOTAVAIL))));
        let end = ends.iter().position(|window| is_second && window.contains(&call));
        if let Some(end) = end {
            ends.remove(end);
            continue;
        }
        let window = left.iter().position(|window| window.contains(&call));
        if let (true, Some(window)) = (fits, window) {
            left.remove(window);
        } else {
            let [without, with] = [without, with].map(errnos);
            let removed = removals.iter().filter(|window| window.contains(&call)).count();
            wrong.push(format!(
                "call {call}: {without:?} with spreading off, {with:?} with the rule, while {removed} addresses were removed"
            ));
        }
    }
    wrong
}

/// The errno of each system call; 0 is success.
fn errnos(ends: &Ends) -> Vec<i32> {
    ends.iter().map(|end| end.map_or(0, Errno::raw_os_error)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removal_explains_one_call_that_was_under_way() {
        let without: Vec<Ends> = vec![vec![None]; 8];
        let mut with = without.clone();
        for call in [2, 3, 6] {
            with[call] = vec![Some(Errno::ADDRNOTAVAIL)];
        }
        assert_eq!(unexplained(&without, &with, &[], &[]).len(), 3);
        assert_eq!(unexplained(&without, &with, &[2..=3, 2..=4, 5..=7], &[]).len(), 0);
        assert_eq!(unexplained(&without, &with, &[2..=3, 5..=7], &[]).len(), 1);
        assert_eq!(unexplained(&without, &with, &[0..=1, 4..=5, 7..=7], &[]).len(), 3);
    }

    #[test]
    fn no_removal_explains_another_failure() {
        let without: Vec<Ends> = vec![vec![None, Some(Errno::ISCONN)]; 3];
        let mut with = without.clone();
        with[0] = vec![Some(Errno::CONNREFUSED), None];
        with[1] = vec![Some(Errno::TIMEDOUT), Some(Errno::ISCONN)];
        with[2] = vec![None, None];
        let wrong = unexplained(&without, &with, &[0..=0, 1..=1, 2..=2], &[]);
        assert_eq!(wrong.len(), 3, "{wrong:?}");
    }

    #[test]
    fn a_removal_explains_a_call_that_does_not_wait() {
        let without: Vec<Ends> = vec![vec![Some(Errno::INPROGRESS), None]; 2];
        let with = vec![vec![Some(Errno::NETUNREACH), None], vec![Some(Errno::TIMEDOUT), None]];
        assert_eq!(unexplained(&without, &with, &[0..=0, 1..=1], &[]).len(), 1);
        // A SYN from an address that was removed gets no answer.
        let with = vec![vec![Some(Errno::INPROGRESS), Some(Errno::TIME)]; 2];
        assert_eq!(unexplained(&without, &with, &[0..=0], &[]).len(), 1);
    }

    #[test]
    fn a_removal_explains_a_call_that_would_have_been_refused() {
        let without: Vec<Ends> = vec![vec![Some(Errno::CONNREFUSED), None]; 2];
        let with = vec![vec![Some(Errno::HOSTUNREACH), None], vec![Some(Errno::TIMEDOUT), None]];
        assert_eq!(unexplained(&without, &with, &[0..=0, 1..=1], &[]).len(), 1);
    }

    #[test]
    fn the_end_of_a_rule_explains_one_second_connect() {
        let without: Vec<Ends> = vec![vec![Some(Errno::CONNREFUSED), None]; 4];
        let mut with = without.clone();
        with[1] = vec![Some(Errno::CONNREFUSED), Some(Errno::ADDRNOTAVAIL)];
        assert_eq!(unexplained(&without, &with, &[], &[]).len(), 1);
        assert_eq!(unexplained(&without, &with, &[], &[1..=2]).len(), 0);
        assert_eq!(unexplained(&without, &with, &[], &[2..=3]).len(), 1);
        with[2] = with[1].clone();
        assert_eq!(unexplained(&without, &with, &[], &[1..=2]).len(), 1);
        with[1] = vec![Some(Errno::ADDRNOTAVAIL), None];
        with[2] = vec![Some(Errno::CONNREFUSED), Some(Errno::TIMEDOUT)];
        assert_eq!(unexplained(&without, &with, &[], &[1..=2, 1..=2]).len(), 2);
    }
}
