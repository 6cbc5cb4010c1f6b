//! `cargo xtask setup`: finds out what is installed, installs what is missing, and prints each command.
//!
//! `facts` reads, `plan` decides the next step (without I/O), and this file does it, until nothing is missing.

use std::{collections::BTreeSet, path::PathBuf};

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::{exec, vm, workspace};
use facts::{Facts, Installer};
use plan::Next;

pub(crate) mod apt;
mod facts;
mod plan;

/// The purpose of the set-up.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum What {
    Build,
    Test,
    /// To build, and the tools with which `cargo xtask bench` compares.
    Bench,
}

/// Which rustc compiles the BPF side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The distribution's rustc, with a package that has Rust's core library built for BPF.
    Distribution,
    /// rustup's nightly, which builds the core library for BPF from its source (component rust-src).
    Nightly,
}

/// A complete eBPF toolchain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Toolchain {
    pub(crate) way: Way,
    /// Path of bpf-linker.
    pub(crate) linker: PathBuf,
}

/// Programs that the tests run, and the Debian packages that have them.
const TEST_PROGRAMS: [(&str, &str); 12] = [
    ("nginx", "nginx-light"),
    ("haproxy", "haproxy"),
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
    ("squid", "squid"),
    ("wrk", "wrk"),
    ("ip", "iproute2"),
    ("tmux", "tmux"),
    ("zstd", "zstd"),
    ("xz", "xz-utils"),
    ("strace", "strace"),
    ("promtool", "prometheus"),
];

/// Programs with which the bench compares, and the Debian packages that have them.
const BENCH_PROGRAMS: [(&str, &str); 5] = [
    ("tcplife", "libbpf-tools"),
    ("tcpstates", "libbpf-tools"),
    ("bpftrace", "bpftrace"),
    ("htop", "htop"),
    ("btop", "btop"),
];

/// Installs what is missing for this purpose; for the tests, fetches the guests' kernels and QEMU, too.
///
/// # Errors
/// That needs root or apt-get, and this process does not have them; there is no way to the toolchain (the text says what to do);
/// a command or a download fails.
pub(crate) fn setup(what: What) -> Result<()> {
    toolchain_or_install()?;
    match what {
        What::Build => Ok(()),
        What::Test => {
            programs("the tests", &TEST_PROGRAMS)?;
            vm::prepare()
        }
        What::Bench => programs("the bench", &BENCH_PROGRAMS),
    }
}

/// The toolchain that is installed; `None` if it is not complete. Installs nothing.
pub(crate) fn toolchain() -> Option<Toolchain> {
    match plan::next(&facts::look(false)) {
        Next::Ready(toolchain) => Some(toolchain),
        Next::Step(_) | Next::Stuck(_) => None,
    }
}

fn toolchain_or_install() -> Result<Toolchain> {
    let mut facts = facts::look(false);
    let mut taken = BTreeSet::new();
    loop {
        let step = match plan::next(&facts) {
            Next::Ready(toolchain) => return Ok(toolchain),
            Next::Stuck(why) => bail!(why),
            Next::Step(step) => step,
        };
        if step.needs_root() && facts.installer != Installer::Apt {
            bail!(refusal(&facts, &plan::commands(&facts)));
        }
        let commands = step.commands();
        if !taken.insert(commands.clone()) {
            bail!("`{}` succeeded, but what it should install is missing", commands.join(" && "));
        }
        eprintln!("setup: {}", step.reason());
        act(&step)?;
        facts = facts::look(facts.updated || step == plan::Step::AptUpdate);
    }
}

fn act(step: &plan::Step) -> Result<()> {
    match step {
        plan::Step::AptUpdate => apt::update(),
        plan::Step::Apt(packages) => apt::install(packages),
        plan::Step::Nightly | plan::Step::Linker { .. } => step
            .commands()
            .iter()
            .try_for_each(|line| exec::run(workspace::foreign("/bin/sh").args(["-c", line]))),
    }
}

fn programs(user: &str, programs: &[(&str, &str)]) -> Result<()> {
    let mut missing: Vec<String> = programs
        .iter()
        .filter(|(program, _)| exec::which(program).is_none())
        .map(|(_, package)| (*package).to_owned())
        .collect();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    let facts = facts::look(false);
    if facts.installer != Installer::Apt {
        bail!(refusal(&facts, &plan::Step::Apt(missing).commands()));
    }
    eprintln!("setup: installing {} for {user}", missing.join(", "));
    apt::update()?;
    apt::install(&missing)
}

fn refusal(facts: &Facts, commands: &[String]) -> String {
    let why = match facts.installer {
        Installer::None => "there is no apt-get here",
        Installer::Apt | Installer::NotRoot => "not running as root",
    };
    format!(
        "cannot install what is missing: {why}. These commands do it, as root on Debian 12 \
         or later; then run this again:\n    {}",
        commands.join("\n    ")
    )
}
