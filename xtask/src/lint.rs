//! `cargo xtask lint`: every check that is not a test. Prints which checks cannot run here.

use std::process::Command;

use anyhow::{Result, bail};

use crate::{exec, tidy, workspace};

const DENY_WARNINGS: [&str; 3] = ["--", "-D", "warnings"];

/// Runs every check, even after one that failed; then fails if one did. A check whose program is missing here (cargo-deny) is
/// printed as excused, and is no failure.
pub(crate) fn lint() -> Result<()> {
    let mut failed = Vec::new();
    let mut check = |name: &str, result: Result<()>| {
        if let Err(error) = result {
            eprintln!("{name}: {error:#}");
            failed.push(name.to_owned());
        }
    };
    check("fmt", exec::run(workspace::cargo("fmt").args(["--all", "--", "--check"])));
    check("clippy", exec::run(workspace::cargo("clippy").arg("--all-targets").args(DENY_WARNINGS)));
    check("clippy, BPF side", exec::run(&mut clippy_bpf()));
    check("doc", exec::run(&mut documentation()));
    check("tidy", tidy::tidy());
    if exec::probe(Command::new("cargo-deny").arg("--version")).is_some() {
        check("deny", exec::run(workspace::cargo("deny").arg("check")));
    } else {
        println!("excused: deny (cargo-deny is not installed: `cargo install cargo-deny`)");
    }
    if failed.is_empty() {
        println!("lint: clean");
        return Ok(());
    }
    bail!("lint failed: {}", failed.join(", "))
}

/// Builds the documentation of all crates but the BPF side, so that broken links in comments are found.
fn documentation() -> Command {
    let mut command = workspace::cargo("doc");
    command.args(["--no-deps", "--document-private-items", "--quiet"]);
    for package in ["tracer-common", "tracer", "tracer-tests", "xtask"] {
        command.args(["--package", package]);
    }
    command.env("RUSTDOCFLAGS", "-D warnings");
    command
}

/// Lints the BPF side for the host's target: rustup's stable has clippy but no core for BPF, the distribution's rustc has core
/// but no clippy, and the lints do not depend on the target.
fn clippy_bpf() -> Command {
    let mut command = workspace::cargo("clippy");
    command
        .env("CARGO_TARGET_DIR", workspace::target().join("bpf-lint"))
        .env("RUSTC_BOOTSTRAP", "1")
        // Without std, panics cannot unwind.
        .env("RUSTFLAGS", r#"-Cpanic=abort --cfg=bpf_target_arch="x86_64""#)
        .args(["--package", "tracer-ebpf"])
        .args(DENY_WARNINGS);
    command
}
