//! Attaches programs to perf events: tracepoints, kprobes and kretprobes. This is done here and not by aya 0.14: aya needs a
//! mounted tracefs to attach a tracepoint, and does not give out the descriptor that says how often a kprobe was skipped.
#![expect(unsafe_code, reason = "raw perf_event_open(2), ioctl(2) and bpf(2)")]

use std::{
    ffi::CString,
    fs, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use super::sys;

const PERF_TYPE_TRACEPOINT: u32 = 2;
const PERF_EVENT_IOC_ENABLE: libc::c_ulong = 0x2400;
const PERF_EVENT_IOC_SET_BPF: libc::c_ulong = 0x4004_2408;
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;

/// The folder in which the kernel describes its event source for kprobes.
const KPROBE_PMU: &str = "/sys/bus/event_source/devices/kprobe";

/// Size of the first version of `struct perf_event_attr`, in bytes: the kernel tells the versions apart by it.
const PERF_ATTR_SIZE_VER0: u32 = 64;

const _: () = assert!(PERF_ATTR_SIZE_VER0 as usize == size_of::<PerfEventAttr>());

/// The first version of `struct perf_event_attr` (include/uapi/linux/perf_event.h), 64 bytes.
#[repr(C)]
#[derive(Default)]
struct PerfEventAttr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    /// For a kprobe: address of the function's name, a C string.
    config1: u64,
}

/// Attaches a program to the tracepoint with this number (`id` in its tracefs folder). The program then runs on
/// every CPU. Dropping the descriptor detaches it.
///
/// # Errors
/// As perf_event_open(2): it may not be opened, or there is no such tracepoint. As ioctl(2): the program is of another kind.
pub(super) fn attach_tracepoint(program: BorrowedFd<'_>, id: u64) -> io::Result<OwnedFd> {
    let attr = PerfEventAttr { kind: PERF_TYPE_TRACEPOINT, config: id, ..PerfEventAttr::default() };
    let event = open(&attr)?;
    set_program(&event, program)?;
    Ok(event)
}

/// Attaches a program to the entry of a kernel function, or if `at_return`, to its return. The program then runs on every CPU.
/// Dropping the descriptor detaches it. The descriptor is a link where the kernel has links for perf events (Linux
/// 5.15), and [`sys::link_missed`] can read it; on older kernels it is the perf event.
///
/// # Errors
/// The kernel has no kprobes (`NotFound`) or no such function, the name has a NUL (`InvalidInput`), or as perf_event_open(2) and
/// ioctl(2).
pub(super) fn attach_kprobe(
    program: BorrowedFd<'_>,
    function: &str,
    at_return: bool,
) -> io::Result<OwnedFd> {
    let name = CString::new(function)?;
    let config = if at_return { 1 << kprobe_number("format/retprobe", "config:")? } else { 0 };
    let attr = PerfEventAttr {
        kind: kprobe_number("type", "")?,
        config,
        config1: name.as_ptr() as u64,
        ..PerfEventAttr::default()
    };
    let event = open(&attr)?;
    if let Ok(link) = sys::create_perf_link(program, event.as_fd()) {
        return Ok(link);
    }
    set_program(&event, program)?;
    Ok(event)
}

/// The number after `prefix` in a file that describes the event source for kprobes.
fn kprobe_number(file: &str, prefix: &str) -> io::Result<u32> {
    let path = format!("{KPROBE_PMU}/{file}");
    let text = fs::read_to_string(&path)
        .map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))?;
    text.trim().strip_prefix(prefix).and_then(|number| number.parse().ok()).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{path} has no number: {:?}", text.trim()),
        )
    })
}

fn open(attr: &PerfEventAttr) -> io::Result<OwnedFd> {
    let attr = PerfEventAttr { size: PERF_ATTR_SIZE_VER0, ..*attr };
    let (all_processes, cpu, no_group) = (-1, 0, -1);
    // SAFETY: the attribute is valid for the size that it states; the name that it points to lives until the call
    // returns, because `attach_kprobe` owns it.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attr,
            all_processes,
            cpu,
            no_group,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel just returned this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn set_program(event: &OwnedFd, program: BorrowedFd<'_>) -> io::Result<()> {
    let event = event.as_raw_fd();
    // SAFETY: both requests take an integer.
    let attached = unsafe {
        libc::ioctl(event, PERF_EVENT_IOC_SET_BPF, program.as_raw_fd()) == 0
            && libc::ioctl(event, PERF_EVENT_IOC_ENABLE, 0) == 0
    };
    if attached { Ok(()) } else { Err(io::Error::last_os_error()) }
}
