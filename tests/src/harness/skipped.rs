//! Counts the begins and ends of timers that the kernel did not show to BPF programs, without counting that anywhere.
//!
//! A kernel can be built so that it runs no BPF program while certain processes have the CPU. A timer that expires then is one that
//! tracer's hooks cannot see: if it is that of a TIME_WAIT, the ledger keeps the port until a comparison corrects it. (Seen on a
//! Linux 6.18 of a sandbox: ftrace showed 874 TIME_WAITs end in one interrupt of process 1's thread, no program of six tracers ran,
//! and `recursion_misses` stayed 0.) perf counts the same tracepoint, and sees all of them.
#![expect(unsafe_code, reason = "perf_event_open(2)")]

use std::{
    ffi::CStr,
    fs,
    io::Read,
    os::fd::{AsRawFd, OwnedFd},
    sync::LazyLock,
};

use anyhow::{Context, Result};
use rustix::{
    fs::{Mode, OFlags, openat},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
};

use crate::harness::{
    behind::Map,
    foreign::{address, bpf, load, owned},
    probe::Place,
};

const RAW_TRACEPOINT_OPEN: libc::c_long = 17;
const RAW_TRACEPOINT: u32 = 17;

/// How many begins and ends of timers there were since the first call that no BPF program could see, and that the kernel counted
/// nowhere. 0 where this cannot be counted, and in a guest, whose kernels are not built like that: tracer may then have missed nothing
/// without saying so.
pub fn timers() -> u64 {
    static COUNTERS: LazyLock<Option<Counters>> = LazyLock::new(|| {
        let host = Place::get() == Place::Host;
        host.then(Counters::start)?.ok()
    });
    COUNTERS.as_ref().and_then(|counters| counters.skipped().ok()).unwrap_or(0)
}

/// `union bpf_attr` of `BPF_RAW_TRACEPOINT_OPEN`.
#[repr(C)]
struct Open {
    name: u64,
    program: u32,
    zero: u32,
}

/// The tracepoints of the timers that tracer sees TIME_WAITs by: their begins, and their ends.
const TRACEPOINTS: [&CStr; 2] = [c"timer_start", c"timer_cancel"];

/// Two counts of [`TRACEPOINTS`].
struct Counters {
    /// What a BPF program counts: an array of one u64.
    seen: Map,
    _links: Vec<OwnedFd>,
    /// What perf counts: a descriptor for each tracepoint and CPU.
    all: Vec<fs::File>,
}

impl Counters {
    /// Starts both, perf last: so it never counts more than the program, if the kernel runs the program each time.
    fn start() -> Result<Self> {
        let seen = Map::array(8)?;
        let [a, b, c, d] = seen.fd().as_raw_fd().to_le_bytes();
        let program = load(
            RAW_TRACEPOINT,
            0,
            &[
                [0x18, 0x21, 0, 0, a, b, c, d], // r1 = address of the map's value
                [0; 8],
                [0xb7, 2, 0, 0, 1, 0, 0, 0],    // r2 = 1
                [0xdb, 0x21, 0, 0, 0, 0, 0, 0], // lock *(u64 *)r1 += r2
                [0xb7, 0, 0, 0, 0, 0, 0, 0],    // r0 = 0
                [0x95, 0, 0, 0, 0, 0, 0, 0],    // exit
            ],
        )?;
        let attach = |name: &&CStr| {
            let program = program.as_raw_fd().cast_unsigned();
            let open = Open { name: address(name.as_ptr()), program, zero: 0 };
            owned(bpf(RAW_TRACEPOINT_OPEN, &open, "BPF_RAW_TRACEPOINT_OPEN")?)
        };
        let links = TRACEPOINTS.iter().map(attach).collect::<Result<_>>()?;
        // SAFETY: takes and returns numbers.
        let cpus = libc::c_int::try_from(unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) })?;
        let mut all = Vec::new();
        for name in TRACEPOINTS {
            let tracepoint = tracepoint(&format!("timer/{}", name.to_str()?))?;
            for cpu in 0..cpus {
                all.push(perf(tracepoint, cpu)?);
            }
        }
        Ok(Self { seen, _links: links, all })
    }

    /// perf is read first: see [`Self::start`].
    fn skipped(&self) -> Result<u64> {
        let mut all = 0;
        for mut counter in &self.all {
            let mut count = [0; 8];
            counter.read_exact(&mut count)?;
            all += u64::from_ne_bytes(count);
        }
        let seen =
            self.seen.get(&0_u32.to_ne_bytes())?.context("an array has its first element")?;
        Ok(all.saturating_sub(u64::from_ne_bytes(seen.as_slice().try_into()?)))
    }
}

/// The number of a tracepoint, given as `category/name`. An error if there is none, or tracefs cannot be mounted.
fn tracepoint(name: &str) -> Result<u64> {
    let fs = fsopen("tracefs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&fs)?;
    let root = fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = openat(&root, format!("events/{name}/id"), flags, Mode::empty())?;
    Ok(std::io::read_to_string(fs::File::from(file))?.trim().parse()?)
}

/// A counter of this tracepoint on this CPU, in all processes; it counts from now on.
fn perf(tracepoint: u64, cpu: libc::c_int) -> Result<fs::File> {
    const TRACEPOINT: u32 = 2;
    /// The first version of `struct perf_event_attr`.
    #[repr(C)]
    #[derive(Default)]
    struct Attr {
        kind: u32,
        size: u32,
        config: u64,
        /// Sampling, the format of reads, flags, wake-ups and breakpoints: none.
        zero: [u64; 6],
    }
    const FLAGS: libc::c_long = 8; // PERF_FLAG_FD_CLOEXEC
    let attr = Attr { kind: TRACEPOINT, size: 64, config: tracepoint, ..Attr::default() };
    const { assert!(size_of::<Attr>() == 64) };
    // SAFETY: the pointer is to an attribute that has the size that it says, and outlives the call.
    let fd =
        unsafe { libc::syscall(libc::SYS_perf_event_open, &raw const attr, -1, cpu, -1, FLAGS) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error()).context("perf_event_open");
    }
    Ok(owned(fd)?.into())
}
