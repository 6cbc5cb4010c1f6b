//! The settings of `[metrics]` and `[thresholds]`.

use super::{Form, Scalar, Setting, Value};
use crate::{
    cli::value,
    config::file::value::{listen, metrics_interval, saturation, textfile},
};

const TEXT: Form = Form { scalar: Scalar::Text, most: 0 };

pub(super) static METRICS: &[Setting] = &[
    Setting {
        name: "listen",
        form: TEXT,
        value: Value::Unset { sample: &["127.0.0.1:28232"], absent: "metrics are not served" },
        help: "Address and port, or unix:PATH, where GET /metrics is answered. Choose a port outside of ip_local_port_range: in it, it \
               takes a source port away",
        set: |draft, text| listen(text).map(|it| draft.metrics.listen = Some(it)),
    },
    Setting {
        name: "textfile",
        form: TEXT,
        value: Value::Unset {
            sample: &["/var/lib/prometheus/node-exporter/tracer.prom"],
            absent: "no file is written",
        },
        help: "File for the textfile collector of node_exporter, an absolute path that ends in .prom; it is replaced at each reading",
        set: |draft, text| textfile(text).map(|it| draft.metrics.textfile = Some(it)),
    },
    Setting {
        name: "top",
        form: Form { scalar: Scalar::Whole, most: 0 },
        value: Value::Default(&["20"]),
        help: "How many tuples have metrics of their own, the fullest first (1 to 1000)",
        set: |draft, text| {
            value::whole("a number of tuples", 1..=1000)(text).map(|it| draft.metrics.top = it)
        },
    },
    Setting {
        name: "interval",
        form: Form { scalar: Scalar::Time, most: 0 },
        value: Value::Default(&["5s"]),
        help: "Time between readings, which metrics are made of (1s to 60s)",
        set: |draft, text| metrics_interval(text).map(|it| draft.metrics.interval = it),
    },
    Setting {
        name: "bpf_stats",
        form: Form { scalar: Scalar::Flag, most: 0 },
        value: Value::Default(&["false"]),
        help: "Have the kernel measure how long the BPF programs run, which costs about 60 ns a run",
        set: |draft, text| {
            draft.metrics.bpf_stats = text == "true";
            Ok(())
        },
    },
];

pub(super) static THRESHOLDS: &[Setting] = &[Setting {
    name: "saturation",
    form: Form { scalar: Scalar::Decimal, most: 8 },
    value: Value::Default(&["0.45", "0.80", "0.95"]),
    help: "Saturations of tuples, ascending, above 0 and at most 1: the metric tracer_tuples_above counts the tuples at or above each",
    set: |draft, text| {
        let value = saturation(text, draft.thresholds.saturation.last().copied())?;
        draft.thresholds.saturation.push(value);
        Ok(())
    },
}];
