//! What this machine can do, checked before a test is registered. A test that cannot run is skipped with the reason returned
//! here; a test that runs and fails is never ignored.

use std::{env, fs, path::Path, time::Duration};

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};

use crate::harness::lie;

/// Where the tests run (`TRACER_TEST_ENV`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// On this machine's own kernel.
    Host,
    /// In an emulated guest.
    Vm,
}

impl Place {
    /// [`Self::Vm`] if `TRACER_TEST_ENV` is `vm`, otherwise [`Self::Host`].
    pub fn get() -> Self {
        if env::var("TRACER_TEST_ENV").as_deref() == Ok("vm") { Self::Vm } else { Self::Host }
    }

    /// The time limit to use here: four times as long in a guest, because emulation is slow; but at most the seconds in
    /// `TRACER_TEST_WAIT`, if that is set.
    pub fn limit(self, limit: Duration) -> Duration {
        lie::limit(if self == Self::Vm { limit * 4 } else { limit })
    }
}

/// The reason to skip a test, if the kernel has no IPv6; else `None`.
pub fn no_ipv6() -> Option<String> {
    let there = Path::new("/proc/net/tcp6").exists();
    (!there).then(|| "this kernel has no IPv6".to_owned())
}

/// The reason to skip a test, if MPTCP is missing, switched off or refused here; else `None`.
pub fn no_mptcp() -> Option<String> {
    let enabled = fs::read_to_string("/proc/sys/net/mptcp/enabled");
    if !enabled.is_ok_and(|text| text.trim() == "1") {
        return Some("this kernel has no MPTCP, or it is switched off".to_owned());
    }
    let (family, flags) = (AddressFamily::INET, SocketFlags::CLOEXEC);
    let error = socket_with(family, SocketType::STREAM, flags, Some(ipproto::MPTCP)).err()?;
    Some(format!("MPTCP sockets are refused: {error}"))
}

/// The reason to skip a test, if the kernel does not count the kprobe programs that it skips (before Linux 6.7); else `None`.
pub fn no_missed_probes() -> Option<String> {
    older_than((6, 7), "does not count missed kprobes")
}

/// Whether `hook_missed` accounts for every hook that the kernel skips. True on the host even where the kernel does not count
/// kprobes, because it skips almost none there. In an emulated guest a hook takes many times as long, so that an interrupt during
/// a hook, for which the kernel skips other hooks, is far more likely.
pub fn counts_all_missed() -> bool {
    Place::get() == Place::Host || no_missed_probes().is_none()
}

/// How many of `calls` a tracer may not have seen: `missed`, which is the kernel's count of skipped hooks, even if there were
/// fewer calls. Where the kernel does not count all of them ([`counts_all_missed`]), a tenth of the calls (rounded up) if that is
/// more.
pub fn unseen(missed: u64, calls: u64) -> u64 {
    if counts_all_missed() { missed } else { missed.max(calls.div_ceil(10)) }
}

/// The reason to skip a test, if sock_diag does not list sockets that are bound and idle (before Linux 6.8); else `None`.
pub fn no_idle_sockets() -> Option<String> {
    older_than((6, 8), "does not list sockets that are bound and idle")
}

/// The reason to skip a test, if connect() can get a port that a closed socket had bound, even while connections of other sockets
/// have that port (from Linux 6.18 on); else `None`. Before 6.18, connect() cannot get the port until the last of them has ended.
pub fn no_blocked_ports() -> Option<String> {
    let unblocks = older_than((6, 18), "").is_none();
    unblocks
        .then(|| "from Linux 6.18 on a bound port is free with the socket that bound it".to_owned())
}

/// Why `tracer spread` has no fast ports on this kernel; `None`: it can have them. A BPF program has to set SO_REUSEADDR
/// for them (Linux 6.1).
pub fn no_fast_ports() -> Option<String> {
    older_than((6, 1), "has no fast ports")
}

/// Why `--fail-fast` cannot work on this kernel; `None`: it can. A BPF program has to choose the errno of a call that it
/// denies (Linux 6.1).
pub fn no_fail_fast() -> Option<String> {
    older_than((6, 1), "cannot fail a connect() with an errno of the program's choice")
}

fn older_than(version: (u32, u32), lacks: &str) -> Option<String> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    (found < version).then(|| format!("{release} {lacks}"))
}

/// The reason to skip a test, if kprobes have no BPF links (before Linux 5.15), which a rule pins so that it outlives its agent;
/// else `None`.
pub fn no_links_of_probes() -> Option<String> {
    older_than((5, 15), "has no links of kprobes that could be pinned")
}

/// Whether the memory of BPF maps is charged to RLIMIT_MEMLOCK, not to a memory cgroup (before Linux 5.11).
pub fn maps_are_locked_memory() -> bool {
    older_than((5, 11), "").is_some()
}

/// The reason to skip a test, if there is one CPU only: two system calls overlap reliably only on two CPUs. Else `None`.
pub fn one_cpu() -> Option<String> {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (cpus < 2).then(|| "this machine has one CPU".to_owned())
}

/// The reason to skip a test, if this process cannot make an io_uring; else `None`.
pub fn no_io_uring() -> Option<String> {
    let error = io_uring::IoUring::new(2).err()?;
    Some(format!("io_uring is not to be had: {error}"))
}

/// The reason to skip a test that needs these programs: it names those that are in no folder of PATH. `None` if all are in one;
/// whether they can be executed is not checked.
pub fn no_programs(programs: &[&str]) -> Option<String> {
    let path = env::var("PATH").unwrap_or_default();
    let there =
        |program: &&&str| path.split(':').any(|folder| Path::new(folder).join(program).exists());
    let missing: Vec<_> = programs.iter().filter(|program| !there(program)).copied().collect();
    (!missing.is_empty()).then(|| format!("not installed here: {}", missing.join(", ")))
}
