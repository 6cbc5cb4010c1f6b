//! Says which capabilities are needed and which ones are missing, and gives them up after attaching.
//!
//! Capabilities belong to a thread, so everything here concerns the calling thread and the threads that it starts
//! afterwards.

use std::{fs, os::unix::fs::MetadataExt};

use rustix::{
    io::{self, Errno},
    thread::{
        CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
        clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
        set_no_new_privs,
    },
};

/// Capabilities without which nothing can be attached (`bpf_prog_load` in kernel/bpf/syscall.c). The kernel accepts
/// CAP_SYS_ADMIN in place of each.
const NEEDED: [(CapabilitySet, &str); 3] = [
    (CapabilitySet::BPF, "CAP_BPF"),
    (CapabilitySet::PERFMON, "CAP_PERFMON"),
    (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
];

/// Capabilities that are used if the thread has them, and what is missing without them.
const USEFUL: [(CapabilitySet, &str, &str); 4] = [
    (
        CapabilitySet::SYS_ADMIN,
        "CAP_SYS_ADMIN",
        "sockets of other network namespaces that are older than the tracer are not found",
    ),
    (
        CapabilitySet::SYSLOG,
        "CAP_SYSLOG",
        "addresses in /proc/kallsyms are hidden, which the tracepoint backend needs",
    ),
    (
        CapabilitySet::SYS_PTRACE,
        "CAP_SYS_PTRACE",
        "network namespaces of other users' processes are not found, nor, where the kernel does not list open files, who has their \
         sockets open",
    ),
    (
        CapabilitySet::DAC_READ_SEARCH,
        "CAP_DAC_READ_SEARCH",
        "open files of other users' processes cannot be read: a network namespace to which only one of them leads is not found, \
         nor, where the kernel does not list open files, who has their sockets open",
    ),
];

/// The calling thread's effective capabilities.
///
/// # Errors
/// As capget(2).
pub fn effective() -> io::Result<CapabilitySet> {
    Ok(capabilities(None)?.effective)
}

/// Whether this process is in the first user namespace (its inode is PROC_USER_INIT_INO). In another one, its capabilities
/// are none on the host: the kernel then refuses to load programs. Also true if /proc cannot be read.
pub fn in_first_users() -> bool {
    const FIRST_USERS: u64 = 0xEFFF_FFFD;
    !fs::metadata("/proc/self/ns/user").is_ok_and(|it| it.ino() != FIRST_USERS)
}

/// Names of the capabilities without which nothing can be attached.
pub fn needed() -> Vec<&'static str> {
    missing(CapabilitySet::empty())
}

/// Names of the capabilities that `have` lacks and without which nothing can be attached; empty: none, also if `have` has
/// CAP_SYS_ADMIN, which the kernel accepts in their place.
pub fn missing(have: CapabilitySet) -> Vec<&'static str> {
    let lacks = |capability| !have.intersects(CapabilitySet::SYS_ADMIN.union(capability));
    NEEDED.into_iter().filter(|(cap, _)| lacks(*cap)).map(|(_, name)| name).collect()
}

/// Capabilities that finding rules needs: CAP_SYS_ADMIN to list loaded programs, CAP_DAC_READ_SEARCH to read folders of
/// mode 0700.
const NEEDED_FOR_RULES: [(CapabilitySet, &str); 2] = [
    (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN"),
    (CapabilitySet::DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH"),
];

/// Names of the capabilities that finding rules needs and `have` lacks; empty: none. CAP_DAC_OVERRIDE is enough
/// in place of CAP_DAC_READ_SEARCH.
pub fn missing_for_rules(have: CapabilitySet) -> Vec<&'static str> {
    let lacks = |capability| match capability {
        CapabilitySet::DAC_READ_SEARCH => {
            !have.intersects(CapabilitySet::DAC_OVERRIDE.union(capability))
        }
        _ => !have.contains(capability),
    };
    NEEDED_FOR_RULES.into_iter().filter(|(cap, _)| lacks(*cap)).map(|(_, name)| name).collect()
}

/// What does not work because a useful capability is missing in `have`, one text for each; empty: none is missing.
pub fn shortcomings(have: CapabilitySet) -> Vec<String> {
    let lacks = |capability| !have.contains(capability);
    let useful = USEFUL.into_iter().filter(|(cap, ..)| lacks(*cap));
    useful.map(|(_, name, effect)| format!("no {name}: {effect}")).collect()
}

/// The capabilities that threads which read maps keep after attaching: none if bpf(2) is known to work without one on
/// open descriptors (`bpf_without_capability`; `None`: not known), else CAP_BPF.
pub fn kept_for_maps(bpf_without_capability: Option<bool>) -> CapabilitySet {
    match bpf_without_capability {
        Some(true) => CapabilitySet::empty(),
        Some(false) | None => CapabilitySet::BPF,
    }
}

/// The capabilities that a spreader's agent keeps, to attach its programs to a cgroup that was removed and made again.
pub const KEPT_FOR_CGROUPS: CapabilitySet =
    CapabilitySet::BPF.union(CapabilitySet::NET_ADMIN).union(CapabilitySet::PERFMON);

/// The capabilities that are needed to put a thread into its sandbox.
pub const KEPT_FOR_SANDBOXES: CapabilitySet =
    CapabilitySet::SETUID.union(CapabilitySet::SETGID).union(CapabilitySet::SETPCAP);

/// The capabilities that the thread which enters other network namespaces keeps: to enter them, and to find them and
/// the holders of sockets through other users' processes (`/proc/PID/fd` belongs to the process's user, with mode 0500).
pub const KEPT_FOR_NAMESPACES: CapabilitySet =
    CapabilitySet::SYS_ADMIN.union(CapabilitySet::SYS_PTRACE).union(CapabilitySet::DAC_READ_SEARCH);

/// The capabilities that the threads of `tracer doctor` keep which look at the host: [`KEPT_FOR_NAMESPACES`], and CAP_NET_ADMIN
/// for the table of tracked connections and the rules of a NAT.
pub const KEPT_FOR_LOOKING: CapabilitySet = KEPT_FOR_NAMESPACES.union(CapabilitySet::NET_ADMIN);

/// Gives up every capability except `keep`, for the calling thread and those that it starts later, and the ways to regain them
/// (bounding and ambient sets, set-uid programs). If this fails, the thread may still have all of them.
///
/// Of `keep`, the thread keeps only what it has: it never gains one. If `keep` has CAP_BPF and the thread has CAP_SYS_ADMIN in
/// its place, it keeps CAP_SYS_ADMIN. Sets `no_new_privs`.
///
/// # Errors
/// As capget(2), capset(2) and prctl(2).
pub fn drop_after_attach(keep: CapabilitySet) -> io::Result<()> {
    forbid_regaining(keep)?;
    keep_only(keep)
}

/// Empties the ambient and the bounding set, the latter except for `keep`, for the calling thread and those that it starts
/// later. Its effective and permitted capabilities stay until [`keep_only`]. Without CAP_SETPCAP the bounding set stays, too:
/// then only the `no_new_privs` of [`keep_only`] prevents that capabilities are regained.
///
/// # Errors
/// As capget(2) and prctl(2).
pub(crate) fn forbid_regaining(keep: CapabilitySet) -> io::Result<()> {
    let have = capabilities(None)?;
    clear_ambient_capability_set()?;
    // The bounding set cannot be changed without CAP_SETPCAP. `no_new_privs`, set later, makes that harmless.
    if have.effective.contains(CapabilitySet::SETPCAP) {
        empty_bounding_set(remaining(have.permitted, keep))?;
    }
    Ok(())
}

/// Gives up every capability of the calling thread (and so of those that it starts later) except `keep`, of which it keeps what
/// it has, and CAP_SYS_ADMIN in place of a CAP_BPF that it lacks. Sets `no_new_privs`, with which no program that the thread
/// executes gains one. If this fails, the capabilities may be given up without that.
///
/// # Errors
/// As capget(2), capset(2) and prctl(2).
pub(crate) fn keep_only(keep: CapabilitySet) -> io::Result<()> {
    let kept = remaining(capabilities(None)?.permitted, keep);
    let inheritable = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable })?;
    set_no_new_privs(true)
}

