//! The timed rounds: every tool in turn, under the same loads, each between two turns without a tool.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};

use super::{
    Plan, Programs, float,
    load::{Generator, Load},
    process::{self, Memory},
    tool::{Ended, Running, Tool},
};

/// Numbers of client processes of the loads.
pub(crate) const CLIENTS: [u32; 2] = [1, 2];

/// One load with one tool in one round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) tool: Tool,
    /// Position in the run, from 0. The turns before and after a tool's turn are without a tool.
    pub(crate) turn: u32,
    /// Number of client processes of the load.
    pub(crate) clients: u32,
    pub(crate) load: Load,
    /// CPU time of the tool's process, ns; 0 without a tool.
    pub(crate) tool_cpu: f64,
}

/// One run of a tool, during the loads of one round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ToolRun {
    pub(crate) tool: Tool,
    /// After the last load of the round.
    pub(crate) memory: Memory,
    pub(crate) ended: Ended,
}

/// Everything that the timed rounds measured, in the order of time.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    pub(crate) loads: Vec<Sample>,
    pub(crate) runs: Vec<ToolRun>,
}

/// Measures every round: each of `tools` once, with a turn without a tool before and after it. Fails if a tool or the load fails.
///
/// # Panics
/// If `plan` has a round, and `tools` has none other than [`Tool::None`].
pub(crate) fn measure(
    plan: &Plan,
    programs: &Programs,
    generator: &mut Generator,
    tools: &[Tool],
) -> Result<Samples> {
    let mut samples = Samples::default();
    for round in 0..plan.rounds {
        eprintln!("round {} of {}", round + 1, plan.rounds);
        let others = process::program_names();
        if !others.is_empty() {
            let names: Vec<_> = others.into_values().collect();
            eprintln!(
                "other BPF programs are loaded, and may run under every load: {}",
                names.join(", ")
            );
        }
        let mut order: Vec<Tool> =
            tools.iter().copied().filter(|tool| *tool != Tool::None).collect();
        // In another order in each round, so that slow changes of the machine do not always affect the same tool.
        let first = round as usize % order.len();
        order.rotate_left(first);
        for tool in order {
            turn(plan, programs, generator, Tool::None, &mut samples)?;
            turn(plan, programs, generator, tool, &mut samples)
                .with_context(|| format!("cannot measure {}", tool.name()))?;
        }
    }
    turn(plan, programs, generator, Tool::None, &mut samples)?;
    Ok(samples)
}

fn turn(
    plan: &Plan,
    programs: &Programs,
    generator: &mut Generator,
    tool: Tool,
    samples: &mut Samples,
) -> Result<()> {
    let turn = samples.loads.last().map_or(0, |last| last.turn + 1);
    let running = match tool {
        Tool::None => None,
        tool => Some(Running::start(tool, programs)?),
    };
    for clients in CLIENTS {
        let cpu = |running: Option<&Running>| {
            running.map_or(Ok(0), |running| process::cpu_ns(running.pid()))
        };
        let before = cpu(running.as_ref())?;
        let load = generator.load(clients, plan.connects)?;
        if let Some(running) = &running {
            running.rest()?;
        }
        let tool_cpu = float(cpu(running.as_ref())?.saturating_sub(before));
        samples.loads.push(Sample { tool, turn, clients, load, tool_cpu });
    }
    if let Some(running) = running {
        let memory = process::memory(running.pid())?;
        samples.runs.push(ToolRun { tool, memory, ended: running.stop()? });
    }
    Ok(())
}

impl Samples {
    /// The samples as CSV, one line for each load, after a line with the names of the columns; times in ns.
    pub(crate) fn csv(&self) -> String {
        let mut text = "tool,turn,clients,connects,elapsed,load_cpu,p50,p99,tool_cpu\n".to_owned();
        for Sample { tool, turn, clients, load, tool_cpu } in &self.loads {
            let Load { connects, elapsed, cpu, p50, p99, .. } = load;
            let tool = tool.name();
            // Writing to a String cannot fail.
            _ = writeln!(
                text,
                "{tool},{turn},{clients},{connects},{elapsed},{cpu},{p50},{p99},{tool_cpu}"
            );
        }
        text
    }
}
