//! The tuple that a part of a report is about, and the range of its ports.

use std::collections::HashMap;

use serde::Serialize;
use tracer_common::{Addr, TupleKey};

use crate::{format::tuple::address, host::capacity::Limits};

/// The tuple that a part of the report is about; or the source address of calls to bind(), which has no destination.
#[derive(Debug, Serialize)]
pub(super) struct Where {
    /// Its source address, as text; `0.0.0.0` or `::`: none was chosen, or bind() was for all addresses.
    #[serde(rename = "network.local.address")]
    pub(super) source: String,
    /// Its destination address, as text; absent: it is about bind(), or the port is 0.
    #[serde(rename = "network.peer.address", skip_serializing_if = "Option::is_none")]
    pub(super) destination: Option<String>,
    /// Port of the destination; absent: it is about bind(), or the port is 0.
    #[serde(rename = "network.peer.port", skip_serializing_if = "Option::is_none")]
    pub(super) port: Option<u16>,
    /// Inode number of its network namespace.
    pub(super) netns: u32,
    /// Name of the network namespace; absent: not known.
    #[serde(rename = "netns.name", skip_serializing_if = "Option::is_none")]
    pub(super) netns_name: Option<String>,
    /// Whether this is the row that counts the ports which bind(address, 0) took at `source`; absent: no (also for a single
    /// failed bind()).
    #[serde(rename = "bind.any_port", skip_serializing_if = "std::ops::Not::not")]
    pub(super) bind: bool,
}

/// The port range of a tuple's namespace, and how many of its ports connect() cannot use, because they are reserved or bound;
/// absent: not known.
#[derive(Debug, Default, Serialize)]
pub(super) struct RangeUse {
    /// First and last port, both inclusive, as `32768-60999`.
    #[serde(rename = "ports.range", skip_serializing_if = "Option::is_none")]
    pub(super) range: Option<String>,
    /// How many ports of it are reserved (net.ipv4.ip_local_reserved_ports).
    #[serde(rename = "ports.reserved", skip_serializing_if = "Option::is_none")]
    pub(super) reserved: Option<u32>,
    /// How many ports of it bind() or listen() took.
    #[serde(rename = "ports.bound", skip_serializing_if = "Option::is_none")]
    pub(super) bound: Option<u32>,
}

impl From<Option<Limits>> for RangeUse {
    fn from(limits: Option<Limits>) -> Self {
        Self {
            range: limits.map(|limits| limits.range()),
            reserved: limits.map(|limits| limits.reserved),
            bound: limits.map(|limits| limits.bound),
        }
    }
}

impl Where {
    /// The place of a tuple, or of an address ([`TupleKey::of_bind`]). `namespaces`: names of network namespaces by their inode
    /// numbers.
    pub(super) fn new(key: &TupleKey, namespaces: &HashMap<u32, String>) -> Self {
        let has_peer = key.destination_port != 0;
        let v4 = has_peer && key.destination.to_v4().is_some();
        Self {
            source: match key.source {
                Addr::UNSPECIFIED if v4 => address(Addr::v4([0; 4])),
                source => address(source),
            },
            destination: has_peer.then(|| address(key.destination)),
            port: has_peer.then_some(key.destination_port),
            netns: key.netns,
            netns_name: namespaces.get(&key.netns).cloned(),
            bind: key.is_of_bind(),
        }
    }
}
