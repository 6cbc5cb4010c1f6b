//! Scenarios side by side: each in a network namespace of its own, all of them looked at by the same two runs of `tracer doctor`,
//! one for those that are unwell and one for those that are healthy. A third run looks again once the commands that the first one
//! printed have been executed.

mod networks;
mod nodeports;
mod ports;
mod remedies;
mod scene;
mod settings;

use std::{
    collections::BTreeMap,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
pub(super) use nodeports::nodeport_overlap;
use scene::Scene;

use super::table::{self, SCENARIOS};
use crate::harness::tracer::doctor::{Diagnosis, doctor_of_names};

/// Makes the situation of a scenario.
type Maker = fn() -> Result<Scene>;

/// How the scenarios are made that are looked at side by side.
const MAKERS: &[(&str, Maker)] = &[
    ("full_of_time_waits", ports::full_of_time_waits),
    ("taken_over_time_waits", ports::taken_over_time_waits),
    ("accepted_time_waits", ports::accepted_time_waits),
    ("nearly_full", ports::nearly_full),
    ("less_than_nearly_full", ports::less_than_nearly_full),
    ("black_hole", networks::black_hole),
    ("held_open", ports::held_open),
    ("fin_wait2_held", ports::fin_wait2_held),
    ("few_in_fin_wait2", ports::few_in_fin_wait2),
    ("hot_spot", ports::hot_spot),
    ("two_destinations", ports::two_destinations),
    ("bound_and_connected", ports::bound_and_connected),
    ("bound_without_a_port", ports::bound_without_a_port),
    ("udp_in_range", ports::udp_in_range),
    ("listener_in_range", settings::listener_in_range),
    ("listener_below_range", settings::listener_below_range),
    ("small_range", settings::small_range),
    ("odd_sized_range", settings::odd_sized_range),
    ("self_connect", settings::self_connect),
    ("refused_in_range", settings::refused_in_range),
    ("refused_below_range", settings::refused_below_range),
    ("reuse_ineffective", settings::reuse_ineffective),
    ("reuse_effective", settings::reuse_effective),
    ("time_wait_overflow", settings::time_wait_overflow),
    ("time_waits_below_the_most", settings::time_waits_below_the_most),
    ("descriptors", settings::descriptors),
    ("descriptors_left", settings::descriptors_left),
    ("upstream_queue", networks::upstream_queue),
    ("queue_with_room", networks::queue_with_room),
    ("nat_behind", networks::nat_behind),
    ("all_answered", networks::all_answered),
    ("nonlocal_bind", networks::nonlocal_bind),
    ("nonlocal_bind_unused", networks::nonlocal_bind_unused),
    ("reverse_path", networks::reverse_path),
    ("reverse_path_loose", networks::reverse_path_loose),
];

/// As [`MAKERS`], on kernels that list sockets that are bound and idle (from Linux 6.8 on).
const OF_IDLE_SOCKETS: &[(&str, Maker)] = &[("bound_and_idle", ports::bound_and_idle)];

const WINDOW: &[&str] = &["--window", "1.2"];
/// How long the activity of the scenes pauses between two steps. No rate depends on the machine's speed.
const PAUSE: Duration = Duration::from_millis(250);

/// What became of a scene.
struct Outcome {
    found: Diagnosis,
    /// What was wrong with the numbers of its first root; `None`: nothing.
    wrong: Option<String>,
    /// What was found again after each of the commands that its findings print.
    again: Vec<(String, Diagnosis)>,
}

/// What became of all scenes.
struct Outcomes {
    by_scene: BTreeMap<&'static str, Outcome>,
    /// The run that looked at the healthy ones.
    healthy: Diagnosis,
}

/// The outcomes of all scenes, which the first test that asks for them makes.
fn outcomes() -> Result<&'static Outcomes> {
    static OUTCOMES: OnceLock<Result<Outcomes, String>> = OnceLock::new();
    let made = OUTCOMES.get_or_init(|| look().map_err(|error| format!("{error:#}")));
    made.as_ref().map_err(|error| anyhow!("the scenes: {error}"))
}

