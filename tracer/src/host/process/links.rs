//! What a process has open, by the links in /proc/PID/fd.

use std::{ffi::CStr, io, mem::MaybeUninit, ops::ControlFlow, os::fd::AsFd, path::Path};

use rustix::fs::{Mode, OFlags, RawDir, open, readlinkat_raw};

/// How /proc/PID/fd is opened.
pub(super) const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Length of the longest text that is looked for, and more: `socket:[4294967295]`.
const LONGEST: usize = 64;
/// Bytes of the list of a process's descriptors that are read at once.
const AT_ONCE: usize = 32 * 1024;

/// Passes on each open file of a process, after the first `skip` ones: how many came before it (0 for the first one that is passed
/// on), the name of its link, and the first 64 bytes of what the link says (`socket:[INODE]`, `net:[INODE]`, a path; empty if
/// it cannot be read). `folder`: /proc/PID. Ends with the value with which `each` breaks; `None`: it never did, also if the
/// process has ended or this thread may not read its folder.
pub(in crate::host) fn each<T>(
    folder: &Path,
    skip: usize,
    each: impl FnMut(usize, &CStr, &[u8]) -> ControlFlow<T>,
) -> Option<T> {
    let files = open(folder.join("fd"), FOLDER, Mode::empty()).ok()?;
    each_in(&files, skip, each).ok()?
}

/// As [`each`], with an opened /proc/PID/fd (`files`).
///
/// The links are read relative to that folder: with 100,000 descriptors, finding each path from its root would take as long as
/// all the rest.
///
/// # Errors
/// The folder cannot be listed to its end: the process has ended, or this thread may not.
pub(super) fn each_in<T>(
    files: impl AsFd,
    skip: usize,
    mut each: impl FnMut(usize, &CStr, &[u8]) -> ControlFlow<T>,
) -> io::Result<Option<T>> {
    let mut buffer = vec![MaybeUninit::uninit(); AT_ONCE];
    let mut entries = RawDir::new(&files, &mut buffer);
    let mut number: usize = 0;
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_bytes().starts_with(b".") {
            continue;
        }
        if let Some(place) = number.checked_sub(skip) {
            let mut target = [0; LONGEST];
            let length = readlinkat_raw(&files, name, &mut target[..]).unwrap_or(0);
            let target = target.get(..length).unwrap_or_default();
            if let ControlFlow::Break(value) = each(place, name, target) {
                return Ok(Some(value));
            }
        }
        number += 1;
    }
    Ok(None)
}

/// The inode in the text of a link, `socket:[123]`; `None`: it is not a socket.
pub(super) fn socket_inode(link: &[u8]) -> Option<u32> {
    let digits = link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::{fs, net::UdpSocket, os::fd::AsRawFd, os::unix::fs::MetadataExt};

    use rustix::path::DecInt;

    use super::*;

    #[test]
    fn every_open_file_is_passed_on_once() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let fd = socket.as_raw_fd();
        let own = fs::metadata(format!("/proc/self/fd/{fd}")).unwrap().ino();
        let mut seen = Vec::new();
        let end = each(Path::new("/proc/self"), 0, |number, name, target| {
            seen.push((number, name.to_owned(), target.to_vec()));
            ControlFlow::<()>::Continue(())
        });
        assert_eq!(end, None);
        assert!(seen.iter().enumerate().all(|(index, (number, ..))| index == *number));
        let name = DecInt::new(fd);
        let this: Vec<_> = seen.iter().filter(|(_, it, _)| **it == *name.as_c_str()).collect();
        assert_eq!(this.len(), 1, "{seen:?}");
        assert_eq!(socket_inode(&this[0].2).map(u64::from), Some(own));
    }

    #[test]
    fn the_first_ones_are_left_out_and_a_break_ends_it() {
        let three = |skip| {
            let mut names = Vec::new();
            let end = each(Path::new("/proc/self"), skip, |number, name, _| {
                names.push(name.to_owned());
                if number == 2 { ControlFlow::Break("third") } else { ControlFlow::Continue(()) }
            });
            (end, names)
        };
        let _open = [0; 4].map(|_| fs::File::open("/dev/null").unwrap());
        let ((end, first), (_, later)) = (three(0), three(1));
        assert_eq!((end, first.len()), (Some("third"), 3));
        assert_eq!(first[1..], later[..2]);
    }

    #[test]
    fn a_process_that_is_gone_has_nothing_open() {
        let end = each(Path::new("/proc/0"), 0, |_, _, _| ControlFlow::Break(()));
        assert_eq!(end, None);
    }

    #[test]
    fn only_links_in_the_kernels_form_are_sockets() {
        assert_eq!(socket_inode(b"socket:[12]"), Some(12));
        let others = ["pipe:[123]", "socket:[]", "socket:[123", "/dev/null", "socket:[-1]"];
        for link in others.iter().chain(&["socket:[12] (deleted)", "socket:[99999999999]"]) {
            assert_eq!(socket_inode(link.as_bytes()), None, "{link}");
        }
    }
}
