//! Finds a field by its path, through anonymous structures and unions.

use super::{
    Btf, BtfError,
    types::{HEAD_LEN, Kind, MEMBER_LEN, RawMember, Type, u32_at},
};

/// Steps that one look-up may take. The largest kernel structures need some hundreds; a damaged file could need 2^64.
const MAX_STEPS: u32 = 20_000;
/// Limit of the nesting of structures and of the length of a chain of typedefs, which no kernel reaches.
const MAX_DEPTH: u32 = 32;

/// Offset and size of a field in its structure.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Member {
    /// Offset from the start of the structure, in bits.
    pub bit_offset: u32,
    /// Width of a bitfield in bits; `None` for any other field.
    pub bit_size: Option<u32>,
    /// Offset of the byte that holds the field's first bit, from the start of the structure.
    pub byte_offset: u32,
    /// Size of the field's type in bytes; 0 if BTF does not say.
    pub size: u32,
}

/// Why no field is found.
enum Stop {
    Missing,
    TooDeep,
}

/// Steps that are left of one look-up.
struct Budget(u32);

impl Budget {
    fn step(&mut self) -> Result<(), Stop> {
        self.0 = self.0.checked_sub(1).ok_or(Stop::TooDeep)?;
        Ok(())
    }
}

impl Btf {
    /// Finds the field at a dotted path (`__sk_common.skc_daddr`) in a structure (`sock`). Members of anonymous structures and
    /// unions are found as if they were the structure's own. If several structures have the name, the first that has the field
    /// counts.
    ///
    /// # Errors
    /// [`BtfError::NoStruct`]: there is no such structure. [`BtfError::NoMember`]: it has no such field, or its BTF is damaged.
    /// [`BtfError::TooDeep`]: the search needs more than 20,000 steps, or types are nested more than 32 deep.
    pub fn member(&self, strukt: &str, path: &str) -> Result<Member, BtfError> {
        let mut budget = Budget(MAX_STEPS);
        let mut known = false;
        let candidates = self.structs.iter().filter_map(|id| self.get(*id));
        for (at, ty) in candidates.filter(|(_, ty)| self.is_named(ty, strukt)) {
            known = true;
            match self.follow(at, ty, path, &mut budget) {
                Ok(member) => return Ok(member),
                // Two structures can share a name: the next one may have the field.
                Err(Stop::Missing) => {}
                Err(Stop::TooDeep) => {
                    return Err(BtfError::TooDeep { strukt: strukt.into(), path: path.into() });
                }
            }
        }
        Err(if known {
            BtfError::NoMember { strukt: strukt.into(), path: path.into() }
        } else {
            BtfError::NoStruct(strukt.into())
        })
    }

    fn follow(&self, at: usize, ty: Type, path: &str, budget: &mut Budget) -> Result<Member, Stop> {
        let mut place = Some((at, ty));
        let mut base = 0_u32;
        let mut last = None;
        for name in path.split('.') {
            let (at, ty) = place.ok_or(Stop::Missing)?;
            let found = self.search(at, ty, name, 0, budget)?.ok_or(Stop::Missing)?;
            base = base.checked_add(found.bit_offset).ok_or(Stop::Missing)?;
            place = self.strip(found.type_id, budget)?;
            last = Some(found);
        }
        let last = last.ok_or(Stop::Missing)?;
        let (bits_in, bit_size) = match last.bit_size {
            Some(size) => (0, Some(size)),
            None => self.old_bitfield(place),
        };
        let bit_offset = base.checked_add(bits_in).ok_or(Stop::Missing)?;
        let size = self.size_of(last.type_id, budget)?;
        Ok(Member { bit_offset, bit_size, byte_offset: bit_offset / 8, size })
    }

    /// The member called `name` of the structure or union at `at`, with its offset from there; `None`: it has no such member, or
    /// it is another kind of type.
    fn search(
        &self,
        at: usize,
        ty: Type,
        name: &str,
        depth: u32,
        budget: &mut Budget,
    ) -> Result<Option<RawMember>, Stop> {
        if !matches!(ty.known_kind(), Some(Kind::Struct | Kind::Union)) {
            return Ok(None);
        }
        if depth > MAX_DEPTH {
            return Err(Stop::TooDeep);
        }
        for index in 0..ty.vlen() {
            budget.step()?;
            let place = at + HEAD_LEN + index * MEMBER_LEN;
            let Some(member) = RawMember::read(&self.bytes, place, ty.kind_flag()) else {
                return Ok(None);
            };
            if member.name != 0 {
                if self.string_is(member.name, name) {
                    return Ok(Some(member));
                }
                continue;
            }
            let Some((inner_at, inner)) = self.strip(member.type_id, budget)? else { continue };
            if let Some(found) = self.search(inner_at, inner, name, depth + 1, budget)? {
                let bit_offset = found.bit_offset.checked_add(member.bit_offset);
                let bit_offset = bit_offset.ok_or(Stop::Missing)?;
                return Ok(Some(RawMember { bit_offset, ..found }));
            }
        }
        Ok(None)
    }

    /// The type behind typedefs, const, volatile, restrict and type tags, and where it begins; `None`: void, or an id that does
    /// not exist.
    fn strip(&self, mut id: u32, budget: &mut Budget) -> Result<Option<(usize, Type)>, Stop> {
        for _ in 0..MAX_DEPTH {
            budget.step()?;
            match self.get(id) {
                Some((_, ty)) if ty.known_kind() == Some(Kind::Alias) => id = ty.size_or_id,
                other => return Ok(other),
            }
        }
        Err(Stop::TooDeep)
    }

    /// For a bitfield without kind_flag, which is an integer type with fewer bits than its bytes hold: the bits to add
    /// to the offset, and the width. `(0, None)` for any other type.
    fn old_bitfield(&self, place: Option<(usize, Type)>) -> (u32, Option<u32>) {
        let Some((at, ty)) = place else { return (0, None) };
        if ty.known_kind() != Some(Kind::Int) {
            return (0, None);
        }
        let Some(encoding) = u32_at(&self.bytes, at + HEAD_LEN) else { return (0, None) };
        let (bits, offset) = (encoding & 0xff, encoding >> 16 & 0xff);
        let whole = offset == 0 && bits == ty.size_or_id.saturating_mul(8);
        if whole { (0, None) } else { (offset, Some(bits)) }
    }

    /// Size of a type in bytes; 0 for a type without a size.
    fn size_of(&self, mut id: u32, budget: &mut Budget) -> Result<u32, Stop> {
        let mut times = 1_u32;
        for _ in 0..MAX_DEPTH {
            let Some((at, ty)) = self.strip(id, budget)? else { return Ok(0) };
            let size = match ty.known_kind() {
                Some(Kind::Ptr) => 8,
                Some(Kind::Array) => {
                    // struct btf_array: type, index type, number of elements.
                    let word = |n: usize| u32_at(&self.bytes, at + HEAD_LEN + 4 * n).unwrap_or(0);
                    id = word(0);
                    times = times.saturating_mul(word(2));
                    continue;
                }
                Some(
                    Kind::Int
                    | Kind::Struct
                    | Kind::Union
                    | Kind::Enum
                    | Kind::Enum64
                    | Kind::Float,
                ) => ty.size_or_id,
                _ => 0,
            };
            return Ok(times.saturating_mul(size));
        }
        Err(Stop::TooDeep)
    }
}
