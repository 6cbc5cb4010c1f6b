//! The keys that tracer writes itself.

/// Every key of `schema/events-v1.json`, sorted, except `host.name`, which the configuration file may set.
static KEYS: &[&str] = &[
    "backend",
    "cause",
    "connect.duration_ns",
    "connect.failures",
    "connections.aborted",
    "connections.closed_by_peer",
    "connections.closed_here",
    "connections.lifetimes",
    "connections.requests",
    "connections.segments",
    "container.id",
    "degraded",
    "degraded.added",
    "degraded.ended",
    "drift",
    "errno",
    "errno.name",
    "error.type",
    "eta_s",
    "event.name",
    "events.emitted",
    "events.seen",
    "events.written",
    "kernel",
    "kernel.hz",
    "lost.count",
    "lost.reason",
    "mono_ns",
    "netns",
    "netns.name",
    "network.local.address",
    "network.local.port",
    "network.peer.address",
    "network.peer.port",
    "network.transport",
    "network.type",
    "port.by",
    "port.held_ns",
    "port.holder.name",
    "port.holder.peer.address",
    "port.holder.peer.port",
    "port.holder.pid",
    "port.holder.state",
    "port.time_wait",
    "ports.bound",
    "ports.capacity",
    "ports.close_wait",
    "ports.closing",
    "ports.connecting",
    "ports.established",
    "ports.in_use",
    "ports.opened",
    "ports.range",
    "ports.released",
    "ports.reserved",
    "ports.reserved_list",
    "ports.reusable",
    "ports.saturation",
    "ports.time_wait",
    "ports.time_wait_begun",
    "ports.time_wait_ends",
    "ports.unanswered",
    "process.cpu_ns",
    "process.executable.name",
    "process.executable.name.source",
    "process.linux.cgroup",
    "process.memory.rss_kib",
    "process.pid",
    "rate.failed",
    "rate.opened",
    "search.duration_ns",
    "search.histogram",
    "search.p99_at_least",
    "search.p99_ns",
    "seq",
    "socket.cookie",
    "spread.chosen",
    "spread.original",
    "spread.passed",
    "spread.port",
    "spread.reason",
    "spread.rule",
    "syns.sent_again",
    "syns.unanswered",
    "systemd.unit",
    "tcp.state.new",
    "tcp.state.old",
    "tcp_timestamps",
    "tcp_tw_reuse",
    "tcp_tw_reuse_delay_ms",
    "thread.name",
    "ts",
    "tuples",
    "v",
    "version",
];

/// What keys begin with whose endings are names of losses, causes and settings.
const PREFIXES: [&str; 3] = ["failed.", "lost.", "settings."];

/// Whether tracer writes this key itself, except `host.name`.
pub(super) fn is_reserved(key: &str) -> bool {
    KEYS.binary_search(&key).is_ok() || PREFIXES.iter().any(|prefix| key.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    fn collect(value: &Value, keys: &mut BTreeSet<String>) {
        match value {
            Value::Object(entries) => {
                if let Some(Value::Object(properties)) = entries.get("properties") {
                    keys.extend(properties.keys().cloned());
                }
                entries.values().for_each(|value| collect(value, keys));
            }
            Value::Array(values) => values.iter().for_each(|value| collect(value, keys)),
            _ => {}
        }
    }

    #[test]
    fn every_key_of_the_schema_is_reserved_except_host_name() {
        let schema = include_str!("../../../schema/events-v1.json");
        let mut keys = BTreeSet::new();
        collect(&serde_json::from_str(schema).unwrap(), &mut keys);
        assert!(keys.remove("host.name"));
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        assert_eq!(KEYS, keys);
    }

    #[test]
    fn keys_that_the_schema_has_by_a_pattern_are_reserved() {
        let schema = include_str!("../../../schema/events-v1.json");
        let patterns = schema.matches("patternProperties").count();
        let known: usize = PREFIXES
            .iter()
            .map(|prefix| schema.matches(&format!("^{}", prefix.replace('.', "\\\\."))).count())
            .sum();
        assert!(patterns > 0 && known >= patterns, "{patterns} patterns, {known} of these");
        assert!(is_reserved("lost.output_full") && !is_reserved("lost"));
    }
}
