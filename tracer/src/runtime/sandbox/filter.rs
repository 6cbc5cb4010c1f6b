//! Makes and installs a seccomp filter (seccomp(2)): system calls that a thread does not need fail with EPERM; clone3(2) and
//! those of x32 with ENOSYS, so that the C library uses older ones.
//!
//! The filter lists what is denied (only of bpf(2), the commands that are allowed). A list of what is allowed would have to
//! include whatever the C library and the runtime may call on every kernel, and a mistake in the list would end a tracer at
//! some rare moment. Denied are calls that give power over other processes, the kernel or the machine, calls to become
//! another user, and starting programs.

use std::{io, mem::offset_of};

use libc::{
    BPF_ABS, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, c_long,
    seccomp_data, sock_filter, sock_fprog,
};

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e; // AUDIT_ARCH_X86_64
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7; // AUDIT_ARCH_AARCH64
/// System calls of another ABI on the same architecture (x32) have this bit.
const X32: u32 = 0x4000_0000;

/// System calls that no thread of this program makes once it is in its sandbox.
const DENIED: [c_long; 77] = [
    // Programs; other processes' memory, files, signals and priorities.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_kcmp,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_setpriority,
    libc::SYS_ioprio_set,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    // Other users, capabilities and namespaces.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    libc::SYS_unshare,
    // Mounts.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    // The kernel and the machine.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    libc::SYS_personality,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_fanotify_init,
    libc::SYS_lookup_dcookie,
    libc::SYS_nfsservctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // Device files; owner and mode of files.
    libc::SYS_mknodat,
    libc::SYS_fchownat,
    libc::SYS_fchown,
    libc::SYS_fchmodat,
];

/// System calls that only this architecture has, and that no thread of this program makes once it is in its sandbox.
#[cfg(target_arch = "x86_64")]
const DENIED_HERE: &[c_long] = &[
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
    libc::SYS__sysctl,
    libc::SYS_mknod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_chmod,
];
#[cfg(not(target_arch = "x86_64"))]
const DENIED_HERE: &[c_long] = &[];

/// System calls for sockets: only threads that enter namespaces make sockets. (socketpair(2) is allowed: the runtime
/// uses it for signals.)
const SOCKETS: [c_long; 4] =
    [libc::SYS_socket, libc::SYS_connect, libc::SYS_bind, libc::SYS_listen];

/// Flags with which clone(2) makes namespaces.
const NEW_NAMESPACES: u32 = libc::CLONE_NEWNS.cast_unsigned()
    | libc::CLONE_NEWUTS.cast_unsigned()
    | libc::CLONE_NEWIPC.cast_unsigned()
    | libc::CLONE_NEWUSER.cast_unsigned()
    | libc::CLONE_NEWPID.cast_unsigned()
    | libc::CLONE_NEWNET.cast_unsigned()
    | libc::CLONE_NEWCGROUP.cast_unsigned();

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const DENY: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();
/// The call fails as if the kernel lacked it: the C library then uses an older one.
const MISSING: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned();

/// Makes the filter of a thread. `visits`: whether it may enter namespaces and make sockets. `bpf_commands`: the
/// commands of bpf(2) that it may use; empty: none. Every call that is not denied (see [`DENIED`]) is allowed.
pub(super) fn program(visits: bool, bpf_commands: &[u32]) -> Vec<sock_filter> {
    let number = offset_of!(seccomp_data, nr);
    let first = offset_of!(seccomp_data, args);
    let mut program = vec![load(offset_of!(seccomp_data, arch))];
    // Denies every call of another architecture, whose numbers mean other calls.
    program.extend([jump(BPF_JEQ, ARCH, 1, 0), end(DENY)]);
    program.push(load(number));
    if cfg!(target_arch = "x86_64") {
        program.extend([jump(BPF_JGE, X32, 0, 1), end(MISSING)]);
    }
    // The flags of clone3(2) are in memory, which a filter cannot read.
    program.extend([jump(BPF_JEQ, call(libc::SYS_clone3), 0, 1), end(MISSING)]);
    let denied = DENIED.iter().chain(DENIED_HERE);
    let of_others: &[c_long] = if visits { &[] } else { &SOCKETS };
    let of_visitors: &[c_long] = if visits { &[] } else { &[libc::SYS_setns] };
    for denied in denied.chain(of_others).chain(of_visitors) {
        program.extend([jump(BPF_JEQ, call(*denied), 0, 1), end(DENY)]);
    }
    program.extend([
        jump(BPF_JEQ, call(libc::SYS_clone), 0, 4),
        load(first),
        jump(BPF_JSET, NEW_NAMESPACES, 0, 1),
        end(DENY),
        end(ALLOW),
    ]);
    program.extend([jump(BPF_JEQ, call(libc::SYS_bpf), 1, 0), end(ALLOW), load(first)]);
    for command in bpf_commands {
        program.extend([jump(BPF_JEQ, *command, 0, 1), end(ALLOW)]);
    }
    program.push(end(DENY));
    program
}

/// The number of a system call (small, never negative), in the type in which the filter compares it.
fn call(number: c_long) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Loads 32 bits of [`seccomp_data`]; of an argument, the lower half (on a little-endian machine).
fn load(offset: usize) -> sock_filter {
    instruction(BPF_LD | BPF_W | BPF_ABS, u32::try_from(offset).unwrap_or(u32::MAX), 0, 0)
}

/// Compares the loaded number with `value`. Skips `if_true` instructions if the comparison is true, else `if_false`.
fn jump(comparison: u32, value: u32, if_true: u8, if_false: u8) -> sock_filter {
    instruction(BPF_JMP | comparison | BPF_K, value, if_true, if_false)
}

/// Ends the filter with this action.
fn end(action: u32) -> sock_filter {
    instruction(BPF_RET | BPF_K, action, 0, 0)
}

fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: u16::try_from(code).unwrap_or(u16::MAX), jt, jf, k }
}

/// Installs the filter for the calling thread and those that it starts later. The thread must have set no_new_privs (not
/// checked here).
///
/// # Errors
/// The kernel refuses the filter, or it has more than 65,535 instructions. A kernel without seccomp filters is no error: that is
/// logged, and the thread goes on without a filter.
#[expect(unsafe_code, reason = "seccomp(2)")]
pub(super) fn install(program: &[sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(io::Error::other)?;
    let program = sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel only reads, `len` instructions, which live until the call returns.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            // Without this flag, the kernel turns on mitigations of speculation attacks within the thread, which make
            // every indirect branch slower (before Linux 5.16). This program runs no foreign code.
            libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            &raw const program,
        )
    };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    // The kernel is built without seccomp filters.
    if error.raw_os_error() == Some(libc::ENOSYS) || error.raw_os_error() == Some(libc::EINVAL) {
        tracing::warn!("threads run without a seccomp filter: this kernel has none ({error})");
        return Ok(());
    }
    Err(io::Error::new(error.kind(), format!("seccomp: {error}")))
}

#[cfg(test)]
mod tests;
