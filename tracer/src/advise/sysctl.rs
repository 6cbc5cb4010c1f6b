//! A file for /etc/sysctl.d: a wider port range, and TIME_WAITs that connect() can take over.

use std::{collections::BTreeSet, ops::RangeInclusive};

use super::{
    Plan,
    block::{Block, count, short},
};
use crate::doctor::flow::Flow;

const RANGE: &str = "net.ipv4.ip_local_port_range";
const RESERVED: &str = "net.ipv4.ip_local_reserved_ports";
const REUSE: &str = "net.ipv4.tcp_tw_reuse";
const TIMESTAMPS: &str = "net.ipv4.tcp_timestamps";

/// The range that is advised: above it are no ports, below it are those of most services.
const WIDE: RangeInclusive<u16> = 10_240..=65_535;
/// Ports that Kubernetes gives to services by default (kube-apiserver --service-node-port-range).
const NODE_PORTS: RangeInclusive<u16> = 30_000..=32_767;
/// A wider range is not worth a change if it has less than this many times as many ports.
const WORTH_A_CHANGE: f64 = 1.05;

/// The blocks: where the file belongs, the range, and the reuse of TIME_WAITs if connect() does not reuse all of them
/// already. A block whose keys this kernel lacks says so, and has no lines.
pub(super) fn blocks(plan: &Plan) -> Vec<Block> {
    let place = Block::new(
        "A file for /etc/sysctl.d/60-tracer.conf; sysctl -p FILE sets it at once",
    )
    .mind([
        "it is of this network namespace: a container has its own, which its runtime sets",
        "keys that this kernel does not have are left out",
    ]);
    [place, range(plan)].into_iter().chain(reuse(plan)).collect()
}

/// The wider range, and the reserved ports that it needs; no line if the range is wide already, or cannot be set here.
fn range(plan: &Plan) -> Block {
    let settings = &plan.settings;
    let has = |key: &str| settings.keys.contains(key);
    if !has(RANGE) || !has(RESERVED) {
        return Block::new(&format!("{RANGE} and {RESERVED} cannot be set here"));
    }
    let low = settings.range.low.min(*WIDE.start());
    let high = settings.range.high.max(*WIDE.end());
    let reserved = reserved(plan, low..=high);
    let ports = (low..=high).filter(|port| !reserved.contains(port)).count();
    let ports = u32::try_from(ports).unwrap_or(u32::MAX);
    let factor = f64::from(ports) / f64::from(settings.capacity.max(1));
    if factor < WORTH_A_CHANGE {
        return Block::new(&format!(
            "{RANGE} is wide enough: {}-{}",
            settings.range.low, settings.range.high
        ));
    }
    let flow = plan.worst();
    let mut block = Block::new("A wider port range").gain(&format!(
        "to one destination from {} to {} connections/s from each address: {} ports, now {}",
        short(flow.largest_rate(settings.capacity)),
        short(flow.largest_rate(ports)),
        count(ports.into()),
        count(settings.capacity.into())
    ));
    block = block.mind([
        "ports on which services of this host listen are reserved below, those of services that do not run now are not: add them",
        "firewall rules may name the range",
    ]);
    if !settings.range.reserved.is_empty() {
        block = block.mind(["ports that are reserved now stay so"]);
    }
    if settings.has_node_ports {
        block = block.mind([
            "30000-32767 are those of Kubernetes services, if kube-apiserver has no other --service-node-port-range",
        ]);
    }
    let mut before = format!("{RANGE}=\"{} {}\"", settings.range.low, settings.range.high);
    let is_new = reserved != settings.range.reserved.iter().cloned().flatten().collect();
    if is_new {
        before.extend([" ", RESERVED, "=\"", &texts(&settings.range.reserved).join(","), "\""]);
        // Before the range: else a service's port is free for connect() for a moment.
        block.line(format!("{RESERVED} = {}", texts(&runs(&reserved)).join(",")));
    }
    block = block
        .undo("remove the file, and set what is set now:")
        .command(&format!("sysctl -w {before}"));
    block.line(format!("{RANGE} = {low} {high}"));
    block
}

/// The ports to reserve: those that are, those of listeners in this range, and those of Kubernetes.
fn reserved(plan: &Plan, range: RangeInclusive<u16>) -> BTreeSet<u16> {
    let settings = &plan.settings;
    let mut ports: BTreeSet<u16> = settings.range.reserved.iter().cloned().flatten().collect();
    if settings.has_node_ports {
        ports.extend(NODE_PORTS);
    }
    ports.extend(settings.listening.iter().copied().filter(|port| range.contains(port)));
    ports
}

/// Ports as ranges, in ascending order.
fn runs(ports: &BTreeSet<u16>) -> Vec<RangeInclusive<u16>> {
    let mut runs: Vec<RangeInclusive<u16>> = Vec::new();
    for port in ports {
        match runs.last_mut() {
            Some(last) if last.end().checked_add(1) == Some(*port) => *last = *last.start()..=*port,
            _ => runs.push(*port..=*port),
        }
    }
    runs
}

/// `8080`, `30000-32767`.
fn texts(runs: &[RangeInclusive<u16>]) -> Vec<String> {
    let text = |run: &RangeInclusive<u16>| {
        if run.start() == run.end() {
            run.start().to_string()
        } else {
            format!("{}-{}", run.start(), run.end())
        }
    };
    runs.iter().map(text).collect()
}

