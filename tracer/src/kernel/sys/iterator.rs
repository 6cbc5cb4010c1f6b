//! Loads programs of the type tracing that are not in the BPF object, and runs an iterator: such a program that the kernel runs for
//! each object of a kind, and whose output is read like a file (kernel/bpf/bpf_iter.c).

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

use aya_obj::generated::{
    bpf_attach_type,
    bpf_attach_type::{BPF_TRACE_FENTRY, BPF_TRACE_ITER},
    bpf_attr, bpf_cmd,
    bpf_prog_type::BPF_PROG_TYPE_TRACING,
};

use super::{bpf, owned};

/// By this, the kernel lets a program use all helpers; tracer-ebpf has the same.
const LICENSE: &std::ffi::CStr = c"Dual MIT/GPL";

/// Loads a program for an iterator and makes a link of it, from which [`open_iterator`] makes files. `function`: id of the
/// iterator's function (`bpf_iter_…`) in the kernel's BTF.
///
/// # Errors
/// As bpf(2): EPERM without CAP_BPF and CAP_PERFMON; EINVAL or EACCES: the kernel has no such iterator, or its verifier refuses
/// the program.
pub(in super::super) fn link_iterator(program: &[u64], function: u32) -> io::Result<OwnedFd> {
    let loaded = load(program, BPF_TRACE_ITER, function)?;
    // SAFETY: all-zero is a valid bpf_attr.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.link_create.__bindgen_anon_1.prog_fd = loaded.as_raw_fd().cast_unsigned();
    attr.link_create.attach_type = BPF_TRACE_ITER as u32;
    owned(bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr)?)
}

/// Loads a program for the entry of a function (fentry), and does not attach it. `function`: the function's id in the kernel's BTF.
///
/// # Errors
/// As bpf(2): EPERM without CAP_BPF and CAP_PERFMON; the kernel has no trampolines, or none for this function.
pub(in super::super) fn load_fentry(program: &[u64], function: u32) -> io::Result<OwnedFd> {
    load(program, BPF_TRACE_FENTRY, function)
}

fn load(program: &[u64], at: bpf_attach_type, function: u32) -> io::Result<OwnedFd> {
    // SAFETY: all-zero is a valid bpf_attr.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.__bindgen_anon_3.prog_type = BPF_PROG_TYPE_TRACING as u32;
    attr.__bindgen_anon_3.expected_attach_type = at as u32;
    attr.__bindgen_anon_3.insns = program.as_ptr() as u64;
    attr.__bindgen_anon_3.insn_cnt = u32::try_from(program.len()).map_err(io::Error::other)?;
    attr.__bindgen_anon_3.license = LICENSE.as_ptr() as u64;
    attr.__bindgen_anon_3.attach_btf_id = function;
    owned(bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr)?)
}

/// A file with the output of one run of the iterator.
///
/// # Errors
/// As bpf(2): EPERM before Linux 5.19 without CAP_BPF.
pub(in super::super) fn open_iterator(link: BorrowedFd<'_>) -> io::Result<File> {
    // SAFETY: all-zero is a valid bpf_attr.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.iter_create.link_fd = link.as_raw_fd().cast_unsigned();
    Ok(owned(bpf(bpf_cmd::BPF_ITER_CREATE, &mut attr)?)?.into())
}
