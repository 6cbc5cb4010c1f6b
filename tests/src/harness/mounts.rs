//! Mounts for tests: a small file system, a mount namespace whose /sys has nothing mounted below it, empty file systems that
//! hide folders there, type information of the kernel in which a name is missing, and a second bpffs.
#![expect(unsafe_code, reason = "unshare(CLONE_NEWNS) is an unsafe call in rustix")]

use std::{fs, panic, path::Path, thread};

use anyhow::{Context, Result, ensure};
use rustix::{
    mount::{
        MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change,
        mount_remount, unmount,
    },
    thread::{UnshareFlags, unshare_unsafe},
};
use tempfile::TempDir;

/// A tmpfs of a given size in a new folder; unmounted on drop.
#[derive(Debug)]
pub struct SmallDisk(TempDir);

impl SmallDisk {
    /// Mounts a tmpfs of this many KiB on a new temporary folder. The kernel rounds up to whole pages; 0 is no limit
    /// (`shmem_parse_one` in mm/shmem.c). An error if the folder cannot be made, or the kernel refuses the mount: only root can.
    pub fn new(kib: u32) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let options = std::ffi::CString::new(format!("size={kib}k"))?;
        mount("tracer-tests", folder.path(), "tmpfs", MountFlags::empty(), Some(&*options))
            .context("cannot mount a tmpfs")?;
        Ok(Self(folder))
    }

    /// The folder on which it is mounted.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl SmallDisk {
    /// Makes the file system read-only: EBUSY if a file in it is open for writing.
    pub fn make_read_only(&self) -> Result<()> {
        Ok(mount_remount(self.0.path(), MountFlags::RDONLY, c"")?)
    }
}

/// Hides what is below a folder by an empty tmpfs in the calling thread's mount namespace. Call it in the `work` of
/// [`with_bare_sys`]: elsewhere, it would hide the folder from the whole host. An error if the folder does not exist, or the
/// kernel refuses the mount: only root can.
pub fn cover(folder: &str) -> Result<()> {
    mount("tracer-tests", folder, "tmpfs", MountFlags::empty(), None)
        .with_context(|| format!("cannot cover {folder}"))
}

/// Makes /sys/devices accessible to root only in the calling thread's mount namespace, with nothing in it but the lists of
/// possible and online CPUs. Call it in the `work` of [`with_bare_sys`]: elsewhere, it would do so for the whole host. An error
/// if one of the two lists cannot be read or written, or the kernel refuses the mount.
pub fn close_devices() -> Result<()> {
    const CPUS: &str = "/sys/devices/system/cpu";
    let names = ["possible", "online"];
    let read = |name: &str| Ok((Path::new(CPUS).join(name), fs::read(Path::new(CPUS).join(name))?));
    let files = names.into_iter().map(read).collect::<Result<Vec<_>>>()?;
    mount("tracer-tests", "/sys/devices", "tmpfs", MountFlags::empty(), Some(c"mode=0700"))
        .context("cannot cover /sys/devices")?;
    fs::create_dir_all(CPUS)?;
    files.into_iter().try_for_each(|(path, content)| Ok(fs::write(path, content)?))
}

/// Renames a name in the kernel's type information (BTF) in the calling thread's mount namespace, so that a program that looks for
/// it finds none. Call it in the `work` of [`with_bare_sys`]: elsewhere, it would do so for the whole host. An error if there is
/// no such name, the other one is not as long, or the kernel refuses the mount: only root can.
pub fn rename_in_btf(from: &str, to: &str) -> Result<()> {
    const BTF: &str = "/sys/kernel/btf/vmlinux";
    ensure!(from.len() == to.len(), "{from} and {to} are not equally long");
    let name = format!("\0{from}\0");
    let mut btf = fs::read(BTF)?;
    let at = btf.windows(name.len()).position(|bytes| bytes == name.as_bytes());
    let start = at.with_context(|| format!("{BTF} has no {from}"))? + 1;
    btf.splice(start..start + to.len(), to.bytes());
    let copy = SmallDisk::new(0)?;
    let path = copy.path().join("vmlinux");
    fs::write(&path, btf)?;
    // The file stays there after its file system is unmounted from the folder.
    mount_bind(&path, BTF).with_context(|| format!("cannot cover {BTF}"))
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        unmount(self.0.path(), UnmountFlags::DETACH).ok();
    }
}

/// Runs `work` with mounts as under `ip netns exec`: in a new mount namespace whose /sys is a fresh sysfs, without cgroup2, bpffs
/// and tracefs below it. Processes that `work` spawns are in that namespace, too. An error if a mount fails, or `work` does; a
/// panic of `work` is propagated.
pub fn with_bare_sys<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            // SAFETY: CLONE_NEWNS (with CLONE_FS, which it implies) is about this thread's mounts
            // and working folder only; file descriptors stay shared.
            unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }
                .context("cannot unshare mounts")?;
            mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
            unmount("/sys", UnmountFlags::DETACH).context("cannot unmount /sys")?;
            mount("sysfs", "/sys", "sysfs", MountFlags::empty(), None)
                .context("cannot mount /sys")?;
            work()
        });
        worker.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
    })
}

/// A second bpffs, mounted over /sys/fs/bpf in the host's mount namespace; unmounted on drop.
#[derive(Debug)]
pub struct SecondBpffs(());

impl SecondBpffs {
    const AT: &str = "/sys/fs/bpf";

    /// Mounts a bpffs whose root folder has this mode, in octal digits; the default of `mount -t bpf` is 1777. An error if the
    /// kernel refuses the mount, for example because the caller is not root, or `mode` is not octal.
    pub fn mount(mode: &str) -> Result<Self> {
        let options = std::ffi::CString::new(format!("mode={mode}"))?;
        mount("tracer-tests", Self::AT, "bpf", MountFlags::empty(), Some(&*options))
            .context("cannot mount a bpffs")?;
        Ok(Self(()))
    }
}

impl Drop for SecondBpffs {
    fn drop(&mut self) {
        unmount(Self::AT, UnmountFlags::DETACH).ok();
    }
}
