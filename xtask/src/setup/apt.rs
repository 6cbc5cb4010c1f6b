//! Runs apt-get: without questions, without removing a package, and without starting the daemons of new packages.

use std::{fs, io, os::unix::fs::OpenOptionsExt as _, process::Command};

use anyhow::{Context as _, Result};

use crate::exec;

/// Updates the package lists. Fails if apt-get cannot be run or fails.
pub(crate) fn update() -> Result<()> {
    exec::run(apt_get().arg("update"))
}

/// Installs the packages.
///
/// # Errors
/// The script that keeps daemons from starting cannot be written, or apt-get fails, for example because it would have to remove
/// another package.
pub(crate) fn install(packages: &[String]) -> Result<()> {
    let _policy = NoDaemons::begin()?;
    exec::run(
        apt_get().args(["install", "-y", "--no-install-recommends", "--no-remove"]).args(packages),
    )
}

/// The script that Debian's packages ask whether they may start a daemon; exit code 101 is no.
const POLICY: &str = "/usr/sbin/policy-rc.d";
const NO: &str =
    "#!/bin/sh\n# Written by `cargo xtask setup` while it installs; may be removed.\nexit 101\n";

/// Keeps apt from starting daemons until it is dropped. A policy script that existed before stays as it is, unless an
/// interrupted set-up left it: then it is removed, too.
struct NoDaemons {
    /// Whether `cargo xtask setup` wrote the policy script, which is then removed.
    is_own: bool,
}

impl NoDaemons {
    fn begin() -> Result<Self> {
        let new = fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(POLICY);
        match new {
            Ok(mut file) => {
                io::Write::write_all(&mut file, NO.as_bytes())?;
                Ok(Self { is_own: true })
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // An interrupted set-up may have left its script.
                Ok(Self { is_own: fs::read_to_string(POLICY).is_ok_and(|text| text == NO) })
            }
            Err(error) => Err(error).with_context(|| format!("cannot write {POLICY}")),
        }
    }
}

impl Drop for NoDaemons {
    fn drop(&mut self) {
        if self.is_own
            && let Err(error) = fs::remove_file(POLICY)
        {
            eprintln!("{POLICY} cannot be removed: {error}; it keeps daemons from starting");
        }
    }
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").stdin(std::process::Stdio::null());
    command.args(["-q", "-o", "Dpkg::Use-Pty=0"]);
    command.args(["-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"]);
    command
}
