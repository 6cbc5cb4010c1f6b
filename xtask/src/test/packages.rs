//! `cargo xtask test packages`: the packages of a release, in a Debian of their own.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{dist, exec, setup::apt, workspace};

/// Makes the packages twice, whose bytes must be the same, and runs `tests/packages.sh`, which installs, upgrades and removes the
/// .deb. Installs debootstrap if it is missing. As root; prints each step.
///
/// # Errors
/// debootstrap cannot be installed; the packages cannot be made, or differ; the script fails.
pub(super) fn test() -> Result<()> {
    if Command::new("debootstrap").arg("--version").output().is_err() {
        apt::update()?;
        apt::install(&["debootstrap".to_owned()])?;
    }
    let deb = dist::dist()?;
    let sums = deb.with_file_name("SHA256SUMS");
    let read = || fs::read_to_string(&sums).context("cannot read SHA256SUMS");
    let first = read()?;
    dist::dist()?;
    let second = read()?;
    if first != second {
        bail!("two runs made different packages:\n{first}{second}");
    }
    print!("{second}");
    let script = workspace::root().join("tests/packages.sh");
    exec::run(Command::new(script).arg(&deb).arg(workspace::target().join("packages")))
}
