//! What a user with fewer privileges gets from `tracer doctor`: the same verdict where it can be known, else exit code 3 with the
//! reason and what is needed.

use std::{collections::BTreeMap, process::Command, thread, time::Duration};

use anyhow::{Context, Result, bail, ensure};

use super::edge::Edge;
use crate::harness::{
    netns::NetNs,
    privileges::{
        ALL, BPF, DAC_READ_SEARCH, NET_ADMIN, PERFMON, SETGID, SETPCAP, SETUID, SYS_ADMIN,
        SYS_PTRACE, SYSLOG, in_user_and_network_namespace, in_user_namespace, only,
    },
    probe::Place,
    tracer::{
        self, command,
        doctor::{Diagnosis, diagnosis, doctor_of_nobody},
    },
};

const LIMIT: Duration = Duration::from_secs(40);
/// Id of the finding that a process has nearly as many descriptors open as it may.
const DESCRIPTORS: &str = "descriptors";

/// Who runs doctor, and what cannot be seen then.
struct User {
    name: &'static str,
    runs: Runs,
    /// What the window needs, a core check; empty: it is made.
    window: &'static str,
    /// Other checks that are not made, and what each needs.
    others: &'static [(&'static str, &'static str)],
}

#[derive(Clone, Copy)]
enum Runs {
    /// Root without these capabilities.
    Without(&'static [u32]),
    /// Root of a user namespace, in a network namespace of the host.
    InUsers,
    Nobody,
}

const OWN_ONLY: &[(&str, &str)] = &[("namespaces", "CAP_SYS_ADMIN")];

const fn without(name: &'static str, capabilities: &'static [u32]) -> User {
    User { name, runs: Runs::Without(capabilities), window: "", others: &[] }
}

/// Root without each of the capabilities that tracer uses, and users to whom more is missing.
const USERS: &[User] = &[
    without("root", &[]),
    without("root without CAP_BPF", &[BPF]),
    without("root without CAP_PERFMON", &[PERFMON]),
    without("root without CAP_NET_ADMIN", &[NET_ADMIN]),
    without("root without CAP_SYS_PTRACE", &[SYS_PTRACE]),
    without("root without CAP_DAC_READ_SEARCH", &[DAC_READ_SEARCH]),
    without("root without CAP_SYSLOG", &[SYSLOG]),
    without("root without CAP_SETUID", &[SETUID]),
    without("root without CAP_SETGID", &[SETGID]),
    without("root without CAP_SETPCAP", &[SETPCAP]),
    User { others: OWN_ONLY, ..without("root without CAP_SYS_ADMIN", &[SYS_ADMIN]) },
    User {
        window: "CAP_BPF",
        others: OWN_ONLY,
        ..without("neither CAP_SYS_ADMIN nor CAP_BPF", &[SYS_ADMIN, BPF])
    },
    User {
        window: "CAP_PERFMON",
        others: OWN_ONLY,
        ..without("neither CAP_SYS_ADMIN nor CAP_PERFMON", &[SYS_ADMIN, PERFMON])
    },
    User {
        window: "CAP_NET_ADMIN",
        others: OWN_ONLY,
        ..without("neither CAP_SYS_ADMIN nor CAP_NET_ADMIN", &[SYS_ADMIN, NET_ADMIN])
    },
    User {
        name: "root of a user namespace",
        runs: Runs::InUsers,
        window: "CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN outside of a user namespace",
        others: OWN_ONLY,
    },
    User {
        name: "a user without privileges",
        runs: Runs::Nobody,
        window: "CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN",
        others: OWN_ONLY,
    },
];

/// What doctor says to this user about the namespace in which it runs, with a window of this many seconds.
fn run(runs: Runs, netns: &NetNs, window: &str) -> Result<Diagnosis> {
    let options = ["--netns", "/proc/self/ns/net", "--window", window];
    let mut command = command(&[&["doctor", "-o", "json"], &options[..]].concat())?;
    let command: &mut Command = match runs {
        Runs::Nobody => return doctor_of_nobody(netns, &options),
        Runs::InUsers => in_user_namespace(&mut command),
        Runs::Without(dropped) => {
            let kept: Vec<u32> = ALL.filter(|it| !dropped.contains(it)).collect();
            only(&mut command, kept)
        }
    };
    diagnosis(&netns.run(|| tracer::run(command, Place::get().limit(LIMIT)))?)
}

/// Each of [`USERS`] gets the same verdict about a full namespace: exit code 2 and `ports_exhausted`, of 20 ports. About an idle
/// one, users who can watch get exit code 0; those who cannot get exit code 3, the reason, and what they need.
pub(super) fn same_verdict_or_the_reason() -> Result<()> {
    let (full, idle) = (Edge::new(20)?, Edge::new(20_000)?);
    full.leave_time_waits(20)?;
    // Two at the same time: each mostly waits for the kernel.
    let looks = |netns: &NetNs, window: &str| -> Result<BTreeMap<&str, Diagnosis>> {
        let look = |user: &User| Ok((user.name, run(user.runs, netns, window).context(user.name)?));
        USERS.iter().map(look).collect()
    };
    let (of_full, of_idle) = thread::scope(|scope| {
        let other = scope.spawn(|| looks(&full.here, "0"));
        let idle = looks(&idle.here, "0.2");
        (other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), idle)
    });
    let (of_full, of_idle) = (of_full?, of_idle?);
    for user in USERS {
        let name = user.name;
        let (Some(full), Some(idle)) = (of_full.get(name), of_idle.get(name)) else {
            bail!("{name} did not look");
        };
        // A full tuple is seen without a window and without privileges. Not every user sees in which namespace a process runs:
        // one of another test can be near its limit of descriptors.
        let mut causes = full.causes();
        causes.retain(|id| *id != DESCRIPTORS);
        ensure!(full.exit == 2 && causes == ["ports_exhausted"], "{name}: {full:?}");
        let numbers = full.finding("ports_exhausted")?;
        ensure!(numbers.count("ports.in_use")? == 20, "{name}: {full:?}");
        check_missing(idle, user).context(name)?;
        let expected = if user.window.is_empty() { (0, "healthy") } else { (3, "unknown") };
        let of_another_test = idle.findings.iter().any(|it| it.id == DESCRIPTORS);
        let right = if of_another_test {
            [1, 2].contains(&idle.exit)
        } else {
            (idle.exit, idle.verdict.as_str()) == expected
        };
        ensure!(right, "{name}: {idle:?}");
    }
    Ok(())
}

