//! Settings as commands to type: with the numbers of this host, and with what is set already.

use std::{collections::BTreeMap, ops::RangeInclusive};

use super::text::command_in;
use crate::{
    doctor::finding::{Advice, Finding, Place, Reservation},
    host::capacity::PortRange,
};

/// A longer command is not shown: nobody reads it, and a terminal takes no more than 4,096 bytes in a line.
const LONGEST: usize = 1_000;

/// An advice to set these keys of sysctl(8), each with its value, in a namespace, until the next reboot. `what`: what to do,
/// `gain`: what that gives, as texts for people. Without a command if nothing is known by which the namespace can be entered, or
/// the settings have more than 1,000 bytes: then `what` names the keys.
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

/// The sysctl key whose value lists the ports that connect() is never given (all of them: setting it replaces the former
/// list).
pub(super) const RESERVED: &str = "net.ipv4.ip_local_reserved_ports";

/// An advice to reserve the ports `more` in addition to those that `range` says are reserved in the namespace, and to set the
/// keys `then` (each with its value) after that; `what` and `gain`: see [`set`]. [`unite_reservations`] can unite it with others.
pub(super) fn reserve(
    place: &Place,
    range: &PortRange,
    more: impl IntoIterator<Item = RangeInclusive<u16>>,
    then: Vec<(&'static str, String)>,
    what: impl Into<String>,
    gain: impl Into<String>,
) -> Advice {
    let ports = merged(range.reserved.iter().cloned().chain(more));
    let reservation = Reservation { place: place.clone(), ports, then, what: what.into() };
    reserving(reservation, gain)
}

fn reserving(reservation: Reservation, gain: impl Into<String>) -> Advice {
    let Reservation { place, ports, then, what } = &reservation;
    let mut keys = vec![(RESERVED, list(ports))];
    keys.extend(then.iter().cloned());
    Advice { reserves: Some(reservation.clone()), ..set(place, &keys, what, gain) }
}

/// Makes each command of these findings that reserves ports reserve what all of them want in the same namespace: a command
/// replaces what earlier ones have reserved. Sets [`Advice::reserves`] to `None`: a second call changes nothing.
pub fn unite_reservations(findings: &mut [Finding]) {
    let advice = findings.iter().flat_map(|it| &it.advice);
    let mut wanted: BTreeMap<u32, Vec<RangeInclusive<u16>>> = BTreeMap::new();
    for reservation in advice.filter_map(|it| it.reserves.as_ref()) {
        wanted.entry(reservation.place.inum).or_default().extend(reservation.ports.iter().cloned());
    }
    let wanted: BTreeMap<u32, _> =
        wanted.into_iter().map(|(inum, ports)| (inum, merged(ports))).collect();
    for advice in findings.iter_mut().flat_map(|it| &mut it.advice) {
        let Some(own) = advice.reserves.take() else { continue };
        let ports = wanted.get(&own.place.inum).cloned().unwrap_or_default();
        let united = reserving(Reservation { ports, ..own }, std::mem::take(&mut advice.gain));
        let Advice { factor, risk, .. } = *advice;
        *advice = Advice { factor, risk, ..united };
    }
}

/// These ports as a value of net.ipv4.ip_local_reserved_ports.
fn list(runs: &[RangeInclusive<u16>]) -> String {
    let text = |run: &RangeInclusive<u16>| match (run.start(), run.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    };
    runs.iter().map(text).collect::<Vec<_>>().join(",")
}

/// The same ports as runs in ascending order, between which there is at least one other port; empty runs are left out.
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

/// How many ports the range has, reserved ones included; 0 if its first port is above its last.
pub(super) fn size(range: &PortRange) -> u32 {
    (u32::from(range.high) + 1).saturating_sub(u32::from(range.low))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::doctor::finding::{Id, Severity, Subject};

    fn range(reserved: Vec<RangeInclusive<u16>>) -> PortRange {
        PortRange { reserved, ..PortRange::default() }
    }

    fn place(name: Option<&str>, own: bool) -> Place {
        Place { inum: 7, name: name.map(str::to_owned), own, path: None }
    }

    #[test]
    fn what_is_reserved_already_stays_reserved() {
        let command = |reserved: &[RangeInclusive<u16>], more: &[RangeInclusive<u16>]| {
            let (place, range) = (place(None, true), range(reserved.to_vec()));
            let advice = reserve(&place, &range, more.to_vec(), Vec::new(), "", "");
            let command = advice.command.unwrap();
            command.strip_prefix("sysctl -w net.ipv4.ip_local_reserved_ports=").unwrap().to_owned()
        };
        let some = [8080..=8080, 9148..=9150];
        assert_eq!(command(&some, &[40_001..=40_001]), "8080,9148-9150,40001");
        assert_eq!(command(&some, &[9_000..=9_147, 9_150..=9_160]), "8080,9000-9160");
        assert_eq!(command(&[], &[]), "");
        assert_eq!(command(&[1..=u16::MAX], &[u16::MAX..=u16::MAX]), "1-65535");
    }

    #[test]
    fn all_commands_of_a_namespace_reserve_what_all_of_its_findings_want() {
        let named = |inum, name| Place { inum, ..place(Some(name), false) };
        let (here, there) = (named(1, "blue"), named(2, "red"));
        let range = range(vec![8080..=8080]);
        let finding = |advice| {
            let (id, severity) = (Id::ListenersInRange, Severity::Info);
            Finding::new(id, severity, Subject::Host, "").advise([Advice::new("other", ""), advice])
        };
        let of = |place: &Place, port: u16, then: Vec<(&'static str, String)>| {
            let advice = reserve(place, &range, [port..=port], then, "reserve it", "gain");
            finding(advice.factor(2.0).risk("a risk"))
        };
        let range_too = vec![("net.ipv4.ip_local_port_range", "1 2".to_owned())];
        let mut all =
            [of(&here, 40_001, vec![]), of(&here, 40_003, range_too), of(&there, 40_002, vec![])];
        unite_reservations(&mut all);
        let commands = all.each_ref().map(|it| it.advice[1].command.as_deref().unwrap());
        let reserved = |name: &str, ports: &str| {
            format!("ip netns exec {name} sysctl -w net.ipv4.ip_local_reserved_ports={ports}")
        };
        assert_eq!(commands[0], reserved("blue", "8080,40001,40003"));
        let with_range =
            reserved("blue", "8080,40001,40003") + " net.ipv4.ip_local_port_range=\"1 2\"";
        assert_eq!(commands[1], with_range);
        assert_eq!(commands[2], reserved("red", "8080,40002"));
        let Advice { what, gain, factor, risk, persists, .. } = &all[1].advice[1];
        assert_eq!((what.as_str(), gain.as_str()), ("reserve it", "gain"));
        assert_eq!((*factor, *risk, *persists), (Some(2.0), Some("a risk"), false));
        assert_eq!(all[0].advice[0], Advice::new("other", ""));
        let again = all.clone();
        unite_reservations(&mut all);
        assert_eq!(all, again);
    }

    #[test]
    fn a_united_command_that_is_too_long_is_not_shown() {
        let range = range(vec![]);
        let one = |ports: Vec<u16>| {
            let ports = ports.into_iter().map(|port| port..=port);
            let advice = reserve(&place(None, true), &range, ports, vec![], "reserve them", "");
            let (id, severity) = (Id::ListenersInRange, Severity::Info);
            Finding::new(id, severity, Subject::Host, "").advise([advice])
        };
        let many = |from: u16| (from..from + 200).step_by(2).collect::<Vec<u16>>();
        let mut all = [one(many(40_000)), one(many(50_000))];
        assert!(all.iter().all(|it| it.advice[0].command.is_some()));
        unite_reservations(&mut all);
        for finding in &all {
            let Advice { command, what, .. } = &finding.advice[0];
            let expected = "reserve them, by net.ipv4.ip_local_reserved_ports";
            assert_eq!((command, what.as_str()), (&None, expected));
        }
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
