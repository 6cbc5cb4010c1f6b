//! `abuse::outsider`: the outsider of these tests has no privileges, and cannot touch the process of a running tracer.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
};

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;

use crate::{
    cases::{Case, Plan},
    harness::{
        outsider::{ID, Outsider, Spaces},
        tracer::watch::Watch,
    },
};

pub(super) fn cases(plan: &Plan) -> Vec<Case> {
    plan.group("abuse::outsider")
        .once(&[("has_no_privilege", no_privilege), ("cannot_touch_the_process", process)])
        .cases()
}

/// The value at a key of /proc/PID/status, with one space between its words; an error if there is no such key.
fn status(id: u32, key: &str) -> Result<String> {
    let status = fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    Ok(line.with_context(|| format!("no {key}"))?.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// The outsider has the ids, no groups and the namespaces of its own that it should, and cannot read a file of root's with mode
/// 0600 (EACCES): the other tests rely on it.
fn no_privilege() -> Result<()> {
    for (spaces, own_user, own_net) in [
        (Spaces::None, false, false),
        (Spaces::User, true, false),
        (Spaces::UserAndNet, true, true),
    ] {
        let mut outsider = Outsider::spawn_with(spaces)?;
        let id = outsider.id();
        for key in ["Uid", "Gid"] {
            let ids = status(id, key)?;
            ensure!(ids == [ID.to_string().as_str(); 4].join(" "), "{spaces:?}: {key} is {ids}");
        }
        let groups = status(id, "Groups")?;
        ensure!(groups.is_empty(), "{spaces:?}: groups {groups}");
        for (namespace, own) in [("user", own_user), ("net", own_net)] {
            let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/{namespace}"));
            let different = of(&id.to_string())? != of("self")?;
            ensure!(different == own, "{spaces:?}: {namespace} namespace of its own: {different}");
        }
        // If the outsider has capabilities, they hold in its own user namespace only: it cannot read root's files.
        let folder = tempfile::tempdir()?;
        let secret = folder.path().join("secret");
        fs::write(&secret, "x")?;
        fs::set_permissions(&secret, Permissions::from_mode(0o600))?;
        let errno = outsider.refused(&format!("read {}", secret.display()))?;
        ensure!(errno == Errno::ACCESS, "{spaces:?}: reading root's file: {errno:?}");
    }
    Ok(())
}

/// An outsider can neither signal nor trace a tracer (EPERM), nor read its memory or environment, nor list its descriptors or
/// mapped files, through which it would have the BPF maps (EACCES).
fn process() -> Result<()> {
    let watch = Watch::start("auto", &[])?;
    let id = watch.id();
    for spaces in [Spaces::None, Spaces::UserAndNet] {
        let mut outsider = Outsider::spawn_with(spaces)?;
        for (operation, expected) in [
            (format!("signal {id} 9"), Errno::PERM),
            (format!("signal {id} 15"), Errno::PERM),
            (format!("ptrace {id}"), Errno::PERM),
            (format!("read /proc/{id}/mem"), Errno::ACCESS),
            (format!("read /proc/{id}/environ"), Errno::ACCESS),
            (format!("list /proc/{id}/fd"), Errno::ACCESS),
            (format!("list /proc/{id}/map_files"), Errno::ACCESS),
        ] {
            let errno = outsider.refused(&operation)?;
            ensure!(errno == expected, "{spaces:?}: `{operation}` was refused with {errno:?}");
        }
    }
    watch.stop()
}
