//! Opens what a path of another process leads to, if it is a regular file or a folder, and not on a file system of the kernel
//! itself, such as proc or sysfs.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::Path,
};

use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{Mode, OFlags, ResolveFlags, fstatfs, openat, openat2},
    io::Errno,
};

/// How often a path is resolved again because something in it was renamed or mounted meanwhile: the kernel cannot say then
/// whether `..` leads out of the root folder.
const TRIES: u32 = 16;

/// File systems whose files are not data: reading one can wait, take messages away from others, or be a command. The numbers are
/// `f_type` of statfs(2), from `include/uapi/linux/magic.h`.
const NOT_DATA: [u32; 24] = [
    0x0000_9fa0, // proc
    0x6265_6572, // sysfs
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x7363_6673, // securityfs
    0xcafe_4a11, // bpf
    0x6265_6570, // configfs
    0xde5e_81e4, // efivarfs
    0xf97c_ff8c, // selinuxfs
    0x4341_5d53, // smackfs
    0x6e73_6673, // nsfs
    0x534f_434b, // sockfs
    0x5049_5045, // pipefs
    0x0904_1934, // anonymous inodes
    0x4249_4e4d, // binfmt_misc
    0x1980_0202, // mqueue
    0x6165_676c, // pstore
    0x6573_5543, // fusectl
    0x0765_5821, // resctrl
    0x0000_1cd1, // devpts
    0xabba_1974, // xenfs
    0x444d_4142, // dma-buf
];

/// A descriptor of what the path leads to from this root folder, without opening it (O_PATH). `more`: further flags.
///
/// # Errors
/// As openat2(2): there is nothing, or a link in the path is one that only the kernel can make (in /proc/PID). `WouldBlock`: in
/// each of 16 tries, something in the path was renamed or mounted meanwhile.
pub(super) fn inside(root: &OwnedFd, path: &Path, more: OFlags) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | more;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let mut result = Err(Errno::AGAIN);
    for _ in 0..TRIES {
        result = openat2(root, path, flags, Mode::empty(), resolve);
        if !matches!(result, Err(Errno::AGAIN)) {
            break;
        }
    }
    Ok(result?)
}

/// Opens for reading the file that `end`, a descriptor made with O_PATH, stands for.
///
/// # Errors
/// It is no regular file, or on a file system whose files are not data, such as proc or sysfs (`NOT_DATA`): `InvalidInput`. Or it
/// cannot be examined or opened.
pub(super) fn regular(end: OwnedFd) -> io::Result<File> {
    has_data(&end)?;
    let end = File::from(end);
    if !end.metadata()?.is_file() {
        return Err(refused("is no regular file"));
    }
    // This opens the file that was examined, whatever its path leads to now.
    let again = format!("/proc/self/fd/{}", end.as_raw_fd());
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(again)
}

/// Opens for listing the folder that `end`, a descriptor made with O_PATH, stands for.
///
/// # Errors
/// It is on a file system whose files are not data, such as proc or sysfs (`NOT_DATA`): `InvalidInput`. Or it is no folder, or
/// cannot be examined or opened.
pub(super) fn folder(end: &OwnedFd) -> io::Result<OwnedFd> {
    has_data(end)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(openat(end, ".", flags, Mode::empty())?)
}

fn has_data(end: impl AsFd) -> io::Result<()> {
    let kind = fstatfs(end)?.f_type;
    let of_kernel = u32::try_from(kind & 0xffff_ffff).is_ok_and(|kind| NOT_DATA.contains(&kind));
    if of_kernel { Err(refused("is a file of the kernel, not of a disk")) } else { Ok(()) }
}

fn refused(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}
