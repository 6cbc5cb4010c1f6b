//! Counts the begins and ends of TIME_WAITs that the kernel did not show to BPF programs, without counting that anywhere.
//!
//! A kernel can be built so that it runs no BPF program while certain processes have the CPU. A TIME_WAIT whose timer expires then is
//! one whose end tracer's hooks cannot see: the ledger keeps the port until a comparison corrects it. (Seen on a
//! Linux 6.18 of a sandbox: ftrace showed 874 TIME_WAITs end in one interrupt of process 1's thread, no program of six tracers ran,
//! and `recursion_misses` stayed 0.) perf counts at tracepoints, too, and sees all of them.
#![expect(unsafe_code, reason = "perf_event_open(2)")]

use std::{
    ffi::{CStr, CString},
    fs,
    io::Read,
    os::fd::{AsRawFd, OwnedFd},
    sync::LazyLock,
};

use anyhow::{Context, Result, ensure};
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

/// How many TIME_WAITs have begun or expired since the first call that no BPF program could see, and that the kernel counted nowhere. 0 where this cannot be counted, and in a guest, whose kernels are not built like that: tracer may then have missed nothing
/// without saying so.
pub fn time_waits() -> u64 {
    static COUNTERS: LazyLock<Option<Counters>> = LazyLock::new(|| {
        let host = Place::get() == Place::Host;
        host.then(Counters::start)?.ok()
    });
    COUNTERS.as_ref().and_then(|counters| counters.skipped().ok()).unwrap_or(0)
}

/// How many more [`time_waits`] there are than `before`, an earlier number of it. (One that begins while both counts are read makes
/// that number smaller by 1.)
pub fn since(before: u64) -> u64 {
    time_waits().saturating_sub(before)
}

/// `union bpf_attr` of `BPF_RAW_TRACEPOINT_OPEN`.
#[repr(C)]
struct Open {
    name: u64,
    program: u32,
    zero: u32,
}

/// Tracepoints of timers (category `timer`), whose first argument is the timer, and whose field `function` is what it calls.
const TRACEPOINTS: [&CStr; 2] = [c"timer_start", c"timer_expire_entry"];
/// What the timer of a TIME_WAIT calls.
const HANDLER: &str = "tw_timer_handler";

/// Two counts of [`TRACEPOINTS`] for timers that call [`HANDLER`].
struct Counters {
    /// What a BPF program counts: an array of one u64.
    seen: Map,
    _links: Vec<OwnedFd>,
    /// What perf counts: a descriptor for each tracepoint and CPU.
    all: Vec<fs::File>,
    /// How many the program had counted when perf began; not more.
    before: u64,
}

