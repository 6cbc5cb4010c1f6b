//! Opens paths to network namespaces. For most of them, another process decides what is there.
//!
//! A descriptor of another process can be a namespace when it is listed, and when it is opened a FIFO, a device, or a
//! file of a file system that never answers. So a path is examined without opening the file (O_PATH) and without
//! asking its file system (AT_STATX_DONT_SYNC), and opened only if the kernel itself made the file.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
    sync::OnceLock,
};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, openat, statx};

use super::OWN;

/// An open network namespace.
#[derive(Debug)]
pub(super) struct OpenNetns {
    pub(super) fd: OwnedFd,
    /// Its inode number.
    pub(super) inum: u32,
}

/// Opens the network namespace at a path. `None`: something else is there, which is not opened.
///
/// # Errors
/// As openat(2), statx(2) and ioctl(2): `NotFound` if there is nothing.
pub(super) fn open(path: &Path) -> io::Result<Option<OpenNetns>> {
    let end = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let (device, inode) = identity(&end)?;
    if device != namespaces()? {
        return Ok(None);
    }
    let again = format!("/proc/self/fd/{}", end.as_raw_fd());
    let fd = openat(CWD, again, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    // Namespaces of other types are on the same device.
    if !is_network(&fd)? {
        return Ok(None);
    }
    let inum = u32::try_from(inode).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(Some(OpenNetns { fd, inum }))
}

#[expect(unsafe_code, reason = "an ioctl that rustix does not have")]
fn is_network(namespace: &OwnedFd) -> io::Result<bool> {
    /// `_IO(0xb7, 3)` in `include/uapi/linux/nsfs.h`
    const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
    // SAFETY: the descriptor is that of a namespace, and this ioctl takes no argument.
    let kind = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_NSTYPE) };
    if kind < 0 { Err(io::Error::last_os_error()) } else { Ok(kind == libc::CLONE_NEWNET) }
}

/// The inode number in the text of a link, `net:[4026531840]`; `None`: it is not a network namespace.
pub(super) fn inum_of_link(link: &[u8]) -> Option<u32> {
    let digits = link.strip_prefix(b"net:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

type Device = (u32, u32);

/// Device and inode number, as far as they are known without asking the file system.
fn identity(fd: impl AsFd) -> io::Result<(Device, u64)> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = statx(fd, "", flags, StatxFlags::INO)?;
    Ok(((stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino))
}

/// The device that all namespaces are on.
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
        fs,
        os::unix::ffi::OsStrExt,
        sync::mpsc,
        thread,
        time::{Duration, Instant},
    };

    use rustix::fs::{FileType, mknodat};

    use super::*;

    #[test]
    fn what_is_not_a_network_namespace_is_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("net:[4026531840]");
        mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            for path in
                [&fifo, Path::new("/dev/null"), Path::new("/proc/self/ns/mnt"), "/".as_ref()]
            {
                sender.send(open(path).map(|netns| netns.is_none())).unwrap();
            }
            drop(folder);
        });
        let end = Instant::now() + Duration::from_secs(10);
        for _ in 0..4 {
            let left = end.saturating_duration_since(Instant::now());
            assert!(receiver.recv_timeout(left).expect("examining a FIFO does not end").unwrap());
        }
        let own = open(Path::new(OWN)).unwrap().unwrap();
        let link = fs::read_link(OWN).unwrap();
        assert_eq!(Some(own.inum), inum_of_link(link.as_os_str().as_bytes()));
        assert_eq!(identity(&own.fd).unwrap().1, u64::from(own.inum));
    }

    #[test]
    fn only_links_in_the_kernels_form_name_a_namespace() {
        assert_eq!(inum_of_link(b"net:[4026531840]"), Some(4_026_531_840));
        for link in ["/tmp/net:[1]", "net:[1] (deleted)", "net:[]", "net:[99999999999]", "mnt:[1]"]
        {
            assert_eq!(inum_of_link(link.as_bytes()), None, "{link}");
        }
    }
}
