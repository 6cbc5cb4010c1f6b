//! The layout of one BTF type (`include/uapi/linux/btf.h`).

/// Size of `struct btf_type` in bytes.
pub(super) const HEAD_LEN: usize = 12;
/// Size of `struct btf_member` in bytes.
pub(super) const MEMBER_LEN: usize = 12;
/// Size of `struct btf_enum` in bytes.
pub(super) const ENUMERATOR_LEN: usize = 8;

/// The little-endian u32 at byte `at`; `None`: fewer than four bytes are left there.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*word))
}

/// Kind of a type: `BTF_KIND_*`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Int,
    Ptr,
    Array,
    Struct,
    Union,
    Enum,
    Fwd,
    /// typedef, volatile, const, restrict and type tags: another name for the type that they refer to.
    Alias,
    Func,
    FuncProto,
    Var,
    DataSec,
    Float,
    DeclTag,
    Enum64,
}

impl Kind {
    /// The kind with this number (`BTF_KIND_*`); `None`: this reader does not know it.
    pub(super) fn from_raw(raw: u8) -> Option<Self> {
        Some(match raw {
            1 => Self::Int,
            2 => Self::Ptr,
            3 => Self::Array,
            4 => Self::Struct,
            5 => Self::Union,
            6 => Self::Enum,
            7 => Self::Fwd,
            8..=11 | 18 => Self::Alias,
            12 => Self::Func,
            13 => Self::FuncProto,
            14 => Self::Var,
            15 => Self::DataSec,
            16 => Self::Float,
            17 => Self::DeclTag,
            19 => Self::Enum64,
            _ => return None,
        })
    }

    /// Bytes that follow the head of a type with this many elements (`vlen`).
    pub(super) fn tail_len(self, vlen: usize) -> usize {
        match self {
            Self::Ptr | Self::Fwd | Self::Alias | Self::Func | Self::Float => 0,
            Self::Int | Self::Var | Self::DeclTag => 4,
            Self::Array => 12,
            Self::Enum | Self::FuncProto => 8 * vlen,
            Self::Struct | Self::Union | Self::DataSec | Self::Enum64 => 12 * vlen,
        }
    }
}

/// The head with which each type begins: `struct btf_type`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Type {
    /// Offset into the strings; 0 for an anonymous type.
    pub(super) name: u32,
    info: u32,
    /// Size in bytes or the id of another type; the kind decides.
    pub(super) size_or_id: u32,
}

impl Type {
    /// Reads the head at this offset; `None`: the bytes end before its end.
    pub(super) fn read(bytes: &[u8], at: usize) -> Option<Self> {
        let head = bytes.get(at..at.checked_add(HEAD_LEN)?)?;
        Some(Self { name: u32_at(head, 0)?, info: u32_at(head, 4)?, size_or_id: u32_at(head, 8)? })
    }

    /// How many elements follow the head: members, enumerators or parameters.
    pub(super) fn vlen(&self) -> usize {
        (self.info & 0xffff) as usize
    }

    /// The number of its kind, `BTF_KIND_*`.
    pub(super) fn kind(&self) -> u8 {
        (self.info >> 24 & 0x1f) as u8
    }

    /// Its kind; `None`: this reader does not know it.
    pub(super) fn known_kind(&self) -> Option<Kind> {
        Kind::from_raw(self.kind())
    }

    /// Of a structure or union: whether the offset of each member has the width of a bitfield (0: none) in its upper 8 bits.
    pub(super) fn kind_flag(&self) -> bool {
        self.info >> 31 == 1
    }
}

/// A member of a structure or union: `struct btf_member`.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawMember {
    /// Offset into the strings; 0 for an anonymous member.
    pub(super) name: u32,
    /// Id of its type.
    pub(super) type_id: u32,
    /// Offset from the start of the structure, in bits.
    pub(super) bit_offset: u32,
    /// Width in bits of a bitfield in a structure with kind_flag; `None`: any other member.
    pub(super) bit_size: Option<u32>,
}

impl RawMember {
    /// Reads the member at this offset of a structure with this [`Type::kind_flag`]; `None`: the bytes end before its end.
    pub(super) fn read(bytes: &[u8], at: usize, kind_flag: bool) -> Option<Self> {
        let raw = bytes.get(at..at.checked_add(MEMBER_LEN)?)?;
        let offset = u32_at(raw, 8)?;
        let (bit_offset, size) =
            if kind_flag { (offset & 0x00ff_ffff, offset >> 24) } else { (offset, 0) };
        let bit_size = (size != 0).then_some(size);
        Some(Self { name: u32_at(raw, 0)?, type_id: u32_at(raw, 4)?, bit_offset, bit_size })
    }
}