/// Reuse of TIME_WAITs; `None`: connect() reuses them already.
fn reuse(plan: &Plan) -> Option<Block> {
    let settings = &plan.settings;
    let has = |key: &str| settings.keys.contains(key);
    if !has(REUSE) {
        return Some(Block::new(&format!("This kernel has no {REUSE} here")));
    }
    let now = settings.reuse;
    if now.setting == 1 && now.timestamps {
        return None;
    }
    if !now.timestamps && !has(TIMESTAMPS) {
        return Some(Block::new(&format!(
            "TCP timestamps are off, and this kernel has no {TIMESTAMPS} here"
        )));
    }
    let flow = plan.worst();
    let then = Flow { time_wait_s: super::REUSED_AFTER_S, ..flow };
    let mut block =
        Block::new("TIME_WAITs that connect() takes over after a second").gain(&format!(
            "to one destination from {} to {} connections/s from each address",
            short(flow.largest_rate(settings.capacity)),
            short(then.largest_rate(settings.capacity))
        ));
    block = block.mind([
        "both ends must use TCP timestamps: a TIME_WAIT of a connection without them is not taken over",
        "%SAT of tracer counts a TIME_WAIT as taken, also if connect() could take it over",
    ]);
    let mut before = format!("{REUSE}={}", now.setting);
    if !now.timestamps {
        before.extend([" ", TIMESTAMPS, "=0"]);
        block = block.mind([
            "timestamps are off now: without them, tcp_tw_reuse has no effect and says nothing",
        ]);
    }
    block = block
        .undo("remove the file, and set what is set now:")
        .command(&format!("sysctl -w {before}"));
    if !now.timestamps {
        block.line(format!("{TIMESTAMPS} = 1"));
    }
    block.line(format!("{REUSE} = 1"));
    Some(block)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advise::tests::{plan, unwrapped};

    fn text(plan: &Plan) -> String {
        blocks(plan).iter().map(Block::text).collect()
    }

    /// The keys that the file sets.
    fn keys(text: &str) -> Vec<&str> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.filter_map(|line| line.split_once(" = ")).map(|(key, _)| key).collect()
    }

    #[test]
    fn only_keys_that_exist_are_set() {
        let mut plan = plan(1);
        assert_eq!(keys(&text(&plan)), [RESERVED, RANGE, REUSE]);
        for (missing, left) in
            [(REUSE, vec![RESERVED, RANGE]), (RANGE, vec![REUSE]), (RESERVED, vec![REUSE])]
        {
            let mut less = plan.clone();
            less.settings.keys.remove(missing);
            assert_eq!(keys(&text(&less)), left, "{missing}");
        }
        plan.settings.keys.clear();
        assert_eq!(keys(&text(&plan)), Vec::<&str>::new());
    }

    #[test]
    fn reuse_comes_with_the_timestamps_that_it_needs() {
        let mut plan = plan(1);
        plan.settings.reuse.timestamps = false;
        assert_eq!(keys(&text(&plan)), [RESERVED, RANGE, TIMESTAMPS, REUSE]);
        plan.settings.reuse.setting = 1;
        assert_eq!(keys(&text(&plan)), [RESERVED, RANGE, TIMESTAMPS, REUSE]);
        plan.settings.keys.remove(TIMESTAMPS);
        assert_eq!(keys(&text(&plan)), [RESERVED, RANGE]);
        plan.settings.reuse.timestamps = true;
        assert_eq!(keys(&text(&plan)), [RESERVED, RANGE]);
    }

    #[test]
    fn a_wider_range_keeps_what_is_reserved_and_takes_no_port_of_a_service() {
        let mut plan = plan(1);
        plan.settings.range.reserved = vec![40_000..=40_002, 500..=500];
        plan.settings.listening = BTreeSet::from([80, 15_432, 40_003, 50_000]);
        let line = "net.ipv4.ip_local_reserved_ports = 500,15432,40000-40003,50000\n";
        assert!(text(&plan).contains(line), "{}", text(&plan));
        plan.settings.has_node_ports = true;
        let line = "net.ipv4.ip_local_reserved_ports = 500,15432,30000-32767,40000-40003,50000\n";
        assert!(text(&plan).contains(line), "{}", text(&plan));
        let text = unwrapped(&text(&plan));
        assert!(text.contains(": 52,522 ports, now 28,232"), "{text}");
    }

    #[test]
    fn reserved_ports_are_left_alone_where_none_are_added() {
        let mut plan = plan(1);
        plan.settings.listening = BTreeSet::from([80]);
        assert_eq!(keys(&text(&plan)), [RANGE, REUSE]);
        plan.settings.range.reserved = vec![500..=501];
        assert_eq!(keys(&text(&plan)), [RANGE, REUSE]);
        plan.settings.listening = BTreeSet::from([10_240]);
        assert_eq!(keys(&text(&plan)), [RESERVED, RANGE, REUSE]);
    }

    #[test]
    fn a_range_is_never_made_smaller() {
        let mut plan = plan(1);
        plan.settings.range.low = 1_024;
        plan.settings.capacity = 59_976;
        assert!(text(&plan).contains("ip_local_port_range = 1024 65535\n"), "{}", text(&plan));
        plan.settings.range.high = 65_535;
        plan.settings.capacity = 64_512;
        assert!(!text(&plan).contains("ip_local_port_range ="), "{}", text(&plan));
    }

    #[test]
    fn what_does_harm_is_never_set() {
        for reuse in [0, 1, 2] {
            let mut plan = plan(1);
            plan.settings.reuse.setting = reuse;
            let keys = [
                "net.ipv4.tcp_tw_recycle",
                "net.ipv4.tcp_max_tw_buckets",
                "net.ipv4.tcp_fin_timeout",
            ];
            plan.settings.keys.extend(keys.map(str::to_owned));
            for harmful in keys {
                assert!(!text(&plan).contains(harmful), "{harmful}");
            }
        }
    }
}