/// The capabilities of `keep` that `have` has, and CAP_SYS_ADMIN in place of a CAP_BPF that it lacks.
fn remaining(have: CapabilitySet, keep: CapabilitySet) -> CapabilitySet {
    let kept = have.intersection(keep);
    if keep.contains(CapabilitySet::BPF) && !have.contains(CapabilitySet::BPF) {
        return kept.union(have.intersection(CapabilitySet::SYS_ADMIN));
    }
    kept
}

fn empty_bounding_set(kept: CapabilitySet) -> io::Result<()> {
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match capability_is_in_bounding_set(capability) {
            Ok(true) if !kept.contains(capability) => {
                remove_capability_from_bounding_set(capability)?;
            }
            Ok(_) => {}
            // This number is past the last capability of this kernel.
            Err(Errno::INVAL) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn missing_capabilities_are_named_and_sys_admin_stands_for_all() {
        assert_eq!(missing(CapabilitySet::empty()), ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"]);
        assert_eq!(missing(CapabilitySet::BPF), ["CAP_PERFMON", "CAP_NET_ADMIN"]);
        assert!(missing(CapabilitySet::SYS_ADMIN).is_empty());
        let for_rules = missing_for_rules(CapabilitySet::empty());
        assert_eq!(for_rules, ["CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH"]);
        let all = CapabilitySet::SYS_ADMIN.union(CapabilitySet::DAC_OVERRIDE);
        assert!(missing_for_rules(all).is_empty());
        assert_eq!(shortcomings(CapabilitySet::all()), [""; 0]);
        assert_eq!(shortcomings(CapabilitySet::empty()).len(), 4);
    }

    #[test]
    fn only_what_the_thread_has_is_kept() {
        use CapabilitySet as Set;
        assert_eq!(remaining(Set::BPF | Set::NET_ADMIN, Set::BPF), Set::BPF);
        assert_eq!(remaining(Set::NET_ADMIN, Set::BPF), Set::empty());
        assert_eq!(remaining(Set::SYS_ADMIN | Set::NET_ADMIN, Set::BPF), Set::SYS_ADMIN);
        assert_eq!(remaining(Set::SYS_ADMIN, Set::empty()), Set::empty());
    }

    #[test]
    fn a_thread_that_dropped_its_capabilities_has_none_and_its_starter_keeps_them() {
        let before = capabilities(None).unwrap().permitted;
        let status = thread::spawn(|| {
            drop_after_attach(CapabilitySet::BPF).unwrap();
            fs::read_to_string("/proc/thread-self/status").unwrap()
        })
        .join()
        .unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().to_owned()
        };
        let kept = before.intersection(CapabilitySet::BPF).bits();
        for set in ["CapEff:", "CapPrm:"] {
            assert_eq!(u64::from_str_radix(&field(set), 16), Ok(kept), "{set}");
        }
        assert_eq!(u64::from_str_radix(&field("CapInh:"), 16), Ok(0));
        if before.contains(CapabilitySet::SETPCAP) {
            assert_eq!(u64::from_str_radix(&field("CapBnd:"), 16), Ok(kept));
        }
        assert_eq!(field("NoNewPrivs:"), "1");
        assert_eq!(capabilities(None).unwrap().permitted, before);
    }
}
