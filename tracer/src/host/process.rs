//! Reads processes from /proc: which of them has a socket open (/proc/PID/fd), their names, when they began, their children; and
//! one process through its opened folder, so that no later process with its id is taken for it.

mod called;
mod children;
pub(super) mod links;
mod open_files;
mod opened;
mod search;

use std::{
    collections::{HashMap, HashSet},
    fs,
    hash::BuildHasher,
    io,
    time::Duration,
};

pub(crate) use called::hides_processes;
pub use called::{Called, NameOf, Processes, began_ns, in_first_pids, leader_name, shortcoming};
pub use children::with_children;
#[cfg(test)]
pub(crate) use open_files::TestFiles;
pub use open_files::{FileKind, ListsFiles, OpenFile};
pub use opened::{OpenError, Opened};
pub use search::Search;

/// The process that was found to have a socket open; of several that were looked at, for example after a fork, the one with the
/// lowest id.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Owner {
    /// Its id in this process's process namespace.
    pub pid: u32,
    /// Name of its leader: any bytes, NUL-padded.
    pub comm: [u8; 16],
}

/// How long the search at the start may take. The owners that it does not find are not known; nothing else depends on
/// them.
const TIME: Duration = Duration::from_secs(2);

/// The owners of the sockets with these inodes. Missing are sockets that no process has open, those of processes that this
/// thread may not read, and those that are not found within 2 s, about which a warning is logged. `files`: as of
/// [`Search::run`].
///
/// # Errors
/// /proc cannot be read.
pub fn owners<S: BuildHasher>(
    inodes: &HashSet<u32, S>,
    files: Option<&dyn ListsFiles>,
) -> io::Result<HashMap<u32, Owner>> {
    let mut search = Search::default();
    if !search.run(inodes, TIME, files)? {
        tracing::warn!(
            "too many files are open to find the processes of all older sockets: some are shown without a process"
        );
    }
    Ok(search.into_owners())
}

/// Name of a process, NUL-padded; all zero if it is gone or cannot be read.
fn comm(pid: u32) -> [u8; 16] {
    let text = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
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
        let inode = links::socket_inode(link.as_os_str().as_encoded_bytes()).unwrap();
        let owners = owners(&HashSet::from([inode, u32::MAX]), None).unwrap();
        assert_eq!(owners.len(), 1);
        assert_eq!(owners[&inode].pid, process::id());
        let comm = fs::read("/proc/self/comm").unwrap();
        assert!(owners[&inode].comm.starts_with(comm.strip_suffix(b"\n").unwrap()));
    }
}
