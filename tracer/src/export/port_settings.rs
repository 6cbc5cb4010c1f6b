//! Formats the settings of a network namespace that decide which ports connect() is given, as keys of a line.

use std::{fmt::Write as _, ops::RangeInclusive};

use serde::Serialize;

use crate::host::capacity::Reuse;

/// Bytes of the longest list of reserved ports that a line has: any user can reserve ports in a namespace of his own.
const LONGEST: usize = 1_024;

/// The settings as keys of a line. What is not known (`None`) is left out.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct PortSettings {
    /// Ports of the range that are never chosen (net.ipv4.ip_local_reserved_ports), as `40001,40010-40019`; empty: none. `None`:
    /// not known, or the list has more than 1,024 bytes.
    #[serde(rename = "ports.reserved_list", skip_serializing_if = "Option::is_none")]
    pub reserved: Option<String>,
    /// net.ipv4.tcp_tw_reuse: 0 none, 1 all, 2 those of loopback addresses.
    #[serde(rename = "tcp_tw_reuse", skip_serializing_if = "Option::is_none")]
    pub reuse: Option<u8>,
    /// net.ipv4.tcp_tw_reuse_delay, ms; `None`: this kernel has no such setting, or it is not known.
    #[serde(rename = "tcp_tw_reuse_delay_ms", skip_serializing_if = "Option::is_none")]
    pub reuse_delay_ms: Option<u32>,
    /// Whether net.ipv4.tcp_timestamps is other than 0.
    #[serde(rename = "tcp_timestamps", skip_serializing_if = "Option::is_none")]
    pub timestamps: Option<bool>,
}

impl PortSettings {
    /// The keys of these settings. `reserved`: runs of ports in ascending order; left out if their text has more than 1,024
    /// bytes. Of either, `None`: not known.
    pub fn new(reserved: Option<Vec<RangeInclusive<u16>>>, reuse: Option<Reuse>) -> Self {
        Self {
            reserved: reserved.and_then(list),
            reuse: reuse.map(|it| it.setting),
            reuse_delay_ms: reuse.and_then(|it| it.delay_ms),
            timestamps: reuse.map(|it| it.timestamps),
        }
    }
}

/// `None`: it would be too long.
fn list(runs: impl IntoIterator<Item = RangeInclusive<u16>>) -> Option<String> {
    let mut text = String::new();
    for run in runs {
        let comma = if text.is_empty() { "" } else { "," };
        let written = if run.start() == run.end() {
            write!(text, "{comma}{}", run.start())
        } else {
            write!(text, "{comma}{}-{}", run.start(), run.end())
        };
        if written.is_err() || text.len() > LONGEST {
            return None;
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_is_too_long_is_left_out_as_a_part_would_be_wrong() {
        assert_eq!(list([]).as_deref(), Some(""));
        assert_eq!(list([7..=7, 10..=19]).as_deref(), Some("7,10-19"));
        assert_eq!(list((0..10_000).map(|port| 2 * port..=2 * port)), None);
    }
}
