//! The tables as Markdown, without I/O.

use std::fmt::Write as _;

use super::{
    kernel::Cost,
    summary::{Figures, Row, Summary},
    tool::Tool,
};

/// The table of tools: one line for each of `present` that was measured, and one for each of `excused`, which are not installed.
pub(crate) fn tools(summary: &Summary, present: &[Tool], excused: &[Tool]) -> String {
    let mut text = "\
| | connects/s, 1 process | 2 processes | connect() p50, 1 process | 2 processes | p99, 1 process | 2 processes | kernel side | process | lost | RSS |
|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|
"
    .to_owned();
    for tool in present {
        if let Some(row) = summary.row(*tool) {
            text.push_str(&line(row));
        }
    }
    for tool in excused {
        // Writing to a String cannot fail.
        _ = writeln!(text, "| {} | not installed ({}) |", tool.name(), tool.package());
    }
    let counting = summary.empty_ns.map_or_else(String::new, |ns| {
        format!(" less {ns:.0} ns a run, which the kernel counts for an empty program (in brackets: as counted)")
    });
    text + &format!(
        "\nPercentages are against no tool, measured before and after each turn. Kernel side: time of the tool's BPF programs per connection, \
         both ends of it, by `kernel.bpf_stats_enabled`{counting}. Process: CPU time of the tool's process per connection. \
         RSS in brackets: without the mapped ring buffer.\n"
    )
}

fn line(row: &Row) -> String {
    let [one, two] = &row.figures;
    let kernel = row.kernel.map_or("-".to_owned(), |kernel| {
        format!("{} ({})", microseconds(kernel.net), microseconds(kernel.raw))
    });
    let [process, lost, rss] = match (row.rss, row.without_ring) {
        (Some(rss), Some(without)) => {
            let without =
                if without < rss { format!(" ({:.1})", without / 1024.0) } else { String::new() };
            [
                microseconds(one.tool_cpu),
                row.lost.to_string(),
                format!("{:.1}{without} MiB", rss / 1024.0),
            ]
        }
        _ => ["-", "-", "-"].map(str::to_owned),
    };
    format!(
        "| {} | {} | {} | {} | {} | {} | {} | {kernel} | {process} | {lost} | {rss} |\n",
        row.tool.name(),
        rate(row.tool, one),
        rate(row.tool, two),
        duration(row.tool, one.p50, one.p50_ratio),
        duration(row.tool, two.p50, two.p50_ratio),
        duration(row.tool, one.p99, one.p99_ratio),
        duration(row.tool, two.p99, two.p99_ratio),
    )
}

fn rate(tool: Tool, figures: &Figures) -> String {
    format!("{:.0}{}", figures.rate, change(tool, figures.rate_ratio))
}

fn duration(tool: Tool, ns: f64, ratio: f64) -> String {
    format!("{}{}", microseconds(ns), change(tool, ratio))
}

fn change(tool: Tool, ratio: f64) -> String {
    if tool == Tool::None { String::new() } else { format!(" ({})", percent(ratio)) }
}

fn percent(ratio: f64) -> String {
    format!("{:+.1} %", (ratio - 1.0) * 100.0).replace('-', "\u{2212}")
}

fn microseconds(ns: f64) -> String {
    format!("{:.2} µs", ns / 1e3)
}

/// The table of targets: what is required, what was measured, and whether it is met.
pub(crate) fn targets(summary: &Summary) -> String {
    let mut text = "| target | measured | |\n|---|--:|---|\n".to_owned();
    for (target, measured, met) in judged(summary) {
        let met = if met { "met" } else { "**missed**" };
        // Writing to a String cannot fail.
        _ = writeln!(text, "| {target} | {measured} | {met} |");
    }
    text
}

