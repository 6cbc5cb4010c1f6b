//! Names of maps and read-only globals, which kernel side and userspace use, and constants of both.

/// Maps, by their name in the BPF object.
pub mod map {
    pub const EVENTS: &str = "EVENTS";
    pub const CONNS: &str = "CONNS";
    pub const TUPLES: &str = "TUPLES";
    pub const BOUND_PORTS: &str = "BOUND_PORTS";
    pub const BOUND_BY_ADDR: &str = "BOUND_BY_ADDR";
    pub const HELD: &str = "HELD";
    pub const BOUND_SINCE: &str = "BOUND_SINCE";
    pub const ATTEMPTS: &str = "ATTEMPTS";
    pub const TOMBSTONES: &str = "TOMBSTONES";
    pub const REARMS: &str = "REARMS";
    pub const STATS: &str = "STATS";
    pub const FILTER: &str = "FILTER";
    pub const CONTROL: &str = "CONTROL";
    pub const RULES: &str = "RULES";
    pub const ACTIVE_RULE: &str = "ACTIVE_RULE";
    pub const LEASE: &str = "LEASE";
    pub const DECISION_COUNT: &str = "DECISION_COUNT";
    pub const DECISION_RING: &str = "DECISION_RING";
    pub const EXCLUDED_PORTS: &str = "EXCLUDED_PORTS";
    pub const LAST_SPREAD: &str = "LAST_SPREAD";
    pub const SHARES: &str = "SHARES";
    pub const TOUCHED: &str = "TOUCHED";
}

