//! Reads the kernel's own type information (BTF): offsets of fields, functions and how many parameters they take, and
//! values of enumerators.
//!
//! rustc emits no CO-RE relocations, so the offsets that the BPF programs need are looked up here.
//! The format is that of `Documentation/bpf/btf.rst`. All input is checked: any bytes give an answer or an error, in
//! time linear in their length.

mod member;
#[cfg(test)]
mod tests;
mod types;

use std::{fs, io};

pub use member::Member;
use types::{Kind, Type};

/// Where Linux publishes the BTF of the running kernel.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
const VERSION: u8 = 1;
/// Size of the header in bytes: magic, version, flags, hdr_len, type_off, type_len, str_off, str_len.
const HEADER_LEN: usize = 24;

/// Why BTF cannot be read, or lacks what was looked up.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// No BTF, or no permission to read it.
    #[error("cannot read the kernel's type information {VMLINUX}: {0}")]
    Read(#[source] io::Error),
    /// The bytes are not BTF of the known version, or are cut off or damaged.
    #[error("the kernel's type information is damaged: {0}")]
    Malformed(&'static str),
    /// A kind of type that this reader does not know, so that it cannot find the next type.
    #[error("the kernel's type information has a type of unknown kind {0}")]
    UnknownKind(u8),
    /// There is no structure of this name.
    #[error("the kernel's type information has no struct {0}")]
    NoStruct(String),
    /// The structure has no such field.
    #[error("the kernel's type information has no field {path} in struct {strukt}")]
    NoMember { strukt: String, path: String },
    /// The structures are nested deeper than in any kernel, or the look-up would take more steps than in any kernel.
    #[error("struct {strukt} is nested too deeply to look for {path}")]
    TooDeep { strukt: String, path: String },
}

/// Parsed BTF: the raw bytes and where each type begins.
pub struct Btf {
    bytes: Vec<u8>,
    /// Start of each type in `bytes`; type id N is at index N - 1 (id 0 is void).
    starts: Vec<u32>,
    /// Ids of the structures.
    structs: Vec<u32>,
    /// Ids of the functions.
    functions: Vec<u32>,
    /// Start and end of the strings in `bytes`.
    strings: (usize, usize),
}

impl Btf {
    /// Reads the running kernel's BTF, from [`VMLINUX`].
    ///
    /// # Errors
    /// The file cannot be read, or as [`Self::parse`].
    pub fn from_kernel() -> Result<Self, BtfError> {
        Self::parse(fs::read(VMLINUX).map_err(BtfError::Read)?)
    }

    /// Reads little-endian BTF.
    ///
    /// # Errors
    /// The bytes are not BTF of version 1, are cut off or damaged, have a type of unknown kind, or are 4 GiB or more.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, BtfError> {
        let cut_off = BtfError::Malformed("it ends inside its header");
        if bytes.len() < HEADER_LEN || u32::try_from(bytes.len()).is_err() {
            return Err(cut_off);
        }
        if bytes.get(..2) != Some(&MAGIC.to_le_bytes()) {
            return Err(BtfError::Malformed("it does not begin with BTF's magic number"));
        }
        if bytes.get(2) != Some(&VERSION) {
            return Err(BtfError::Malformed("it is not of BTF version 1"));
        }
        let header = |at: usize| types::u32_at(&bytes, at).map_or(0, |value| value as usize);
        let section = |offset: usize, len: usize| {
            let start = header(4).checked_add(header(offset))?;
            let end = start.checked_add(header(len))?;
            (start >= HEADER_LEN && end <= bytes.len()).then_some((start, end))
        };
        let (start, end) =
            section(8, 12).ok_or(BtfError::Malformed("its types lie outside of it"))?;
        let strings =
            section(16, 20).ok_or(BtfError::Malformed("its strings lie outside of it"))?;

        let mut btf =
            Self { bytes, starts: Vec::new(), structs: Vec::new(), functions: Vec::new(), strings };
        btf.starts.reserve((end - start) / 32);
        btf.index(start, end)?;
        Ok(btf)
    }

    /// Notes where each type begins, and which types are structures and functions.
    fn index(&mut self, start: usize, end: usize) -> Result<(), BtfError> {
        let cut_off = || BtfError::Malformed("it ends inside a type");
        let mut at = start;
        let mut id = 0_u32;
        while at < end {
            id += 1;
            let head = Type::read(&self.bytes, at).ok_or_else(cut_off)?;
            let kind = Kind::from_raw(head.kind()).ok_or(BtfError::UnknownKind(head.kind()))?;
            match kind {
                Kind::Struct => self.structs.push(id),
                Kind::Func => self.functions.push(id),
                _ => {}
            }
            self.starts.push(u32::try_from(at).map_err(|_| cut_off())?);
            at += types::HEAD_LEN + kind.tail_len(head.vlen());
        }
        if at == end { Ok(()) } else { Err(cut_off()) }
    }

    /// Whether BTF describes a kernel function of this name. fentry and fexit can attach to no others.
    pub fn has_function(&self, name: &str) -> bool {
        self.function(name).is_some()
    }

    /// How many parameters the kernel function of this name takes; `None` if BTF describes no such function, or lacks its
    /// parameters.
    pub fn parameter_count(&self, name: &str) -> Option<usize> {
        let (_, proto) = self.get(self.function(name)?.size_or_id)?;
        (proto.known_kind() == Some(Kind::FuncProto)).then(|| proto.vlen())
    }

    /// The value of the first enumerator of this name in an enumeration with values of 32 bits; `None` if no such enumeration has
    /// it.
    pub fn enumerator(&self, name: &str) -> Option<u32> {
        let enums = self.starts.iter().filter_map(|at| {
            let at = *at as usize;
            let ty = Type::read(&self.bytes, at)?;
            (ty.known_kind() == Some(Kind::Enum)).then_some((at, ty.vlen()))
        });
        let entries = enums.flat_map(|(at, count)| {
            (0..count).map(move |index| at + types::HEAD_LEN + index * types::ENUMERATOR_LEN)
        });
        entries.into_iter().find_map(|at| {
            let found = self.string_is(types::u32_at(&self.bytes, at)?, name);
            found.then(|| types::u32_at(&self.bytes, at + 4)).flatten()
        })
    }

    /// The id by which bpf(2) knows the kernel function of this name; `None` if BTF describes no such function.
    pub fn function_id(&self, name: &str) -> Option<u32> {
        let is_it = |id: &u32| self.get(*id).is_some_and(|(_, ty)| self.is_named(&ty, name));
        self.functions.iter().copied().find(is_it)
    }

    fn function(&self, name: &str) -> Option<Type> {
        self.get(self.function_id(name)?).map(|(_, ty)| ty)
    }

    /// A type and where it begins; `None` for void and for ids that do not exist.
    fn get(&self, id: u32) -> Option<(usize, Type)> {
        let at = *self.starts.get((id as usize).checked_sub(1)?)? as usize;
        Some((at, Type::read(&self.bytes, at)?))
    }

    fn is_named(&self, ty: &Type, name: &str) -> bool {
        self.string_is(ty.name, name)
    }

    /// Whether the NUL-terminated string at `offset` is `text`.
    fn string_is(&self, offset: u32, text: &str) -> bool {
        let (start, end) = self.strings;
        let Some(strings) = self.bytes.get(start..end) else { return false };
        let Some(rest) = strings.get(offset as usize..) else { return false };
        rest.starts_with(text.as_bytes()) && rest.get(text.len()) == Some(&0)
    }
}
