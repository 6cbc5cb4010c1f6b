//! Lists links, opens links, programs and maps by the ids that the kernel gives them, reads their properties, and marks programs.
//! To list ids and to open by id takes CAP_SYS_ADMIN.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

use aya_obj::generated::{
    bpf_attach_type, bpf_attr, bpf_cmd, bpf_link_info, bpf_link_type, bpf_map_info, bpf_map_type,
    bpf_prog_info,
};

use super::{bpf, owned};

/// Size of the value of a mark, in bytes. A mark is a map of one value that is added to a program's maps, and says to which rule
/// the program belongs.
pub(in super::super) const MARK_SIZE: usize = 64;
/// How many maps of a program are read at most.
const MOST_MAPS: usize = 64;

/// A kind of object that has an id.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Listed {
    Link,
    Program,
    Map,
}

/// The smallest id of a link that is greater than `after` (0: the smallest of all); `None`: there is none.
///
/// # Errors
/// As bpf(2): EPERM without CAP_SYS_ADMIN.
pub(in super::super) fn next_link(after: u32) -> io::Result<Option<u32>> {
    // SAFETY: all-zero is a valid bpf_attr.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.__bindgen_anon_6.__bindgen_anon_1.start_id = after;
    match bpf(bpf_cmd::BPF_LINK_GET_NEXT_ID, &mut attr) {
        // SAFETY: the call succeeded, so the kernel wrote the id.
        Ok(_) => Ok(Some(unsafe { attr.__bindgen_anon_6.next_id })),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens the object with this id.
///
/// # Errors
/// As bpf(2): ENOENT if it is gone, EPERM without CAP_SYS_ADMIN.
pub(in super::super) fn by_id(kind: Listed, id: u32) -> io::Result<OwnedFd> {
    // SAFETY: all-zero is a valid bpf_attr.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    let command = match kind {
        Listed::Link => bpf_cmd::BPF_LINK_GET_FD_BY_ID,
        Listed::Program => bpf_cmd::BPF_PROG_GET_FD_BY_ID,
        Listed::Map => bpf_cmd::BPF_MAP_GET_FD_BY_ID,
    };
    // The three ids are the same field of a union.
    attr.__bindgen_anon_6.__bindgen_anon_1.start_id = id;
    owned(bpf(command, &mut attr)?)
}

/// Properties of a link.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct LinkInfo {
    pub id: u32,
    /// Id of the program that it runs.
    pub program: u32,
    /// Id of its cgroup; 0: it is not a cgroup link, or the cgroup was removed.
    pub cgroup: u64,
    /// Whether it is a cgroup link whose cgroup was removed: it has no effect any more.
    pub is_over: bool,
    /// The hook that a cgroup link is attached to: `connect4`, `connect6`, `bind4` or `bind6`; `None`: another kind of link, or
    /// another hook.
    pub hook: Option<&'static str>,
}

/// The properties of a link. The descriptor must be that of a link (not checked): those of a program or map give numbers
/// without meaning.
///
/// # Errors
/// As bpf(2).
pub(in super::super) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    // SAFETY: all-zero is a valid bpf_link_info, and asks for no text.
    let mut info: bpf_link_info = unsafe { std::mem::zeroed() };
    about(link, &mut info)?;
    let mut found =
        LinkInfo { id: info.id, program: info.prog_id, cgroup: 0, is_over: false, hook: None };
    if info.type_ == bpf_link_type::BPF_LINK_TYPE_CGROUP as u32 {
        // SAFETY: any bits are valid numbers, and the type says that it is a cgroup link.
        let cgroup = unsafe { info.__bindgen_anon_1.cgroup };
        found.cgroup = cgroup.cgroup_id;
        found.is_over = cgroup.cgroup_id == 0;
        found.hook = HOOKS.iter().find(|it| it.0 as u32 == cgroup.attach_type).map(|it| it.1);
    }
    Ok(found)
}

const HOOKS: [(bpf_attach_type, &str); 4] = [
    (bpf_attach_type::BPF_CGROUP_INET4_CONNECT, "connect4"),
    (bpf_attach_type::BPF_CGROUP_INET6_CONNECT, "connect6"),
    (bpf_attach_type::BPF_CGROUP_INET4_BIND, "bind4"),
    (bpf_attach_type::BPF_CGROUP_INET6_BIND, "bind6"),
];

/// Name of a program, cut after 15 bytes, and the ids of its maps (of the first [`MOST_MAPS`]). The descriptor must be that of a
/// program (not checked).
///
/// # Errors
/// As bpf(2).
pub(in super::super) fn program_info(program: BorrowedFd<'_>) -> io::Result<(String, Vec<u32>)> {
    let mut ids = [0_u32; MOST_MAPS];
    // SAFETY: all-zero is a valid bpf_prog_info, and asks for nothing that is written elsewhere.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    info.nr_map_ids = u32::try_from(ids.len()).unwrap_or(0);
    info.map_ids = ids.as_mut_ptr() as u64;
    about(program, &mut info)?;
    Ok((text(&info.name), ids.into_iter().take(info.nr_map_ids as usize).collect()))
}

