//! Which BPF programs a backend consists of, and where each is attached: a table.

use super::plan::Backend;

/// Where a program is attached: at the kernel function or tracepoint of this name, or at the root cgroup. Which call a cgroup
/// program is for is part of the program.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hook {
    FEntry(&'static str),
    FExit(&'static str),
    /// kprobe or kretprobe: the program knows which.
    KProbe(&'static str),
    /// A kprobe at the first of these functions at which the kernel accepts it.
    KProbeAny(&'static [&'static str]),
    RawTracepoint(&'static str),
    /// Category and name below tracefs `events/`.
    Tracepoint(&'static str, &'static str),
    CgroupSockAddr,
    CgroupSock,
    SockOps,
}

/// A BPF program of a backend.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Program {
    /// Name in the BPF object.
    pub name: &'static str,
    pub hook: Hook,
    /// What is not seen if the program cannot be attached. `None`: the backend cannot be used without it.
    pub optional: Option<&'static str>,
}

impl Program {
    /// Whether a spreader, which only needs the counts, attaches this program. False for those that only add detail, and
    /// for those on tracepoints of system calls: their perf events cannot be pinned.
    pub fn counts(&self) -> bool {
        let details = [Some(NO_EARLY), Some(NO_BIND), Some(NO_SYN_AGAIN)];
        !details.contains(&self.optional) && !matches!(self.hook, Hook::Tracepoint(..))
    }
}

const fn required(name: &'static str, hook: Hook) -> Program {
    Program { name, hook, optional: None }
}

const fn optional(name: &'static str, hook: Hook, unseen: &'static str) -> Program {
    Program { name, hook, optional: Some(unseen) }
}

const NO_IPV6: &str = "IPv6 connections";
const NO_EARLY: &str = "failures before the port search (no route, denied)";
const NO_SYN_AGAIN: &str =
    "SYNs that are sent again, and before a comparison, which connections wait for an answer";
const NO_BIND: &str = "bind() failures for other reasons than a taken port";

/// Programs of every backend, attached before the backend's own: those of connect() and bind() give each socket the
/// cookie by which the others know it.
pub const COMMON: &[Program] = &[
    required("connect4", Hook::CgroupSockAddr),
    optional("connect6", Hook::CgroupSockAddr, NO_IPV6),
    required("bind4", Hook::CgroupSockAddr),
    optional("bind6", Hook::CgroupSockAddr, NO_IPV6),
    required("tcp_destroy_sock", Hook::RawTracepoint("tcp_destroy_sock")),
    optional("tcp_retransmit_skb", Hook::RawTracepoint("tcp_retransmit_skb"), NO_SYN_AGAIN),
];

/// The program that userspace runs itself. It is loaded, and never attached.
pub const COMMAND: &str = "ledger_command";

/// In this table and the two below, what ends a port's use is attached before what begins it, so that no release is missed.
/// What begins a TIME_WAIT is attached before what ends a full socket: the end of a full socket alone would be counted as
/// a release.
const FEXIT: &[Program] = &[
    required("fentry_inet_twsk_kill", Hook::FEntry("inet_twsk_kill")),
    required("fexit_inet_twsk_alloc", Hook::FExit("inet_twsk_alloc")),
    required("fentry_tcp_set_state", Hook::FEntry("tcp_set_state")),
    required("fexit_inet_csk_get_port", Hook::FExit("inet_csk_get_port")),
    optional("fexit_inet_bind", Hook::FExit("inet_bind"), NO_BIND),
    optional("fexit_inet6_bind", Hook::FExit("inet6_bind"), NO_BIND),
    optional("fexit_inet_stream_connect", Hook::FExit("__inet_stream_connect"), NO_EARLY),
    required("fexit_inet_hash_connect", Hook::FExit("inet_hash_connect")),
    optional("fexit_inet6_hash_connect", Hook::FExit("inet6_hash_connect"), NO_IPV6),
    required("fentry_inet_hash_connect", Hook::FEntry("inet_hash_connect")),
    optional("fentry_inet6_hash_connect", Hook::FEntry("inet6_hash_connect"), NO_IPV6),
];

const KPROBE: &[Program] = &[
    required("kprobe_inet_twsk_kill", Hook::KProbe("inet_twsk_kill")),
    required(
        "kprobe_inet_twsk_hashdance",
        Hook::KProbeAny(&["inet_twsk_hashdance_schedule", "inet_twsk_hashdance"]),
    ),
    required("kprobe_tcp_set_state", Hook::KProbe("tcp_set_state")),
    required("kretprobe_inet_csk_get_port", Hook::KProbe("inet_csk_get_port")),
    required("kprobe_inet_csk_get_port", Hook::KProbe("inet_csk_get_port")),
    optional("kretprobe_inet_bind", Hook::KProbe("inet_bind"), NO_BIND),
    optional("kretprobe_inet6_bind", Hook::KProbe("inet6_bind"), NO_BIND),
    optional("kretprobe_inet_stream_connect", Hook::KProbe("__inet_stream_connect"), NO_EARLY),
    required("kprobe_tcp_connect", Hook::KProbe("tcp_connect")),
    required("kretprobe_inet_hash_connect", Hook::KProbe("inet_hash_connect")),
    optional("kretprobe_inet6_hash_connect", Hook::KProbe("inet6_hash_connect"), NO_IPV6),
    required("kprobe_inet_hash_connect", Hook::KProbe("inet_hash_connect")),
    optional("kprobe_inet6_hash_connect", Hook::KProbe("inet6_hash_connect"), NO_IPV6),
];

const TRACEPOINT: &[Program] = &[
    required("timer_cancel", Hook::RawTracepoint("timer_cancel")),
    required("timer_start", Hook::RawTracepoint("timer_start")),
    required("inet_sock_set_state", Hook::RawTracepoint("inet_sock_set_state")),
    required("post_bind4", Hook::CgroupSock),
    optional("post_bind6", Hook::CgroupSock, NO_IPV6),
    optional("sys_exit_bind", Hook::Tracepoint("syscalls", "sys_exit_bind"), "bind() failures"),
    optional(
        "sys_exit_listen",
        Hook::Tracepoint("syscalls", "sys_exit_listen"),
        "ports taken by listen() without bind()",
    ),
    required("tcp_connect_cb", Hook::SockOps),
    optional("sys_exit_connect", Hook::Tracepoint("syscalls", "sys_exit_connect"), NO_EARLY),
];

/// The programs of one backend, without [`COMMON`], in the order in which they are attached.
pub const fn of(backend: Backend) -> &'static [Program] {
    match backend {
        Backend::Fexit => FEXIT,
        Backend::Kprobe => KPROBE,
        Backend::Tracepoint => TRACEPOINT,
    }
}
