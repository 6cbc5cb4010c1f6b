//! The settings of `[kernel]`.

use super::{Form, Scalar, Setting, Value};
use crate::cli::value;

const SIZED_BY_HOST: &str = "sized to the host";
const ENTRIES: Form = Form { scalar: Scalar::Whole, most: 0 };

pub(super) static SETTINGS: &[Setting] = &[
    Setting {
        name: "backend",
        form: Form { scalar: Scalar::Text, most: 0 },
        value: Value::Default(&["auto"]),
        help: "Kernel hooks to use: auto, fexit, kprobe or tracepoint; auto picks the cheapest kind that works on this kernel",
        set: |draft, text| value::one_of(text).map(|it| draft.kernel.backend = Some(it)),
    },
    Setting {
        name: "max_conns",
        form: ENTRIES,
        value: Value::Unset { sample: &["262144"], absent: SIZED_BY_HOST },
        help: "Table size: source ports tracked at a time",
        set: |draft, text| value::entries(16)(text).map(|it| draft.kernel.max_conns = Some(it)),
    },
    Setting {
        name: "max_tuples",
        form: ENTRIES,
        value: Value::Unset { sample: &["65536"], absent: SIZED_BY_HOST },
        help: "Table size: tuples (source, destination, port) tracked at a time",
        set: |draft, text| value::entries(16)(text).map(|it| draft.kernel.max_tuples = Some(it)),
    },
    Setting {
        name: "max_binds",
        form: ENTRIES,
        value: Value::Unset { sample: &["65536"], absent: SIZED_BY_HOST },
        help: "Table size: ports taken by bind() or listen() that are tracked at a time",
        set: |draft, text| value::entries(16)(text).map(|it| draft.kernel.max_binds = Some(it)),
    },
    Setting {
        name: "max_tombstones",
        form: ENTRIES,
        value: Value::Unset { sample: &["65536"], absent: SIZED_BY_HOST },
        help: "Table size: sockets that end at the start, while those that are already open are read",
        set: |draft, text| {
            value::entries(16)(text).map(|it| draft.kernel.max_tombstones = Some(it))
        },
    },
    Setting {
        name: "max_attempts",
        form: ENTRIES,
        value: Value::Unset { sample: &["16384"], absent: "16384" },
        help: "Table size: connect() and bind() calls in progress at a time",
        set: |draft, text| value::entries(1)(text).map(|it| draft.kernel.max_attempts = Some(it)),
    },
    Setting {
        name: "ring_size",
        form: Form { scalar: Scalar::TextOrWhole, most: 0 },
        value: Value::Default(&["16M"]),
        help: "Size of the buffer for events from the kernel in bytes, or with K, M or G (4K to 1G), rounded up to a power of two",
        set: |draft, text| value::ring_size(text).map(|it| draft.ring = Some(it)),
    },
];
