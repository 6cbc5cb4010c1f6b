//! Finds out what this kernel offers. Unknown is not the same as absent: `None` means that it is not known, unless the comment of
//! a field says more.
#![expect(unsafe_code, reason = "one bpf(2) call, to see whether it is refused")]

use std::{
    fs,
    io::{self, BufRead, BufReader},
    path::Path,
    thread,
};

use rustix::{
    system::uname,
    thread::{CapabilitySet, CapabilitySets, set_capabilities},
};

use super::{
    btf::{Btf, BtfError},
    privilege,
};
use crate::host::{mounts, sockdiag, sysctl};

/// Functions without which the fexit backend is not tried, unless `--backend` names it. The backend also attaches to functions
/// that are not in this list.
pub const FEXIT_FUNCTIONS: [&str; 6] = [
    "inet_hash_connect",
    "inet6_hash_connect",
    "inet_csk_get_port",
    "tcp_set_state",
    "inet_twsk_alloc",
    "inet_twsk_kill",
];
/// Functions without which the kprobe backend is not tried, unless `--backend` names it. The backend also attaches to functions
/// that are not in this list.
pub const KPROBE_FUNCTIONS: [&str; 6] = [
    "inet_hash_connect",
    "inet6_hash_connect",
    "inet_csk_get_port",
    "tcp_set_state",
    "inet_twsk_kill",
    "tcp_connect",
];
/// Tracepoints at which the tracepoint backend sees TIME_WAIT begin and end.
pub const TIMER_TRACEPOINTS: [&str; 2] = ["timer_start", "timer_cancel"];
/// Tracepoints of the tracepoint backend that are looked up in /proc/kallsyms.
const TRACEPOINTS: [&str; 3] = ["inet_sock_set_state", "timer_start", "timer_cancel"];
/// For each tracepoint, the kernel has a function whose name is this prefix and the tracepoint's name.
const TRACEPOINT_SYMBOL: &str = "__traceiter_";
const TIMER_HANDLER: &str = "tw_timer_handler";

/// Facts about the kernel, and the rights of this thread. [`super::plan`] chooses the backends by some of them; others decide
/// settings, or are only shown.
#[derive(Clone, Debug)]
pub struct KernelFacts {
    /// As `uname -r` prints it; shown, never compared.
    pub release: String,
    /// `Ok`: BTF was read and parsed. `Err`: why not.
    pub btf: Result<(), String>,
    /// Those of [`FEXIT_FUNCTIONS`] that BTF describes; `None`: there is no BTF.
    pub functions: Option<Vec<&'static str>>,
    /// Whether the kernel is built with kprobes (CONFIG_KPROBE_EVENTS); `None`: there is no /sys/bus/event_source/devices, or it
    /// cannot be read.
    pub kprobes: Option<bool>,
    /// Those of [`KPROBE_FUNCTIONS`] that are in /proc/kallsyms; `None`: that was not read, or cannot be.
    pub symbols: Option<Vec<&'static str>>,
    /// The kernel's lockdown: `none`, `integrity` or `confidentiality`; `None`: it has no lockdown, or that cannot be read.
    pub lockdown: Option<String>,
    /// Address of `tw_timer_handler`; `None`: not known (/proc/kallsyms was not read or cannot be, hides addresses from processes
    /// without CAP_SYSLOG, or has none or several of this name).
    pub tw_timer_handler: Option<u64>,
    /// Which of `inet_sock_set_state`, `timer_start` and `timer_cancel` exist; `None`: /proc/kallsyms was not read, or cannot be.
    pub tracepoints: Option<Vec<&'static str>>,
    /// Whether a port that bind() took is kept from connect() as long as any socket has the port, even a socket that got it
    /// from connect() (Linux up to 6.17). False without BTF.
    pub blocked_until_free: bool,
    /// Whether BPF maps count against RLIMIT_MEMLOCK (Linux up to 5.10). False without BTF.
    pub maps_are_locked: bool,
    /// `Ok`: the root of a cgroup2 hierarchy can be opened. `Err`: why not, and what to do.
    pub cgroup2: Result<(), String>,
    /// `Ok`: the root of tracefs can be opened. `Err`: why not, and what to do.
    pub tracefs: Result<(), String>,
    /// Capabilities that this thread lacks and without which nothing can be attached ([`privilege::missing`]); empty: none, or
    /// its capabilities cannot be read.
    pub missing_capabilities: Vec<&'static str>,
    /// The sysctl kernel.unprivileged_bpf_disabled; `None`: it cannot be read.
    pub unprivileged_bpf_disabled: Option<u8>,
    /// Whether bpf(2) on an open descriptor works without CAP_BPF (Linux 5.19 and later, or where unprivileged BPF is
    /// allowed); `None`: not known.
    pub bpf_without_capability: Option<bool>,
}

