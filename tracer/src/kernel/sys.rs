//! The few system calls that aya 0.14 does not offer.
#![expect(unsafe_code, reason = "raw bpf(2) and perf_event_open(2)")]

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_link_info};

/// Where a part of a hash map is read to. It is used again for every part, so that it stays in the
/// CPU's cache, and the kernel never writes to memory that has to be found first.
#[derive(Debug, Default)]
pub(super) struct Batch {
    keys: Vec<u8>,
    values: Vec<u8>,
}

/// Entries asked for at a time; a batch must hold at least one bucket of the hash.
const CHUNK: u32 = 4096;

/// Reads every entry of a hash map with `BPF_MAP_LOOKUP_BATCH` (Linux 5.6), and hands its key and
/// its value to `each` as the kernel packs them. Entries that come or go meanwhile may be there or
/// not; none is there twice unless it was removed and inserted again.
pub(super) fn read_map(
    map: BorrowedFd<'_>,
    key_size: usize,
    value_size: usize,
    batch: &mut Batch,
    mut each: impl FnMut(&[u8], &[u8]),
) -> io::Result<()> {
    let Batch { keys, values } = batch;
    let mut token = vec![0_u8; key_size.max(8)];
    let mut next = token.clone();
    let mut first = true;
    let mut chunk = CHUNK;
    loop {
        keys.resize(chunk as usize * key_size, 0);
        values.resize(chunk as usize * value_size, 0);
        // SAFETY: all-zero is a valid bpf_attr.
        let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
        attr.batch.map_fd = map.as_raw_fd().cast_unsigned();
        attr.batch.in_batch = if first { 0 } else { token.as_mut_ptr() as u64 };
        attr.batch.out_batch = next.as_mut_ptr() as u64;
        attr.batch.keys = keys.as_mut_ptr() as u64;
        attr.batch.values = values.as_mut_ptr() as u64;
        attr.batch.count = chunk;
        let error = bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr).err();
        let code = error.as_ref().and_then(io::Error::raw_os_error);
        // A bucket with more entries than fit.
        if code == Some(libc::ENOSPC) && chunk < 1 << 20 {
            chunk *= 2;
            continue;
        }
        // The end of the map comes as an error, with the entries before it.
        let at_end = code == Some(libc::ENOENT);
        if let Some(error) = error
            && !at_end
        {
            return Err(error);
        }
        // SAFETY: the kernel wrote the count, as it does in every case but EFAULT.
        let count = unsafe { attr.batch.count } as usize;
        let entries = keys.chunks_exact(key_size).zip(values.chunks_exact(value_size));
        entries.take(count).for_each(|(key, value)| each(key, value));
        if at_end {
            return Ok(());
        }
        first = false;
        std::mem::swap(&mut token, &mut next);
    }
}

/// Bytes of a raw tracepoint program's arguments.
const CONTEXT_SIZE: u32 = 96;

const _: () = assert!(CONTEXT_SIZE as usize == size_of::<[u64; 12]>());

/// Runs a raw tracepoint program with `context` as its arguments (Linux 5.10), and returns what it
/// returned.
pub(super) fn run_raw_tracepoint(program: BorrowedFd<'_>, context: &[u64; 12]) -> io::Result<u32> {
    // SAFETY: all-zero is a valid bpf_attr.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.test.prog_fd = program.as_raw_fd().cast_unsigned();
    attr.test.ctx_in = context.as_ptr() as u64;
    attr.test.ctx_size_in = CONTEXT_SIZE;
    bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr)?;
    // SAFETY: the kernel writes the result where the call succeeded.
    Ok(unsafe { attr.test.retval })
}

/// What is pinned at a path of a bpffs (BPF_OBJ_GET).
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    // SAFETY: all-zero is a valid bpf_attr.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    let fd = bpf(bpf_cmd::BPF_OBJ_GET, &mut attr)?;
    owned(fd)
}

/// Lets a link run another program from now on, in one step (BPF_LINK_UPDATE, cgroup links only).
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: all-zero is a valid bpf_attr.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.link_update.link_fd = link.as_raw_fd().cast_unsigned();
    attr.link_update.__bindgen_anon_1.new_prog_fd = program.as_raw_fd().cast_unsigned();
    bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// The cgroup of a cgroup link; 0: it was removed, and the link does nothing any more.
pub(super) fn cgroup_of(link: BorrowedFd<'_>) -> io::Result<u64> {
    // SAFETY: all-zero is a valid bpf_link_info.
    let mut info: bpf_link_info = unsafe { std::mem::zeroed() };
    // SAFETY: all-zero is a valid bpf_attr.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.info.bpf_fd = link.as_raw_fd().cast_unsigned();
    attr.info.info_len = u32::try_from(size_of::<bpf_link_info>()).unwrap_or(0);
    attr.info.info = (&raw mut info) as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    // SAFETY: any bits are a valid number; the caller knows that it is a cgroup link.
    Ok(unsafe { info.__bindgen_anon_1.cgroup.cgroup_id })
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

fn owned(fd: i64) -> io::Result<OwnedFd> {
    let fd = i32::try_from(fd).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    // SAFETY: the kernel just returned this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i64> {
    // SAFETY: the attribute is valid for its whole size, and what it points to outlives the call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<bpf_attr>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

const PERF_TYPE_TRACEPOINT: u32 = 2;
const PERF_EVENT_IOC_ENABLE: libc::c_ulong = 0x2400;
const PERF_EVENT_IOC_SET_BPF: libc::c_ulong = 0x4004_2408;
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;

/// `PERF_ATTR_SIZE_VER0`
const PERF_ATTR_SIZE_VER0: u32 = 64;

const _: () = assert!(PERF_ATTR_SIZE_VER0 as usize == size_of::<PerfEventAttr>());

/// The first version of `struct perf_event_attr` (include/uapi/linux/perf_event.h), 64 bytes.
#[repr(C)]
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
    config1: u64,
}

/// Attaches a program to the tracepoint with this number (`id` in its tracefs folder). It runs on
/// every CPU; dropping the descriptor detaches it.
///
/// aya finds the number by path, which needs tracefs to be mounted.
pub(super) fn attach_tracepoint(program: BorrowedFd<'_>, id: u64) -> io::Result<OwnedFd> {
    let attr = PerfEventAttr {
        kind: PERF_TYPE_TRACEPOINT,
        size: PERF_ATTR_SIZE_VER0,
        config: id,
        sample_period: 0,
        sample_type: 0,
        read_format: 0,
        flags: 0,
        wakeup_events: 0,
        bp_type: 0,
        config1: 0,
    };
    let (all_processes, cpu, no_group) = (-1, 0, -1);
    // SAFETY: the attribute is valid for the size that it states.
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
    // SAFETY: the kernel just returned this descriptor to us alone.
    let event = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: both requests take an integer.
    let attached = unsafe {
        libc::ioctl(fd, PERF_EVENT_IOC_SET_BPF, program.as_raw_fd()) == 0
            && libc::ioctl(fd, PERF_EVENT_IOC_ENABLE, 0) == 0
    };
    if attached { Ok(event) } else { Err(io::Error::last_os_error()) }
}
