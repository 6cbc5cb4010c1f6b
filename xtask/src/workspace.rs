//! Paths of the workspace, and the commands of the two toolchains that build it.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// Variables that `cargo run` or a user's shell may set for this toolchain, and that another toolchain must not get: with them,
/// it would run a rustc that is not its own, or load this toolchain's libLLVM into the linker.
const FOREIGN: [&str; 11] = [
    "CARGO",
    "CARGO_BUILD_RUSTC",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_ENCODED_RUSTFLAGS",
    "LD_LIBRARY_PATH",
    "RUSTC",
    "RUSTC_WRAPPER",
    "RUSTDOC",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
];

/// The root of the workspace in which this program was built.
pub(crate) fn root() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// Cargo's target directory: `CARGO_TARGET_DIR` (from the root if it is relative), or `target` in the workspace. It may not exist
/// yet.
pub(crate) fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// A command of the cargo that runs this task (if that is not known, of the one in PATH), in the root of the workspace: for all
/// crates except the BPF object, which another toolchain builds.
pub(crate) fn cargo(verb: &str) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.arg(verb).current_dir(root());
    command
}

/// A command of the rustc that belongs to the cargo which runs this task (if that is not known, of the one in PATH), in the root
/// of the workspace.
pub(crate) fn rustc() -> Command {
    let cargo = env::var_os("CARGO").map(PathBuf::from);
    let same = cargo.map(|cargo| cargo.with_file_name("rustc")).filter(|rustc| rustc.exists());
    let mut command = Command::new(same.unwrap_or_else(|| "rustc".into()));
    command.current_dir(root());
    command
}

/// A command that runs `program`, of another toolchain, in the root of the workspace, without the variables that are for this
/// toolchain ([`FOREIGN`]).
pub(crate) fn foreign(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    for name in FOREIGN {
        command.env_remove(name);
    }
    command
}
