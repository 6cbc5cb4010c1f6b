//! BPF programs that are not tracer's, attached to a cgroup: [`Foreign`] allows everything, [`Binder`] spreads at random.
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

use anyhow::Result;

use crate::harness::cgroup::Cgroup;

const PROG_LOAD: libc::c_long = 5;
const OBJ_PIN: libc::c_long = 6;
const LINK_CREATE: libc::c_long = 28;
const CGROUP_SOCK_ADDR: u32 = 18;
const CGROUP_INET4_CONNECT: u32 = 10;

const RETURN_1: [u8; 8] = [0xb7, 0, 0, 0, 1, 0, 0, 0];
const EXIT: [u8; 8] = [0x95, 0, 0, 0, 0, 0, 0, 0];
const ALLOW: [[u8; 8]; 2] = [RETURN_1, EXIT];

/// A program that is attached to the IPv4 connect() of a cgroup, and allows every call. The program and its link are pinned; the
/// pins are removed on drop.
#[derive(Debug)]
pub struct Foreign(Vec<PathBuf>);

impl Foreign {
    /// Attaches the program to the cgroup, and pins it and its link in each of these folders. There must be at least one, and
    /// each must be in a bpffs: only the pins keep the program attached after this call. An error if the kernel refuses a step.
    pub fn attach(cgroup: &Cgroup, folders: &[&Path]) -> Result<Self> {
        let program = load(CGROUP_SOCK_ADDR, CGROUP_INET4_CONNECT, &ALLOW)?;
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

    /// Whether all of the pins still exist.
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

/// A program that binds the socket of every IPv4 connect() of a cgroup to a random address of a pool, without looking at what is
/// in use: the simplest program that spreads, to compare tracer with. If it cannot bind, connect() fails with EPERM. It is
/// detached on drop.
#[derive(Debug)]
pub struct Binder {
    _link: OwnedFd,
}

impl Binder {
    /// Attaches the program to the cgroup. Its pool has `count` addresses, from 1 to 51,000 (not checked): `10.1.1.1` to
    /// `10.1.1.200`, then `10.1.2.1` to `10.1.2.200`, and so on. An error if the kernel refuses the program or the link.
    pub fn attach(cgroup: &Cgroup, count: u32) -> Result<Self> {
        let alu32 = |code: u8, registers: u8, number: u32| {
            let [a, b, c, d] = number.to_le_bytes();
            [code, registers, 0, 0, a, b, c, d]
        };
        let program = [
            [0xbf, 0x16, 0, 0, 0, 0, 0, 0],                    // r6 = r1
            [0x85, 0, 0, 0, 7, 0, 0, 0],                       // r0 = bpf_get_prandom_u32()
            alu32(0x94, 0, count),                             // w0 %= count
            [0xbc, 0x01, 0, 0, 0, 0, 0, 0],                    // w1 = w0
            alu32(0x34, 1, 200),                               // w1 /= 200
            alu32(0x94, 0, 200),                               // w0 %= 200
            alu32(0x64, 1, 16),                                // w1 <<= 16
            alu32(0x64, 0, 24),                                // w0 <<= 24
            [0x0c, 0x01, 0, 0, 0, 0, 0, 0],                    // w1 += w0
            alu32(0x04, 1, u32::from_le_bytes([10, 1, 1, 1])), // w1 += 10.1.1.1
            [0x62, 0x0a, 0xf0, 0xff, 2, 0, 0, 0],              // *(u32 *)(r10 - 16) = AF_INET
            [0x63, 0x1a, 0xf4, 0xff, 0, 0, 0, 0],              // *(u32 *)(r10 - 12) = w1
            [0x7a, 0x0a, 0xf8, 0xff, 0, 0, 0, 0],              // *(u64 *)(r10 - 8) = 0
            [0xbf, 0x61, 0, 0, 0, 0, 0, 0],                    // r1 = r6
            [0xbf, 0xa2, 0, 0, 0, 0, 0, 0],                    // r2 = r10
            [0x07, 0x02, 0, 0, 0xf0, 0xff, 0xff, 0xff],        // r2 += -16
            [0xb7, 0x03, 0, 0, 16, 0, 0, 0],                   // r3 = 16
            [0x85, 0, 0, 0, 64, 0, 0, 0],                      // bpf_bind(r1, r2, r3)
            [0x15, 0, 2, 0, 0, 0, 0, 0],                       // if r0 == 0 goto +2
            [0xb7, 0, 0, 0, 0, 0, 0, 0],                       // r0 = 0
            EXIT,
            RETURN_1,
            EXIT,
        ];
        let program = load(CGROUP_SOCK_ADDR, CGROUP_INET4_CONNECT, &program)?;
        Ok(Self { _link: link(&program, cgroup)? })
    }
}

/// Calls bpf(2), and returns the result, which is never negative. `attr` must have all fields of `union bpf_attr` that this
/// command reads or writes (not checked). An error has the errno and the text `what`.
pub fn bpf<T>(command: libc::c_long, attr: &T, what: &str) -> Result<libc::c_long> {
    // SAFETY: the pointer and the size describe `attr`, which outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<T>()) };
    if result < 0 {
        return Err(anyhow::Error::new(std::io::Error::last_os_error()).context(what.to_owned()));
    }
    Ok(result)
}

/// A descriptor that [`bpf`] has just returned, closed on drop. Nothing else may own it (not checked). An error if the number
/// does not fit into an `i32`, which no descriptor's does.
pub fn owned(fd: libc::c_long) -> Result<OwnedFd> {
    // SAFETY: bpf(2) has just made this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) })
}

/// The pointer's address, as a field of `union bpf_attr` has it.
pub fn address<T: ?Sized>(of: *const T) -> u64 {
    of.expose_provenance() as u64
}

/// Loads a program of this type (`BPF_PROG_TYPE_*`), for this kind of attachment (0: none). An error if the kernel refuses it.
pub fn load(kind: u32, attach_type: u32, program: &[[u8; 8]]) -> Result<OwnedFd> {
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
    let attr = Load {
        kind,
        instruction_count: u32::try_from(program.len())?,
        instructions: address(program.as_ptr()),
        license: address(c"GPL".as_ptr()),
        attach_type,
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
