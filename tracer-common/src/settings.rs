//! Names of maps and read-only globals, which kernel side and userspace use, and constants of both.

/// Maps, by their name in the BPF object.
pub mod map {
    /// Ring buffer of [`crate::Event`].
    pub const EVENTS: &str = "EVENTS";
    /// Hash map of [`crate::ConnKey`] to [`crate::Conn`]: the ports that connect() took and that are held.
    pub const CONNS: &str = "CONNS";
    /// Hash map of [`crate::TupleKey`] to [`crate::TupleCount`].
    pub const TUPLES: &str = "TUPLES";
    /// Hash map of [`crate::ConnKey`] to [`crate::Bound`]: the ports that bind() and listen() took and that are held.
    pub const BOUND_PORTS: &str = "BOUND_PORTS";
    /// Array of one value, with the counters of [`crate::share::counters`].
    pub const BOUND_BY_ADDR: &str = "BOUND_BY_ADDR";
    /// Array of u64 counters, with the indices of [`crate::spread::held`].
    pub const HELD: &str = "HELD";
    /// Array by port of two u32: [`crate::spread::held::LOOK`] when it was bound, and how many entries of BOUND_PORTS have it.
    pub const BOUND_SINCE: &str = "BOUND_SINCE";
    /// LRU hash map of the address of a thread's `task_struct` to [`crate::Attempt`].
    pub const ATTEMPTS: &str = "ATTEMPTS";
    /// Hash map of [`crate::ConnKey`] to u64: what happened to a port while userspace read the older sockets. 1: a time-wait
    /// socket took it over; 2: it was released; 16 plus a [`crate::PortState`]: its connection entered that state.
    pub const TOMBSTONES: &str = "TOMBSTONES";
    /// Per-CPU array of one value: the newest release of a time-wait socket (tracepoint backend).
    pub const REARMS: &str = "REARMS";
    /// Per-CPU array of u64 counters, with the indices of [`crate::loss`].
    pub const STATS: &str = "STATS";
    /// Array of one [`crate::Filter`].
    pub const FILTER: &str = "FILTER";
    /// Array of one u32, at the index [`super::CONTROL_SEEDING`].
    pub const CONTROL: &str = "CONTROL";
    /// Array of two [`crate::Rule`]; [`ACTIVE_RULE`] says which one is active.
    pub const RULES: &str = "RULES";
    /// Array of one u32: the active rule's index in `RULES`, plus 1; 0: there is no rule.
    pub const ACTIVE_RULE: &str = "ACTIVE_RULE";
    /// Array of one u64: when the agent's lease of the rule ends, CLOCK_MONOTONIC, ns.
    pub const LEASE: &str = "LEASE";
    /// Per-CPU array of u64: how often each [`crate::spread::Decision`] was taken, with its number as the index.
    pub const DECISION_COUNT: &str = "DECISION_COUNT";
    /// Ring buffer of [`crate::spread::DecisionRecord`].
    pub const DECISION_RING: &str = "DECISION_RING";
    /// Array of one value with a bit for each port, 1 if the spreader must not bind it: bit `port % 64` of u64 number `port /
    /// 64`.
    pub const EXCLUDED_PORTS: &str = "EXCLUDED_PORTS";
    /// Per-CPU array of one value: the socket whose source the spreader bound last, and the state of its random number generator.
    pub const LAST_SPREAD: &str = "LAST_SPREAD";
    /// Array of [`crate::share::Share`], with the totals at index 0 and the indices of [`crate::share::owner`].
    pub const SHARES: &str = "SHARES";
    /// Hash map of a port ([`crate::port_of`]) to [`crate::Touched`].
    pub const TOUCHED: &str = "TOUCHED";
}

