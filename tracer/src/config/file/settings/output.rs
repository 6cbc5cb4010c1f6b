//! The settings of `[[output]]`.

use tracer_common::filter::FILTER_VALUES;

use super::{Form, Scalar, Setting, Value};
use crate::{
    cli::{EventKind, value},
    config::file::value::output_path,
};

const EVERYTHING: &str = "everything";
const TEXT: Form = Form { scalar: Scalar::Text, most: 0 };
const FLAG: Form = Form { scalar: Scalar::Flag, most: 0 };

/// A list of a filter.
const fn filter(scalar: Scalar) -> Form {
    Form { scalar, most: FILTER_VALUES }
}

pub(super) static SETTINGS: &[Setting] = &[
    Setting {
        name: "path",
        form: TEXT,
        value: Value::Required { sample: &["/var/log/tracer/events.jsonl"] },
        help: "File to write to, an absolute path; - is stdout. A new file gets mode 0600, an existing one is appended to",
        set: |draft, text| output_path(text).map(|it| draft.output.stream.output = Some(it)),
    },
    Setting {
        name: "events",
        form: Form { scalar: Scalar::Text, most: 8 },
        value: Value::Default(&["failed", "stats", "lost"]),
        help: "Kinds of events: failed, stats, lost, allocated, released, established, state, all",
        set: |draft, text| value::one_of::<EventKind>(text).map(|it| draft.output.events.push(it)),
    },
    Setting {
        name: "interval",
        form: Form { scalar: Scalar::Time, most: 0 },
        value: Value::Default(&["10s"]),
        help: "Time between readings of port use: seconds, or with a unit (500ms, 5m); 0.1 s to an hour",
        set: |draft, text| value::interval(text).map(|it| draft.output.interval = it),
    },
    Setting {
        name: "rotate",
        form: Form { scalar: Scalar::TextOrWhole, most: 0 },
        value: Value::Unset { sample: &["100M"], absent: "the file is not rotated" },
        help: "Rotate the file at this size (100M, 2G): FILE becomes FILE.1, FILE.1 becomes FILE.2, and so on",
        set: |draft, text| value::rotate_size(text).map(|it| draft.output.rotate = Some(it)),
    },
    Setting {
        name: "keep",
        form: Form { scalar: Scalar::Whole, most: 0 },
        value: Value::Default(&["5"]),
        help: "Number of rotated files to keep; the oldest is removed. Only with rotate",
        set: |draft, text| value::files_kept(text).map(|it| draft.output.keep = it),
    },
    Setting {
        name: "compress",
        form: TEXT,
        value: Value::Unset { sample: &["zstd"], absent: "lines are not compressed" },
        help: "Compress the output: zstd (level 1, flushed every second)",
        set: |draft, text| value::one_of(text).map(|it| draft.output.compress = Some(it)),
    },
    Setting {
        name: "pid",
        form: filter(Scalar::Whole),
        value: Value::Unset { sample: &["1234"], absent: EVERYTHING },
        help: "Filter: process that called connect() or bind()",
        set: |draft, text| value::process_id(text).map(|it| draft.output.filter.pid.push(it)),
    },
    Setting {
        name: "comm",
        form: filter(Scalar::Text),
        value: Value::Unset { sample: &["nginx"], absent: EVERYTHING },
        help: "Filter: name of that process (/proc/PID/comm) or of its calling thread, at most 15 bytes",
        set: |draft, text| value::comm(text).map(|it| draft.output.filter.comm.push(it)),
    },
    Setting {
        name: "cgroup",
        form: filter(Scalar::Text),
        value: Value::Unset {
            sample: &["/sys/fs/cgroup/system.slice/nginx.service"],
            absent: EVERYTHING,
        },
        help: "Filter: processes in this cgroup v2 folder and below it",
        set: |draft, text| {
            if text.is_empty() {
                return Err("expected the path of a cgroup v2 folder".to_owned());
            }
            draft.output.filter.cgroup.push(text.into());
            Ok(())
        },
    },
    Setting {
        name: "netns",
        form: filter(Scalar::TextOrWhole),
        value: Value::Unset { sample: &["blue"], absent: EVERYTHING },
        help: "Filter: network namespace: a name under /run/netns, a path, or an inode number",
        set: |draft, text| value::netns(text).map(|it| draft.output.filter.netns.push(it)),
    },
    Setting {
        name: "src",
        form: filter(Scalar::Text),
        value: Value::Unset { sample: &["10.0.0.5"], absent: EVERYTHING },
        help: "Filter: source address or network",
        set: |draft, text| value::network(text).map(|it| draft.output.filter.src.push(it)),
    },
    Setting {
        name: "dst",
        form: filter(Scalar::Text),
        value: Value::Unset { sample: &["10.1.0.0/16"], absent: EVERYTHING },
        help: "Filter: destination address or network",
        set: |draft, text| value::network(text).map(|it| draft.output.filter.dst.push(it)),
    },
    Setting {
        name: "dport",
        form: filter(Scalar::TextOrWhole),
        value: Value::Unset { sample: &["443", "8000-8099"], absent: EVERYTHING },
        help: "Filter: destination port or range of ports",
        set: |draft, text| value::ports(text).map(|it| draft.output.filter.dport.push(it)),
    },
    Setting {
        name: "ipv4",
        form: FLAG,
        value: Value::Default(&["false"]),
        help: "Filter: IPv4 only (v4-mapped IPv6 sockets included)",
        set: |draft, text| {
            draft.output.filter.ipv4 = text == "true";
            Ok(())
        },
    },
    Setting {
        name: "ipv6",
        form: FLAG,
        value: Value::Default(&["false"]),
        help: "Filter: IPv6 only",
        set: |draft, text| {
            draft.output.filter.ipv6 = text == "true";
            Ok(())
        },
    },
];
