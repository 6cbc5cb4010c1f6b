//! `abuse::reading`: an outsider can read nothing that a tracer wrote, pinned or loaded.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;

use crate::{
    cases::{Case, Plan},
    harness::{
        netns::NetNs,
        outsider::{Outsider, Spaces},
        tracer::{
            START_LIMIT,
            record::{Record, eventually},
            run,
            spread::{PINS, Rule, STATE},
        },
    },
};

pub(super) fn cases(plan: &Plan) -> Vec<Case> {
    plan.group("abuse::reading")
        .once(&[
            ("recordings_are_private", recordings),
            ("a_planted_output_file_is_refused", planted),
            ("rules_and_bpf_objects_are_private", rules),
        ])
        .cases()
}

/// A new folder with this mode, which must let others enter it (not checked).
fn open_folder(mode: u32) -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), Permissions::from_mode(mode))?;
    Ok(folder)
}

/// An outsider can neither read nor write a recording, plain or compressed, nor read the two files of a rotated one: EACCES.
fn recordings() -> Result<()> {
    let folder = open_folder(0o755)?;
    let mut outsider = Outsider::spawn()?;
    for (name, more) in [("f.jsonl", &[][..]), ("f.jsonl.zst", &["--compress", "zstd"])] {
        let file = folder.path().join(name);
        let path = file.to_str().context("path is not UTF-8")?;
        let mut command =
            crate::harness::tracer::command(&["record", "--output", path, "--rotate", "64K"])?;
        let ended = run(command.args(more).args(["--duration", "1"]), START_LIMIT)?;
        ensure!(ended.code() == 0, "{ended:?}");
        let errno = outsider.refused(&format!("read {path}"))?;
        ensure!(errno == Errno::ACCESS, "{path}: {errno:?}");
        let errno = outsider.refused(&format!("write {path} x"))?;
        ensure!(errno == Errno::ACCESS, "{path}: {errno:?}");
    }
    // After a rotation, both the old and the new file must be for root only.
    let record = Record::start_at("auto", &folder.path().join("r.jsonl"), &["--rotate", "64K"])?;
    let netns = NetNs::new()?;
    let mut caller = netns.run(Outsider::spawn)?;
    eventually("a rotation", || {
        caller.run("refuse 1 500 9")?;
        Ok(folder.path().join("r.jsonl.1").exists())
    })?;
    for name in ["r.jsonl", "r.jsonl.1"] {
        let errno = outsider.refused(&format!("read {}", folder.path().join(name).display()))?;
        ensure!(errno == Errno::ACCESS, "{name}: {errno:?}");
    }
    drop(record);
    Ok(())
}

/// In a folder like /tmp, the output file exists already: a file or a FIFO that an outsider made, or a hard link to another file.
/// `record` must refuse it with exit code 1, and write nothing.
fn planted() -> Result<()> {
    let folder = open_folder(0o1777)?;
    let mut outsider = Outsider::spawn_with(Spaces::None)?;
    for operation in ["file", "fifo", "hard link"] {
        let path = folder.path().join(operation);
        if operation == "hard link" {
            // The test, as root, makes the link for the outsider, who could do so only with fs.protected_hardlinks=0.
            let other = folder.path().join("other");
            fs::write(&other, "")?;
            fs::hard_link(&other, &path)?;
        } else {
            outsider.run(&format!("{operation} {}", path.display()))?;
        }
        let path = path.to_str().context("path is not UTF-8")?;
        let mut command =
            crate::harness::tracer::command(&["record", "--duration", "1", "--output", path])?;
        let ended = run(&mut command, START_LIMIT)?;
        ensure!(ended.code() == 1, "{operation}: exit code {}: {}", ended.code(), ended.stderr);
        // "denied" is the kernel's error with fs.protected_regular, the others are tracer's.
        let words = ["put it there", "another name", "denied"];
        let words = words.iter().any(|words| ended.stderr.contains(words));
        ensure!(words, "{operation}: {}", ended.stderr);
        ensure!(fs::symlink_metadata(path)?.len() == 0, "{operation}: something was written");
    }
    Ok(())
}

/// Adds every file below a folder to `found`.
fn files(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            files(&path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}

/// The pins and the state file of a detached rule have no permissions for group and others, and an outsider can neither list nor
/// read nor open them (EACCES or EPERM). Nor can it get BPF objects by their ids (EPERM).
fn rules() -> Result<()> {
    let netns = NetNs::new()?;
    netns.ip("addr add 10.9.0.1/32 dev lo")?;
    let cgroup = crate::harness::cgroup::Cgroup::new("tracer-private")?;
    let rule = Rule::new();
    let cgroup = cgroup.path().to_str().context("path is not UTF-8")?.to_owned();
    let arguments = ["--cgroup", &*cgroup, "--pool", "10.9.0.1", "--detach"];
    let ended = netns.run(|| run(&mut rule.command(&arguments)?, START_LIMIT))?;
    ensure!(ended.code() == 0, "{ended:?}");
    let mut pins = Vec::new();
    files(&rule.pins(), &mut pins)?;
    let mut found = pins.clone();
    let before = found.len();
    files(Path::new(STATE), &mut found)?;
    ensure!(before > 0, "nothing is pinned");
    ensure!(found.len() > before, "there is no state");
    // Modes without access for group and others are the only reliable way to keep other users from opening the pins:
    // kernel.unprivileged_bpf_disabled blocks BPF_OBJ_GET before Linux 5.19 only, and only if it is not 0.
    for path in found.iter().map(PathBuf::as_path).chain([Path::new(PINS), Path::new(STATE)]) {
        let mode = fs::symlink_metadata(path)?.permissions().mode() & 0o7777;
        ensure!(mode.trailing_zeros() >= 6, "{} has mode {mode:o}", path.display());
    }
    for spaces in [Spaces::None, Spaces::User] {
        let mut outsider = Outsider::spawn_with(spaces)?;
        let mut refused = |operation: String, expected: &[Errno]| -> Result<()> {
            let errno = outsider.refused(&operation)?;
            ensure!(expected.contains(&errno), "{spaces:?}: `{operation}`: {errno:?}");
            Ok(())
        };
        let no_access = &[Errno::ACCESS, Errno::PERM];
        refused(format!("list {PINS}"), no_access)?;
        refused(format!("list {STATE}"), no_access)?;
        for path in &found {
            refused(format!("read {}", path.display()), no_access)?;
        }
        for path in &pins {
            refused(format!("bpf-pin {}", path.display()), no_access)?;
        }
        // The kernel itself refuses these commands without privileges, which the promise in SECURITY.md relies on: the next id of
        // a program, a map, a link (BPF_PROG_GET_NEXT_ID and so on), and a descriptor by such an id (BPF_PROG_GET_FD_BY_ID and so
        // on).
        for command in [11, 12, 31] {
            refused(format!("bpf-next {command}"), &[Errno::PERM])?;
        }
        for command in [13, 14, 30] {
            refused(format!("bpf-by-id {command} 1"), &[Errno::PERM])?;
        }
    }
    let ended = rule.release()?;
    ensure!(ended.code() == 0, "{ended:?}");
    Ok(())
}