fn makers() -> impl Iterator<Item = &'static (&'static str, Maker)> {
    let lists_idle = crate::harness::probe::no_idle_sockets().is_none();
    MAKERS.iter().chain(OF_IDLE_SOCKETS.iter().filter(move |_| lists_idle))
}

fn look() -> Result<Outcomes> {
    let make = |(name, maker): &(&'static str, Maker)| {
        maker().and_then(|scene| scene.named(name)).with_context(|| format!("cannot make {name}"))
    };
    let scenes: Vec<Scene> = makers().map(make).collect::<Result<_>>()?;
    let (unwell, healthy): (Vec<&Scene>, Vec<&Scene>) = scenes.iter().partition(|it| {
        SCENARIOS.iter().any(|known| known.name == it.title() && !known.roots.is_empty())
    });
    let (unwell_found, healthy_found) = while_active(&scenes, || {
        thread::scope(|scope| {
            let other = scope.spawn(|| doctor_of_names(&names(&healthy), WINDOW));
            let one = doctor_of_names(&names(&unwell), WINDOW);
            let other = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok((one?, other?))
        })
    })?;
    let mut outcomes = Outcomes { by_scene: BTreeMap::new(), healthy: healthy_found.clone() };
    for (all, found) in [(unwell, unwell_found), (healthy, healthy_found)] {
        for scene in all {
            let found = found.of(&scene.here)?;
            let wrong = scene.wrong(&found);
            outcomes.by_scene.insert(scene.title(), Outcome { found, wrong, again: Vec::new() });
        }
    }
    for (name, command, found) in remedies::apply(scenes, &outcomes)? {
        if let Some(outcome) = outcomes.by_scene.get_mut(name) {
            outcome.again.push((command, found));
        }
    }
    Ok(outcomes)
}

fn names(scenes: &[&Scene]) -> Vec<String> {
    scenes.iter().map(|it| it.netns_name().to_owned()).collect()
}

/// Runs `work` while each scene does what it does over and over.
fn while_active<T: Send>(scenes: &[Scene], work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let ends = AtomicBool::new(false);
    thread::scope(|scope| {
        let active = scope.spawn(|| -> Result<()> {
            while !ends.load(Relaxed) {
                for scene in scenes {
                    scene.act().with_context(|| scene.title())?;
                }
                thread::sleep(PAUSE);
            }
            Ok(())
        });
        let result = work();
        ends.store(true, Relaxed);
        active.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        result
    })
}

/// The tests, name and function: one for each scenario that is looked at side by side.
pub(super) fn tests() -> impl Iterator<Item = (String, impl Fn() -> Result<()> + Send + Sync)> {
    makers().map(|(name, _)| (format!("scenes::{name}"), || check(name)))
}

/// The scenario yields what it must, with the right numbers, and nothing that belongs to another one.
fn check(name: &str) -> Result<()> {
    let outcome = outcomes()?.by_scene.get(name);
    let outcome = outcome.with_context(|| format!("{name} was not looked at"))?;
    table::check(name, &outcome.found)?;
    let found = &outcome.found;
    ensure!(outcome.wrong.is_none(), "{}: {found:?}", outcome.wrong.as_deref().unwrap_or_default());
    Ok(())
}

/// One run of `tracer doctor` over all healthy scenes ends with exit code 0, or with 1 because of `small_range` alone.
pub(super) fn healthy() -> Result<()> {
    let found = &outcomes()?.healthy;
    ensure!(found.exit_but_for_the_range() == 0, "it ends with {}: {found:?}", found.exit);
    Ok(())
}

/// Each command that a finding of a scenario prints makes the scenario healthy: no finding above `info` is left that no other one
/// explains, except `small_range` in the scenarios about something else.
pub(super) fn commands_help() -> Result<()> {
    remedies::check(outcomes()?)
}
