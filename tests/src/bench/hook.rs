//! The run time of the spreader's hook, as the kernel counts it (`kernel.bpf_stats_enabled`).

use std::{fmt::Write, fs};

use anyhow::Result;

use super::{
    Field, Size,
    dialer::{Life, Plan, all},
    targets::Targets,
};
use crate::harness::{
    cgroup::{self, Cgroup},
    foreign::Binder,
};

/// Target: the highest mean run time of the hook when it chooses an address, ns.
const CHOICE: u64 = 250;
/// Target: the highest mean run time of the hook when it chooses an address, in percent of that of a BPF program that binds a
/// random address: ns alone depend on the machine.
const CHOICE_PERCENT: u64 = 160;
/// Target: the highest mean run time of the hook when it also finds a fast port, with 95 % of the ports in use, ns.
const FAST_PORT: u64 = 1_500;
/// Number of connections that each of the two compared programs makes before it is the other one's turn.
const A_TURN: u64 = 1_000;
/// Number of measured turns of each program. The server never calls accept(), so all connections must fit into its queue of
/// 65,535.
const TURNS: u64 = 20;
const _: () = assert!(2 * (TURNS + 1) * A_TURN < 65_535);
const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Has the kernel count run times; restores the earlier setting on drop.
struct Counting(String);

impl Counting {
    fn begin() -> Result<Self> {
        let before = fs::read_to_string(SWITCH)?;
        fs::write(SWITCH, "1")?;
        Ok(Self(before))
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        // A failure is unlikely after the write in `begin`, and drop() cannot return it.
        fs::write(SWITCH, &self.0).ok();
    }
}

/// Measures the hook with pools of 4 and 256 addresses, and with fast ports. Returns the table, and judges the targets
/// [`CHOICE`], [`CHOICE_PERCENT`] and [`FAST_PORT`]. Sets the sysctl `kernel.bpf_stats_enabled` to 1 while it runs. Errors as of
/// [`super::run`], or if that cannot be set.
pub(super) fn measure(size: Size, targets: &mut Targets) -> Result<String> {
    let _counting = Counting::begin()?;
    let mut text = "Run time of the programs that spread, for each connect(), as the kernel counts it (its own clock included); and, \
                    measured in the same run, of one that binds a random address of the pool (`bpf_get_prandom_u32`, `bpf_bind`):\n\n\
                    | addresses | ports in use | ns | at random |\n|--:|--:|--:|--:|\n"
        .to_owned();
    for addresses in [4, 256] {
        let (ns, random) = brief(size, addresses)?;
        writeln!(text, "| {addresses} | few | {ns} | {random} |")?;
        let target = format!("hook with {addresses} addresses ≤ {CHOICE} ns");
        targets.judge(target, format!("{ns} ns"), ns <= CHOICE);
        let percent = ns * 100 / random.max(1);
        let target = format!(
            "hook with {addresses} addresses ≤ {CHOICE_PERCENT} % of one that binds at random"
        );
        targets.judge(target, format!("{percent} %"), percent <= CHOICE_PERCENT);
    }
    for (percent, ns) in nearly_full(size)? {
        writeln!(text, "| 1 | {percent} %, with fast ports | {ns} | |")?;
        if percent == 95 {
            let target = format!("hook with fast ports at {percent} % ≤ {FAST_PORT} ns");
            targets.judge(target, format!("{ns} ns"), ns <= FAST_PORT);
        }
    }
    Ok(text)
}

/// Mean run time for each connect(), ns: of tracer's BPF programs, and of a BPF program that binds a random address.
fn brief(size: Size, addresses: u32) -> Result<(u64, u64)> {
    let (low, high) = size.range;
    let field = Field::new(addresses, low..=high)?;
    let _agent = field.spread(&field.pool)?;
    let plan = Plan::new(&field.server, Life::Brief);
    let mut spread = field.dialer(true, &plan)?;
    let other = Cgroup::new(&format!("{}-random", field.rule.name()))?;
    let _binder = Binder::attach(&other, addresses)?;
    let mut random = field.dialer(false, &plan)?;
    other.add(random.id())?;
    // The two programs take turns, because the machine's speed varies. The first turn is a warm-up.
    let mut spent = [0, 0];
    for turn in 0..=TURNS {
        for (spent, (dialer, cgroup)) in
            spent.iter_mut().zip([(&mut spread, &field.cgroup), (&mut random, &other)])
        {
            let before = counted(cgroup)?;
            all(dialer.dial(A_TURN)?, A_TURN)?;
            *spent += if turn == 0 { 0 } else { counted(cgroup)? - before };
        }
    }
    let [spread, random] = spent.map(|ns| ns / (TURNS * A_TURN));
    Ok((spread, random))
}

/// The mean run time of tracer's BPF programs for each connect(), at four points: (how full the range is, in percent; ns).
fn nearly_full(size: Size) -> Result<Vec<(u64, u64)>> {
    let (low, high) = size.range;
    let field = Field::new(1, low..=high)?;
    let _agent = field.spread(&field.pool)?;
    let plan = Plan::new(&field.server, Life::Held);
    let room = u64::from(high - low) + 1;
    let window = room / 100;
    let mut made = 0;
    let mut costs = Vec::new();
    // The connections stay open until their processes end.
    let mut dialers = Vec::new();
    for percent in [60, 80, 95, 99] {
        // A new process for each point: all connections together can exceed the number of descriptors that one process may
        // have.
        let mut dialer = field.dialer(true, &plan)?;
        let begin = room * percent / 100 - window / 2;
        let mut gap = begin - made;
        made = begin + window;
        if percent == 60 {
            let half = gap / 2;
            let mut first = field.dialer(true, &plan)?;
            all(first.dial(half)?, half)?;
            dialers.push(first);
            gap -= half;
        }
        all(dialer.dial(gap)?, gap)?;
        let before = counted(&field.cgroup)?;
        all(dialer.dial(window)?, window)?;
        costs.push((percent, (counted(&field.cgroup)? - before) / window));
        dialers.push(dialer);
    }
    Ok(costs)
}

/// Total run time of the BPF programs that are attached to bind() and connect() of the cgroup, ns.
fn counted(cgroup: &Cgroup) -> Result<u64> {
    cgroup.programs()?.into_iter().map(cgroup::run_time_ns).sum()
}