/// Read-only globals, set before the programs are loaded. Offsets are in bytes from the start of
/// the named structure, resolved from the running kernel's BTF.
pub mod global {
    /// u32: [`crate::Kind::bit`]s of the events that hooks write.
    pub const EVENT_MASK: &str = "EVENT_MASK";
    /// u32: 1 if [`super::map::FILTER`] has values to compare with, else 0.
    pub const FILTERED: &str = "FILTERED";
    /// u32: unread bytes in the ring buffer from which on a hook wakes the reader.
    pub const WAKE_AT: &str = "WAKE_AT";
    /// u32 each: offsets of the fields of `struct sock_common` with these names.
    pub const SKC_DADDR: &str = "SKC_DADDR";
    pub const SKC_RCV_SADDR: &str = "SKC_RCV_SADDR";
    pub const SKC_DPORT: &str = "SKC_DPORT";
    pub const SKC_NUM: &str = "SKC_NUM";
    pub const SKC_FAMILY: &str = "SKC_FAMILY";
    pub const SKC_STATE: &str = "SKC_STATE";
    pub const SKC_NET: &str = "SKC_NET";
    pub const SKC_V6_DADDR: &str = "SKC_V6_DADDR";
    pub const SKC_V6_RCV_SADDR: &str = "SKC_V6_RCV_SADDR";
    pub const SKC_COOKIE: &str = "SKC_COOKIE";
    /// u32 each: offsets of the fields of `struct sock` with these names.
    pub const SK_ERR: &str = "SK_ERR";
    pub const SK_PROTOCOL: &str = "SK_PROTOCOL";
    /// u32 each: offset of the byte that has `struct sock.sk_userlocks`, and the number of its first bit in that byte.
    pub const SK_USERLOCKS: &str = "SK_USERLOCKS";
    pub const SK_USERLOCKS_SHIFT: &str = "SK_USERLOCKS_SHIFT";
    /// u32: `struct inet_sock.inet_sport`
    pub const INET_SPORT: &str = "INET_SPORT";
    /// u32: `struct net`, the namespace's inode number (`ns.inum`).
    pub const NET_INUM: &str = "NET_INUM";
    /// u32: `struct net`, the namespace's cookie; 0: the kernel has none (before Linux 5.12).
    pub const NET_COOKIE: &str = "NET_COOKIE";
    /// u32: offset of `struct timer_list.function`
    pub const TIMER_FUNCTION: &str = "TIMER_FUNCTION";
    /// u32: `struct inet_timewait_sock.tw_timer`
    pub const TW_TIMER: &str = "TW_TIMER";
    /// u32: `struct inet_timewait_sock.tw_substate`; 0: not known, and the next two are not either
    pub const TW_SUBSTATE: &str = "TW_SUBSTATE";
    /// u32: `struct tcp_timewait_sock.tw_ts_recent_stamp`
    pub const TW_RECENT_STAMP: &str = "TW_RECENT_STAMP";
    /// u32: `struct inet_timewait_sock.tw_entry_stamp`; 0: the kernel has none (before Linux 6.14)
    pub const TW_ENTRY_STAMP: &str = "TW_ENTRY_STAMP";
    /// u32: `struct tcp_sock.rx_opt.ts_recent_stamp`; 0: not known
    pub const TP_RECENT_STAMP: &str = "TP_RECENT_STAMP";
    /// u64: address of `tw_timer_handler`; 0: not known.
    pub const TW_TIMER_HANDLER: &str = "TW_TIMER_HANDLER";
    /// u32 each: `struct task_struct.group_leader` and `comm`; 0: not known
    pub const TASK_LEADER: &str = "TASK_LEADER";
    pub const TASK_COMM: &str = "TASK_COMM";
    /// u32 each: offset of the byte that has the bit `struct sock.sk_kern_sock`, and a mask of that bit; mask 0: not known.
    pub const SK_KERN_SOCK: &str = "SK_KERN_SOCK";
    pub const SK_KERN_SOCK_MASK: &str = "SK_KERN_SOCK_MASK";
    /// u32 each: offset of the byte that has the IP_TRANSPARENT flag in `struct inet_sock`, and a mask of that bit; mask 0: not
    /// known.
    pub const TRANSPARENT: &str = "TRANSPARENT";
    pub const TRANSPARENT_MASK: &str = "TRANSPARENT_MASK";
    /// u32 each: as `TRANSPARENT`, for the IP_BIND_ADDRESS_NO_PORT flag.
    pub const NO_PORT: &str = "NO_PORT";
    pub const NO_PORT_MASK: &str = "NO_PORT_MASK";
    /// u32 each: as `TRANSPARENT`, for the flag that a TCP_FASTOPEN_CONNECT socket has until its first write sends the SYN.
    pub const DEFERRED: &str = "DEFERRED";
    pub const DEFERRED_MASK: &str = "DEFERRED_MASK";
    /// u32: 1 if the spreader is loaded, so that the ledger's hooks also record what it needs: the connections whose
    /// source it chose, how these fare, and how many ports are bound; else 0.
    pub const SPREADING: &str = "SPREADING";
    /// u32: 1 if a program can set the errno of a call that it denies (Linux 6.1); else 0.
    pub const FAIL_FAST: &str = "FAIL_FAST";
    /// u32: 1 if the kernel gives a port that bind() took to no connect() until no socket has it (Linux up to 6.17); else 0.
    pub const BLOCKED_UNTIL_FREE: &str = "BLOCKED_UNTIL_FREE";
    /// u32 each: how many entries the maps TUPLES, CONNS and BOUND_PORTS may have.
    pub const MAX_TUPLES: &str = "MAX_TUPLES";
    pub const MAX_CONNS: &str = "MAX_CONNS";
    pub const MAX_BINDS: &str = "MAX_BINDS";
    /// u32: `struct timer_list.expires`
    pub const TIMER_EXPIRES: &str = "TIMER_EXPIRES";
}

/// Entries of the `TOUCHED` map, if `BLOCKED_UNTIL_FREE` is 1 (else the map is not used): as many as a namespace has ports.
pub const MAX_TOUCHED: u32 = 65_536;

/// Version of the pinned maps: changes whenever the key or the value of one does.
pub const LAYOUT: u32 = 14;

/// How many bytes of `struct sock_common` hooks read at once; every `SKC_*` field must lie within them.
pub const SOCK_COMMON_LEN: usize = 96;

/// Index in the `CONTROL` map (u32): 1 while userspace reads the sockets that are older than the tracer, so
/// that hooks leave tombstones; else 0.
pub const CONTROL_SEEDING: u32 = 0;
/// Entries of the `CONTROL` map.
pub const CONTROL_LEN: u32 = 1;
