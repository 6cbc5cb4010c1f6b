//! Makes the bpf(2) calls that aya 0.14 does not offer.
#![expect(unsafe_code, reason = "raw bpf(2)")]

mod ids;
mod iterator;

use std::{
    ffi::CString,
    io,
    mem::offset_of,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use aya_obj::generated::{
    bpf_attach_type::BPF_PERF_EVENT, bpf_attr, bpf_cmd, bpf_link_info, bpf_map_type,
};

use crate::runtime::beat::beat;

pub(super) use ids::{
    Listed, MARK_SIZE, bind_map, by_id, create_mark, detach_link, link_info, map_name, next_link,
    program_info, read_mark,
};
pub(super) use iterator::{link_iterator, load_fentry, open_iterator};

/// Buffers for one part of a hash map. They are reused for every part, so that they stay in the CPU's cache and the
/// kernel writes only to memory that is mapped already.
#[derive(Debug, Default)]
pub(super) struct Batch {
    keys: Vec<u8>,
    values: Vec<u8>,
}

/// How many entries are asked for at a time. A call must have room for a whole bucket of the hash, so this is doubled if a
/// bucket has more.
const CHUNK: u32 = 1024;

/// Reads every entry of a hash map with `BPF_MAP_LOOKUP_BATCH` (Linux 5.6), and calls `each` with the bytes of its key
/// and of its value. An entry that is inserted or removed meanwhile may be read or not; none is read twice unless it
/// was removed and inserted again. `key_size` and `value_size`: in bytes; they must be the map's (not checked), because the
/// kernel writes that much for each entry.
///
/// # Errors
/// As bpf(2); ENOSPC: a bucket of the hash has more than 2^20 entries. `each` was called for the entries that were read until
/// then.
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
        beat();
        let code = error.as_ref().and_then(io::Error::raw_os_error);
        // A bucket has more entries than fit into the buffers.
        if code == Some(libc::ENOSPC) && chunk < 1 << 20 {
            chunk *= 2;
            continue;
        }
        // At the end of the map the kernel returns this error, with the last entries.
        let at_end = code == Some(libc::ENOENT);
        if let Some(error) = error
            && !at_end
        {
            return Err(error);
        }
        // SAFETY: the kernel wrote the count: it does so in every case except EFAULT, where it is what was set above.
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

/// Reads one entry of a per-CPU array of u64 values: the value of each CPU. `cpus` must be the number of possible CPUs (not
/// checked), because the kernel writes that many values.
///
/// # Errors
/// As bpf(2); ENOENT: there is no such entry.
pub(super) fn read_per_cpu(map: BorrowedFd<'_>, key: u32, cpus: usize) -> io::Result<Vec<u64>> {
    let mut values = vec![0_u64; cpus];
    // SAFETY: all-zero is a valid bpf_attr.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.__bindgen_anon_2.map_fd = map.as_raw_fd().cast_unsigned();
    attr.__bindgen_anon_2.key = (&raw const key) as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = values.as_mut_ptr() as u64;
    bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr)?;
    Ok(values)
}

/// Size of the arguments of a raw tracepoint program, in bytes.
const CONTEXT_SIZE: u32 = 96;

const _: () = assert!(CONTEXT_SIZE as usize == size_of::<[u64; 12]>());

/// Runs a raw tracepoint program once, on the current CPU, with `context` as its arguments (Linux 5.10), and returns its return
/// value.
///
/// # Errors
/// As bpf(2): the kernel is older, or the descriptor is not that of such a program.
pub(super) fn run_raw_tracepoint(program: BorrowedFd<'_>, context: &[u64; 12]) -> io::Result<u32> {
    // SAFETY: all-zero is a valid bpf_attr.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.test.prog_fd = program.as_raw_fd().cast_unsigned();
    attr.test.ctx_in = context.as_ptr() as u64;
    attr.test.ctx_size_in = CONTEXT_SIZE;
    bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr)?;
    // SAFETY: the call succeeded, so the kernel wrote the return value.
    Ok(unsafe { attr.test.retval })
}

/// Opens the object that is pinned at a path of a bpffs (BPF_OBJ_GET).
///
/// # Errors
/// As bpf(2): ENOENT: nothing is there; EPERM or EACCES: it may not be opened, or is no pinned object. `InvalidInput`: the path
/// has a NUL.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    // SAFETY: all-zero is a valid bpf_attr.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    owned(bpf(bpf_cmd::BPF_OBJ_GET, &mut attr)?)
}

/// Pins a map or a link at a path of a bpffs (BPF_OBJ_PIN).
///
/// # Errors
/// As bpf(2): EEXIST: the name is taken; EINVAL: it is neither a map nor a link (but a perf event). `InvalidInput`: the path has
/// a NUL.
pub(super) fn pin(link: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: all-zero is a valid bpf_attr.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    attr.__bindgen_anon_4.bpf_fd = link.as_raw_fd().cast_unsigned();
    bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(drop)
}

/// Replaces the program of a cgroup link in one step, so that each call runs the old or the new one (BPF_LINK_UPDATE, Linux 5.7).
///
/// # Errors
/// As bpf(2): the cgroup of the link is gone, or the program is of another type.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: all-zero is a valid bpf_attr.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.link_update.link_fd = link.as_raw_fd().cast_unsigned();
    attr.link_update.__bindgen_anon_1.new_prog_fd = program.as_raw_fd().cast_unsigned();
    bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// The id of a cgroup link's cgroup; 0: the cgroup was removed, and the link has no effect any more. Of another kind of link, and
