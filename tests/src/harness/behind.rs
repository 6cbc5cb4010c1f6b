//! BPF maps and links: changes those of a running tracer from outside, so that a test can see whether the tracer corrects them, and
//! makes maps for programs of the tests.

use std::{
    collections::HashSet,
    fs,
    os::fd::{AsRawFd, OwnedFd},
};

use anyhow::{Context, Result, ensure};

use crate::harness::foreign::{address, bpf, owned};

/// Most steps through the keys of a map before [`Map::keys`] gives up.
const MOST_KEYS: usize = 1 << 20;
const MAP_CREATE: libc::c_long = 0;
const MAP_LOOKUP_ELEM: libc::c_long = 1;
const MAP_UPDATE_ELEM: libc::c_long = 2;
const MAP_DELETE_ELEM: libc::c_long = 3;
const MAP_GET_NEXT_KEY: libc::c_long = 4;
const PROG_TEST_RUN: libc::c_long = 10;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const MAP_GET_FD_BY_ID: libc::c_long = 14;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const LINK_GET_FD_BY_ID: libc::c_long = 30;
const LINK_DETACH: libc::c_long = 34;

/// A BPF map, of another process or of this one. It must not be a per-CPU map (not checked): the kernel would read and write past
/// the end of the buffers.
#[derive(Debug)]
pub struct Map {
    fd: OwnedFd,
    key_size: usize,
    value_size: usize,
}

/// `union bpf_attr` of the commands on one element. `more` is the address of the value, or of the next key; 0 to delete.
#[repr(C)]
struct Element {
    map: u32,
    zero: u32,
    key: u64,
    more: u64,
    flags: u64,
}

impl Map {
    /// The first map of this name among the descriptors of the process. The kernel keeps only the first 15 bytes of a name: a
    /// longer one is not found. Maps that this process may not open (without CAP_SYS_ADMIN: all) are passed over.
    ///
    /// # Errors
    /// There is no such process or map.
    pub fn of(process: u32, name: &str) -> Result<Self> {
        for fields in descriptors(process, "map_id:")? {
            let id: u32 = field(&fields, "map_id:")?;
            let Ok(fd) = by_id(MAP_GET_FD_BY_ID, id) else { continue };
            if name_of(&fd, 24)? == name {
                let (key_size, value_size) =
                    (field(&fields, "key_size:")?, field(&fields, "value_size:")?);
                return Ok(Self { fd, key_size, value_size });
            }
        }
        anyhow::bail!("process {process} has no BPF map {name}")
    }

