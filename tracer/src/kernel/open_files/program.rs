//! The program that the kernel runs for each open file. It is written in instructions, because it has no map and no text, and is
//! loaded without the BPF object.

use crate::kernel::btf::{Btf, BtfError};

/// Magic numbers of the file systems of sockets and of namespaces (`include/uapi/linux/magic.h`).
const SOCKFS: i32 = 0x534f_434b;
const NSFS: i32 = 0x6e73_6673;
/// Number of the helper `bpf_seq_write` (`include/uapi/linux/bpf.h`).
const SEQ_WRITE: i32 = 127;

/// Size in bytes of what the program writes for a file: process, descriptor, inode number, kind, each a native u32.
pub(super) const RECORD: usize = 16;
/// The kinds in a record.
pub(super) const SOCKET: u32 = 1;
pub(super) const NAMESPACE: u32 = 2;

/// Offsets in bytes of the fields that the program reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offsets {
    /// `task_struct.tgid`
    task_tgid: i16,
    /// `file.f_inode`
    file_inode: i16,
    /// `inode.i_sb`
    inode_sb: i16,
    /// `inode.i_ino`, of 8 bytes; its lower half is read.
    inode_ino: i16,
    /// `super_block.s_magic`, of 8 bytes.
    sb_magic: i16,
}

impl Offsets {
    /// Looks the fields up.
    ///
    /// # Errors
    /// BTF lacks one of them, or it is more than 32 KiB from the start of its structure.
    pub(super) fn find(btf: &Btf) -> Result<Self, BtfError> {
        let offset = |strukt, path| {
            let byte = btf.member(strukt, path)?.byte_offset;
            i16::try_from(byte)
                .map_err(|_| BtfError::TooDeep { strukt: String::from(strukt), path: path.into() })
        };
        Ok(Self {
            task_tgid: offset("task_struct", "tgid")?,
            file_inode: offset("file", "f_inode")?,
            inode_sb: offset("inode", "i_sb")?,
            inode_ino: offset("inode", "i_ino")?,
            sb_magic: offset("super_block", "s_magic")?,
        })
    }
}

/// The program, for `bpf_iter_task_file`. It writes a record for each socket and each namespace.
pub(super) fn program(at: Offsets) -> Vec<u64> {
    // The context (struct bpf_iter__task_file): meta at 0, task at 8, fd at 16, file at 24. At the end of the list, task and
    // file are NULL. A load through a pointer of the kernel's cannot fault: it gives 0.
    const LENGTH: i16 = 27;
    const END: i16 = LENGTH - 2;
    let to_end = |from: i16| END - from - 1;
    let program = vec![
        insn(MOVE, 6, 1, 0, 0),
        insn(LOAD_64, 7, 6, 8, 0),
        insn(IF_EQUAL, 7, 0, to_end(2), 0),
        insn(LOAD_64, 8, 6, 24, 0),
        insn(IF_EQUAL, 8, 0, to_end(4), 0),
        insn(LOAD_64, 8, 8, at.file_inode, 0),
        insn(LOAD_64, 1, 8, at.inode_sb, 0),
        insn(LOAD_64, 1, 1, at.sb_magic, 0),
        insn(SET, 2, 0, 0, SOCKET.cast_signed()),
        insn(IF_EQUAL, 1, 0, 2, SOCKFS),
        insn(SET, 2, 0, 0, NAMESPACE.cast_signed()),
        insn(IF_OTHER, 1, 0, to_end(11), NSFS),
        insn(STORE_32, 10, 2, -4, 0),
        insn(LOAD_64, 1, 8, at.inode_ino, 0),
        insn(STORE_32, 10, 1, -8, 0),
        insn(LOAD_32, 1, 6, 16, 0),
        insn(STORE_32, 10, 1, -12, 0),
        insn(LOAD_32, 1, 7, at.task_tgid, 0),
        insn(STORE_32, 10, 1, -16, 0),
        // bpf_seq_write(meta->seq, record, 16)
        insn(LOAD_64, 1, 6, 0, 0),
        insn(LOAD_64, 1, 1, 0, 0),
        insn(MOVE, 2, 10, 0, 0),
        insn(ADD, 2, 0, 0, -16),
        insn(SET, 3, 0, 0, 16),
        insn(CALL, 0, 0, 0, SEQ_WRITE),
        insn(SET, 0, 0, 0, 0),
        insn(EXIT, 0, 0, 0, 0),
    ];
    debug_assert_eq!(program.len(), usize::try_from(LENGTH).unwrap_or(0));
    program
}

// Operation codes (Documentation/bpf/standardization/instruction-set.rst).
const MOVE: u8 = 0xbf;
const SET: u8 = 0xb7;
const ADD: u8 = 0x07;
const LOAD_64: u8 = 0x79;
const LOAD_32: u8 = 0x61;
const STORE_32: u8 = 0x63;
const IF_EQUAL: u8 = 0x15;
const IF_OTHER: u8 = 0x55;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

/// One instruction: its code, destination and source register, offset, and constant.
fn insn(code: u8, to: u8, from: u8, offset: i16, constant: i32) -> u64 {
    let [offset_low, offset_high] = offset.to_le_bytes();
    let [a, b, c, d] = constant.to_le_bytes();
    u64::from_le_bytes([code, to | from << 4, offset_low, offset_high, a, b, c, d])
}
