//! A BPF program of somebody else, attached to a cgroup and pinned.
#![expect(unsafe_code, reason = "bpf(2)")]

use std::{
    ffi::CString,
    fs,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};

use crate::cgroup::Cgroup;

const PROG_LOAD: libc::c_long = 5;
const OBJ_PIN: libc::c_long = 6;
const LINK_CREATE: libc::c_long = 28;
const CGROUP_SOCK_ADDR: u32 = 18;
const CGROUP_INET4_CONNECT: u32 = 10;

/// Lets every connect() of a cgroup go on; its link and itself are pinned. All of it goes on drop.
#[derive(Debug)]
pub struct Foreign(Vec<PathBuf>);

impl Foreign {
    /// Pinned in each of these folders, which are in a bpffs.
    pub fn attach(cgroup: &Cgroup, folders: &[&Path]) -> Result<Self> {
        let program = load()?;
        let link = link(&program, cgroup)?;
        let mut pins = Self(Vec::new());
        for folder in folders {
            for (fd, what) in [(&program, "program"), (&link, "link")] {
                let path = folder.join(format!("foreign-{what}-{}", std::process::id()));
                pin(fd, &path)?;
                pins.0.push(path);
            }
        }
        Ok(pins)
    }

    /// Whether all of its pins are there.
    pub fn is_there(&self) -> bool {
        self.0.iter().all(|path| path.exists())
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        for path in &self.0 {
            fs::remove_file(path).ok();
        }
    }
}

/// bpf(2) with the first fields of `union bpf_attr`, as those of this command are.
fn bpf<T>(command: libc::c_long, attr: &T, what: &str) -> Result<libc::c_long> {
    // SAFETY: the pointer and the size describe `attr`, which outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<T>()) };
    ensure!(result >= 0, "{what}: {}", std::io::Error::last_os_error());
    Ok(result)
}

fn owned(fd: libc::c_long) -> Result<OwnedFd> {
    // SAFETY: bpf(2) has just made this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) })
}

fn address<T: ?Sized>(of: *const T) -> u64 {
    of.expose_provenance() as u64
}

fn load() -> Result<OwnedFd> {
    #[repr(C)]
    #[derive(Default)]
    struct Load {
        kind: u32,
        instruction_count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
        interface: u32,
        attach_type: u32,
    }
    // r0 = 1; exit
    let program: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 1, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];
    let attr = Load {
        kind: CGROUP_SOCK_ADDR,
        instruction_count: u32::try_from(program.len())?,
        instructions: address(program.as_ptr()),
        license: address(c"GPL".as_ptr()),
        attach_type: CGROUP_INET4_CONNECT,
        ..Load::default()
    };
    owned(bpf(PROG_LOAD, &attr, "BPF_PROG_LOAD")?)
}

fn link(program: &OwnedFd, cgroup: &Cgroup) -> Result<OwnedFd> {
    let folder = fs::File::open(cgroup.path())?;
    let [program, target] = [program.as_raw_fd(), folder.as_raw_fd()].map(i32::cast_unsigned);
    let attr: [u32; 4] = [program, target, CGROUP_INET4_CONNECT, 0];
    owned(bpf(LINK_CREATE, &attr, "BPF_LINK_CREATE")?)
}

fn pin(fd: &OwnedFd, path: &Path) -> Result<()> {
    #[repr(C)]
    struct Pin {
        path: u64,
        fd: u32,
        flags: u32,
    }
    let name = CString::new(path.as_os_str().as_bytes())?;
    let attr = Pin { path: address(name.as_ptr()), fd: fd.as_raw_fd().cast_unsigned(), flags: 0 };
    bpf(OBJ_PIN, &attr, "BPF_OBJ_PIN").map(drop)
}
