//! apt-get: only when something is missing, without questions, never removing anything, and without
//! starting the daemons that come with it.

use std::{fs, io, os::unix::fs::OpenOptionsExt as _, process::Command};

use anyhow::{Context as _, Result};

use crate::exec;

/// Reads the package lists anew.
pub(crate) fn update() -> Result<()> {
    exec::run(apt_get().arg("update"))
}

/// Installs the packages; fails rather than remove another one.
pub(crate) fn install(packages: &[String]) -> Result<()> {
    let _policy = NoDaemons::begin()?;
    exec::run(
        apt_get().args(["install", "-y", "--no-install-recommends", "--no-remove"]).args(packages),
    )
}

/// Debian's switch for "install this daemon but do not start it": a script that says no.
const POLICY: &str = "/usr/sbin/policy-rc.d";
const NO: &str =
    "#!/bin/sh\n# Written by `cargo xtask setup` while it installs; may be removed.\nexit 101\n";

/// While it lives, apt starts no daemon. A policy that was there before stays as it is.
struct NoDaemons {
    ours: bool,
}

impl NoDaemons {
    fn begin() -> Result<Self> {
        let new = fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(POLICY);
        match new {
            Ok(mut file) => {
                io::Write::write_all(&mut file, NO.as_bytes())?;
                Ok(Self { ours: true })
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // One of ours is left where a set-up was interrupted.
                Ok(Self { ours: fs::read_to_string(POLICY).is_ok_and(|text| text == NO) })
            }
            Err(error) => Err(error).with_context(|| format!("cannot write {POLICY}")),
        }
    }
}

impl Drop for NoDaemons {
    fn drop(&mut self) {
        if self.ours
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
