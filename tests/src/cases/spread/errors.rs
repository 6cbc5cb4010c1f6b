//! `spread::errors`: wrong input, and hosts where something is missing: the error names what is wrong, and nothing is attached or
//! pinned.

use std::{fs, process::Command, time::Duration};

use anyhow::{Result, ensure};

use super::{Case, Host, POOL, Plan};
use crate::{
    cases::errors::{BAD_CONFIG, NO_PRIVILEGE, run_as_nobody, says},
    harness::{
        privileges,
        tracer::{START_LIMIT, command, run, status::Status},
    },
};

const ALREADY_RUNNING: i32 = 75;

pub(super) fn cases(plan: &Plan) -> Vec<Case> {
    plan.group("spread::errors")
        .table(WRONG.iter().map(|wrong| (wrong.name, || wrong.check())))
        .once(&[
            ("second_agent", second_agent),
            ("release_under_a_running_agent", release_under_a_running_agent),
            ("release_of_no_rule", release_of_no_rule),
            ("release_without_pins", release_without_pins),
            ("start_that_fails_late", start_that_fails_late),
            ("status_of_no_rule", status_of_no_rule),
            ("too_many_addresses_that_are_there", too_many),
            ("without_privileges", without_privileges),
            ("rules_that_cannot_be_looked_for", rules_that_cannot_be_looked_for),
        ])
        .cases()
}

/// A wrong command line; `CGROUP` in it stands for the test's cgroup.
struct Wrong {
    name: &'static str,
    arguments: &'static str,
    /// Texts that must all be in the message.
    says: &'static [&'static str],
}

const WRONG: &[Wrong] = &[
    Wrong {
        name: "address_that_is_not_here",
        arguments: "--cgroup CGROUP --pool 10.9.9.9",
        says: &["10.9.9.9", "ip addr add 10.9.9.9/32"],
    },
    Wrong {
        name: "ipv6_address_that_is_not_here",
        arguments: "--cgroup CGROUP --pool fd09::9",
        says: &["fd09::9", "ip addr add fd09::9/128"],
    },
    Wrong {
        name: "range_that_is_partly_here",
        arguments: "--cgroup CGROUP --pool 10.1.0.11-10.1.0.15",
        says: &["10.1.0.15", "ip addr add 10.1.0.15/32"],
    },
    Wrong {
        name: "address_twice",
        arguments: "--cgroup CGROUP --pool 10.1.0.11 --pool 10.1.0.11",
        says: &["10.1.0.11", "remove it"],
    },
    Wrong {
        name: "address_twice_by_a_range",
        arguments: "--cgroup CGROUP --pool 10.1.0.11-10.1.0.12 --pool 10.1.0.12-10.1.0.14",
        says: &["10.1.0.12", "10.1.0.11-10.1.0.12", "remove it"],
    },
    Wrong {
        name: "multicast",
        arguments: "--cgroup CGROUP --pool 224.0.0.1",
        says: &["224.0.0.1", "multicast"],
    },
    Wrong {
        name: "ipv6_multicast",
        arguments: "--cgroup CGROUP --pool ff02::1",
        says: &["ff02::1", "multicast"],
    },
    Wrong {
        name: "broadcast",
        arguments: "--cgroup CGROUP --pool 255.255.255.255",
        says: &["255.255.255.255", "broadcast"],
    },
    Wrong {
        name: "unspecified",
        arguments: "--cgroup CGROUP --pool 0.0.0.0",
        says: &["0.0.0.0", "unspecified"],
    },
    Wrong {
        name: "ipv6_unspecified",
        arguments: "--cgroup CGROUP --pool ::",
        says: &["::", "unspecified"],
    },
    Wrong {
        name: "range_backwards",
        arguments: "--cgroup CGROUP --pool 10.1.0.14-10.1.0.11",
        says: &["backwards", "write 10.1.0.11-10.1.0.14"],
    },
    Wrong {
        name: "range_of_two_families",
        arguments: "--cgroup CGROUP --pool 10.1.0.11-fd00::12",
        says: &["10.1.0.11", "fd00::12", "famil"],
    },
    Wrong {
        name: "too_many_addresses",
        arguments: "--cgroup CGROUP --pool 10.1.0.0-10.1.1.0",
        says: &["257", "256"],
    },
    Wrong {
        name: "network_with_host_bits",
        arguments: "--cgroup CGROUP --pool 10.1.0.11/30",
        says: &["10.1.0.8/30"],
    },
    Wrong {
        name: "loopback_and_other_addresses",
        arguments: "--cgroup CGROUP --pool 10.1.0.11 --pool 127.0.0.1",
        says: &["127.0.0.1", "10.1.0.11", "loopback"],
    },
    Wrong {
        name: "no_such_interface",
        arguments: "--cgroup CGROUP --pool eth9",
        says: &["eth9", "lo"],
    },
    Wrong {
        name: "pool_that_is_none",
        arguments: "--cgroup CGROUP --pool 10.1.0.300",
        says: &["10.1.0.300", "expected"],
    },
    Wrong {
        name: "weight_that_is_none",
        arguments: "--cgroup CGROUP --pool 10.1.0.11=0",
        says: &["10.1.0.11=0", "weight"],
    },
    Wrong {
        name: "neither_cgroup_nor_all",
        arguments: "--pool 10.1.0.11",
        says: &["--cgroup", "--all"],
    },
    Wrong {
        name: "cgroup_that_is_missing",
        arguments: "--pool 10.1.0.11 --cgroup /no/such/cgroup",
        says: &["/no/such/cgroup"],
    },
    Wrong {
        name: "cgroup_that_is_another_folder",
        arguments: "--pool 10.1.0.11 --cgroup /proc/self/fd",
        says: &["/proc/self/fd", "cgroup2"],
    },
    Wrong {
        name: "destination_that_is_the_pool",
        arguments: "--cgroup CGROUP --pool 10.1.0.11 --to 10.1.0.11:80",
        says: &["--to 10.1.0.11:80", "pool"],
    },
    Wrong {
        name: "destination_of_a_family_that_the_pool_has_not",
        arguments: "--cgroup CGROUP --pool 10.1.0.11 --to [fd00::/64]:80",
        says: &["[fd00::/64]:80", "IPv6", "--pool"],
    },
    Wrong {
        name: "destination_that_is_none",
        arguments: "--cgroup CGROUP --pool 10.1.0.11 --to 10.1.0.0/33",
        says: &["10.1.0.0/33", "expected"],
    },
    Wrong {
        name: "destination_ports_backwards",
        arguments: "--cgroup CGROUP --pool 10.1.0.11 --to 10.1.0.1:90-80",
        says: &["10.1.0.1:90-80", "80-90"],
    },
    Wrong {
        name: "netns_that_is_missing",
        arguments: "--cgroup CGROUP --pool 10.1.0.11 --netns no-such-namespace",
        says: &["no-such-namespace"],
    },
];

