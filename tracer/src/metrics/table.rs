//! The table of all metrics: name, type, labels, help. `doc/metrics.md` is made from it.

/// The type of a metric.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Type {
    /// Never falls while the process runs.
    Counter,
    Gauge,
    Histogram,
}

/// A metric: all series of one name.
#[derive(Debug)]
pub(super) struct Family {
    /// Name; of a counter, without the `_total` with which its series end.
    pub(super) name: &'static str,
    pub(super) kind: Type,
    /// The names of the labels, in the order of the values that the encoder is given.
    pub(super) labels: &'static [&'static str],
    /// One sentence, without a full stop.
    pub(super) help: &'static str,
}

/// The labels of a metric of a tuple.
const TUPLE: &[&str] = &["netns", "src", "dst", "dport"];

/// Defines a constant for each metric, and the list of all.
macro_rules! families {
    ($($constant:ident = $kind:ident $name:literal $labels:expr, $help:literal;)*) => {
        $(pub(super) const $constant: Family =
            Family { name: $name, kind: Type::$kind, labels: $labels, help: $help };)*
        /// All metrics, in the order of the page.
        #[cfg(test)]
        pub(super) const ALL: &[Family] = &[$($constant,)*];
    };
}

families! {
    BUILD_INFO = Gauge "tracer_build_info" &["version"], "Always 1; the version of tracer is a label";
    BACKEND_INFO = Gauge "tracer_backend_info" &["backend", "kernel"],
        "Always 1; the backend and the release of the kernel are labels";
    DEGRADED = Gauge "tracer_degraded_reasons" &[],
        "Things that do not work as well as they could; the events tracer.start and tracer.degraded name them";
    CONFIG_OK = Gauge "tracer_config_last_reload_successful" &[],
        "1: the agent runs with the newest configuration that it was to take over; 0: that one was refused, and the log says why";
    CONFIG_AT = Gauge "tracer_config_last_reload_success_timestamp_seconds" &[],
        "When the configuration was taken over that the agent runs with, seconds since 1970";
    SATURATION_MAX = Gauge "tracer_saturation_max_ratio" &[],
        "Ports in use of the fullest tuple of the host, divided by those that it can hold; 0 if no tuple holds ports";
    TUPLES = Gauge "tracer_tuples" &[], "Tuples that hold ports";
    TUPLES_ABOVE = Gauge "tracer_tuples_above" &["threshold"], "Tuples whose saturation is at least the threshold";
    IN_USE = Gauge "tracer_ports_in_use" &[], "Ports in use of all tuples, TIME_WAIT included";
    TIME_WAIT = Gauge "tracer_ports_time_wait" &[], "Ports in TIME_WAIT of all tuples";
    OPENED = Counter "tracer_ports_opened" &[], "Ports that connect() took, those of older sockets included";
    RELEASED = Counter "tracer_ports_released" &[], "Ports that were released";
    FAILURES = Counter "tracer_failures" &["cause"], "Calls of connect(), bind() and listen() that failed, by cause";
    SEARCH = Histogram "tracer_port_search_duration_seconds" &[], "How long connect() searched until it found a port";
    TUPLE_IN_USE = Gauge "tracer_tuple_ports_in_use" TUPLE,
        "Ports in use, TIME_WAIT included; with the labels other: the sum of all tuples that are not shown";
    TUPLE_TIME_WAIT = Gauge "tracer_tuple_ports_time_wait" TUPLE,
        "Ports in TIME_WAIT; with the labels other: the sum of all tuples that are not shown";
    TUPLE_CAPACITY = Gauge "tracer_tuple_ports_capacity" TUPLE, "Ports that the tuple can hold; absent: not known";
    TUPLE_SATURATION = Gauge "tracer_tuple_saturation_ratio" TUPLE,
        "Ports in use divided by those that the tuple can hold; absent: not known";
    TUPLE_EXHAUSTION = Gauge "tracer_tuple_exhaustion_seconds" TUPLE,
        "Seconds until no port is left; absent: the tuple is not filling, or that is not known";
    TUPLE_SEARCH = Gauge "tracer_tuple_port_search_p99_seconds" TUPLE,
        "99 of 100 port searches since the reading before took less; if there were none, of all; absent: there were none at all";
    TUPLE_OPENED = Counter "tracer_tuple_opened" TUPLE, "Ports that connect() took since the tuple was first seen";
    TUPLE_EXHAUSTED = Counter "tracer_tuple_exhausted" TUPLE,
        "Calls of connect() that found no port since the tuple was first seen";
    NETNS_RANGE = Gauge "tracer_netns_ports_range" &["netns"],
        "Ports of the range from which connect() takes, in the namespaces of the tuples that are shown";
    NETNS_BOUND = Gauge "tracer_netns_ports_bound" &["netns"],
        "Ports of the range that connect() is not given because of bind() or listen(), in the namespaces of the tuples that are shown";
    LOSSES = Counter "tracer_losses" &["loss"], "What was not recorded, by the name of the loss";
    DRIFT = Counter "tracer_ledger_drift" &[], "Corrections of the ledger by a comparison with the kernel's sockets";
    SEEN = Counter "tracer_events_seen" &[], "Events that the kinds and filters let through";
    EMITTED = Counter "tracer_events_emitted" &[], "Events that were written to the ring buffer";
    OUTPUT_LINES = Counter "tracer_output_lines" &["output"], "Lines that were written";
    OUTPUT_DROPPED = Counter "tracer_output_dropped_lines" &["output"], "Lines that the output did not take";
    OUTPUT_BYTES = Counter "tracer_output_bytes" &["output"], "Bytes that were written, before they were compressed";
    MAP_ENTRIES = Gauge "tracer_map_entries" &["map"], "Entries of a table of the kernel side; absent: not known";
    MAP_MAX = Gauge "tracer_map_max_entries" &["map"], "Entries for which a table of the kernel side has room";
    RUN_TIME = Counter "tracer_bpf_run_seconds" &["program"],
        "How long a BPF program ran; absent unless run times are counted";
    READING_AT = Gauge "tracer_reading_timestamp_seconds" &[], "When the tables were read, seconds since 1970";
    READING_TOOK = Gauge "tracer_reading_duration_seconds" &[], "How long it took to read the tables";
    HTTP_REFUSED = Counter "tracer_http_refused" &[], "Connections to this server that were closed at once, because 16 were open";
    CPU = Counter "process_cpu_seconds" &[], "CPU time of the process, user and system";
    RESIDENT = Gauge "process_resident_memory_bytes" &[], "Resident memory of the process";
    OPEN_FDS = Gauge "process_open_fds" &[], "Open file descriptors of the process";
    MAX_FDS = Gauge "process_max_fds" &[], "File descriptors that the process may have open";
    STARTED = Gauge "process_start_time_seconds" &[], "When the process was started, seconds since 1970";
}

#[cfg(test)]
mod tests;