/// Name of a map, cut after 15 bytes; empty: it has none. The descriptor must be that of a map (not checked).
///
/// # Errors
/// As bpf(2).
pub(in super::super) fn map_name(map: BorrowedFd<'_>) -> io::Result<String> {
    // SAFETY: all-zero is a valid bpf_map_info.
    let mut info: bpf_map_info = unsafe { std::mem::zeroed() };
    about(map, &mut info)?;
    Ok(text(&info.name))
}

/// Reads the properties of an object (BPF_OBJ_GET_INFO_BY_FD). The kernel writes no more than it knows, and no more
/// than fits.
fn about<T>(fd: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    // SAFETY: all-zero is a valid bpf_attr.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.info.bpf_fd = fd.as_raw_fd().cast_unsigned();
    attr.info.info_len = u32::try_from(size_of::<T>()).unwrap_or(0);
    attr.info.info = std::ptr::from_mut(info) as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr).map(drop)
}

fn text(name: &[std::ffi::c_char]) -> String {
    let bytes = name.iter().map(|byte| byte.cast_unsigned()).take_while(|byte| *byte != 0);
    String::from_utf8_lossy(&bytes.collect::<Vec<_>>()).into_owned()
}

/// Makes a map of one value, which user space cannot change afterwards. The map's name is cut after 15 bytes. The map exists
/// until its last descriptor and the last program that it is bound to ([`bind_map`]) are gone.
///
/// # Errors
/// As bpf(2): EPERM without CAP_BPF; EINVAL: the name has other bytes than letters, digits, `_` and `.`.
pub(in super::super) fn create_mark(name: &str, value: &[u8; MARK_SIZE]) -> io::Result<OwnedFd> {
    // SAFETY: all-zero is a valid bpf_attr.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.__bindgen_anon_1.map_type = bpf_map_type::BPF_MAP_TYPE_ARRAY as u32;
    attr.__bindgen_anon_1.key_size = 4;
    attr.__bindgen_anon_1.value_size = u32::try_from(MARK_SIZE).unwrap_or(0);
    attr.__bindgen_anon_1.max_entries = 1;
    let mut in_kernel = [0; 16];
    for (to, from) in in_kernel.iter_mut().zip(name.bytes().take(15)) {
        *to = from.cast_signed();
    }
    attr.__bindgen_anon_1.map_name = in_kernel;
    let map = owned(bpf(bpf_cmd::BPF_MAP_CREATE, &mut attr)?)?;
    let key = 0_u32;
    // SAFETY: all-zero is a valid bpf_attr.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.__bindgen_anon_2.map_fd = map.as_raw_fd().cast_unsigned();
    attr.__bindgen_anon_2.key = (&raw const key) as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = value.as_ptr() as u64;
    bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr)?;
    // SAFETY: all-zero is a valid bpf_attr.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.__bindgen_anon_2.map_fd = map.as_raw_fd().cast_unsigned();
    bpf(bpf_cmd::BPF_MAP_FREEZE, &mut attr)?;
    Ok(map)
}

/// Reads the value of a mark.
///
/// # Errors
/// `InvalidData`: the map cannot be a mark, as it is not an array with values of [`MARK_SIZE`] bytes. Else as bpf(2).
pub(in super::super) fn read_mark(map: BorrowedFd<'_>) -> io::Result<[u8; MARK_SIZE]> {
    // SAFETY: all-zero is a valid bpf_map_info.
    let mut info: bpf_map_info = unsafe { std::mem::zeroed() };
    about(map, &mut info)?;
    // The check comes first because the kernel writes as many bytes as the map's values have.
    let array = bpf_map_type::BPF_MAP_TYPE_ARRAY as u32;
    if info.type_ != array || info.value_size as usize != MARK_SIZE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let (key, mut value) = (0_u32, [0; MARK_SIZE]);
    // SAFETY: all-zero is a valid bpf_attr.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.__bindgen_anon_2.map_fd = map.as_raw_fd().cast_unsigned();
    attr.__bindgen_anon_2.key = (&raw const key) as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = value.as_mut_ptr() as u64;
    bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr)?;
    Ok(value)
}

/// Adds the map to the program's maps, so that it exists as long as the program (Linux 5.10). Does nothing if it is among them.
///
/// # Errors
/// As bpf(2): EINVAL before Linux 5.10.
pub(in super::super) fn bind_map(program: BorrowedFd<'_>, map: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: all-zero is a valid bpf_attr.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.prog_bind_map.prog_fd = program.as_raw_fd().cast_unsigned();
    attr.prog_bind_map.map_fd = map.as_raw_fd().cast_unsigned();
    bpf(bpf_cmd::BPF_PROG_BIND_MAP, &mut attr).map(drop)
}

/// Detaches a cgroup link, even if other processes have it open or pinned (BPF_LINK_DETACH, Linux 5.9). The link still exists
/// then, without effect, as long as it is open or pinned.
///
/// # Errors
/// As bpf(2).
pub(in super::super) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: all-zero is a valid bpf_attr.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.link_detach.link_fd = link.as_raw_fd().cast_unsigned();
    bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr).map(drop)
}
