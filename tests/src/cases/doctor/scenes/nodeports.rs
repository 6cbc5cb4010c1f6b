//! The ports of Kubernetes services. A kubelet is one of the whole host, of which doctor takes the first, so this scenario is not
//! among those side by side.

use std::{
    os::unix::fs::symlink,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Result, ensure};

use super::scene::Scene;
use crate::{
    cases::doctor::table,
    harness::{
        process::Process,
        tracer::{doctor::doctor_of_names, run},
    },
};

/// A range that has 68 of the ports of services (30000 to 32767), where a kubelet runs: doctor finds `nodeport_overlap` with that
/// number; with these ports reserved by the first command that it prints, it finds nothing.
pub(in crate::cases::doctor) fn nodeport_overlap() -> Result<()> {
    let scene = Scene::new(32_700, 32_899)?.holding(22)?.named("nodeports")?;
    let folder = tempfile::tempdir()?;
    // A process has the name of the file that it was started from.
    let kubelet = folder.path().join("kubelet");
    symlink(std::env::current_exe()?, &kubelet)?;
    let mut command = Command::new(&kubelet);
    command.args(["helper", "keep"]).stdin(Stdio::piped()).stdout(Stdio::null());
    let _kubelet = scene.here.run(|| Process::spawn(&mut command))?;
    let name = [scene.netns_name().to_owned()];
    let look = || doctor_of_names(&name, &["--window", "0"]);
    let found = look()?;
    table::check("nodeport_overlap", &found)?;
    let overlap = found.finding("nodeport_overlap")?;
    ensure!(overlap.count("ports.overlap")? == 68, "{overlap:?}");
    let reserve = overlap.advice.first().and_then(|it| it.command.as_deref()).unwrap_or_default();
    let ended = run(Command::new("sh").args(["-c", reserve]), Duration::from_secs(10))?;
    ensure!(ended.code() == 0 && reserve.contains("30000-32767"), "{reserve}: {ended:?}");
    table::check("nodeports_reserved", &look()?)
}