fn judged(summary: &Summary) -> Vec<(String, String, bool)> {
    let mut judged = Vec::new();
    let mut judge = |what: String, measured: String, met: bool| judged.push((what, measured, met));
    for (tool, limit) in [(Tool::All, 1_500.0), (Tool::Default, 800.0)] {
        let Some(row) = summary.row(tool) else { continue };
        let name = tool.name();
        if let Some(total) = row.total() {
            judge(
                format!("`{name}`: kernel side and process ≤ {} a connection", microseconds(limit)),
                microseconds(total),
                total <= limit,
            );
        }
        for (figures, clients) in row.figures.iter().zip(["1 process", "2 processes"]) {
            judge(
                format!("`{name}`, {clients}: connect() p50 ≤ +3 %"),
                percent(figures.p50_ratio),
                figures.p50_ratio <= 1.03,
            );
            judge(
                format!("`{name}`, {clients}: connects/s ≥ \u{2212}3 %"),
                percent(figures.rate_ratio),
                figures.rate_ratio >= 0.97,
            );
        }
        judge(format!("`{name}`: nothing lost"), row.lost.to_string(), row.lost == 0);
        if let Some(kib) = row.without_ring {
            judge(
                format!("`{name}`: RSS without the ring ≤ 12 MiB"),
                format!("{:.1} MiB", kib / 1024.0),
                kib <= 12.0 * 1024.0,
            );
        }
    }
    judge(
        "a JSON line ≤ 130 ns".to_owned(),
        format!("{:.0} ns", summary.line_ns),
        summary.line_ns <= 130.0,
    );
    judge(
        format!("reading {} tuples ≤ 30 ms", summary.tuples),
        format!(
            "{:.1} ms for a turn of `tuples --interval`, {:.1} ms of it in the kernel",
            summary.reading_ns / 1e6,
            summary.reading_system_ns / 1e6
        ),
        summary.reading_ns <= 30e6,
    );
    judged
}

/// The table of the clients' CPU time: it includes the cost of calling a hook, which the kernel does not count as the program's
/// time.
pub(crate) fn clients(summary: &Summary) -> String {
    let mut text = "| | CPU time of the clients a connection, 1 process | 2 processes |\n\
                    |---|--:|--:|\n"
        .to_owned();
    for row in &summary.rows {
        let [one, two] = &row.figures;
        // Writing to a String cannot fail.
        _ = writeln!(
            text,
            "| {} | {} | {} |",
            row.tool.name(),
            duration(row.tool, one.load_cpu, one.load_cpu_ratio),
            duration(row.tool, two.load_cpu, two.load_cpu_ratio),
        );
    }
    text
}

/// The table of each tool's BPF programs that ran, the most expensive of a tool first. Net: without the cost of counting; it may
/// be below 0.
pub(crate) fn programs(cost: &Cost) -> String {
    let mut text =
        "| tool | BPF program | runs a connection | ns a run | ns a connection | net |\n\
                    |---|---|--:|--:|--:|--:|\n"
            .to_owned();
    for (tool, counted) in &cost.tools {
        let mut counted: Vec<_> = counted.iter().filter(|one| one.runs > 0.0).collect();
        counted.sort_by(|one, other| other.ns.total_cmp(&one.ns));
        for one in counted {
            let empty = cost.empty_ns.unwrap_or(0.0);
            // Writing to a String cannot fail.
            _ = writeln!(
                text,
                "| {} | {} | {:.2} | {:.0} | {:.0} | {:.0} |",
                tool.name(),
                one.name,
                one.runs / cost.connects,
                one.ns / one.runs,
                one.ns / cost.connects,
                (one.ns - one.runs * empty) / cost.connects,
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::kernel::PerConnect;

    fn summary(net: f64) -> Summary {
        let figures = Figures { p50_ratio: 1.05, rate_ratio: 0.99, ..Figures::default() };
        let row = Row {
            tool: Tool::All,
            figures: [figures; 2],
            kernel: Some(PerConnect { runs: 4.0, raw: net + 100.0, net }),
            rss: Some(20_480.0),
            without_ring: Some(4_096.0),
            lost: 0,
        };
        Summary {
            rows: vec![row],
            line_ns: 99.0,
            reading_ns: 31e6,
            reading_system_ns: 20e6,
            tuples: 100_000,
            empty_ns: Some(25.0),
        }
    }

    #[test]
    fn a_missed_target_is_marked() {
        let text = targets(&summary(1_600.0));
        assert!(text.contains("≤ 1.50 µs a connection | 1.60 µs | **missed** |"), "{text}");
        assert!(text.contains("1 process: connect() p50 ≤ +3 % | +5.0 % | **missed** |"), "{text}");
        assert!(text.contains("connects/s ≥ \u{2212}3 % | \u{2212}1.0 % | met |"), "{text}");
        assert!(text.contains("a JSON line ≤ 130 ns | 99 ns | met |"), "{text}");
        assert!(text.contains("reading 100000 tuples ≤ 30 ms | 31.0 ms for"), "{text}");
    }

    #[test]
    fn a_tool_that_is_missing_is_named() {
        let text = tools(&summary(500.0), &[Tool::All], &[Tool::Tcplife]);
        assert!(text.contains("| tcplife | not installed (libbpf-tools) |"), "{text}");
        assert!(text.contains("| 0.50 µs (0.60 µs) | 0.00 µs | 0 | 20.0 (4.0) MiB |"), "{text}");
    }
}
