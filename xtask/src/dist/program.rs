//! The binary of a release: static, and without paths of the machine that builds it.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{build, exec, workspace};

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds the static binary as it is released, and returns its path.
///
/// # Errors
/// The BPF toolchain is not complete; a dependency cannot be downloaded; a build fails; a path that must be taken out of the binary
/// has whitespace or `=`, which rustc's arguments cannot have.
pub(crate) fn program() -> Result<PathBuf> {
    // The sources of the dependencies must be where they are built from before their paths can be taken out of the binary.
    exec::run(workspace::cargo("fetch").args(["--locked", "--target", TARGET]))?;
    let remap = remap(&sources()?)?;
    let object = build::object_of_release(&remap)?;
    let flags = format!("-Ctarget-feature=+crt-static {}", remap.join(" "));
    let mut command = workspace::cargo("build");
    command
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", flags)
        .env("TRACER_BPF_OBJECT", object)
        .args(["--locked", "--profile", "dist", "--package", "tracer", "--target", TARGET]);
    exec::run(&mut command)?;
    Ok(workspace::target().join(TARGET).join("dist").join("tracer"))
}

/// Each folder of this machine that the sources are in, and what the binary has in its place: the folders of cargo's registries
/// (there can be several; their names depend on where cargo downloads from), and the workspace.
fn sources() -> Result<Vec<(PathBuf, &'static str)>> {
    let home = match (env::var_os("CARGO_HOME"), env::var_os("HOME")) {
        (Some(home), _) => PathBuf::from(home),
        (None, Some(home)) => PathBuf::from(home).join(".cargo"),
        (None, None) => bail!("neither CARGO_HOME nor HOME is set"),
    };
    let registries = home.join("registry/src");
    let entries = fs::read_dir(&registries)
        .with_context(|| format!("cannot read {}", registries.display()))?;
    let mut folders = Vec::new();
    for entry in entries {
        folders.push((entry?.path(), "/cargo"));
    }
    folders.sort();
    folders.push((workspace::root().to_owned(), "/tracer"));
    Ok(folders)
}

/// An argument of rustc for each folder. Fails if a path has whitespace or `=`.
fn remap(folders: &[(PathBuf, &str)]) -> Result<Vec<String>> {
    folders.iter().map(|(folder, name)| argument(folder, name)).collect()
}

fn argument(folder: &Path, name: &str) -> Result<String> {
    let path = folder.display().to_string();
    if path.contains(|c: char| c.is_whitespace() || c == '=') {
        bail!("a release cannot be built from {path:?}: choose a path without spaces and `=`");
    }
    Ok(format!("--remap-path-prefix={path}={name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_this_machine_gets_another_name() {
        let folders = [(PathBuf::from("/home/me/tracer"), "/tracer")];
        assert_eq!(remap(&folders).unwrap(), ["--remap-path-prefix=/home/me/tracer=/tracer"]);
        assert!(remap(&[(PathBuf::from("/home/a b"), "/tracer")]).is_err());
        assert!(remap(&[(PathBuf::from("/home/a=b"), "/tracer")]).is_err());
    }
}
