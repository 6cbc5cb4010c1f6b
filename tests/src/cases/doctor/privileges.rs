//! What a user with fewer privileges gets: the same verdict where it can be known, else 3 with the reason and what it needs.

use std::{collections::BTreeMap, process::Command, thread, time::Duration};

use anyhow::{Context, Result, bail, ensure};

use super::edge::Edge;
use crate::harness::{
    netns::NetNs,
    privileges::{ALL, BPF, DAC_READ_SEARCH, NET_ADMIN, PERFMON, SYS_ADMIN, SYS_PTRACE, only},
    probe::Place,
    tracer::{
        self, command,
        doctor::{Diagnosis, diagnosis, doctor_of_nobody},
    },
};

const LIMIT: Duration = Duration::from_secs(40);

/// Who runs doctor.
#[derive(Clone, Copy)]
enum User {
    /// Root without these capabilities.
    Without(&'static [u32]),
    Nobody,
}

/// Each user, the core check that is not made for it, and what that needs.
const USERS: &[(&str, User, Option<&str>)] = &[
    ("root", User::Without(&[]), None),
    ("root without CAP_BPF", User::Without(&[BPF]), None),
    ("root without CAP_PERFMON", User::Without(&[PERFMON]), None),
    ("root without CAP_NET_ADMIN", User::Without(&[NET_ADMIN]), None),
    ("root without CAP_SYS_PTRACE", User::Without(&[SYS_PTRACE]), None),
    ("root without CAP_DAC_READ_SEARCH", User::Without(&[DAC_READ_SEARCH]), None),
    ("root without CAP_SYS_ADMIN", User::Without(&[SYS_ADMIN]), None),
    ("neither CAP_SYS_ADMIN nor CAP_BPF", User::Without(&[SYS_ADMIN, BPF]), Some("CAP_BPF")),
    (
        "neither CAP_SYS_ADMIN nor CAP_PERFMON",
        User::Without(&[SYS_ADMIN, PERFMON]),
        Some("CAP_PERFMON"),
    ),
    (
        "neither CAP_SYS_ADMIN nor CAP_NET_ADMIN",
        User::Without(&[SYS_ADMIN, NET_ADMIN]),
        Some("CAP_NET_ADMIN"),
    ),
    ("a user without privileges", User::Nobody, Some("CAP_BPF")),
];

/// What doctor says to this user about the namespace in which it runs, with a window of this many seconds.
fn run(user: User, netns: &NetNs, window: &str) -> Result<Diagnosis> {
    let options = ["--netns", "/proc/self/ns/net", "--window", window];
    let mut command = command(&[&["doctor", "-o", "json"], &options[..]].concat())?;
    let command: &mut Command = match user {
        User::Nobody => return doctor_of_nobody(netns, &options),
        User::Without(dropped) => {
            let kept: Vec<u32> = ALL.filter(|it| !dropped.contains(it)).collect();
            only(&mut command, kept)
        }
    };
    diagnosis(&netns.run(|| tracer::run(command, Place::get().limit(LIMIT)))?)
}

/// Root without each of the capabilities that doctor uses, and users who have none of them.
pub(super) fn same_verdict_or_the_reason() -> Result<()> {
    let (full, idle) = (Edge::new(20)?, Edge::new(20_000)?);
    full.leave_time_waits(20)?;
    // Two at the same time: each mostly waits for the kernel.
    let looks = |netns: &NetNs, window: &str| -> Result<BTreeMap<&str, Diagnosis>> {
        let look = |(name, user, _): &(&'static str, User, _)| {
            Ok((*name, run(*user, netns, window).with_context(|| (*name).to_owned())?))
        };
        USERS.iter().map(look).collect()
    };
    let (of_full, of_idle) = thread::scope(|scope| {
        let other = scope.spawn(|| looks(&full.here, "0"));
        let idle = looks(&idle.here, "0.2");
        (other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), idle)
    });
    let (of_full, of_idle) = (of_full?, of_idle?);
    for (name, _, lacks) in USERS {
        let (Some(full), Some(idle)) = (of_full.get(name), of_idle.get(name)) else {
            bail!("{name} did not look");
        };
        // A full tuple is seen without a window and without privileges.
        ensure!(full.exit == 2 && full.causes() == ["ports_exhausted"], "{name}: {full:?}");
        let numbers = full.finding("ports_exhausted")?;
        ensure!(numbers.count("ports.in_use")? == 20, "{name}: {full:?}");
        check_window(idle, *lacks).with_context(|| (*name).to_owned())?;
        let expected = if lacks.is_some() { (3, "unknown") } else { (0, "healthy") };
        ensure!((idle.exit, idle.verdict.as_str()) == expected, "{name}: {idle:?}");
    }
    Ok(())
}

/// The window was not made if its user lacks this, and says so; no other core check is missing.
fn check_window(found: &Diagnosis, lacks: Option<&str>) -> Result<()> {
    let missing: Vec<_> =
        found.checks.iter().filter(|it| it.core && it.status == "not_made").collect();
    let Some(lacks) = lacks else {
        ensure!(missing.is_empty(), "{missing:?}");
        return Ok(());
    };
    let [window] = missing[..] else { bail!("not the window alone: {missing:?}") };
    let named = window.needs.as_deref().is_some_and(|it| it.contains(lacks));
    ensure!(window.id == "window" && named && window.why.is_some(), "{window:?}");
    Ok(())
}