impl Counters {
    /// Starts both, perf last: so it never counts more than the program, if the kernel runs the program each time.
    fn start() -> Result<Self> {
        let handler = address_of(HANDLER)?;
        let seen = Map::array(8)?;
        // The kernel puts the address of the map's value in place of this number.
        let value = wide(1, 2, seen.fd().as_raw_fd().cast_unsigned().into());
        let handler_in_2 = wide(2, 0, handler);
        let program = load(
            RAW_TRACEPOINT,
            0,
            &[
                [0x79, 0x13, 0, 0, 0, 0, 0, 0], // r3 = *(u64 *)r1: the timer
                // struct timer_list: a list node (16 bytes), `expires` (8), `function`.
                [0x07, 3, 0, 0, 24, 0, 0, 0],            // r3 += 24
                [0xbf, 0xa1, 0, 0, 0, 0, 0, 0],          // r1 = r10
                [0x07, 1, 0, 0, 0xf8, 0xff, 0xff, 0xff], // r1 += -8
                [0xb7, 2, 0, 0, 8, 0, 0, 0],             // r2 = 8
                [0x85, 0, 0, 0, 113, 0, 0, 0],           // bpf_probe_read_kernel(r1, r2, r3)
                [0x79, 0xa1, 0xf8, 0xff, 0, 0, 0, 0],    // r1 = *(u64 *)(r10 - 8)
                handler_in_2[0],                         // r2 = the handler
                handler_in_2[1],
                [0x5d, 0x21, 4, 0, 0, 0, 0, 0], // if r1 != r2 goto +4
                value[0],                       // r1 = address of the map's value
                value[1],
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
        let filter = CString::new(format!("function == {handler:#x}"))?;
        let mut all = Vec::new();
        for name in TRACEPOINTS {
            let tracepoint = tracepoint(&format!("timer/{}", name.to_str()?))?;
            for cpu in 0..cpus {
                all.push(perf(tracepoint, cpu, &filter)?);
            }
        }
        let mut counters = Self { seen, _links: links, all, before: 0 };
        let seen = counters.seen()?;
        counters.before = seen.saturating_sub(counters.all()?);
        Ok(counters)
    }

    /// perf is read first: see [`Self::start`].
    fn skipped(&self) -> Result<u64> {
        let all = self.all()?;
        Ok((all + self.before).saturating_sub(self.seen()?))
    }

    fn all(&self) -> Result<u64> {
        let mut all = 0;
        for mut counter in &self.all {
            let mut count = [0; 8];
            counter.read_exact(&mut count)?;
            all += u64::from_ne_bytes(count);
        }
        Ok(all)
    }

    fn seen(&self) -> Result<u64> {
        let seen =
            self.seen.get(&0_u32.to_ne_bytes())?.context("an array has its first element")?;
        Ok(u64::from_ne_bytes(seen.as_slice().try_into()?))
    }
}

/// The instruction that loads 64 bits into a register; `source`: what the number means (0: itself; 2: the descriptor of a map, of
/// whose value the address is loaded).
fn wide(register: u8, source: u8, number: u64) -> [[u8; 8]; 2] {
    let instruction = |code: u8, registers: u8, part: u64| {
        let opcode = [code, registers, 0, 0, 0, 0, 0, 0];
        u64::from_le_bytes(opcode) | part << 32
    };
    let low = instruction(0x18, register | source << 4, number & u64::from(u32::MAX));
    [low, instruction(0, 0, number >> 32)].map(u64::to_le_bytes)
}

/// The address of a function of the kernel. An error if there is none, or this program may not see it.
fn address_of(function: &str) -> Result<u64> {
    let symbols = fs::read_to_string("/proc/kallsyms")?;
    let mut fields = symbols.lines().map(|line| line.split(' '));
    let found = fields.find_map(|mut fields| {
        let (address, name) = (fields.next()?, fields.nth(1)?);
        (name == function).then_some(address)
    });
    let found = u64::from_str_radix(found.context("the kernel has no such function")?, 16)?;
    ensure!(found != 0, "the kernel hides its addresses");
    Ok(found)
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

/// A counter of what the filter lets through of this tracepoint on this CPU, in all processes; it counts from now on.
fn perf(tracepoint: u64, cpu: libc::c_int, filter: &CStr) -> Result<fs::File> {
    const TRACEPOINT: u32 = 2;
    const DISABLED: u64 = 1;
    const SET_FILTER: libc::Ioctl = 0x4008_2406;
    const ENABLE: libc::Ioctl = 0x2400;
    /// The first version of `struct perf_event_attr`.
    #[repr(C)]
    #[derive(Default)]
    struct Attr {
        kind: u32,
        size: u32,
        config: u64,
        /// Sampling, the format of reads: none.
        sampling: [u64; 3],
        flags: u64,
        /// Wake-ups and breakpoints: none.
        zero: [u64; 2],
    }
    const FLAGS: libc::c_long = 8; // PERF_FLAG_FD_CLOEXEC
    let (kind, config, flags) = (TRACEPOINT, tracepoint, DISABLED);
    let attr = Attr { kind, size: 64, config, flags, ..Attr::default() };
    const { assert!(size_of::<Attr>() == 64) };
    // SAFETY: the pointer is to an attribute that has the size that it says, and outlives the call.
    let fd =
        unsafe { libc::syscall(libc::SYS_perf_event_open, &raw const attr, -1, cpu, -1, FLAGS) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error()).context("perf_event_open");
    }
    let counter = owned(fd)?;
    // SAFETY: `filter` is a string that ends with a NUL and outlives the call; the second call takes no pointer.
    let done = unsafe {
        libc::ioctl(counter.as_raw_fd(), SET_FILTER, filter.as_ptr()) == 0
            && libc::ioctl(counter.as_raw_fd(), ENABLE, 0) == 0
    };
    if !done {
        return Err(std::io::Error::last_os_error()).context("a counter of perf");
    }
    Ok(counter.into())
}