impl Wrong {
    fn check(&self) -> Result<()> {
        let host = Host::new()?;
        let cgroup = host.cgroup.path().to_string_lossy();
        let arguments = self.arguments.replace("CGROUP", &cgroup);
        let arguments: Vec<&str> = arguments.split(' ').chain(["--on-exit", "keep"]).collect();
        let mut command = host.rule.command(&arguments)?;
        let ended = host.stage.netns.run(|| run(&mut command, Duration::from_secs(5)))?;
        says(&ended, &[BAD_CONFIG], self.says)?;
        nothing_done(&host)
    }
}

/// Checks that nothing is attached to the cgroup, and nothing is left of the rule.
fn nothing_done(host: &Host) -> Result<()> {
    let attached = host.cgroup.attached()?;
    ensure!(attached == 0, "{attached} programs are attached");
    host.rule.check_nothing_left()
}

/// A status without the counts that change by themselves: hooks that the kernel skips.
fn quiet(mut status: Status) -> Status {
    status.hook_missed = 0;
    status.lost.remove("hook_missed");
    status
}

/// A second agent for a rule fails (exit code 75, with the process id of the first); the first agent and its rule are as before,
/// and spread all further connections.
fn second_agent() -> Result<()> {
    let mut host = Host::new()?;
    let server = host.server("10.1.0.1:7000")?;
    let first = host.spread(&POOL, &["--on-exit", "keep"])?;
    let _held = (0..40).map(|_| host.connect(server.address)).collect::<Result<Vec<_>>>()?;
    let before = (host.rule.status()?, host.cgroup.attached()?);
    ensure!(before.1 > 0, "nothing is attached while it spreads");

    let cgroup = host.cgroup.path().to_string_lossy();
    let arguments = ["--pool", POOL[0], "--cgroup", &cgroup, "--on-exit", "release"];
    let mut command = host.rule.command(&arguments)?;
    let second = host.stage.netns.run(|| run(&mut command, START_LIMIT))?;
    says(&second, &[ALREADY_RUNNING], &[&first.process.id().to_string()])?;

    let after = (host.rule.status()?, host.cgroup.attached()?);
    let same = quiet(before.0.clone()) == quiet(after.0.clone()) && before.1 == after.1;
    ensure!(same, "before {before:?}, after {after:?}");
    let _more = (0..40).map(|_| host.connect(server.address)).collect::<Result<Vec<_>>>()?;
    let status = host.rule.status()?;
    ensure!(status.spread()? == 80, "{status:?}");

    first.stop()?;
    ensure!(host.rule.pins().exists(), "kept, but not there");
    let released = host.rule.release()?;
    ensure!(released.code() == 0, "{released:?}");
    nothing_done(&host)
}

