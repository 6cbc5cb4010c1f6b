//! Numbers of the kernel's ABI: address families, protocols, what cgroup hooks return, and errno values.

pub(crate) const AF_INET: u16 = 2;
pub(crate) const AF_INET6: u16 = 10;
pub(crate) const SOCK_STREAM: u32 = 1;
pub(crate) const IPPROTO_TCP: u32 = 6;

/// What a cgroup hook returns to let the call go on.
pub(crate) const ALLOW: i32 = 1;
/// What a cgroup hook returns to fail the call: with the errno that the hook set (bpf_set_retval), else with EPERM.
pub(crate) const DENY: i32 = 0;

/// Errno values of system calls (errno-base.h and errno.h in include/uapi/asm-generic).
pub(crate) mod errno {
    pub(crate) const EPERM: u16 = 1;
    pub(crate) const EINTR: u16 = 4;
    pub(crate) const EACCES: u16 = 13;
    pub(crate) const ENFILE: u16 = 23;
    pub(crate) const EMFILE: u16 = 24;
    pub(crate) const EADDRINUSE: u16 = 98;
    pub(crate) const EADDRNOTAVAIL: u16 = 99;
    pub(crate) const ENETUNREACH: u16 = 101;
    pub(crate) const ECONNRESET: u16 = 104;
    pub(crate) const EISCONN: u16 = 106;
    pub(crate) const ETIMEDOUT: u16 = 110;
    pub(crate) const ECONNREFUSED: u16 = 111;
    pub(crate) const EHOSTUNREACH: u16 = 113;
    pub(crate) const EALREADY: u16 = 114;
    pub(crate) const EINPROGRESS: u16 = 115;
    /// Kernel-internal (include/linux/errno.h): the kernel restarts the call after a signal.
    pub(crate) const ERESTARTSYS: u16 = 512;
}

/// Errno values as BPF helpers return them: negative.
pub(crate) mod failed {
    pub(crate) const ENOENT: i32 = -2;
    pub(crate) const EEXIST: i32 = -17;
}
