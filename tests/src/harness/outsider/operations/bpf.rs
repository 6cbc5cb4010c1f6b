//! Operations on BPF objects that belong to others.
#![expect(unsafe_code, reason = "bpf(2)")]

use std::{ffi::CString, io};

use anyhow::{Context, Result};

use super::{Belongings, Table, argument};

/// The operations of this file, by name.
pub(super) const OPERATIONS: Table = &[("bpf-next", next), ("bpf-by-id", by_id), ("bpf-pin", pin)];

/// `bpf-next COMMAND`: asks for the first id of a kind of object, by the bpf(2) command with this number (11 is for programs, 12
/// for maps, 31 for links). Returns the id.
fn next(_: &mut Belongings, words: &[&str]) -> Result<Vec<u64>> {
    let mut attr = [0_u32; 32];
    call(argument(words, 0)?, &mut attr)?;
    Ok(vec![attr[1].into()])
}

/// `bpf-by-id COMMAND ID`: opens an object by its id, by the bpf(2) command with this number (13 is for programs, 14 for maps,
/// 30 for links).
fn by_id(_: &mut Belongings, words: &[&str]) -> Result<Vec<u64>> {
    let mut attr = [0_u32; 32];
    attr[0] = argument(words, 1)?;
    call(argument(words, 0)?, &mut attr)?;
    Ok(Vec::new())
}

/// `bpf-pin PATH`: opens the object that is pinned at PATH.
fn pin(_: &mut Belongings, words: &[&str]) -> Result<Vec<u64>> {
    const OBJ_GET: libc::c_long = 7;
    let path = CString::new(argument::<String>(words, 0)?)?;
    let address = path.as_ptr().expose_provenance() as u64;
    let mut attr = [0_u32; 32];
    attr[0] = u32::try_from(address & u64::from(u32::MAX))?;
    attr[1] = u32::try_from(address >> 32)?;
    call(OBJ_GET, &mut attr)?;
    Ok(Vec::new())
}

fn call(command: libc::c_long, attr: &mut [u32; 32]) -> Result<()> {
    // SAFETY: the pointer and the size describe `attr`; the path that a command may find in it outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size_of_val(attr)) };
    // A descriptor that was opened stays open until the outsider ends: the test fails in that case anyway.
    (result >= 0).then_some(()).ok_or_else(io::Error::last_os_error).context("bpf(2)")
}
