//! Takes rights from a thread once all programs are attached: capabilities, its user, system calls.
//!
//! All of these belong to a thread; a thread that is started later has no more than the one that starts it.
//! `doc/sandbox.md` says which thread keeps what.

mod filter;
mod user;

use std::io;

use rustix::thread::CapabilitySet;

pub(crate) use self::user::User;
use crate::kernel::privilege;

/// The task of a thread.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Role {
    /// Reads maps and writes lines, a table or a screen; or waits for signals.
    Reads,
    /// Enters other network namespaces.
    Visits,
    /// Keeps a rule of `tracer spread` up to date: changes its tables, attaches it to cgroups that were removed and made
    /// again.
    Attaches,
    /// Answers requests on a socket that listens already, or reads or writes a file. It uses no BPF.
    Serves,
}

impl Role {
    /// The commands of bpf(2) that the task needs (`enum bpf_cmd` in `include/uapi/linux/bpf.h`).
    const fn bpf_commands(self) -> &'static [u32] {
        const MAP_CREATE: u32 = 0;
        const MAP_LOOKUP_ELEM: u32 = 1;
        const MAP_UPDATE_ELEM: u32 = 2;
        const MAP_DELETE_ELEM: u32 = 3;
        const MAP_GET_NEXT_KEY: u32 = 4;
        const OBJ_PIN: u32 = 6;
        const OBJ_GET: u32 = 7;
        const PROG_TEST_RUN: u32 = 10;
        const OBJ_GET_INFO_BY_FD: u32 = 15;
        const MAP_LOOKUP_BATCH: u32 = 24;
        const LINK_CREATE: u32 = 28;
        const LINK_UPDATE: u32 = 29;
        const ITER_CREATE: u32 = 33;
        match self {
            Self::Reads => &[
                MAP_LOOKUP_ELEM,
                MAP_UPDATE_ELEM,
                MAP_GET_NEXT_KEY,
                PROG_TEST_RUN,
                OBJ_GET_INFO_BY_FD,
                MAP_LOOKUP_BATCH,
            ],
            // It lists open files (`kernel::open_files`).
            Self::Visits => &[ITER_CREATE],
            Self::Serves => &[],
            // A rule is switched with a map that is made for it (`kernel::spread::rules`), and its pins are opened
            // when a failed start is undone.
            Self::Attaches => &[
                MAP_CREATE,
                MAP_LOOKUP_ELEM,
                MAP_UPDATE_ELEM,
                MAP_DELETE_ELEM,
                MAP_GET_NEXT_KEY,
                OBJ_PIN,
                OBJ_GET,
                PROG_TEST_RUN,
                OBJ_GET_INFO_BY_FD,
                MAP_LOOKUP_BATCH,
                LINK_CREATE,
                LINK_UPDATE,
            ],
        }
    }
}

/// Takes from the calling thread, and from those that it starts later, everything except what `role` needs, the
/// capabilities in `keep`, and the rights of `user`. What is taken cannot be regained.
///
/// # Errors
/// The kernel refuses to set no_new_privs, to change the user, to drop capabilities or to install the seccomp filter; what was
/// taken before that stays taken. It is no error if the user cannot be changed because CAP_SETUID or CAP_SETGID is missing, or
/// because the user namespace has no such user: then the thread stays the user who started the program. Nor is it an error that
/// the kernel has no seccomp filters: then no system call is taken away.
pub(crate) fn enter(role: Role, user: User, keep: CapabilitySet) -> io::Result<()> {
    privilege::forbid_regaining(keep)?;
    user.assume()?;
    privilege::keep_only(keep)?;
    filter::install(&filter::program(role == Role::Visits, role.bpf_commands()))
}
