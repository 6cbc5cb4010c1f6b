//! What this machine can do, asked before a test is registered. A test that cannot run is excused
//! by the reason given here, never by a failure that is swallowed.

use std::{env, fs, net::SocketAddr, path::Path, time::Duration};

use crate::harness::{lie, sock::Sock};

/// Where the tests run (`TRACER_TEST_ENV`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    Host,
    Vm,
}

impl Place {
    /// `vm` where the variable says so, else the host.
    pub fn get() -> Self {
        if env::var("TRACER_TEST_ENV").as_deref() == Ok("vm") { Self::Vm } else { Self::Host }
    }

    /// This time limit, as long as it must be here: emulation is slow.
    pub fn limit(self, limit: Duration) -> Duration {
        lie::limit(if self == Self::Vm { limit * 4 } else { limit })
    }
}

pub fn no_ipv6() -> Option<String> {
    let there = Path::new("/proc/net/tcp6").exists();
    (!there).then(|| "this kernel has no IPv6".to_owned())
}

pub fn no_mptcp() -> Option<String> {
    let enabled = fs::read_to_string("/proc/sys/net/mptcp/enabled");
    if !enabled.is_ok_and(|text| text.trim() == "1") {
        return Some("this kernel has no MPTCP, or it is switched off".to_owned());
    }
    let error = Sock::mptcp(SocketAddr::from(([127, 0, 0, 1], 0))).err()?;
    Some(format!("MPTCP sockets are refused: {error}"))
}

/// Whether the kernel counts the kprobes that it passes over: Linux 6.7 was the first.
pub fn no_missed_probes() -> Option<String> {
    older_than((6, 7), "does not count missed kprobes")
}

/// Whether no hook is passed over without being counted. On a machine it hardly ever happens; a guest's emulation makes
/// the time in which an interrupt can come many times as long.
pub fn counts_all_missed() -> bool {
    Place::get() == Place::Host || no_missed_probes().is_none()
}

/// How many of these calls a tracer may not have seen: as many as the kernel says that it passed over hooks. Not
/// every kernel counts that: in a guest, where an interrupt often comes while a hook runs, it may be a tenth there.
pub fn unseen(missed: u64, calls: u64) -> u64 {
    if counts_all_missed() { missed } else { missed.max(calls.div_ceil(10)) }
}

/// Whether sock_diag lists sockets that are bound and idle: from Linux 6.8 on.
pub fn no_idle_sockets() -> Option<String> {
    older_than((6, 8), "does not list sockets that are bound and idle")
}

/// Whether a port that was bound is given to no connect() as long as any socket has it: up to Linux 6.17.
pub fn no_blocked_ports() -> Option<String> {
    let forgets = older_than((6, 18), "").is_none();
    forgets
        .then(|| "from Linux 6.18 on a bound port is free with the socket that bound it".to_owned())
}

/// Whether programs can set SO_REUSEADDR: from Linux 6.1 on.
pub fn no_fast_ports() -> Option<String> {
    older_than((6, 1), "has no fast ports")
}

/// Whether a program can choose the errno of a call: from Linux 6.1 on.
pub fn no_fail_fast() -> Option<String> {
    older_than((6, 1), "cannot fail a connect() with an errno of the program's choice")
}

fn older_than(version: (u32, u32), lacks: &str) -> Option<String> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    (found < version).then(|| format!("{release} {lacks}"))
}

/// A rule outlives its agent by links that are pinned; probes have some from Linux 5.15 on.
pub fn no_links_of_probes() -> Option<String> {
    older_than((5, 15), "has no links of kprobes that could be pinned")
}

/// The memory of BPF maps counts against RLIMIT_MEMLOCK, not in a memory cgroup.
pub fn maps_are_locked_memory() -> bool {
    older_than((5, 11), "").is_some()
}

/// Two calls are inside of the kernel at once only where two CPUs run them.
pub fn one_cpu() -> Option<String> {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (cpus < 2).then(|| "this machine has one CPU".to_owned())
}

pub fn no_io_uring() -> Option<String> {
    let error = io_uring::IoUring::new(2).err()?;
    Some(format!("io_uring is not to be had: {error}"))
}

/// Programs that the proxy tests need: those missing are named.
pub fn no_programs(programs: &[&str]) -> Option<String> {
    let path = env::var("PATH").unwrap_or_default();
    let there =
        |program: &&&str| path.split(':').any(|folder| Path::new(folder).join(program).exists());
    let missing: Vec<_> = programs.iter().filter(|program| !there(program)).copied().collect();
    (!missing.is_empty()).then(|| format!("not installed here: {}", missing.join(", ")))
}
