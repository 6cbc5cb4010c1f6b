//! Parses a line `address.stats`.

use std::{borrow::Cow, net::IpAddr};

use serde::Deserialize;
use tracer_common::{TupleCount, TupleKey};

use super::{Tuple, addr, limits};
use crate::host::process::Called;

#[derive(Deserialize)]
struct AddressLine<'a> {
    #[serde(rename = "network.local.address")]
    local: IpAddr,
    netns: u32,
    #[serde(rename = "ports.in_use")]
    in_use: u64,
    #[serde(rename = "ports.capacity")]
    capacity: Option<u32>,
    #[serde(rename = "ports.range", borrow, default)]
    range: Cow<'a, str>,
    #[serde(rename = "ports.reserved", default)]
    reserved: u32,
    #[serde(rename = "ports.bound", default)]
    bound: u32,
    #[serde(rename = "ports.opened")]
    opened: Option<u64>,
    #[serde(rename = "netns.name", borrow, default)]
    netns_name: Cow<'a, str>,
}

impl<'a> Tuple<'a> {
    /// Parses a line `address.stats` (the ports that bind(address, 0) holds at one address), as a tuple without a destination
    /// ([`TupleKey::of_bind`]). The line has no states, TIME_WAITs, failures, searches, ends or process: these are 0, empty or
    /// `None` here.
    ///
    /// # Errors
    /// It is no JSON object; it lacks `network.local.address`, `netns` or `ports.in_use`; or a value has another type than the
    /// format's.
    pub(in crate::recording) fn of_address(line: &'a [u8]) -> serde_json::Result<Self> {
        let line: AddressLine<'_> = serde_json::from_slice(line)?;
        let opened = line.opened.unwrap_or(line.in_use).max(line.in_use);
        Ok(Self {
            key: TupleKey::of_bind(line.netns, addr(line.local)),
            ends: None,
            has_states: false,
            has_uses: false,
            count: TupleCount { opened, released: opened - line.in_use, ..TupleCount::default() },
            capacity: line.capacity,
            limits: limits(&line.range, line.reserved, line.bound),
            reusable: None,
            search_p99: None,
            line_p99: None,
            called: Called::default(),
            cgroup: Cow::Borrowed(""),
            container: Cow::Borrowed(""),
            netns_name: line.netns_name,
        })
    }
}
