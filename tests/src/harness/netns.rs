//! Network namespaces of the tests: a new one for each test, entered by a thread made for that. The kernel removes a namespace
//! once its [`NetNs`] is dropped and nothing else (a process, a socket, [`NetNs::keep`]) is in it or holds it.
#![expect(unsafe_code, reason = "unshare(CLONE_NEWNET) is an unsafe call in rustix; ioctl(2)")]

use std::{
    fs,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    panic,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::{Context, Result, ensure};
use rustix::{
    fs::{Mode, OFlags, fstat, open},
    mount::{UnmountFlags, mount_bind, unmount},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};

use crate::harness::starting::{output, start};

mod ready;

static KEPT: Mutex<Vec<OwnedFd>> = Mutex::new(Vec::new());

/// Closes the namespaces that [`NetNs::keep`] kept; called once the tracers that have seen them have ended. If they stayed, every
/// tracer that starts later would read the sockets of each of them: in a guest, that would take longer than the rest of its
/// start.
pub fn release_kept() {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

/// A network namespace with `lo` up, held open by a file descriptor.
#[derive(Debug)]
pub struct NetNs {
    fd: OwnedFd,
    inum: u64,
}

impl NetNs {
    /// Makes a new namespace, with `lo` up and the sysctl `tcp_rfc1337` set to 1. Needs `CAP_SYS_ADMIN`, and `ip` (iproute2 or
    /// busybox) for `lo`; an error without them.
    pub fn new() -> Result<Self> {
        let made = thread::spawn(|| -> Result<OwnedFd> {
            // SAFETY: CLONE_NEWNET does not unshare the descriptor table: no descriptor of another thread is affected.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.context("cannot unshare netns")?;
            ip("link set lo up")?;
            // A time-wait socket answers a segment that another CPU delivers late, and the peer's RST to this answer would end it
            // ("assassination", RFC 1337). With 1, the kernel ignores the RST: workloads expect their TIME_WAITs to stay.
            fs::write("/proc/sys/net/ipv4/tcp_rfc1337", "1")?;
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            Ok(open("/proc/thread-self/ns/net", flags, Mode::empty())?)
        });
        let fd = made.join().unwrap_or_else(|panic| panic::resume_unwind(panic))?;
        let inum = fstat(&fd)?.st_ino;
        Ok(Self { fd, inum })
    }

    /// Inode number: the value of tracer's `netns` field.
    pub fn inum(&self) -> u64 {
        self.inum
    }

    /// A path that leads to the namespace, as long as this value lives. By the inode number alone, tracer would have to search
    /// all processes for the namespace, and could reach the limit of that search.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_raw_fd())
    }

    /// Keeps the namespace until [`release_kept`], so that no later namespace gets its inode number: a tracer that runs for
    /// several tests would take the two for the same.
    pub fn keep(&self) -> Result<()> {
        KEPT.lock().unwrap_or_else(PoisonError::into_inner).push(self.fd.try_clone()?);
        Ok(())
    }

    /// Runs `work` on a new thread in this namespace, and propagates a panic. Processes that `work` spawns are in this
    /// namespace, too.
    ///
    /// # Panics
    /// If the namespace cannot be entered: `CAP_SYS_ADMIN` is missing.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                if let Err(errno) = self.enter() {
                    panic!("cannot enter netns {}: {errno}", self.inum);
                }
                work()
            });
            worker.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread into this namespace for good: only for threads that do nothing else afterwards. An error without
    /// `CAP_SYS_ADMIN`.
    pub fn enter(&self) -> rustix::io::Result<()> {
        move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network))
    }

    /// Gives the namespace this name in /run/netns, as `ip netns attach` does, until the returned guard is dropped. No other
    /// namespace may have the name (not checked). An error if the file cannot be made or mounted on.
    pub fn name(&self, name: &str) -> Result<Named> {
        let folder = Path::new("/run/netns");
        fs::create_dir_all(folder).context("cannot make /run/netns")?;
        let path = folder.join(name);
        fs::write(&path, "").with_context(|| format!("cannot make {}", path.display()))?;
        let named = Named(path);
        let from = format!("/proc/self/fd/{}", self.fd.as_fd().as_raw_fd());
        mount_bind(from.as_str(), &named.0).context("cannot mount the namespace on its name")?;
        Ok(named)
    }

    /// Writes a sysctl of this namespace: `name` is below `/proc/sys/net`. An error if there is no such sysctl, or the kernel
    /// refuses the value.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{name}");
        self.run(|| fs::write(&path, value)).with_context(|| format!("cannot write {path}"))
    }

    /// Runs `ip` with these arguments, separated by one space each, in this namespace. If they are `addr add` with an IPv6
    /// address and `nodad`, waits until the address can be used: the link must be up.
    ///
    /// # Errors
    /// `ip` cannot be run or fails, or the address cannot be used within 20 s.
    pub fn ip(&self, arguments: &str) -> Result<()> {
        self.run(|| {
            ip(arguments)?;
            ready::added(arguments).map_or(Ok(()), ready::wait)
        })
    }

    /// Joins this namespace and `other` by a veth pair, whose ends are both named `t0`.
    ///
    /// `addresses` are given to this side, `other_addresses` to the other, each with its prefix length, and perhaps more words
    /// for `ip addr add`. Waits until IPv6 addresses that are given with `nodad` can be used.
    ///
    /// # Errors
    /// `ip` cannot be run or fails, or such an address cannot be used within 20 s.
    pub fn veth(&self, addresses: &[&str], other: &Self, other_addresses: &[&str]) -> Result<()> {
        // `ip link set netns` names a namespace by a process in it: this one is killed once the link has been moved.
        let mut anchor = other.run(|| start(Command::new("sleep").arg("60")))?;
        let moved = self
            .ip("link add t0 type veth peer name t1")
            .and_then(|()| self.ip(&format!("link set t1 netns {}", anchor.id())));
        anchor.kill()?;
        anchor.wait()?;
        moved?;
        other.ip("link set t1 name t0")?;
        for (side, addresses) in [(self, addresses), (other, other_addresses)] {
            side.run(|| -> Result<()> {
                addresses.iter().try_for_each(|it| ip(&format!("addr add {it} dev t0")))?;
                ip("link set t0 up")
            })?;
        }
        // A veth link is up once both of its ends are: only now can the addresses become usable.
        for (side, addresses) in [(self, addresses), (other, other_addresses)] {
            let added =
                addresses.iter().filter_map(|it| ready::added(&format!("addr add {it} dev t0")));
            side.run(|| added.into_iter().try_for_each(ready::wait))?;
        }
        Ok(())
    }
}

/// A descriptor of the network namespace of a socket (ioctl `SIOCGSKNS`). An error without `CAP_NET_ADMIN` in that namespace
/// (net/socket.c, `sock_ioctl`).
pub fn of_socket(socket: impl AsFd) -> Result<OwnedFd> {
    let socket = socket.as_fd().as_raw_fd();
    // SAFETY: SIOCGSKNS takes no argument and writes to no memory.
    let fd = unsafe { libc::ioctl(socket, libc::SIOCGSKNS) };
    ensure!(fd >= 0, "the socket's namespace: {}", std::io::Error::last_os_error());
    // SAFETY: the kernel has just made this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A name in /run/netns; removed on drop.
#[derive(Debug)]
pub struct Named(PathBuf);

impl Named {
    /// Its file, `/run/netns/NAME`.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        unmount(&self.0, UnmountFlags::DETACH).ok();
        fs::remove_file(&self.0).ok();
    }
}

fn ip(arguments: &str) -> Result<()> {
    let ended = output(Command::new("ip").args(arguments.split(' '))).context("cannot run ip")?;
    let errors = String::from_utf8_lossy(&ended.stderr);
    ensure!(ended.status.success(), "`ip {arguments}` failed: {}", errors.trim());
    Ok(())
}