impl KernelFacts {
    /// Reads the facts about the running kernel; `btf` is the result of reading its BTF. If `symbols` is false,
    /// /proc/kallsyms is not read, which takes longer than all the rest: what would be read from it is `None`.
    pub fn read(btf: &Result<Btf, BtfError>, symbols: bool) -> Self {
        let symbols = if symbols { Symbols::read().ok() } else { None };
        let of = |symbols: &Symbols, names: &[&'static str], prefix: &str| {
            let has = |name: &&'static str| symbols.has(&format!("{prefix}{name}"));
            names.iter().copied().filter(has).collect::<Vec<_>>()
        };
        let mounted =
            |fs| mounts::open_root(fs).map(|_| ()).map_err(|error: io::Error| error.to_string());
        Self {
            release: uname().release().to_string_lossy().into_owned(),
            btf: btf.as_ref().map(|_| ()).map_err(ToString::to_string),
            functions: btf.as_ref().ok().map(|btf| {
                FEXIT_FUNCTIONS.into_iter().filter(|name| btf.has_function(name)).collect()
            }),
            kprobes: kprobes(Path::new("/sys/bus/event_source/devices")),
            symbols: symbols.as_ref().map(|symbols| of(symbols, &KPROBE_FUNCTIONS, "")),
            lockdown: fs::read_to_string("/sys/kernel/security/lockdown")
                .ok()
                .and_then(|text| lockdown(&text)),
            tw_timer_handler: symbols.as_ref().and_then(Symbols::timer_handler),
            tracepoints: symbols
                .as_ref()
                .map(|symbols| of(symbols, &TRACEPOINTS, TRACEPOINT_SYMBOL)),
            blocked_until_free: btf
                .as_ref()
                .is_ok_and(|btf| btf.member("inet_timewait_sock", "tw_connect_bind").is_err()),
            // kernel: struct bpf_map_memory counted these pages (include/linux/bpf.h, v5.10).
            maps_are_locked: btf
                .as_ref()
                .is_ok_and(|btf| btf.member("bpf_map_memory", "pages").is_ok()),
            cgroup2: mounted(mounts::CGROUP2),
            tracefs: mounted(mounts::TRACEFS),
            missing_capabilities: privilege::effective()
                .map_or_else(|_| Vec::new(), privilege::missing),
            unprivileged_bpf_disabled: sysctl::read("/proc/sys/kernel/unprivileged_bpf_disabled")
                .ok()
                .and_then(|text| text.trim().parse().ok()),
            bpf_without_capability: bpf_without_capability(),
        }
    }
}

/// Whether the kernel lists sockets that are bound and idle: it has a number for their state exactly if it does. Only if its type
/// information has no numbers of such states, one is bound and listed, for which the kernel looks at all sockets of the host.
pub fn lists_idle(btf: &Btf) -> bool {
    let has = |state| btf.enumerator(state).is_some();
    if has("TCP_BOUND_INACTIVE") {
        return true;
    }
    if has("TCP_NEW_SYN_RECV") {
        return false;
    }
    sockdiag::lists_idle().unwrap_or_else(|error| {
        tracing::info!("cannot find out whether the kernel lists bound sockets: {error}");
        false
    })
}

/// Whether the kernel has kprobes: its event sources include `kprobe` exactly if it has (CONFIG_KPROBE_EVENTS). `None`: the
/// folder of its event sources is not there, or cannot be read.
fn kprobes(event_sources: &Path) -> Option<bool> {
    event_sources.is_dir().then(|| event_sources.join("kprobe/type").exists())
}

/// The word in brackets, as in `none [integrity] confidentiality`; `None`: there is none.
fn lockdown(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

/// Those symbols of /proc/kallsyms that are looked up here, with their addresses.
#[derive(Default)]
struct Symbols {
    found: Vec<(String, u64)>,
}

impl Symbols {
    fn read() -> io::Result<Self> {
        Self::parse(BufReader::with_capacity(1 << 16, fs::File::open("/proc/kallsyms")?))
    }

    /// Reads `address type name [module]` lines. A symbol of a module counts as well: its name decides.
    ///
    /// # Errors
    /// As [`BufRead::read_line`]; or there is no symbol at all. (Some sandboxes put an empty file in place of
    /// /proc/kallsyms: it does not say that the kernel lacks anything.)
    fn parse(mut input: impl BufRead) -> io::Result<Self> {
        let mut symbols = Self::default();
        let mut line = String::new();
        let mut any = false;
        while input.read_line(&mut line)? != 0 {
            let mut words = line.split_ascii_whitespace();
            if let (Some(address), Some(_), Some(name)) = (words.next(), words.next(), words.next())
            {
                any = true;
                if Self::wanted(name) {
                    let address = u64::from_str_radix(address, 16).unwrap_or(0);
                    symbols.found.push((name.to_owned(), address));
                }
            }
            line.clear();
        }
        if !any {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "/proc/kallsyms has no symbol"));
        }
        Ok(symbols)
    }

    fn wanted(name: &str) -> bool {
        name == TIMER_HANDLER
            || KPROBE_FUNCTIONS.contains(&name)
            || name.strip_prefix(TRACEPOINT_SYMBOL).is_some_and(|name| TRACEPOINTS.contains(&name))
    }

    fn has(&self, name: &str) -> bool {
        self.found.iter().any(|(found, _)| found == name)
    }

    /// The address; `None` if it is hidden (all zero), absent, or not unique.
    fn timer_handler(&self) -> Option<u64> {
        let mut handlers = self.found.iter().filter(|(name, _)| name == TIMER_HANDLER);
        let address = handlers.next().map(|(_, address)| *address).filter(|address| *address != 0);
        address.filter(|_| handlers.next().is_none())
    }
}