/// `--release` of a rule whose agent runs fails (exit code 75, with the agent's process id), and the rule still spreads.
fn release_under_a_running_agent() -> Result<()> {
    let mut host = Host::new()?;
    let server = host.server("10.1.0.1:7000")?;
    let agent = host.spread(&POOL, &[])?;
    says(&host.rule.release()?, &[ALREADY_RUNNING], &[&agent.process.id().to_string()])?;
    let _held = host.connect(server.address)?;
    ensure!(host.rule.status()?.spread()? == 1, "{:?}", host.rule.status()?);
    agent.stop()?;
    nothing_done(&host)
}

/// `--release` of a rule that does not exist fails (exit code 78) with its name and what lists the rules.
fn release_of_no_rule() -> Result<()> {
    let host = Host::new()?;
    says(&host.rule.release()?, &[BAD_CONFIG], &[host.rule.name(), "tracer status"])
}

/// The pins of a rule without an agent were removed: `--release` removes its state file; a second `--release` finds no rule (exit
/// code 78).
fn release_without_pins() -> Result<()> {
    let host = Host::new()?;
    host.spread(&POOL, &["--on-exit", "keep"])?.stop()?;
    fs::remove_dir_all(host.rule.pins())?;
    let released = host.rule.release()?;
    ensure!(released.code() == 0, "{released:?}");
    nothing_done(&host)?;
    says(&host.rule.release()?, &[BAD_CONFIG], &[host.rule.name()])
}

/// A start fails when it has the rule's lock already, because it may open only 20 file descriptors: the error names that, the
/// exit code is not 0, and nothing is left.
fn start_that_fails_late() -> Result<()> {
    let host = Host::new()?;
    let cgroup = host.cgroup.path().to_string_lossy();
    let command = host.rule.command(&["--cgroup", &cgroup, "--pool", POOL[0]])?;
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 20; exec \"$@\"", "sh"]).arg(command.get_program());
    limited.args(command.get_args());
    let ended = host.stage.netns.run(|| run(&mut limited, START_LIMIT))?;
    ensure!(ended.code() != 0, "it has begun: {ended:?}");
    let late = ["EMFILE", "Too many open files"].iter().any(|it| ended.stderr.contains(it));
    ensure!(late, "another failure: {ended:?}");
    nothing_done(&host)
}

/// `status --rule` of a rule that does not exist fails (exit code 78) with its name and what lists the rules.
fn status_of_no_rule() -> Result<()> {
    let ended = run(&mut command(&["status", "--rule", "no-such-rule"])?, START_LIMIT)?;
    says(&ended, &[BAD_CONFIG], &["no-such-rule", "tracer status"])
}

/// Two `--pool` ranges with 400 addresses together, more than the 256 that a pool may have, are an error (exit code 78) with both
/// numbers; nothing is done.
fn too_many() -> Result<()> {
    let host = Host::new()?;
    host.stage.netns.ip("route add local 10.5.0.0/16 dev lo")?;
    let cgroup = host.cgroup.path().to_string_lossy();
    let pools = ["--pool", "10.5.0.0-10.5.0.199", "--pool", "10.5.1.0-10.5.1.199"];
    let mut command = host.rule.command(&pools)?;
    command.args(["--cgroup", &cgroup, "--on-exit", "keep"]);
    let ended = host.stage.netns.run(|| run(&mut command, START_LIMIT))?;
    says(&ended, &[BAD_CONFIG], &["400", "256", "remove some"])?;
    nothing_done(&host)
}

/// A user without privileges gets exit code 77 and the names of capabilities that are missing; nothing is attached.
fn without_privileges() -> Result<()> {
    let host = Host::new()?;
    let cgroup = host.cgroup.path().to_string_lossy();
    let arguments = ["spread", "--rule", host.rule.name(), "--pool", POOL[0]];
    let arguments = [&arguments[..], &["--cgroup", &cgroup, "--on-exit", "keep"]].concat();
    let ended = host.stage.netns.run(|| run_as_nobody(&arguments))?;
    says(&ended, &[NO_PRIVILEGE], &["CAP_BPF", "CAP_NET_ADMIN"])?;
    nothing_done(&host)
}

/// A process that cannot see the rules' pins gets an error (exit code 77) that says why, not "there is no rule": a user without
/// privileges, and root of a user namespace.
fn rules_that_cannot_be_looked_for() -> Result<()> {
    for arguments in [&["status"][..], &["spread", "--release", "--rule", "any"]] {
        let missing = ["CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH", "setcap"];
        says(&run_as_nobody(arguments)?, &[NO_PRIVILEGE], &missing)?;
        let mut command = command(arguments)?;
        let ended = run(privileges::in_user_namespace(&mut command), START_LIMIT)?;
        says(&ended, &[NO_PRIVILEGE], &["user namespace", "on the host"])?;
    }
    Ok(())
}