/// Read-only globals, set before the programs are loaded: their names in the BPF object. Offsets are in bytes from the start of
/// the named structure, resolved from the running kernel's BTF.
pub mod global {
    /// u32: [`crate::Kind::bit`]s of the events that hooks write.
    pub const EVENT_MASK: &str = "EVENT_MASK";
    /// u32: 1 if [`super::map::FILTER`] has values to compare with, else 0.
    pub const FILTERED: &str = "FILTERED";
    /// u32: how many unread bytes the ring buffer must have before a hook wakes the reader.
    pub const WAKE_AT: &str = "WAKE_AT";
    /// u32: offset of `struct sock_common.skc_daddr`.
    pub const SKC_DADDR: &str = "SKC_DADDR";
    /// u32: offset of `struct sock_common.skc_rcv_saddr`.
    pub const SKC_RCV_SADDR: &str = "SKC_RCV_SADDR";
    /// u32: offset of `struct sock_common.skc_dport`.
    pub const SKC_DPORT: &str = "SKC_DPORT";
    /// u32: offset of `struct sock_common.skc_num`.
    pub const SKC_NUM: &str = "SKC_NUM";
    /// u32: offset of `struct sock_common.skc_family`.
    pub const SKC_FAMILY: &str = "SKC_FAMILY";
    /// u32: offset of `struct sock_common.skc_state`.
    pub const SKC_STATE: &str = "SKC_STATE";
    /// u32: offset of `struct sock_common.skc_net`.
    pub const SKC_NET: &str = "SKC_NET";
    /// u32: offset of `struct sock_common.skc_v6_daddr`.
    pub const SKC_V6_DADDR: &str = "SKC_V6_DADDR";
    /// u32: offset of `struct sock_common.skc_v6_rcv_saddr`.
    pub const SKC_V6_RCV_SADDR: &str = "SKC_V6_RCV_SADDR";
    /// u32: offset of `struct sock_common.skc_cookie`.
    pub const SKC_COOKIE: &str = "SKC_COOKIE";
    /// u32: offset of `struct sock.sk_err`.
    pub const SK_ERR: &str = "SK_ERR";
    /// u32: offset of `struct sock.sk_protocol`.
    pub const SK_PROTOCOL: &str = "SK_PROTOCOL";
    /// u32: offset of the byte of `struct sock` that has the bits `sk_userlocks`.
    pub const SK_USERLOCKS: &str = "SK_USERLOCKS";
    /// u32: number of the first bit of `sk_userlocks` in that byte.
    pub const SK_USERLOCKS_SHIFT: &str = "SK_USERLOCKS_SHIFT";
    /// u32: offset of `struct inet_sock.inet_sport`.
    pub const INET_SPORT: &str = "INET_SPORT";
    /// u32: offset in `struct net` of the namespace's inode number (`ns.inum`).
    pub const NET_INUM: &str = "NET_INUM";
    /// u32: offset in `struct net` of the namespace's cookie (`net_cookie`); 0: the kernel has none (before Linux 5.12).
    pub const NET_COOKIE: &str = "NET_COOKIE";
    /// u32: offset of `struct timer_list.function`.
    pub const TIMER_FUNCTION: &str = "TIMER_FUNCTION";
    /// u32: offset of `struct inet_timewait_sock.tw_timer`.
    pub const TW_TIMER: &str = "TW_TIMER";
    /// u32: offset of `struct inet_timewait_sock.tw_substate`; 0: not known, and neither are `TW_RECENT_STAMP` and
    /// `TW_ENTRY_STAMP`.
    pub const TW_SUBSTATE: &str = "TW_SUBSTATE";
    /// u32: offset of `struct tcp_timewait_sock.tw_ts_recent_stamp`; 0: not known.
    pub const TW_RECENT_STAMP: &str = "TW_RECENT_STAMP";
    /// u32: offset of `struct inet_timewait_sock.tw_entry_stamp`; 0: the kernel has none (before Linux 6.14).
    pub const TW_ENTRY_STAMP: &str = "TW_ENTRY_STAMP";
    /// u32: offset of `struct tcp_sock.rx_opt.ts_recent_stamp`; 0: not known.
    pub const TP_RECENT_STAMP: &str = "TP_RECENT_STAMP";
    /// u32: offset of `struct tcp_sock.data_segs_out`; 0: not known, and then no end of a connection is counted.
    pub const DATA_SEGS_OUT: &str = "DATA_SEGS_OUT";
    /// u64: address of `tw_timer_handler`; 0: not known.
    pub const TW_TIMER_HANDLER: &str = "TW_TIMER_HANDLER";
    /// u32: offset of `struct task_struct.group_leader`; 0: not known.
    pub const TASK_LEADER: &str = "TASK_LEADER";
    /// u32: offset of `struct task_struct.comm`; 0: not known.
    pub const TASK_COMM: &str = "TASK_COMM";
    /// u32: offset of the byte that has the bit `struct sock.sk_kern_sock`.
    pub const SK_KERN_SOCK: &str = "SK_KERN_SOCK";
    /// u32: mask of the bit of `SK_KERN_SOCK`; 0: not known.
    pub const SK_KERN_SOCK_MASK: &str = "SK_KERN_SOCK_MASK";
    /// u32: offset of the byte of `struct inet_sock` that has the IP_TRANSPARENT flag.
    pub const TRANSPARENT: &str = "TRANSPARENT";
    /// u32: mask of the bit of `TRANSPARENT`; 0: not known.
    pub const TRANSPARENT_MASK: &str = "TRANSPARENT_MASK";
    /// u32: offset of the byte of `struct inet_sock` that has the IP_BIND_ADDRESS_NO_PORT flag.
    pub const NO_PORT: &str = "NO_PORT";
    /// u32: mask of the bit of `NO_PORT`; 0: not known.
    pub const NO_PORT_MASK: &str = "NO_PORT_MASK";
    /// u32: offset of the byte of `struct inet_sock` that has the flag that a TCP_FASTOPEN_CONNECT socket has until its first
    /// write sends the SYN.
    pub const DEFERRED: &str = "DEFERRED";
    /// u32: mask of the bit of `DEFERRED`; 0: not known.
    pub const DEFERRED_MASK: &str = "DEFERRED_MASK";
    /// u32: 1 if the spreader is loaded, so that the ledger's hooks also record what it needs: the connections whose
    /// source it chose, how these fare, and how many ports are bound; else 0.
    pub const SPREADING: &str = "SPREADING";
    /// u32: 1 if a program can set the errno of a call that it denies (Linux 6.1); else 0.
    pub const FAIL_FAST: &str = "FAIL_FAST";
    /// u32: 1 if the kernel gives a port that bind() took to no connect() until no socket has it (Linux up to 6.17); else 0.
    pub const BLOCKED_UNTIL_FREE: &str = "BLOCKED_UNTIL_FREE";
    /// u32: how many entries the map TUPLES may have.
    pub const MAX_TUPLES: &str = "MAX_TUPLES";
    /// u32: how many entries the map CONNS may have.
    pub const MAX_CONNS: &str = "MAX_CONNS";
    /// u32: how many entries the map BOUND_PORTS may have.
    pub const MAX_BINDS: &str = "MAX_BINDS";
    /// u32: offset of `struct timer_list.expires`.
    pub const TIMER_EXPIRES: &str = "TIMER_EXPIRES";
}

/// Entries of the `TOUCHED` map, if `BLOCKED_UNTIL_FREE` is 1 (else the map is not used): as many as a namespace has ports.
pub const MAX_TOUCHED: u32 = 65_536;

/// Version of the pinned maps: changes whenever the key or the value of one does.
pub const LAYOUT: u32 = 15;

/// How many bytes of `struct sock_common` hooks read at once; every `SKC_*` field must lie within them.
pub const SOCK_COMMON_LEN: usize = 96;

/// Index in the `CONTROL` map of a u32 that is 1 while userspace reads the sockets that are older than the tracer, so
/// that hooks leave tombstones; else 0.
pub const CONTROL_SEEDING: u32 = 0;
/// Entries of the `CONTROL` map.
pub const CONTROL_LEN: u32 = 1;
