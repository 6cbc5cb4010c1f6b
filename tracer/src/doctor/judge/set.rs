//! Settings as commands to type: with the numbers of this host, and with what is set already.

use std::ops::RangeInclusive;

use super::text::command_in;
use crate::{
    doctor::finding::{Advice, Place},
    host::capacity::PortRange,
};

/// A longer command is not shown: nobody reads it, and a terminal takes no more than 4,096 bytes in a line.
const LONGEST: usize = 1_000;

/// An advice to set these keys of sysctl(8) in a namespace, until the next reboot. Without a command if nothing is known by which
/// the namespace can be entered.
pub(super) fn set(
    place: &Place,
    keys: &[(&str, String)],
    what: impl Into<String>,
    gain: impl Into<String>,
) -> Advice {
    let assigned = |(key, value): &(&str, String)| {
        if value.contains(' ') { format!(" {key}=\"{value}\"") } else { format!(" {key}={value}") }
    };
    let assignments: String = keys.iter().map(assigned).collect();
    let advice = Advice::new(what, gain).until_reboot();
    let command = command_in(place, &format!("sysctl -w{assignments}"));
    if let Some(command) = command.filter(|_| assignments.len() <= LONGEST) {
        return advice.command(command);
    }
    let what = if assignments.len() <= LONGEST {
        format!("{}: set{assignments} in its container or network namespace", advice.what)
    } else {
        let names: Vec<&str> = keys.iter().map(|(key, _)| *key).collect();
        format!("{}, by {}", advice.what, names.join(" and "))
    };
    Advice { what, ..advice }
}

/// The ports that are reserved, and these in addition, as a value of net.ipv4.ip_local_reserved_ports.
pub(super) fn reserved_with(
    range: &PortRange,
    more: impl IntoIterator<Item = RangeInclusive<u16>>,
) -> String {
    let runs = merged(range.reserved.iter().cloned().chain(more));
    let text = |run: &RangeInclusive<u16>| match (run.start(), run.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    };
    runs.iter().map(text).collect::<Vec<_>>().join(",")
}

/// The same ports as runs in order, between which there is at least one other port.
pub(super) fn merged(
    runs: impl IntoIterator<Item = RangeInclusive<u16>>,
) -> Vec<RangeInclusive<u16>> {
    let mut all: Vec<RangeInclusive<u16>> =
        runs.into_iter().filter(|run| !run.is_empty()).collect();
    all.sort_unstable_by_key(|run| (*run.start(), *run.end()));
    let mut merged: Vec<RangeInclusive<u16>> = Vec::new();
    for run in all {
        match merged.last_mut() {
            Some(last) if *run.start() <= last.end().saturating_add(1) => {
                *last = *last.start()..=*run.end().max(last.end());
            }
            _ => merged.push(run),
        }
    }
    merged
}

/// Whether a port is reserved: connect() is never given it.
pub(super) fn is_reserved(range: &PortRange, port: u16) -> bool {
    range.reserved.iter().any(|run| run.contains(&port))
}

/// How many ports the range has, reserved ones included.
pub(super) fn size(range: &PortRange) -> u32 {
    (u32::from(range.high) + 1).saturating_sub(u32::from(range.low))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(reserved: Vec<RangeInclusive<u16>>) -> PortRange {
        PortRange { reserved, ..PortRange::default() }
    }

    fn place(name: Option<&str>, own: bool) -> Place {
        Place { inum: 7, name: name.map(str::to_owned), own, path: None }
    }

    #[test]
    fn what_is_reserved_already_stays_reserved() {
        let some = range(vec![8080..=8080, 9148..=9150]);
        assert_eq!(reserved_with(&some, [40_001..=40_001]), "8080,9148-9150,40001");
        assert_eq!(reserved_with(&some, [9_000..=9_147, 9_150..=9_160]), "8080,9000-9160");
        assert_eq!(reserved_with(&range(vec![]), []), "");
        assert_eq!(reserved_with(&range(vec![1..=u16::MAX]), [u16::MAX..=u16::MAX]), "1-65535");
    }

    proptest! {
        #[test]
        fn merged_runs_have_the_same_ports(runs: Vec<(u16, u16)>) {
            let runs: Vec<_> = runs.into_iter().map(|(a, b)| a..=b).collect();
            let merged = merged(runs.clone());
            for port in 0..=u16::MAX {
                let has = |all: &[RangeInclusive<u16>]| all.iter().any(|run| run.contains(&port));
                prop_assert_eq!(has(&runs), has(&merged));
            }
            for pair in merged.windows(2) {
                prop_assert!(pair[0].end() + 1 < *pair[1].start());
            }
        }
    }

    #[test]
    fn a_command_sets_all_keys_in_the_namespace() {
        let keys = [("net.a", "1".to_owned()), ("net.b", "2 3".to_owned())];
        let of = |place: &Place| set(place, &keys, "widen the range", "");
        let own = of(&place(None, true));
        assert_eq!(own.command.as_deref(), Some("sysctl -w net.a=1 net.b=\"2 3\""));
        assert!(!own.persists);
        let named = of(&place(Some("blue"), false));
        assert_eq!(
            named.command.as_deref(),
            Some("ip netns exec blue sysctl -w net.a=1 net.b=\"2 3\"")
        );
    }

    #[test]
    fn without_a_way_into_the_namespace_there_is_no_command_that_would_change_another() {
        let keys = [("net.a", "1".to_owned())];
        let unnamed = set(&place(None, false), &keys, "widen it", "");
        assert_eq!(unnamed.command, None);
        assert_eq!(unnamed.what, "widen it: set net.a=1 in its container or network namespace");
        let long = [("net.a", "1,".repeat(600))];
        let long = set(&place(None, true), &long, "reserve them", "");
        assert_eq!((long.command, long.what), (None, "reserve them, by net.a".to_owned()));
    }
}
