//! What the BPF programs of each tool cost in the kernel, as the kernel counts it.
//!
//! With `kernel.bpf_stats_enabled`, the kernel reads its clock before and after every run of a program. That makes connect()
//! slower, so connect() is not timed in these rounds. The counted time also includes about one reading of the clock: to subtract
//! that, the counted time of an empty program is measured, too.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result};

use super::{
    Plan, Programs, float,
    load::Generator,
    process::{self, Program},
    tool::{Running, Tool},
};

/// What the kernel counted for the BPF programs of one name over all rounds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Counted {
    /// The program's name; its tag if that is not known.
    pub(crate) name: String,
    /// Number of runs.
    pub(crate) runs: f64,
    /// Time of all runs, ns.
    pub(crate) ns: f64,
}

/// What the kernel counted for all tools.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cost {
    /// The programs of each tool that was measured, without [`Tool::Empty`].
    pub(crate) tools: BTreeMap<Tool, Vec<Counted>>,
    /// Number of connections that each tool saw, over all rounds: those of the last load, times the number of rounds.
    pub(crate) connects: f64,
    /// Counted time of one run of an empty program, ns; `None` if bpftrace, which loads that program, is not installed, or
    /// the program did not run.
    pub(crate) empty_ns: Option<f64>,
}

/// What a tool's BPF programs cost for each connection.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct PerConnect {
    /// Number of runs of all programs.
    pub(crate) runs: f64,
    /// Time as counted, ns.
    pub(crate) raw: f64,
    /// Time without the cost of counting ([`Cost::empty_ns`]), ns, at least 0; the time as counted if that cost is not known.
    pub(crate) net: f64,
}

impl Cost {
    /// What the tool's BPF programs cost for each connection; `None`: the tool was not measured.
    pub(crate) fn per_connect(&self, tool: Tool) -> Option<PerConnect> {
        let counted = self.tools.get(&tool)?;
        let runs = counted.iter().map(|one| one.runs).sum::<f64>() / self.connects;
        let raw = counted.iter().map(|one| one.ns).sum::<f64>() / self.connects;
        let net = (raw - runs * self.empty_ns.unwrap_or(0.0)).max(0.0);
        Some(PerConnect { runs, raw, net })
    }
}

/// Measures each of `tools` but [`Tool::None`] and, if bpftrace is one of them, the empty program: `plan.kernel_rounds` times
/// each, with one client process. Sets the sysctl `kernel.bpf_stats_enabled` to 1 while it runs. Fails if that cannot be set, or
/// a tool or the load fails.
pub(crate) fn measure(
    plan: &Plan,
    programs: &Programs,
    generator: &mut Generator,
    tools: &[Tool],
) -> Result<Cost> {
    let _counting = Counting::begin()?;
    let mut cost = Cost::default();
    let mut order: Vec<Tool> = tools.iter().copied().filter(|tool| *tool != Tool::None).collect();
    if tools.contains(&Tool::Bpftrace) {
        order.push(Tool::Empty);
    }
    for round in 0..plan.kernel_rounds {
        eprintln!("kernel side, round {} of {}", round + 1, plan.kernel_rounds);
        for tool in &order {
            let running = Running::start(*tool, programs)?;
            let names = process::program_names();
            let before = process::programs(running.pid())?;
            let load = generator.load(1, plan.connects)?;
            let after = process::programs(running.pid())?;
            add(cost.tools.entry(*tool).or_default(), &before, &after, &names);
            running.rest()?;
            running.stop()?;
            cost.connects = load.made * f64::from(plan.kernel_rounds);
        }
    }
    cost.empty_ns = cost.tools.remove(&Tool::Empty).and_then(|counted| {
        let runs: f64 = counted.iter().map(|one| one.runs).sum();
        let ns: f64 = counted.iter().map(|one| one.ns).sum();
        (runs > 0.0).then_some(ns / runs)
    });
    Ok(cost)
}

/// Adds what the kernel counted between two readings of a tool's programs, to the programs of the same name in `to`. Programs
/// that did not run are left out. `names` has the names by tag; a program without one is named by its tag.
fn add(
    to: &mut Vec<Counted>,
    before: &BTreeMap<u32, Program>,
    after: &BTreeMap<u32, Program>,
    names: &BTreeMap<String, String>,
) {
    let zero = Program::default();
    for (id, program) in after {
        let earlier = before.get(id).unwrap_or(&zero);
        let runs = float(program.runs.saturating_sub(earlier.runs));
        let ns = float(program.ns.saturating_sub(earlier.ns));
        let name = names.get(&program.tag).unwrap_or(&program.tag);
        if let Some(known) = to.iter_mut().find(|one| one.name == *name) {
            known.runs += runs;
            known.ns += ns;
        } else if runs > 0.0 {
            to.push(Counted { name: name.clone(), runs, ns });
        }
    }
}

const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Has the kernel count run times; restores the earlier setting on drop.
struct Counting {
    before: String,
}

impl Counting {
    fn begin() -> Result<Self> {
        let before = fs::read_to_string(SWITCH).with_context(|| format!("cannot read {SWITCH}"))?;
        fs::write(SWITCH, "1").with_context(|| format!("cannot write {SWITCH}"))?;
        Ok(Self { before })
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        if let Err(error) = fs::write(SWITCH, &self.before) {
            eprintln!("{SWITCH} cannot be set back to {}: {error}", self.before.trim());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(runs: u64, ns: u64) -> Program {
        Program { tag: "t".to_owned(), runs, ns }
    }

    #[test]
    fn the_cost_of_counting_is_subtracted() {
        let mut counted = Vec::new();
        let names = BTreeMap::from([("t".to_owned(), "connect4".to_owned())]);
        let before = BTreeMap::from([(1, program(100, 5_000))]);
        let after = BTreeMap::from([(1, program(300, 65_000))]);
        add(&mut counted, &before, &after, &names);
        let expected = Counted { name: "connect4".to_owned(), runs: 200.0, ns: 60_000.0 };
        assert_eq!(counted, [expected]);
        let cost = Cost {
            tools: BTreeMap::from([(Tool::All, counted)]),
            connects: 100.0,
            empty_ns: Some(50.0),
        };
        let expected = PerConnect { runs: 2.0, raw: 600.0, net: 500.0 };
        assert_eq!(cost.per_connect(Tool::All), Some(expected));
        assert_eq!(cost.per_connect(Tool::Tcplife), None);
    }
}