/// Whether bpf(2) works on a thread without capabilities: tries a call on a new thread. Up to Linux 5.18, with
/// kernel.unprivileged_bpf_disabled set, the kernel refuses every call with EPERM before it reads the arguments: false. Otherwise
/// this call fails with EBADF, because its map descriptor is not valid: true. `None`: the call ends in another way, or the thread
/// cannot be started or give up its capabilities.
fn bpf_without_capability() -> Option<bool> {
    const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
    let probe = || {
        let none = CapabilitySet::empty();
        let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
        set_capabilities(None, sets).ok()?;
        // union bpf_attr: map_fd, padding, key, value, flags.
        let attr: [u64; 4] = [u64::from(u32::MAX), 0, 0, 0];
        // SAFETY: the kernel reads size_of_val(&attr) bytes from `attr`, which lives until the
        // call returns; map fd -1 refers to no map, so nothing is written.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_ELEM, &attr, size_of_val(&attr)) };
        let errno = io::Error::last_os_error().raw_os_error();
        match errno {
            _ if result >= 0 => None,
            Some(libc::EPERM) => Some(false),
            Some(libc::EBADF) => Some(true),
            _ => None,
        }
    };
    thread::Builder::new().spawn(probe).ok()?.join().ok()?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::test_netns;

    #[test]
    fn the_kernels_numbers_say_whether_it_lists_idle_sockets() {
        let listed = test_netns::run(|| sockdiag::lists_idle().unwrap());
        assert_eq!(lists_idle(&Btf::from_kernel().unwrap()), listed);
    }

    #[test]
    fn the_running_kernel_is_described() {
        let facts = KernelFacts::read(&Btf::from_kernel(), true);
        assert_eq!(facts.release, fs::read_to_string("/proc/sys/kernel/osrelease").unwrap().trim());
        assert_eq!(facts.btf, Ok(()));
        assert_eq!(facts.functions, Some(FEXIT_FUNCTIONS.to_vec()));
        assert_eq!(facts.symbols, Some(KPROBE_FUNCTIONS.to_vec()));
        assert_eq!(facts.tracepoints, Some(TRACEPOINTS.to_vec()));
        assert!(facts.tw_timer_handler.is_some());
        assert_eq!(facts.cgroup2, Ok(()));
        assert_eq!(facts.tracefs, Ok(()));
        assert!(facts.bpf_without_capability.is_some());
    }

    #[test]
    fn hidden_addresses_are_unknown_and_symbols_are_still_found() {
        let text = "0000000000000000 t tw_timer_handler\n\
                    0000000000000000 T tcp_connect\n\
                    0000000000000000 T tcp_connect_init\n\
                    0000000000000000 T __traceiter_timer_start\n";
        let symbols = Symbols::parse(text.as_bytes()).unwrap();
        assert_eq!(symbols.timer_handler(), None);
        assert!(symbols.has("tcp_connect") && symbols.has("__traceiter_timer_start"));
        assert!(!symbols.has("tcp_connect_init"));
        let two = "ffffffff82065730 t tw_timer_handler\n".repeat(2);
        assert_eq!(Symbols::parse(two.as_bytes()).unwrap().timer_handler(), None);
        let one = Symbols::parse(&two.as_bytes()[..two.len() / 2]).unwrap();
        assert_eq!(one.timer_handler(), Some(0xffff_ffff_8206_5730));
    }

    #[test]
    fn an_empty_list_of_symbols_is_an_error_and_not_a_kernel_without_them() {
        for nothing in [&b""[..], b"\n", b"restricted\n"] {
            assert!(Symbols::parse(nothing).is_err(), "{nothing:?}");
        }
        assert!(!Symbols::parse(&b"0 T printk\n"[..]).unwrap().has("tcp_connect"));
    }

    #[test]
    fn kprobes_are_unknown_without_a_list_of_event_sources() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(kprobes(&folder.path().join("absent")), None);
        assert_eq!(kprobes(folder.path()), Some(false));
        fs::create_dir(folder.path().join("kprobe")).unwrap();
        fs::write(folder.path().join("kprobe/type"), "8\n").unwrap();
        assert_eq!(kprobes(folder.path()), Some(true));
    }

    #[test]
    fn the_lockdown_mode_is_the_word_in_brackets() {
        assert_eq!(lockdown("none [integrity] confidentiality\n").as_deref(), Some("integrity"));
        assert_eq!(lockdown(""), None);
        assert_eq!(lockdown("[none"), None);
    }
}
