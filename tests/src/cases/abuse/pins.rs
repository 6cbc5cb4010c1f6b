//! `abuse::pins`: the folders of pins and of agents' state files are used only if they belong to root.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
};

use anyhow::{Result, ensure};

use crate::{
    cases::{Case, Plan, errors::says, spread::Host},
    harness::{
        mounts::SecondBpffs,
        outsider::{ID, Outsider, Spaces},
        tracer::{
            START_LIMIT, command, run,
            spread::{LAYOUT, PINS},
        },
    },
};

pub(super) fn cases(plan: &Plan) -> Vec<Case> {
    plan.group("abuse::pins")
        .once(&[
            ("folder_of_an_outsider_is_not_used", folder_of_an_outsider),
            ("state_of_an_outsider_is_not_believed", state_of_an_outsider),
            ("folders_are_roots_whatever_the_umask", umask),
        ])
        .cases()
}

/// In a bpffs where everybody can make folders, an outsider makes the folder of the rules first, with a link in it to a folder of
/// root's: `tracer spread` must refuse to use it (exit code 1, whose folder it is, and what to do), and attach nothing;
/// `--release` must fail, too, without deleting through the link; `tracer status` (exit code 0) must say that it does not read
/// it.
fn folder_of_an_outsider() -> Result<()> {
    let host = Host::new()?;
    let _open = SecondBpffs::mount("1777")?;
    let folder = tempfile::tempdir()?;
    let precious = folder.path().join("connect4@1");
    fs::write(&precious, "root's")?;
    let mut outsider = Outsider::spawn_with(Spaces::None)?;
    let rule = format!("{PINS}/{LAYOUT}/{}", host.rule.name());
    for path in [PINS, &format!("{PINS}/{LAYOUT}"), &rule, &format!("{rule}/maps")] {
        outsider.run(&format!("mkdir {path} 0755"))?;
    }
    outsider.run(&format!("symlink {} {rule}/links", folder.path().display()))?;

    let cgroup = host.cgroup.path().to_string_lossy();
    let mut start = host.rule.command(&["--cgroup", &cgroup, "--pool", "10.1.0.11"])?;
    start.args(["--on-exit", "release"]);
    let refused = host.stage.netns.run(|| run(&mut start, START_LIMIT))?;
    says(&refused, &[1], &[PINS, "belongs to user 65534", "chmod 0700 /sys/fs/bpf"])?;
    ensure!(host.cgroup.attached()? == 0, "programs are attached");
    let released = host.rule.release()?;
    ensure!(released.code() != 0, "{released:?}");
    let shown = run(&mut command(&["status"])?, START_LIMIT)?;
    ensure!(shown.code() == 0 && !shown.stdout.contains(host.rule.name()), "{shown:?}");
    ensure!(shown.stdout.contains(&format!("not read: {PINS} belongs to")), "{shown:?}");
    ensure!(precious.exists(), "root's file is gone");
    Ok(())
}

/// `tracer status` does not use a state file that others than root can write, or that does not belong to root, and says why. One
/// of root's whose pool is empty is used as that, although it has addresses that are left out: `0 addresses, 0 in use`. Exit code
/// 0 each time.
fn state_of_an_outsider() -> Result<()> {
    let host = Host::new()?;
    host.spread(&["10.1.0.11"], &["--on-exit", "keep"])?.stop()?;
    let file = format!("/run/tracer/spread-{}.json", host.rule.name());
    let forged = r#"{"pool":[],"left_out":[["10.9.9.9","forged"],["10.9.9.8","forged"]]}"#;
    fs::write(&file, forged)?;
    let text = || -> Result<String> {
        let ended = run(&mut command(&["status", "--rule", host.rule.name()])?, START_LIMIT)?;
        ensure!(ended.code() == 0, "{ended:?}");
        Ok(ended.stdout)
    };
    let shown = text()?;
    ensure!(shown.contains("0 addresses, 0 in use"), "{shown}");
    let check = |why: &str| -> Result<()> {
        let shown = text()?;
        ensure!(shown.contains("is not used") && !shown.contains("forged"), "{why}: {shown}");
        ensure!(shown.contains(why), "not {why}: {shown}");
        Ok(())
    };
    fs::set_permissions(&file, Permissions::from_mode(0o666))?;
    check("others than root can write it")?;
    fs::set_permissions(&file, Permissions::from_mode(0o600))?;
    chown(&file, Some(ID), None)?;
    check("it does not belong to root")?;
    let released = host.rule.release()?;
    ensure!(released.code() == 0, "{released:?}");
    host.rule.check_nothing_left()
}

/// Only root can write to the folders of pins and of state files (no mode has write permission for group or others), even if
/// tracer was started with umask 0.
fn umask() -> Result<()> {
    let host = Host::new()?;
    let cgroup = host.cgroup.path().to_string_lossy();
    let start = host.rule.command(&["--cgroup", &cgroup, "--pool", "10.1.0.11", "--detach"])?;
    let mut open = std::process::Command::new("sh");
    open.args(["-c", "umask 0; exec \"$@\"", "sh"]).arg(start.get_program()).args(start.get_args());
    let ended = host.stage.netns.run(|| run(&mut open, START_LIMIT))?;
    ensure!(ended.code() == 0, "{ended:?}");
    let pins = host.rule.pins();
    let (maps, links) = (pins.join("maps"), pins.join("links"));
    for path in [Path::new("/run/tracer"), Path::new(PINS), &pins, &maps, &links] {
        let mode = fs::metadata(path)?.permissions().mode() & 0o777;
        ensure!(mode & 0o022 == 0, "{} has mode {mode:o}", path.display());
    }
    let released = host.rule.release()?;
    ensure!(released.code() == 0, "{released:?}");
    host.rule.check_nothing_left()
}
