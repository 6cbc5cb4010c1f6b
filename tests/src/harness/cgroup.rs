//! Cgroups that a test makes, below the cgroup2 mount; removed on drop.
#![expect(
    unsafe_code,
    reason = "bpf(2) returns which programs are attached, and how long they ran"
)]

use std::{
    fs,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

/// A child cgroup. Its processes must be gone when it is dropped: the kernel removes no cgroup that has processes, and after a
/// second the drop gives up.
#[derive(Debug)]
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// A cgroup named `NAME-PID` with the id of this process. An error if cgroup2 is not mounted, or the cgroup cannot be made,
    /// for example because it exists.
    pub fn new(name: &str) -> Result<Self> {
        let path = mount_point()?.join(format!("{name}-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }

    /// A cgroup named as container engines name theirs: 64 hexadecimal digits, of this process's id: there can be only one at a
    /// time. Errors as of [`Self::new`].
    pub fn container() -> Result<Self> {
        let path = mount_point()?.join(format!("{:064x}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }

    /// A cgroup named as systemd names the one of a service: `NAME-PID.service`. Errors as of [`Self::new`].
    pub fn unit(name: &str) -> Result<Self> {
        let path = mount_point()?.join(format!("{name}-{}.service", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }

    /// The cgroup's folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Moves a process, with all of its threads, into this cgroup; an error if there is no such process, or this process may not
    /// move it. Sockets that it makes afterwards belong to the cgroup, too; those that it has already stay where they are.
    pub fn add(&self, process: u32) -> Result<()> {
        Ok(fs::write(self.0.join("cgroup.procs"), process.to_string())?)
    }

    /// Number of BPF programs that are attached to this cgroup itself, not to one above it, for bind() and connect(), IPv4 and
    /// IPv6. A program that is attached for two of these four counts twice. An error if the cgroup is gone, if the kernel refuses
    /// the query (without CAP_NET_ADMIN or CAP_SYS_ADMIN), or if one of the four has more than 64 programs.
    pub fn attached(&self) -> Result<usize> {
        Ok(self.programs()?.len())
    }

    /// Ids of the BPF programs that [`Self::attached`] counts. Errors as there.
    pub fn programs(&self) -> Result<Vec<u32>> {
        const BIND4: u32 = 8;
        const CONNECT6: u32 = 11;
        let folder = fs::File::open(&self.0)?;
        let attached = (BIND4..=CONNECT6).map(|kind| attached(&folder, kind));
        Ok(attached.collect::<Result<Vec<_>>>()?.concat())
    }
}

/// Ids of the programs of this attach type on a cgroup (`BPF_PROG_QUERY`); more than 64 are an error.
fn attached(cgroup: &fs::File, kind: u32) -> Result<Vec<u32>> {
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
    let mut ids = [0_u32; 64];
    let mut query = Query { target, kind, ..Query::default() };
    query.ids = ids.as_mut_ptr().expose_provenance() as u64;
    query.count = u32::try_from(ids.len())?;
    // SAFETY: the pointer and the size describe `query`, whose `ids` and `count` describe `ids`; both outlive the call.
    let done =
        unsafe { libc::syscall(libc::SYS_bpf, PROG_QUERY, &raw mut query, size_of::<Query>()) };
    ensure!(done == 0, "BPF_PROG_QUERY: {}", std::io::Error::last_os_error());
    Ok(ids.iter().copied().take(query.count as usize).collect())
}

/// How long all runs of the BPF program with this id took together, ns; the kernel counts only while the sysctl
/// `kernel.bpf_stats_enabled` is 1. An error if there is no such program, or this process may not open it (without
/// CAP_SYS_ADMIN).
pub fn run_time_ns(program: u32) -> Result<u64> {
    const PROG_GET_FD_BY_ID: libc::c_long = 13;
    // The first fields of `union bpf_attr`: the program's id, the next program's id, flags.
    let attr = [program, 0, 0];
    // SAFETY: the pointer and the size describe `attr`, which outlives the call.
    let fd = unsafe {
        libc::syscall(libc::SYS_bpf, PROG_GET_FD_BY_ID, attr.as_ptr(), size_of_val(&attr))
    };
    ensure!(fd >= 0, "BPF_PROG_GET_FD_BY_ID: {}", std::io::Error::last_os_error());
    // SAFETY: the call above made this descriptor, and nothing else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) };
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
    let time = info.lines().find_map(|line| line.strip_prefix("run_time_ns:"));
    Ok(time.context("no run_time_ns")?.trim().parse()?)
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A killed process leaves its cgroup a moment after it is reaped: until then, rmdir() fails.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Where cgroup2 is mounted (on hosts that have cgroup v1, too, usually /sys/fs/cgroup/unified); an error if it is not.
fn mount_point() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let cgroup2 = mounts.lines().find(|line| line.contains(" - cgroup2 "));
    let path = cgroup2.and_then(|line| line.split(' ').nth(4));
    path.map(PathBuf::from).context("cgroup2 is not mounted")
}
