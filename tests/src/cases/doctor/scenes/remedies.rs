//! The commands that findings print: each is executed in its scenario, which must be healthy then.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, ensure};

use super::{Outcomes, Scene, WINDOW, makers, ports::wait_for_take_over, while_active};
use crate::harness::tracer::{
    doctor::{Diagnosis, Finding, doctor_of_names},
    run,
};

const LIMIT: Duration = Duration::from_secs(10);

/// Scenes whose findings print a command that changes something.
const WITH_COMMANDS: &[&str] = &[
    "full_of_time_waits",
    "nearly_full",
    "fin_wait2_held",
    "listener_in_range",
    "small_range",
    "self_connect",
    "reuse_ineffective",
    "time_wait_overflow",
    "descriptors",
    "upstream_queue",
    "nonlocal_bind",
    "reverse_path",
];

/// The commands of a finding that change something: `tracer spread` is printed with `--dry-run`.
fn commands(finding: &Finding) -> impl Iterator<Item = &str> {
    let all = finding.advice.iter().filter_map(|it| it.command.as_deref());
    all.filter(|command| !command.starts_with("tracer "))
}

/// The finding that a scene is made for.
fn finding<'a>(scene: &Scene, outcomes: &'a Outcomes) -> Option<&'a Finding> {
    let id = scene.made_for()?;
    outcomes.by_scene.get(scene.title())?.found.finding(id).ok()
}

/// Executes the commands that the findings of these scenes print (not those of tracer itself), and looks again. A scene whose
/// finding prints several is made anew for each of the others. A scene without a finding or a command is left out. Returns
/// (scene, command, what was found after it) for each command.
///
/// # Errors
/// A command fails, writes to stderr or takes longer than 10 s; a scene cannot be made again; or doctor fails.
pub(super) fn apply(
    scenes: Vec<Scene>,
    outcomes: &Outcomes,
) -> Result<Vec<(&'static str, String, Diagnosis)>> {
    let mut treated = Vec::new();
    for mut scene in scenes {
        let Some(finding) = finding(&scene, outcomes) else { continue };
        let name = scene.netns_name().to_owned();
        let mut others = Vec::new();
        for command in commands(finding).skip(1) {
            let maker = makers().find(|(title, _)| *title == scene.title());
            let (title, maker) = maker.context("no such scene")?;
            let other = maker()?.named(title)?;
            others.push((command.replace(&name, other.netns_name()), other));
        }
        if let Some(command) = commands(finding).next() {
            execute(&mut scene, command)?;
            treated.push((command.to_owned(), scene));
        }
        for (command, mut other) in others {
            execute(&mut other, &command)?;
            treated.push((command, other));
        }
    }
    wait_for_take_over();
    let (commands, scenes): (Vec<String>, Vec<Scene>) = treated.into_iter().unzip();
    let names: Vec<String> = scenes.iter().map(|it| it.netns_name().to_owned()).collect();
    let found = while_active(&scenes, || doctor_of_names(&names, WINDOW))?;
    let of =
        |(command, scene): (String, &Scene)| Ok((scene.title(), command, found.of(&scene.here)?));
    commands.into_iter().zip(&scenes).map(of).collect()
}

/// Executes a command as it was printed, then what else the advice says.
fn execute(scene: &mut Scene, command: &str) -> Result<()> {
    let ended = run(Command::new("sh").args(["-c", command]), LIMIT)?;
    ensure!(ended.code() == 0 && ended.stderr.is_empty(), "{command}: {ended:?}");
    scene.do_the_rest()
}

/// Checks that each scene of [`WITH_COMMANDS`] had a command, and that after each command its scene has no finding above `info`
/// that no other one explains (`small_range` counts in its own scene only); else an error.
pub(super) fn check(outcomes: &Outcomes) -> Result<()> {
    for name in WITH_COMMANDS {
        let outcome = outcomes.by_scene.get(name).with_context(|| format!("no scene {name}"))?;
        ensure!(!outcome.again.is_empty(), "no command was printed in {name}: {:?}", outcome.found);
    }
    for (name, outcome) in &outcomes.by_scene {
        for (command, found) in &outcome.again {
            let roots = if *name == "small_range" { found.roots() } else { found.causes() };
            ensure!(roots.is_empty(), "{name}, after `{command}`: {found:?}");
        }
    }
    Ok(())
}
