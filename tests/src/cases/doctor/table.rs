//! All scenarios against all findings: what each must yield, what it yielded in this run, and one table of both.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result, ensure};

use crate::harness::tracer::doctor::{Diagnosis, Finding};

/// A situation that a test makes, and what `tracer doctor` must say about it. Findings are named by their ids.
pub(super) struct Scenario {
    pub(super) name: &'static str,
    /// The findings above `info` that no other finding explains, `small_range` excepted: the first one has to be the first of the
    /// diagnosis, the others may be missing. Empty: the scenario is healthy, and no such finding may be there.
    pub(super) roots: &'static [&'static str],
    /// Findings that must be there and are only good to know: their severity is `info` (not checked).
    pub(super) infos: &'static [&'static str],
}

const fn unwell(name: &'static str, roots: &'static [&'static str]) -> Scenario {
    Scenario { name, roots, infos: &[] }
}

const fn healthy(name: &'static str) -> Scenario {
    unwell(name, &[])
}

const fn noted(name: &'static str, infos: &'static [&'static str]) -> Scenario {
    Scenario { name, roots: &[], infos }
}

/// Every scenario, in the order of the findings in tracer/doc/doctor.md, each followed by the healthy ones that look like it.
pub(super) const SCENARIOS: &[Scenario] = &[
    unwell("full_of_time_waits", &["ports_exhausted"]),
    healthy("taken_over_time_waits"),
    healthy("accepted_time_waits"),
    unwell("nearly_full", &["ports_exhausted"]),
    healthy("less_than_nearly_full"),
    unwell("every_port_reserved", &["ports_exhausted"]),
    unwell("bound_addresses", &["ports_exhausted", "poisoned_ports"]),
    unwell("log_that_is_named", &["ports_exhausted"]),
    unwell("haproxy_at_its_limit", &["ports_exhausted", "churn"]),
    unwell("first_half_full", &["slow_search", "closes_first", "churn", "ports_exhausted"]),
    healthy("a_load_that_fits"),
    unwell("black_hole", &["black_hole"]),
    unwell("held_open", &["held_open"]),
    healthy("closed_in_time"),
    unwell("fin_wait2_held", &["fin_wait2_held"]),
    healthy("few_in_fin_wait2"),
    unwell("nginx_closes_first", &["ports_exhausted", "closes_first", "churn"]),
    noted("haproxy_reuses_nothing", &["churn"]),
    healthy("haproxy_reuses_all"),
    noted("hot_spot", &["hot_spot"]),
    healthy("two_destinations"),
    unwell("bound_and_connected", &["poisoned_ports"]),
    unwell("bound_and_idle", &["poisoned_ports"]),
    unwell("squid_binds_ports", &["poisoned_ports"]),
    healthy("bound_without_a_port"),
    healthy("udp_in_range"),
    unwell("listener_in_range", &["listeners_in_range"]),
    healthy("listener_below_range"),
    unwell("small_range", &["small_range"]),
    healthy("odd_sized_range"),
    unwell("nodeport_overlap", &["nodeport_overlap"]),
    healthy("nodeports_reserved"),
    unwell("self_connect", &["self_connect"]),
    noted("refused_in_range", &["self_connect"]),
    healthy("refused_below_range"),
    unwell("reuse_ineffective", &["reuse_ineffective"]),
    healthy("reuse_effective"),
    unwell("time_wait_overflow", &["time_wait_overflow"]),
    healthy("time_waits_below_the_most"),
    unwell("descriptors", &["descriptors"]),
    unwell("nginx_without_descriptors", &["descriptors"]),
    healthy("descriptors_left"),
    unwell("conntrack_full", &["conntrack_full"]),
    healthy("conntrack_not_full"),
    unwell("snat_exhausted", &["snat_exhausted"]),
    healthy("snat_half_full"),
    healthy("snat_with_more_ports"),
    healthy("conntrack_not_in_use"),
    unwell("upstream_queue", &["upstream_queue"]),
    healthy("queue_with_room"),
    unwell("nat_behind", &["nat_behind"]),
    healthy("all_answered"),
    unwell("nonlocal_bind", &["nonlocal_bind"]),
    noted("nonlocal_bind_unused", &["nonlocal_bind"]),
    unwell("reverse_path", &["reverse_path"]),
    healthy("reverse_path_loose"),
    unwell("haproxy_without_its_source", &["bad_source"]),
    unwell("nginx_without_its_source", &["bad_source"]),
    unwell("blamed_upstream", &["ports_exhausted", "closes_first", "churn"]),
    unwell("blamed_by_log", &["ports_exhausted"]),
    healthy("failed_upstream"),
];

/// What the table shows for a finding that was not there.
const ABSENT: char = '.';

/// What was found in this run, by scenario.
static FOUND: Mutex<BTreeMap<&'static str, Diagnosis>> = Mutex::new(BTreeMap::new());

fn all_found() -> MutexGuard<'static, BTreeMap<&'static str, Diagnosis>> {
    FOUND.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notes what was found in a scenario for [`table`], and then checks it. `small_range` counts only in the scenario that is about
/// it: all the others make their range small.
///
/// # Errors
/// There is no such scenario; its first root is missing or not the first; it yields a root that is not one of its own; or one of
/// its infos is missing.
pub(super) fn check(name: &str, found: &Diagnosis) -> Result<()> {
    let scenario = SCENARIOS.iter().find(|it| it.name == name);
    let scenario = scenario.with_context(|| format!("no scenario {name}"))?;
    all_found().insert(scenario.name, found.clone());
    let about_range = scenario.roots.contains(&"small_range");
    let roots = if about_range { found.roots() } else { found.causes() };
    let first = scenario.roots.first();
    let found_first = roots.first();
    ensure!(
        found_first == first,
        "{name}: the first root is {:?}, not {first:?}: {found:?}",
        roots.first()
    );
    let foreign: Vec<_> = roots.iter().filter(|id| !scenario.roots.contains(id)).collect();
    ensure!(foreign.is_empty(), "{name} yields {foreign:?}, too: {found:?}");
    for id in scenario.infos {
        found.finding(id).with_context(|| name.to_owned())?;
    }
    Ok(())
}

/// The table of what was found, as lines: the legend, a heading for each finding, and then a line for each scenario that ran,
/// with a column for each finding. Empty if none ran.
pub fn table() -> Vec<String> {
    let all = all_found();
    if all.is_empty() {
        return Vec::new();
    }
    let ids: Vec<&str> = documented();
    let mut lines = vec![
        "what `tracer doctor` found in each scenario (R: first root, r: root, c: consequence, i: info)"
            .to_owned(),
    ];
    for (number, id) in ids.iter().enumerate() {
        let stem = " |".repeat(number);
        lines.push(format!("{:34}{stem} {id}", ""));
    }
    for scenario in SCENARIOS {
        let Some(found) = all.get(scenario.name) else { continue };
        let mut line = format!("{:34}", scenario.name);
        for id in &ids {
            write!(line, " {}", mark(found, id)).unwrap_or_default();
        }
        lines.push(line);
    }
    lines
}

/// How a finding of this id is in a diagnosis, as a letter of the legend of [`table`]; [`ABSENT`] if it is not there.
fn mark(found: &Diagnosis, id: &str) -> char {
    let of_id = || found.findings.iter().filter(|it| it.id == id);
    let above = |it: &&Finding| it.severity != "info";
    if of_id().any(|it| above(&it) && it.consequence_of.is_none()) {
        return if found.causes().first() == Some(&id) { 'R' } else { 'r' };
    }
    if of_id().any(|it| it.consequence_of.is_some()) {
        return 'c';
    }
    if of_id().next().is_some() { 'i' } else { ABSENT }
}

/// The ids of findings, in the order of the table in tracer/doc/doctor.md (as of the build); empty if the page has no section
/// `Findings`.
pub(super) fn documented() -> Vec<&'static str> {
    const PAGE: &str = include_str!("../../../../tracer/doc/doctor.md");
    let rest = PAGE.split_once("\n## Findings").map_or("", |(_, rest)| rest);
    let section = rest.split_once("\n## ").map_or(rest, |(section, _)| section);
    let id = |line: &'static str| line.strip_prefix("| `")?.split_once("` |").map(|(id, _)| id);
    section.lines().filter_map(id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Findings without a scenario, and why.
    const WITHOUT: &[(&str, &str)] = &[
        ("kernel", "it is about the host and the backend, whatever the scenario"),
        ("closes_first", "nginx_closes_first has it after ports_exhausted of the same tuple"),
        ("health_checks", "it takes a minute of an even load: unit tests have it"),
        ("blamed_upstream", "it is a consequence of ports_exhausted wherever that is seen"),
    ];

    #[test]
    fn each_finding_is_the_first_of_a_scenario() {
        let documented = documented();
        assert!(documented.len() > 20, "{documented:?}");
        for id in &documented {
            let of = |it: &&Scenario| it.roots.first() == Some(id) || it.infos.contains(id);
            let excused = WITHOUT.iter().any(|(without, _)| without == id);
            assert!(SCENARIOS.iter().any(|it| of(&it)) != excused, "{id}");
        }
        for id in SCENARIOS.iter().flat_map(|it| it.roots.iter().chain(it.infos)) {
            assert!(documented.contains(id), "{id} is not documented");
        }
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = SCENARIOS.iter().map(|it| it.name).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
