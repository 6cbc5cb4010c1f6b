//! Which process holds a socket: by one pass over /proc/PID/fd, at start, and when somebody asks for the holder
//! of a port.

mod called;

use std::{
    collections::{HashMap, HashSet},
    fs,
    hash::BuildHasher,
    io,
    path::Path,
    time::{Duration, Instant},
};

pub use called::{Called, Processes};

/// The process that was found to hold a socket. Several can, after a fork: it is the one with the
/// entry that /proc lists first.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Owner {
    pub pid: u32,
    /// Arbitrary bytes, NUL-padded.
    pub comm: [u8; 16],
}

/// Links that one pass looks at: more than any host has open, so that a process that opens files
/// faster than they are read cannot hold us up.
const MAX_LINKS: usize = 10_000_000;
/// How long it may take. Owners that are not found until then are not known, and nothing else depends on it.
const TIME: Duration = Duration::from_secs(2);

/// The owners of the sockets with these inodes, as far as this thread may look. What cannot be
/// read is left out; the error is of /proc itself.
pub fn owners<S: BuildHasher>(inodes: &HashSet<u32, S>) -> io::Result<HashMap<u32, Owner>> {
    owners_within(inodes, TIME)
}

/// The same, as far as they are found in this time.
pub fn owners_within<S: BuildHasher>(
    inodes: &HashSet<u32, S>,
    time: Duration,
) -> io::Result<HashMap<u32, Owner>> {
    let mut found = HashMap::new();
    let mut links = MAX_LINKS;
    let end = Instant::now() + time;
    for process in fs::read_dir("/proc")?.flatten() {
        if found.len() == inodes.len() {
            break;
        }
        if links == 0 || end < Instant::now() {
            // Whoever gave it less time asks again.
            let text = "there are too many open files to find out who owns every socket";
            if time < TIME {
                tracing::debug!("{text}");
            } else {
                tracing::warn!("{text}");
            }
            break;
        }
        let pid = process.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(pid) = pid else { continue };
        scan(pid, &process.path(), inodes, &mut links, end, &mut found);
    }
    Ok(found)
}

fn scan<S: BuildHasher>(
    pid: u32,
    process: &Path,
    inodes: &HashSet<u32, S>,
    links: &mut usize,
    end: Instant,
    found: &mut HashMap<u32, Owner>,
) {
    let Ok(files) = fs::read_dir(process.join("fd")) else { return };
    let mut owner = None;
    for file in files.flatten() {
        let Some(left) = links.checked_sub(1) else { return };
        *links = left;
        if left % 1024 == 0 && end < Instant::now() {
            return;
        }
        let target = fs::read_link(file.path()).ok();
        let inode = target.as_deref().and_then(Path::to_str).and_then(socket_inode);
        if let Some(inode) = inode.filter(|inode| inodes.contains(inode)) {
            let owner = *owner.get_or_insert_with(|| Owner { pid, comm: comm(process) });
            found.entry(inode).or_insert(owner);
        }
    }
}

/// `socket:[123]`
fn socket_inode(link: &str) -> Option<u32> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// All zero if the process is gone.
fn comm(process: &Path) -> [u8; 16] {
    let text = fs::read(process.join("comm")).unwrap_or_default();
    let name = text.strip_suffix(b"\n").unwrap_or(&text);
    let mut comm = [0; 16];
    // The last byte stays NUL, as in the kernel.
    for (to, from) in comm.iter_mut().take(15).zip(name) {
        *to = *from;
    }
    comm
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::fd::AsRawFd, process};

    use super::*;

    #[test]
    fn the_owner_of_a_socket_of_this_process_is_this_process() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        let inode = socket_inode(link.to_str().unwrap()).unwrap();
        let owners = owners(&HashSet::from([inode, u32::MAX])).unwrap();
        assert_eq!(owners.len(), 1);
        assert_eq!(owners[&inode].pid, process::id());
        let comm = fs::read("/proc/self/comm").unwrap();
        assert!(owners[&inode].comm.starts_with(comm.strip_suffix(b"\n").unwrap()));
    }

    #[test]
    fn only_socket_links_have_an_inode() {
        assert_eq!(socket_inode("socket:[123]"), Some(123));
        for link in ["pipe:[123]", "socket:[]", "socket:[123", "/dev/null", "socket:[-1]"] {
            assert_eq!(socket_inode(link), None, "{link}");
        }
    }
}
