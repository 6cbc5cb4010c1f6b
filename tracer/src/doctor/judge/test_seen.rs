//! A namespace with one tuple, for tests.

use std::{collections::BTreeMap, time::Duration};

use tracer_common::Addr;

use super::Seen;
use crate::{
    doctor::{
        activity::Activity,
        finding::{Place, Process},
        open_ports::Open,
        tuples::{Ends, Settings, Tuple, Tuples},
    },
    host::capacity::{PortRange, Reuse},
};

pub(in crate::doctor) const ENDS: Ends =
    Ends { source: Addr::v4([10, 0, 0, 8]), destination: Addr::v4([10, 0, 1, 7]), port: 8080 };

fn tuples(tuple: Tuple) -> Tuples {
    Tuples {
        by_ends: BTreeMap::from([(ENDS, tuple)]),
        listening: Vec::new(),
        bound: Vec::new(),
        usable: 1_000,
        ..Tuples::default()
    }
}

/// A namespace with 1,000 ports and this tuple.
pub(in crate::doctor) fn seen(tuple: Tuple) -> Seen {
    let reuse = Reuse { setting: 2, delay_ms: None, timestamps: true };
    let range = PortRange { low: 40_000, high: 40_999, reserved: Vec::new() };
    Seen {
        place: Place { inum: 1, name: Some("proxy".into()), ..Place::default() },
        settings: Settings { range, reuse },
        now: tuples(tuple),
        before: None,
        time_wait_s: 62.05,
        activity: BTreeMap::new(),
        bound: Vec::new(),
        details: None,
        growth: None,
    }
}

impl Seen {
    /// With what the tuple was 5 s ago.
    pub(super) fn after(self, before: Tuple) -> Self {
        Self { before: Some((tuples(before), Duration::from_secs(5))), ..self }
    }

    /// With what happened to the tuple in the 5 s since.
    pub(in crate::doctor) fn watched(self, activity: Activity) -> Self {
        Self { activity: BTreeMap::from([(ENDS, activity)]), ..self }
    }
}

/// A tuple of 1,000 ports that holds this many: those not in TIME_WAIT are established.
pub(super) fn held(held: u32, time_wait: u32) -> Tuple {
    let established = held - time_wait;
    Tuple { held, time_wait, established, capacity: 1_000, ..Tuple::default() }
}

/// 5 s in which nginx opened this many connections, and closed this many of them first; each was open for 0.1 s.
pub(in crate::doctor) fn opened(opened: u64, closed_first: u64) -> Activity {
    let caller = Process { pid: 7, name: "nginx".into(), container: None };
    #[expect(clippy::cast_precision_loss, reason = "a small number of a test")]
    let open = opened as f64 / 5.0 * 0.1;
    Activity {
        seconds: 5.0,
        opened,
        ended: opened,
        closed_first,
        open: Open { mean: open, seen: 1_000 },
        caller: Some(caller),
        ..Activity::default()
    }
}
