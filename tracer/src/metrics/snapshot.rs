//! What one reading says: values and labels, ready to be encoded.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    sync::OnceLock,
};

use bytes::Bytes;
use tracer_common::{Addr, Cause, TupleKey};

use super::{
    process::Process,
    reading::{ConfigReading, MapReading, Reading},
    totals::Sums,
};

/// What the metrics say of one reading. It does not change any more, and its texts are made at most once.
#[derive(Debug)]
pub struct Snapshot {
    pub(super) at_ns: u64,
    pub(super) took_s: f64,
    pub(super) backend: String,
    pub(super) kernel: String,
    pub(super) degraded: u64,
    pub(super) config: ConfigReading,
    pub(super) all: AllTuples,
    pub(super) sums: Sums,
    pub(super) search_ns: u64,
    pub(super) failed: [u64; Cause::COUNT],
    pub(super) losses: Vec<(&'static str, u64)>,
    pub(super) drift: u64,
    pub(super) seen: u64,
    pub(super) emitted: u64,
    /// In the order of their keys.
    pub(super) shown: Vec<Shown>,
    /// Of the tuples that are not shown: ports in use, and in TIME_WAIT.
    pub(super) others: (u64, u64),
    /// Label, ports of the range, bound ports.
    pub(super) namespaces: Vec<(String, u32, u32)>,
    pub(super) outputs: Vec<OutputCounts>,
    pub(super) maps: Vec<MapReading>,
    /// Name, and seconds.
    pub(super) programs: Vec<(String, f64)>,
    pub(super) http_refused: u64,
    pub(super) process: Option<Process>,
    /// The texts that were asked for, by format and by whether they are compressed.
    pub(super) texts: [OnceLock<Bytes>; 4],
}

/// Gauges over all tuples.
#[derive(Clone, Debug, Default)]
pub(super) struct AllTuples {
    /// Tuples that hold ports.
    pub(super) holding: u64,
    /// Each threshold of [`super::Metrics::new`], and how many tuples are at least that full.
    pub(super) above: Vec<(f64, u64)>,
    /// The largest saturation; 0: none is known.
    pub(super) fullest: f64,
    pub(super) in_use: u64,
    pub(super) time_wait: u64,
}

/// A tuple that is shown.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    /// Network namespace, source, destination, port of the destination.
    pub(super) labels: [String; 4],
    pub(super) in_use: u64,
    pub(super) time_wait: u64,
    pub(super) capacity: Option<u32>,
    pub(super) saturation: Option<f64>,
    pub(super) eta_s: Option<f64>,
    pub(super) search_p99_s: Option<f64>,
    pub(super) opened: u64,
    pub(super) exhausted: u64,
}

/// The counters of an output.
#[derive(Clone, Debug)]
pub(super) struct OutputCounts {
    pub(super) name: String,
    pub(super) lines: u64,
    pub(super) dropped: u64,
    pub(super) bytes: u64,
}

/// The label of each network namespace of the reading: its name, or else its inode number.
///
/// No two namespaces have the same label: a name that is a number, or that another namespace of the reading has too, is not used.
pub(super) fn netns_labels(reading: &Reading<'_>) -> BTreeMap<u32, String> {
    let mut labels = BTreeMap::new();
    let mut owners: BTreeMap<&str, u32> = BTreeMap::new();
    let mut shared = Vec::new();
    for tuple in &reading.tuples {
        let inum = tuple.key.netns;
        let name = tuple.netns_name.as_deref().filter(|name| is_name(name));
        if let Some(name) = name
            && *owners.entry(name).or_insert(inum) != inum
        {
            shared.push(name);
        }
        labels.entry(inum).or_insert(name);
    }
    let label = |(inum, name): (u32, Option<&str>)| {
        let name = name.filter(|name| !shared.contains(name));
        (inum, name.map_or_else(|| inum.to_string(), str::to_owned))
    };
    labels.into_iter().map(label).collect()
}

/// Whether this name of a namespace cannot be taken for an inode number.
fn is_name(name: &str) -> bool {
    !name.bytes().all(|byte| byte.is_ascii_digit())
}

/// The labels of a tuple. `netns`: that of its namespace.
pub(super) fn tuple_labels(netns: &str, key: &TupleKey) -> [String; 4] {
    [
        netns.to_owned(),
        address(key.source),
        address(key.destination),
        key.destination_port.to_string(),
    ]
}

fn address(address: Addr) -> String {
    match address.to_v4() {
        Some(bytes) => IpAddr::from(bytes).to_string(),
        None => Ipv6Addr::from(address.0).to_string(),
    }
}
