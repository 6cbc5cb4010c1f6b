//! A cgroup of the test's own, below the cgroup2 mount; removed on drop.
#![expect(unsafe_code, reason = "bpf(2) says which programs are attached")]

use std::{
    fs,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

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

    /// Number of BPF programs that are attached to bind() and connect() of this cgroup itself.
    pub fn attached(&self) -> Result<u32> {
        const BIND4: u32 = 8;
        const CONNECT6: u32 = 11;
        let folder = fs::File::open(&self.0)?;
        (BIND4..=CONNECT6).map(|kind| attached(&folder, kind)).sum()
    }
}

/// `BPF_PROG_QUERY`
fn attached(cgroup: &fs::File, kind: u32) -> Result<u32> {
    const PROG_QUERY: libc::c_long = 16;
    /// The first fields of `union bpf_attr`, those of a query.
    #[repr(C)]
    #[derive(Default)]
    struct Query {
        target: u32,
        kind: u32,
        flags: u32,
        attach_flags: u32,
        ids: u64,
        count: u32,
        zero: u32,
    }
    let target = u32::try_from(cgroup.as_raw_fd())?;
    let mut query = Query { target, kind, ..Query::default() };
    // SAFETY: the pointer and the size describe `query`, which outlives the call.
    let done =
        unsafe { libc::syscall(libc::SYS_bpf, PROG_QUERY, &raw mut query, size_of::<Query>()) };
    ensure!(done == 0, "BPF_PROG_QUERY: {}", std::io::Error::last_os_error());
    Ok(query.count)
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
