#![expect(unsafe_code, reason = "system calls that fail")]

use std::{fs, thread};

use rustix::thread::set_no_new_privs;

use super::*;

/// The errno with which a system call fails in a thread with this filter; 0: it does not fail.
fn errno(program: &[sock_filter], number: c_long, arguments: [u64; 3]) -> i32 {
    let [one, two, three] = arguments;
    thread::scope(|scope| {
        let run = || {
            set_no_new_privs(true).unwrap();
            install(program).unwrap();
            // SAFETY: each call is denied, or fails because of its arguments, or takes only numbers.
            let result = unsafe { libc::syscall(number, one, two, three, 0_u64, 0_u64, 0_u64) };
            if result < 0 { io::Error::last_os_error().raw_os_error().unwrap() } else { 0 }
        };
        scope.spawn(run).join().unwrap()
    })
}

#[test]
fn denied_calls_fail_and_others_do_not() {
    let reads = program(false, &[1, 15]);
    let visits = program(true, &[]);
    for program in [&reads, &visits] {
        for denied in [libc::SYS_execve, libc::SYS_ptrace, libc::SYS_mount, libc::SYS_kexec_load] {
            assert_eq!(errno(program, denied, [0; 3]), libc::EPERM, "{denied}");
        }
        for denied in [libc::SYS_setresuid, libc::SYS_unshare, libc::SYS_init_module] {
            assert_eq!(errno(program, denied, [0; 3]), libc::EPERM, "{denied}");
        }
        assert_eq!(errno(program, libc::SYS_clone3, [0; 3]), libc::ENOSYS);
        assert_eq!(errno(program, libc::SYS_getpid, [0; 3]), 0);
    }
    // `no_fd` is not a descriptor: an allowed call fails with the kernel's errno, and not with the filter's.
    let no_fd = u64::from(u32::MAX);
    assert_eq!(errno(&reads, libc::SYS_setns, [no_fd, 0, 0]), libc::EPERM);
    assert_eq!(errno(&visits, libc::SYS_setns, [no_fd, 0, 0]), libc::EBADF);
    let tcp = [libc::AF_UNIX as u64, libc::SOCK_STREAM as u64, 0];
    assert_eq!(errno(&reads, libc::SYS_socket, tcp), libc::EPERM);
    assert_eq!(errno(&visits, libc::SYS_socket, tcp), 0);
}

#[test]
fn of_bpf_only_the_listed_commands_are_allowed() {
    let reads = program(false, &[1, 15]);
    // Without attributes these fail with EINVAL or EFAULT (without privileges, with the kernel's own EPERM).
    let allowed = errno(&[end(ALLOW)], libc::SYS_bpf, [1, 0, 0]);
    assert_eq!(errno(&reads, libc::SYS_bpf, [1, 0, 0]), allowed);
    for denied in [0, 5, 8, 13, 100] {
        assert_eq!(errno(&reads, libc::SYS_bpf, [denied, 0, 0]), libc::EPERM, "{denied}");
    }
    assert_eq!(errno(&program(true, &[]), libc::SYS_bpf, [1, 0, 0]), libc::EPERM);
}

#[test]
fn calls_of_another_abi_fail_as_missing() {
    if cfg!(target_arch = "x86_64") {
        let getpid = libc::SYS_getpid | i64::from(X32);
        assert_eq!(errno(&program(false, &[]), getpid, [0; 3]), libc::ENOSYS);
    }
}

#[test]
fn threads_can_be_started_and_namespaces_not_made() {
    let program = program(false, &[]);
    thread::scope(|scope| {
        scope.spawn(|| {
            set_no_new_privs(true).unwrap();
            install(&program).unwrap();
            let status = thread::spawn(|| fs::read_to_string("/proc/thread-self/status")).join();
            assert!(status.unwrap().unwrap().contains("Seccomp:\t2"));
        });
    });
    let new_user = libc::CLONE_NEWUSER as u64;
    assert_eq!(errno(&program, libc::SYS_clone, [new_user, 0, 0]), libc::EPERM);
}