/// of a program or map, a number without meaning.
///
/// # Errors
/// As bpf(2); EINVAL: the descriptor is not that of a BPF object.
pub(super) fn cgroup_of(link: BorrowedFd<'_>) -> io::Result<u64> {
    // SAFETY: all-zero is a valid bpf_link_info.
    let mut info: bpf_link_info = unsafe { std::mem::zeroed() };
    // SAFETY: all-zero is a valid bpf_attr.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.info.bpf_fd = link.as_raw_fd().cast_unsigned();
    attr.info.info_len = u32::try_from(size_of::<bpf_link_info>()).unwrap_or(0);
    attr.info.info = (&raw mut info) as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    // SAFETY: any bits are a valid number. The caller passes a cgroup link.
    Ok(unsafe { info.__bindgen_anon_1.cgroup.cgroup_id })
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

/// Makes a link of a program to a perf event (Linux 5.15), which attaches the program. The link keeps the event open; the program
/// is detached when the link's last descriptor and pin are gone.
///
/// # Errors
/// As bpf(2): EINVAL before Linux 5.15.
pub(super) fn create_perf_link(
    program: BorrowedFd<'_>,
    event: BorrowedFd<'_>,
) -> io::Result<OwnedFd> {
    // SAFETY: all-zero is a valid bpf_attr.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd().cast_unsigned();
    attr.link_create.__bindgen_anon_2.target_fd = event.as_raw_fd().cast_unsigned();
    attr.link_create.attach_type = BPF_PERF_EVENT as u32;
    owned(bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr)?)
}

fn owned(fd: i64) -> io::Result<OwnedFd> {
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel just returned this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// How often the kernel skipped the kprobe or kretprobe of this link (Linux 6.7). `None`: it does not count that, or
/// the descriptor is a perf event. Of another kind of link, a number without meaning.
pub(super) fn link_missed(link: BorrowedFd<'_>) -> Option<u64> {
    const MISSED: usize =
        offset_of!(bpf_link_info, __bindgen_anon_1.perf_event.__bindgen_anon_1.kprobe.missed);
    // SAFETY: all-zero is a valid bpf_link_info, and asks for no text.
    let mut info: bpf_link_info = unsafe { std::mem::zeroed() };
    // SAFETY: all-zero is a valid bpf_attr.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.info.bpf_fd = link.as_raw_fd().cast_unsigned();
    attr.info.info_len = u32::try_from(size_of::<bpf_link_info>()).ok()?;
    attr.info.info = &raw mut info as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr).ok()?;
    // SAFETY: the kernel wrote the size of the part that it knows.
    let known = unsafe { attr.info.info_len } as usize;
    // SAFETY: any bits are valid integers. The caller passes the link of a kprobe.
    let missed = unsafe { info.__bindgen_anon_1.perf_event.__bindgen_anon_1.kprobe.missed };
    (known >= MISSED + size_of::<u64>()).then_some(missed)
}

/// What it takes to wait until the BPF programs that are running have ended: two maps.
#[derive(Debug)]
pub(super) struct RunningPrograms {
    outer: OwnedFd,
    inner: OwnedFd,
}

impl RunningPrograms {
    /// Makes the two maps that [`Self::wait`] needs.
    ///
    /// # Errors
    /// As bpf(2).
    pub(super) fn new() -> io::Result<Self> {
        let create = |kind: bpf_map_type, inner: i32| {
            // SAFETY: all-zero is a valid bpf_attr.
            let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
            attr.__bindgen_anon_1.map_type = kind as u32;
            attr.__bindgen_anon_1.key_size = 4;
            attr.__bindgen_anon_1.value_size = 4;
            attr.__bindgen_anon_1.max_entries = 1;
            attr.__bindgen_anon_1.inner_map_fd = inner.cast_unsigned();
            owned(bpf(bpf_cmd::BPF_MAP_CREATE, &mut attr)?)
        };
        let inner = create(bpf_map_type::BPF_MAP_TYPE_ARRAY, 0)?;
        let outer = create(bpf_map_type::BPF_MAP_TYPE_ARRAY_OF_MAPS, inner.as_raw_fd())?;
        Ok(Self { outer, inner })
    }

    /// Returns when every program that was running has ended, except sleepable ones. The kernel waits for all others in each
    /// update of a map of maps: `maybe_wait_bpf_programs` in kernel/bpf/syscall.c.
    ///
    /// # Errors
    /// As bpf(2).
    pub(super) fn wait(&self) -> io::Result<()> {
        let key = 0_u32;
        let value = self.inner.as_raw_fd();
        // SAFETY: all-zero is a valid bpf_attr.
        let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
        attr.__bindgen_anon_2.map_fd = self.outer.as_raw_fd().cast_unsigned();
        attr.__bindgen_anon_2.key = (&raw const key) as u64;
        attr.__bindgen_anon_2.__bindgen_anon_1.value = (&raw const value) as u64;
        bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
    }
}

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i64> {
    // SAFETY: the attribute is valid for its whole size, and what it points to lives until the call returns.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<bpf_attr>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
