//! Ways to a namespace: paths, most of which another process decides what is behind.
//!
//! A descriptor of another process can be a namespace when it is listed and a FIFO, a device or a file of a file
//! system that never answers when it is opened. So what is at the end of a way is looked at without
//! opening it (O_PATH), and without asking its file system (AT_STATX_DONT_SYNC); only what the kernel itself
//! has made is opened.

use std::{
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    sync::OnceLock,
};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, openat, statx};

use super::OWN;

/// A network namespace at the end of a way, open for entering.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) fd: OwnedFd,
    pub(super) inum: u32,
}

/// Looks at the end of a way. `None`: there is something else than a network namespace.
pub(super) fn look(path: &Path) -> io::Result<Option<Place>> {
    let end = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let (device, inode) = identity(&end)?;
    if device != namespaces()? {
        return Ok(None);
    }
    let again = format!("/proc/self/fd/{}", end.as_raw_fd());
    let fd = openat(CWD, again, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    // Namespaces of other kinds are on the same device.
    if !is_network(&fd)? {
        return Ok(None);
    }
    let inum = u32::try_from(inode).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(Some(Place { fd, inum }))
}

#[expect(unsafe_code, reason = "an ioctl that rustix does not have")]
fn is_network(namespace: &OwnedFd) -> io::Result<bool> {
    /// `_IO(0xb7, 3)` in `include/uapi/linux/nsfs.h`
    const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
    // SAFETY: the descriptor is of a namespace, and this ioctl takes no argument.
    let kind = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_NSTYPE) };
    if kind < 0 { Err(io::Error::last_os_error()) } else { Ok(kind == libc::CLONE_NEWNET) }
}

/// `net:[4026531840]`
pub(super) fn inum_of_link(link: &[u8]) -> Option<u32> {
    let digits = link.strip_prefix(b"net:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The namespace that the link of a descriptor names, without looking further.
pub(super) fn named_by_link(path: &Path) -> Option<u32> {
    inum_of_link(fs::read_link(path).ok()?.as_os_str().as_bytes())
}

type Device = (u32, u32);

/// Device and inode number, as far as they are known without asking a file system.
fn identity(fd: impl AsFd) -> io::Result<(Device, u64)> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = statx(fd, "", flags, StatxFlags::INO)?;
    Ok(((stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino))
}

/// The device of all namespaces.
fn namespaces() -> io::Result<Device> {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    if let Some(device) = DEVICE.get() {
        return Ok(*device);
    }
    let own = openat(CWD, OWN, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let (device, _) = identity(&own)?;
    Ok(*DEVICE.get_or_init(|| device))
}

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc,
        thread,
        time::{Duration, Instant},
    };

    use rustix::fs::{FileType, mknodat};

    use super::*;

    #[test]
    fn what_is_no_network_namespace_is_told_without_opening_it() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("net:[4026531840]");
        mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();
        let (told, hear) = mpsc::channel();
        thread::spawn(move || {
            for path in
                [&fifo, Path::new("/dev/null"), Path::new("/proc/self/ns/mnt"), "/".as_ref()]
            {
                told.send(look(path).map(|place| place.is_none())).unwrap();
            }
            drop(folder);
        });
        let end = Instant::now() + Duration::from_secs(10);
        for _ in 0..4 {
            let left = end.saturating_duration_since(Instant::now());
            assert!(hear.recv_timeout(left).expect("looking at a FIFO does not end").unwrap());
        }
        let own = look(Path::new(OWN)).unwrap().unwrap();
        assert_eq!(Some(own.inum), named_by_link(Path::new(OWN)));
        assert_eq!(identity(&own.fd).unwrap().1, u64::from(own.inum));
    }

    #[test]
    fn only_links_of_the_kernels_own_form_name_a_namespace() {
        assert_eq!(inum_of_link(b"net:[4026531840]"), Some(4_026_531_840));
        for link in ["/tmp/net:[1]", "net:[1] (deleted)", "net:[]", "net:[99999999999]", "mnt:[1]"]
        {
            assert_eq!(inum_of_link(link.as_bytes()), None, "{link}");
        }
    }
}
