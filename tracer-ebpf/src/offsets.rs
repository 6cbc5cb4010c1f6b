//! Read-only globals that userspace sets before it loads the programs: the offsets of the running
//! kernel's fields (from its BTF), and the settings. The verifier sees constants. What each one means is in
//! [`tracer_common::settings::global`].

use aya_ebpf::Global;

macro_rules! globals {
    ($($name:ident: $type:ty = $value:expr),+ $(,)?) => {
        $(
            #[unsafe(no_mangle)]
            pub(crate) static $name: Global<$type> = Global::new($value);
        )+
    };
}

// The defaults of offsets are those of x86-64 distribution kernels, 5.10 to 7.2, where these agree; else 0.
globals! {
    EVENT_MASK: u32 = 0,
    WAKE_AT: u32 = u32::MAX,
    FILTERED: u32 = 1,
    SKC_DADDR: u32 = 0,
    SKC_RCV_SADDR: u32 = 4,
    SKC_DPORT: u32 = 12,
    SKC_NUM: u32 = 14,
    SKC_FAMILY: u32 = 16,
    SKC_STATE: u32 = 18,
    SKC_NET: u32 = 48,
    SKC_V6_DADDR: u32 = 56,
    SKC_V6_RCV_SADDR: u32 = 72,
    SKC_COOKIE: u32 = 88,
    SK_ERR: u32 = 0,
    SK_PROTOCOL: u32 = 0,
    SK_USERLOCKS: u32 = 0,
    SK_USERLOCKS_SHIFT: u32 = 0,
    INET_SPORT: u32 = 0,
    NET_INUM: u32 = 0,
    NET_COOKIE: u32 = 0,
    TIMER_FUNCTION: u32 = 24,
    TIMER_EXPIRES: u32 = 16,
    TW_TIMER: u32 = 160,
    TW_TIMER_HANDLER: u64 = 0,
    TW_SUBSTATE: u32 = 0,
    TW_RECENT_STAMP: u32 = 0,
    TW_ENTRY_STAMP: u32 = 0,
    TP_RECENT_STAMP: u32 = 0,
    DATA_SEGS_OUT: u32 = 0,
    SK_KERN_SOCK: u32 = 0,
    SK_KERN_SOCK_MASK: u32 = 0,
    TRANSPARENT: u32 = 0,
    TRANSPARENT_MASK: u32 = 0,
    NO_PORT: u32 = 0,
    NO_PORT_MASK: u32 = 0,
    DEFERRED: u32 = 0,
    DEFERRED_MASK: u32 = 0,
    SPREADING: u32 = 0,
    FAIL_FAST: u32 = 0,
    BLOCKED_UNTIL_FREE: u32 = 0,
    TASK_LEADER: u32 = 0,
    TASK_COMM: u32 = 0,
    MAX_TUPLES: u32 = u32::MAX,
    MAX_CONNS: u32 = u32::MAX,
    MAX_BINDS: u32 = u32::MAX,
}