    /// A new array of one element with values of this many bytes, all 0.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn array(value_size: u32) -> Result<Self> {
        const ARRAY: u32 = 2;
        let key_size: u32 = 4;
        let attr = [ARRAY, key_size, value_size, 1];
        let fd = owned(bpf(MAP_CREATE, &attr, "BPF_MAP_CREATE")?)?;
        Ok(Self { fd, key_size: key_size as usize, value_size: value_size as usize })
    }

    pub const fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Every key, as bytes, in any order. If the map changes meanwhile: all keys that stay, and some of those that come or go.
    /// The list also ends where the kernel refuses the next key, whatever its error.
    ///
    /// # Errors
    /// The end was not reached within 2²⁰ steps.
    pub fn keys(&self) -> Result<Vec<Vec<u8>>> {
        let mut keys: HashSet<Vec<u8>> = HashSet::new();
        let mut before: Option<Vec<u8>> = None;
        // After a key that has been deleted, the kernel starts again at the first key.
        for _ in 0..MOST_KEYS {
            let mut next = vec![0; self.key_size];
            let from = before.as_ref().map_or(0, |key| address(key.as_ptr()));
            if self.element(MAP_GET_NEXT_KEY, from, address(next.as_mut_ptr())).is_err() {
                return Ok(keys.into_iter().collect());
            }
            keys.insert(next.clone());
            before = Some(next);
        }
        anyhow::bail!("the map changes too fast to be read")
    }

    /// The value at a key, as bytes; `None` if the map has no such key. The key must have the map's size in bytes (not checked).
    /// An error if the kernel refuses the read for another reason than ENOENT.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let mut value = vec![0; self.value_size];
        let found =
            self.element(MAP_LOOKUP_ELEM, address(key.as_ptr()), address(value.as_mut_ptr()));
        match found {
            Ok(()) => Ok(Some(value)),
            Err(error) => match error.downcast_ref::<std::io::Error>() {
                Some(gone) if gone.kind() == std::io::ErrorKind::NotFound => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// Inserts or replaces an entry.
    ///
    /// # Errors
    /// The key or the value has not the map's size in bytes, or the kernel refuses, for example because the map is full.
    pub fn set(&self, key: &[u8], value: &[u8]) -> Result<()> {
        ensure!(key.len() == self.key_size && value.len() == self.value_size, "sizes");
        self.element(MAP_UPDATE_ELEM, address(key.as_ptr()), address(value.as_ptr()))
    }

    /// Removes an entry; an error if the map has no such key. The key must have the map's size in bytes (not checked).
    pub fn remove(&self, key: &[u8]) -> Result<()> {
        self.element(MAP_DELETE_ELEM, address(key.as_ptr()), 0)
    }

    fn element(&self, command: libc::c_long, key: u64, more: u64) -> Result<()> {
        let map = self.fd.as_raw_fd().cast_unsigned();
        bpf(command, &Element { map, zero: 0, key, more, flags: 0 }, "an element").map(drop)
    }
}

/// A BPF program that another process has open; [`Self::run`] runs it by `BPF_PROG_TEST_RUN`.
#[derive(Debug)]
pub struct Program(OwnedFd);

impl Program {
    /// The first BPF program of this name among the descriptors of the process. The kernel keeps only the first 15 bytes of a
    /// name: a longer one is not found. Programs that this process may not open (without CAP_SYS_ADMIN: all) are passed over.
    ///
    /// # Errors
    /// There is no such process or program.
    pub fn of(process: u32, name: &str) -> Result<Self> {
        for fields in descriptors(process, "prog_id:")? {
            let id: u32 = field(&fields, "prog_id:")?;
            let Ok(fd) = by_id(PROG_GET_FD_BY_ID, id) else { continue };
            if name_of(&fd, 64)? == name {
                return Ok(Self(fd));
            }
        }
        anyhow::bail!("process {process} has no BPF program {name}")
    }

    /// Runs a raw tracepoint program once, with these words as the tracepoint's arguments, and returns the program's result.
    ///
    /// # Errors
    /// The kernel refuses `BPF_PROG_TEST_RUN`, for example for a program of another type.
    pub fn run(&self, words: &[u64; 12]) -> Result<u32> {
        #[derive(Default)]
        #[repr(C)]
        struct Run {
            program: u32,
            result: u32,
            data: [u32; 2],
            data_at: [u64; 2],
            repeat: u32,
            duration: u32,
            context_in: u32,
            context_out: u32,
            context_in_at: u64,
            context_out_at: u64,
            flags: u32,
            cpu: u32,
        }
        let run = Run {
            program: self.0.as_raw_fd().cast_unsigned(),
            context_in: u32::try_from(size_of_val(words))?,
            context_in_at: address(words.as_ptr()),
            ..Run::default()
        };
        bpf(PROG_TEST_RUN, &run, "BPF_PROG_TEST_RUN")?;
        // The kernel has written to `run`, which the compiler cannot see.
        Ok(std::hint::black_box(&run).result)
    }
}

/// Detaches the first link among the descriptors of the process whose `fdinfo` has all of these lines, each whole and without its
/// line end, such as `["link_type:\tcgroup", …]`. The link stays open.
///
/// # Errors
/// There is no such process or link, or the kernel cannot detach a link of this type.
pub fn detach_link(process: u32, lines: &[String]) -> Result<()> {
    let all = descriptors(process, "link_id:")?;
    let wanted = |fields: &&String| lines.iter().all(|line| fields.lines().any(|it| it == line));
    let fields = all.iter().find(wanted).with_context(|| format!("no link {lines:?}: {all:?}"))?;
    let link = by_id(LINK_GET_FD_BY_ID, field(fields, "link_id:")?)?;
    bpf(LINK_DETACH, &link.as_raw_fd().cast_unsigned(), "BPF_LINK_DETACH").map(drop)
}

/// The texts of `/proc/PID/fdinfo/FD`, one for each open descriptor of the process, but only those that contain `field`.
fn descriptors(process: u32, field: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(format!("/proc/{process}/fdinfo"))? {
        // A descriptor that has been closed since the folder was listed has no text any more.
        let fields = fs::read_to_string(entry?.path()).unwrap_or_default();
        if fields.contains(field) {
            found.push(fields);
        }
    }
    Ok(found)
}

fn field<T: std::str::FromStr>(fields: &str, name: &str) -> Result<T> {
    let value = fields.lines().find_map(|line| line.strip_prefix(name));
    let value = value.and_then(|value| value.trim().parse().ok());
    value.with_context(|| format!("no {name} in {fields:?}"))
}

fn by_id(command: libc::c_long, id: u32) -> Result<OwnedFd> {
    // The first fields of `union bpf_attr`: the object's id, the next object's id, flags.
    owned(bpf(command, &[id, 0, 0], "by id")?)
}

/// The name of a map or a program, at most 15 bytes. `at` is its byte offset in what the kernel returns: 24 in
/// `struct bpf_map_info`, 64 in `struct bpf_prog_info`.
fn name_of(object: &OwnedFd, at: usize) -> Result<String> {
    #[repr(C)]
    struct Info {
        fd: u32,
        len: u32,
        to: u64,
    }
    let mut info = [0_u8; 88];
    let attr = Info {
        fd: object.as_raw_fd().cast_unsigned(),
        len: u32::try_from(info.len())?,
        to: address(info.as_mut_ptr()),
    };
    bpf(OBJ_GET_INFO_BY_FD, &attr, "BPF_OBJ_GET_INFO_BY_FD")?;
    let name = info[at..at + 16].split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(name).into_owned())
}

/// What one port adds to its tuple's counter [`HELD`]: 1 if the port is odd, 2³² if it is even (`Halves::one` of tracer-common).
/// `key` is the port's key in the map CONNS, 16 bytes; byte 8 of it is the lower byte of the port.
///
/// # Panics
/// If the key has fewer than 9 bytes.
pub fn one(key: &[u8]) -> u64 {
    if key[8] & 1 != 0 { 1 } else { 1 << 32 }
}

/// Byte offset of the counter `held`, a `u64` in native byte order, in a value of the map TUPLES. Its lower 32 bits count the odd
/// ports that the tuple holds, its upper 32 bits the even ones.
pub const HELD: usize = 32;
