//! A cgroup of the test's own, below the cgroup2 mount; removed on drop.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};

/// A child cgroup; its processes must be gone before it is dropped.
#[derive(Debug)]
pub struct Cgroup(PathBuf);

impl Cgroup {
    pub fn new(name: &str) -> Result<Self> {
        let path = mount_point()?.join(format!("{name}-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Moves a process here. Sockets that it makes afterwards belong here.
    pub fn add(&self, process: u32) -> Result<()> {
        Ok(fs::write(self.0.join("cgroup.procs"), process.to_string())?)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A killed process leaves its cgroup a moment after it is reaped.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Where cgroup2 is mounted: hybrid hosts have it below `unified`.
fn mount_point() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let cgroup2 = mounts.lines().find(|line| line.contains(" - cgroup2 "));
    let path = cgroup2.and_then(|line| line.split(' ').nth(4));
    path.map(PathBuf::from).context("cgroup2 is not mounted")
}