/// Root of a user namespace looks at the network namespace that belongs to it, and gets exit code 0. Another one of the host,
/// whose name it sees, it cannot enter: the check `namespaces` is then not made, because of the user namespace.
pub(super) fn root_of_a_container() -> Result<()> {
    let other = NetNs::new()?;
    let _name = other.name(&format!("closed-{}", std::process::id()))?;
    let mut command = command(&["doctor", "-o", "json", "--window", "0"])?;
    let command = in_user_and_network_namespace(&mut command);
    let found = diagnosis(&tracer::run(command, Place::get().limit(LIMIT))?)?;
    let namespaces = found.check("namespaces")?;
    ensure!(found.exit == 0 && found.check("fill")?.status == "ok", "{found:?}");
    let said = namespaces.why.as_deref().is_some_and(|it| it.contains("user namespace"));
    ensure!(namespaces.status == "not_made" && said, "{namespaces:?}");
    Ok(())
}

/// The window was not made if its user lacks something, and no other core check is missing. Each check that was not made says why
/// and what it needs.
fn check_missing(found: &Diagnosis, user: &User) -> Result<()> {
    let window = (!user.window.is_empty()).then_some(("window", user.window));
    for (id, needs) in window.iter().chain(user.others) {
        let check = found.check(id)?;
        let named = check.needs.as_deref().is_some_and(|it| it.contains(needs));
        ensure!(check.status == "not_made" && named && check.why.is_some(), "{check:?}");
    }
    for check in found.checks.iter().filter(|it| it.status == "not_made") {
        ensure!(check.why.is_some() && check.needs.is_some(), "{check:?}");
        ensure!(!check.core || check.id == "window" && window.is_some(), "{check:?}");
    }
    Ok(())
}
