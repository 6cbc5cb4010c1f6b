//! `cargo xtask build`: builds the BPF object with the toolchain that is installed, then `tracer` with that object inside.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::{
    exec,
    setup::{self, Toolchain, Way},
    workspace,
};

const TARGET: &str = "bpfel-unknown-none";

/// Debug information, from which BTF is made, and the BPF instruction set of Linux 5.1 and later.
const RUSTFLAGS: &str =
    r#"-Cdebuginfo=2 -Clink-arg=--btf -Ctarget-cpu=v3 --cfg=bpf_target_arch="x86_64""#;

/// Builds the BPF object, then `tracer`, optimized if `release`. Returns the path of the `tracer` binary. Fails if the toolchain
/// is not complete, or a build fails.
pub(crate) fn build(release: bool) -> Result<PathBuf> {
    object()?;
    let mut command = workspace::cargo("build");
    command.args(["--package", "tracer"]);
    let profile = if release {
        command.arg("--release");
        "release"
    } else {
        "debug"
    };
    exec::run(embed(&mut command))?;
    Ok(workspace::target().join(profile).join("tracer"))
}

/// Builds the BPF object, always optimized. Fails if the toolchain is not complete, or the build fails.
pub(crate) fn object() -> Result<()> {
    let toolchain = setup::toolchain()
        .context("no complete eBPF toolchain; `cargo xtask setup` installs what is missing")?;
    exec::run(cargo_bpf(&toolchain, "build").arg("--release"))
}

/// Builds the BPF object of a release, with `remap` (arguments of rustc that take this machine's paths out of it), in a folder of
/// its own, so that the other builds need not be made anew afterwards. Returns its path. Fails as [`object`] does.
pub(crate) fn object_of_release(remap: &[String]) -> Result<PathBuf> {
    let toolchain = setup::toolchain()
        .context("no complete eBPF toolchain; `cargo xtask setup` installs what is missing")?;
    let folder = workspace::target().join("bpf-dist");
    let flags = format!("{RUSTFLAGS} {}", remap.join(" "));
    let mut command = cargo_bpf(&toolchain, "build");
    command
        .arg("--release")
        .env("CARGO_TARGET_DIR", &folder)
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_RUSTFLAGS", flags);
    exec::run(&mut command)?;
    Ok(folder.join(TARGET).join("release").join("tracer-ebpf"))
}

/// A cargo command for the BPF side (the package tracer-ebpf), with the compiler and the linker of this toolchain, not yet run.
/// `verb` is cargo's, such as `build`. Its output goes to the folder `bpf` of [`workspace::target`]; it is optimized only if the
/// caller adds `--release`.
pub(crate) fn cargo_bpf(toolchain: &Toolchain, verb: &str) -> Command {
    let mut command = match toolchain.way {
        Way::Distribution => {
            let mut command = workspace::foreign("/usr/bin/cargo");
            command.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1").arg(verb);
            command
        }
        Way::Nightly => {
            let mut command = workspace::foreign("rustup");
            command.args(["run", "nightly", "cargo", verb, "-Zbuild-std=core"]);
            command
        }
    };
    command
        .env("CARGO_TARGET_DIR", workspace::target().join("bpf"))
        // An incremental build inlines differently, so that a hook can need more stack than BPF has.
        .env("CARGO_INCREMENTAL", "0")
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &toolchain.linker)
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_RUSTFLAGS", RUSTFLAGS)
        .args(["--package", "tracer-ebpf", "--target", TARGET]);
    command
}

/// Sets `TRACER_BPF_OBJECT`, by which `tracer`'s build script finds the object, if cargo's target directory is not the
/// workspace's `target`. Returns `command`.
pub(crate) fn embed(command: &mut Command) -> &mut Command {
    let target = workspace::target();
    if target != workspace::root().join("target") {
        command.env(
            "TRACER_BPF_OBJECT",
            target.join("bpf").join(TARGET).join("release").join("tracer-ebpf"),
        );
    }
    command
}
