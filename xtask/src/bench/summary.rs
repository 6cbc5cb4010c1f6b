//! Medians of the samples, and of their ratios to the loads without a tool just before and after, without I/O.

use super::{
    float,
    kernel::{Cost, PerConnect},
    reading::Reading,
    rounds::{CLIENTS, Sample, Samples},
    tool::Tool,
};

/// Medians over the rounds, of one tool with one number of clients. If nothing was measured, ratios are 1 and all others 0.
///
/// A ratio is the median over the rounds of: this round's value, divided by the mean of the same value in the loads without a
/// tool just before and after; 1 if there is no such load.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    /// Connections a second.
    pub(crate) rate: f64,
    /// The median of the durations of connect() in one round, ns.
    pub(crate) p50: f64,
    /// The 99th percentile of the durations of connect() in one round, ns.
    pub(crate) p99: f64,
    /// Ratio of `rate`.
    pub(crate) rate_ratio: f64,
    /// Ratio of `p50`.
    pub(crate) p50_ratio: f64,
    /// Ratio of `p99`.
    pub(crate) p99_ratio: f64,
    /// CPU time of the clients per connection, ns.
    pub(crate) load_cpu: f64,
    /// Ratio of `load_cpu`.
    pub(crate) load_cpu_ratio: f64,
    /// CPU time of the tool's process per connection, those of the warm-up included, ns; 0 without a tool.
    pub(crate) tool_cpu: f64,
}

/// The figures of one tool.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) tool: Tool,
    /// For each number of client processes, in the order of [`CLIENTS`].
    pub(crate) figures: [Figures; CLIENTS.len()],
    /// What the tool's BPF programs cost; `None` without a tool.
    pub(crate) kernel: Option<PerConnect>,
    /// Resident memory at the end of a round, median over the rounds, KiB; `None` without a tool.
    pub(crate) rss: Option<f64>,
    /// The same without BPF ring buffers, KiB; `None` without a tool.
    pub(crate) without_ring: Option<f64>,
    /// Number of lost events over all rounds, by the tool's own report.
    pub(crate) lost: u64,
}

impl Row {
    /// Time of the BPF programs (without the cost of counting) and the process together, for each connection with one client,
    /// ns. `None` without a tool: there are no programs.
    pub(crate) fn total(&self) -> Option<f64> {
        Some(self.kernel?.net + self.figures[0].tool_cpu)
    }
}

/// The figures of the tables.
#[derive(Clone, Debug)]
pub(crate) struct Summary {
    /// The tools that were measured, in the order of [`Tool::ALL`].
    pub(crate) rows: Vec<Row>,
    /// Time to write one JSON line, ns.
    pub(crate) line_ns: f64,
    /// CPU time of one reading of a table with `tuples` tuples, ns.
    pub(crate) reading_ns: f64,
    /// The part of `reading_ns` in the kernel.
    pub(crate) reading_system_ns: f64,
    /// Number of tuples in the table that was read.
    pub(crate) tuples: u32,
    /// Counted time of one run of an empty program, ns; `None`: not known.
    pub(crate) empty_ns: Option<f64>,
}

impl Summary {
    /// Computes the figures; a tool without a sample has no row. `line_ns`: time to write one JSON line, ns.
    pub(crate) fn new(samples: &Samples, cost: &Cost, reading: &Reading, line_ns: f64) -> Self {
        let measured = |tool: &Tool| samples.loads.iter().any(|sample| sample.tool == *tool);
        let rows = Tool::ALL.into_iter().filter(measured).map(|tool| {
            let runs = || samples.runs.iter().filter(move |run| run.tool == tool);
            Row {
                tool,
                figures: CLIENTS.map(|clients| figures(&samples.loads, tool, clients)),
                kernel: cost.per_connect(tool),
                rss: median(runs().map(|run| float(run.memory.rss))),
                without_ring: median(runs().map(|run| float(run.memory.without_ring()))),
                lost: runs().map(|run| run.ended.lost).sum(),
            }
        });
        Self {
            rows: rows.collect(),
            line_ns,
            reading_ns: reading.cpu,
            reading_system_ns: reading.system,
            tuples: reading.tuples,
            empty_ns: cost.empty_ns,
        }
    }

    /// The tool's figures; `None`: it was not measured.
    pub(crate) fn row(&self, tool: Tool) -> Option<&Row> {
        self.rows.iter().find(|row| row.tool == tool)
    }
}

fn figures(samples: &[Sample], tool: Tool, clients: u32) -> Figures {
    let of_tool = || samples.iter().filter(move |one| one.tool == tool && one.clients == clients);
    let middle = |value: fn(&Sample) -> f64| median(of_tool().map(value)).unwrap_or(0.0);
    let ratio = |value: fn(&Sample) -> f64| {
        let ratios = of_tool().filter_map(|one| {
            let adjacent = |base: &&Sample| {
                base.tool == Tool::None
                    && base.clients == clients
                    && base.turn.abs_diff(one.turn) == 1
            };
            let base: Vec<f64> = samples.iter().filter(adjacent).map(value).collect();
            let count = u32::try_from(base.len()).ok().filter(|count| *count > 0)?;
            Some(value(one) / (base.iter().sum::<f64>() / f64::from(count)))
        });
        median(ratios).unwrap_or(1.0)
    };
    let rate: fn(&Sample) -> f64 = |one| one.load.connects / one.load.elapsed * 1e9;
    let p50: fn(&Sample) -> f64 = |one| one.load.p50;
    let p99: fn(&Sample) -> f64 = |one| one.load.p99;
    let load_cpu: fn(&Sample) -> f64 = |one| one.load.cpu / one.load.connects;
    Figures {
        rate: middle(rate),
        p50: middle(p50),
        p99: middle(p99),
        rate_ratio: ratio(rate),
        p50_ratio: ratio(p50),
        p99_ratio: ratio(p99),
        load_cpu: middle(load_cpu),
        load_cpu_ratio: ratio(load_cpu),
        tool_cpu: middle(|one| one.tool_cpu / one.load.made),
    }
}

/// The middle value, or the mean of the two in the middle; `None` if there are no values.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::load::Load;

    fn sample(tool: Tool, turn: u32, p50: f64) -> Sample {
        let load = Load { connects: 10.0, made: 10.0, elapsed: 1e9, cpu: 100.0, p50, p99: 1.0 };
        Sample { tool, turn, clients: 1, load, tool_cpu: 20.0 }
    }

    #[test]
    fn a_ratio_is_to_the_adjacent_turns_and_the_median_is_over_the_ratios() {
        let samples = [
            sample(Tool::None, 0, 10.0),
            sample(Tool::All, 1, 11.0),
            sample(Tool::None, 2, 10.0),
            sample(Tool::All, 3, 18.0),
            sample(Tool::None, 4, 20.0),
            sample(Tool::All, 5, 60.0),
        ];
        let figures = figures(&samples, Tool::All, 1);
        assert!((figures.p50_ratio - 1.2).abs() < 1e-9, "{figures:?}");
        assert!((figures.p50 - 18.0).abs() < 1e-9, "{figures:?}");
        assert!((figures.rate - 10.0).abs() < 1e-9, "{figures:?}");
        assert!((figures.tool_cpu - 2.0).abs() < 1e-9, "{figures:?}");
    }

    #[test]
    fn the_median_of_an_even_number_is_between_the_two_in_the_middle() {
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), Some(2.5));
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median(std::iter::empty()), None);
    }
}
