//! Looks up the offsets of the fields that the BPF programs read, in the running kernel's BTF.

use tracer_common::settings::{SOCK_COMMON_LEN, global};

use super::btf::{Btf, BtfError};

/// Why the offsets cannot be given to the BPF programs.
#[derive(Debug, thiserror::Error)]
pub enum OffsetsError {
    /// BTF does not know the structure or the field, or is damaged.
    #[error("cannot find {global}: {source}")]
    Missing { global: &'static str, source: BtfError },
    /// The field lies outside of the part of the structure that the programs read.
    #[error(
        "cannot use {path} of struct {strukt}: it ends at byte {end}, past the {SOCK_COMMON_LEN} \
         bytes that are read"
    )]
    OutOfReach { strukt: &'static str, path: &'static str, end: u32 },
    /// The field is a bitfield where none is expected, or one that crosses the border of a byte.
    #[error("cannot use {path} of struct {strukt}: it is a bitfield that is not within one byte")]
    Bitfield { strukt: &'static str, path: &'static str },
}

/// A field to look up: the global that takes its offset, its structure, and its path in the structure.
struct Field {
    global: &'static str,
    strukt: &'static str,
    path: &'static str,
}

const fn field(global: &'static str, strukt: &'static str, path: &'static str) -> Field {
    Field { global, strukt, path }
}

const COMMON: &str = "sock_common";

/// Fields without which no backend works. One more, `sk_userlocks`, is not in this list because it needs two globals.
const FIELDS: [Field; 17] = [
    field(global::SKC_DADDR, COMMON, "skc_daddr"),
    field(global::SKC_RCV_SADDR, COMMON, "skc_rcv_saddr"),
    field(global::SKC_DPORT, COMMON, "skc_dport"),
    field(global::SKC_NUM, COMMON, "skc_num"),
    field(global::SKC_FAMILY, COMMON, "skc_family"),
    field(global::SKC_STATE, COMMON, "skc_state"),
    field(global::SKC_NET, COMMON, "skc_net"),
    field(global::SKC_V6_DADDR, COMMON, "skc_v6_daddr"),
    field(global::SKC_V6_RCV_SADDR, COMMON, "skc_v6_rcv_saddr"),
    field(global::SKC_COOKIE, COMMON, "skc_cookie"),
    field(global::SK_ERR, "sock", "sk_err"),
    field(global::SK_PROTOCOL, "sock", "sk_protocol"),
    field(global::INET_SPORT, "inet_sock", "inet_sport"),
    field(global::NET_INUM, "net", "ns.inum"),
    field(global::TIMER_FUNCTION, "timer_list", "function"),
    field(global::TIMER_EXPIRES, "timer_list", "expires"),
    field(global::TW_TIMER, "inet_timewait_sock", "tw_timer"),
];

/// The offsets in bytes, and shifts and masks of bits, by the name of the read-only global that takes each
/// ([`global`]).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Offsets {
    values: Vec<(&'static str, u32)>,
}

impl Offsets {
    /// Looks up every field. One that is optional is left out if the kernel lacks it or it cannot be used.
    ///
    /// # Errors
    /// A field that every backend needs is missing ([`OffsetsError::Missing`]), out of reach, or an unexpected bitfield.
    pub fn resolve(btf: &Btf) -> Result<Self, OffsetsError> {
        let mut values = Vec::with_capacity(FIELDS.len() + 2);
        for field in &FIELDS {
            values.push((field.global, field.offset(btf)?));
        }
        let (byte, shift) = userlocks(btf)?;
        values.push((global::SK_USERLOCKS, byte));
        values.push((global::SK_USERLOCKS_SHIFT, shift));
        if let Ok(cookie) = field(global::NET_COOKIE, "net", "net_cookie").offset(btf) {
            values.push((global::NET_COOKIE, cookie));
        }
        // Without these, the spreader counts no TIME_WAIT as one that connect() can reuse.
        let substate = field(global::TW_SUBSTATE, "inet_timewait_sock", "tw_substate");
        let recent = field(global::TW_RECENT_STAMP, "tcp_timewait_sock", "tw_ts_recent_stamp");
        let entry = field(global::TW_ENTRY_STAMP, "inet_timewait_sock", "tw_entry_stamp");
        if let (Ok(substate), Ok(recent)) = (substate.offset(btf), recent.offset(btf)) {
            values.extend([(global::TW_SUBSTATE, substate), (global::TW_RECENT_STAMP, recent)]);
            values.extend(entry.offset(btf).ok().map(|entry| (global::TW_ENTRY_STAMP, entry)));
        }
        // Without this, a TIME_WAIT counts as reusable if the namespace uses timestamps.
        let stamp = field(global::TP_RECENT_STAMP, "tcp_sock", "rx_opt.ts_recent_stamp");
        values.extend(stamp.offset(btf).ok().map(|stamp| (global::TP_RECENT_STAMP, stamp)));
        // Without this, no end of a connection is counted.
        let segments = field(global::DATA_SEGS_OUT, "tcp_sock", "data_segs_out");
        values.extend(segments.offset(btf).ok().map(|at| (global::DATA_SEGS_OUT, at)));
        // Without these, `--comm` compares the thread's name only.
        let leader = field(global::TASK_LEADER, "task_struct", "group_leader").offset(btf);
        let comm = field(global::TASK_COMM, "task_struct", "comm").offset(btf);
        if let (Ok(leader), Ok(comm)) = (leader, comm) {
            values.extend([(global::TASK_LEADER, leader), (global::TASK_COMM, comm)]);
        }
        // Without these, the spreader treats sockets of the kernel itself, transparent ones (IP_TRANSPARENT) and those
        // with IP_BIND_ADDRESS_NO_PORT like all others.
        if let Some((byte, mask)) = bit(btf, "sock", "sk_kern_sock", 0) {
            values.extend([(global::SK_KERN_SOCK, byte), (global::SK_KERN_SOCK_MASK, mask)]);
        }
        if let Some((byte, mask)) = flag(btf, "transparent", "INET_FLAGS_TRANSPARENT") {
            values.extend([(global::TRANSPARENT, byte), (global::TRANSPARENT_MASK, mask)]);
        }
        let no_port = flag(btf, "bind_address_no_port", "INET_FLAGS_BIND_ADDRESS_NO_PORT");
        if let Some((byte, mask)) = no_port {
            values.extend([(global::NO_PORT, byte), (global::NO_PORT_MASK, mask)]);
        }
        // Without this, a socket that never sent its SYN looks like one that got no answer.
        if let Some((byte, mask)) = flag(btf, "defer_connect", "INET_FLAGS_DEFER_CONNECT") {
            values.extend([(global::DEFERRED, byte), (global::DEFERRED_MASK, mask)]);
        }
        Ok(Self { values })
    }

    /// The values that were found, each with the name of its global, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &u32)> {
        self.values.iter().map(|(name, value)| (*name, value))
    }

    /// The value of the global with this name; `None`: the kernel lacks the field, or none of these globals has the name.
    pub fn get(&self, global: &str) -> Option<u32> {
        self.values.iter().find(|(name, _)| *name == global).map(|(_, value)| *value)
    }
}

impl Field {
    fn offset(&self, btf: &Btf) -> Result<u32, OffsetsError> {
        let Self { global, strukt, path } = *self;
        let member =
            btf.member(strukt, path).map_err(|source| OffsetsError::Missing { global, source })?;
        if member.bit_size.is_some() || member.bit_offset % 8 != 0 {
            return Err(OffsetsError::Bitfield { strukt, path });
        }
        let end = member.byte_offset.saturating_add(member.size);
        if strukt == COMMON && end as usize > SOCK_COMMON_LEN {
            return Err(OffsetsError::OutOfReach { strukt, path, end });
        }
        Ok(member.byte_offset)
    }
}

/// Offset of the byte that has `sk_userlocks`, and the number of its first bit there: four bits of a byte up to Linux 6.1, a byte
/// of its own in later kernels.
fn userlocks(btf: &Btf) -> Result<(u32, u32), OffsetsError> {
    let (global, strukt, path) = (global::SK_USERLOCKS, "sock", "sk_userlocks");
    let member =
        btf.member(strukt, path).map_err(|source| OffsetsError::Missing { global, source })?;
    let shift = member.bit_offset % 8;
    if shift + member.bit_size.unwrap_or(0) > 8 {
        return Err(OffsetsError::Bitfield { strukt, path });
    }
    Ok((member.byte_offset, shift))
}

/// Offset of the byte that has one bit of a field, and the bit's mask in that byte; `None`: the kernel lacks the field. `number`
/// counts the bits from the field's first bit.
fn bit(btf: &Btf, strukt: &str, path: &str, number: u32) -> Option<(u32, u32)> {
    let at = btf.member(strukt, path).ok()?.bit_offset.checked_add(number)?;
    Some((at / 8, 1 << (at % 8)))
}

/// As [`bit`], for a flag of `struct inet_sock`: a bitfield up to Linux 6.5, a bit of `inet_flags` since 6.6, whose number is an
/// enumerator of the name `number`. `None`: the kernel has neither.
fn flag(btf: &Btf, bitfield: &str, number: &str) -> Option<(u32, u32)> {
    bit(btf, "inet_sock", bitfield, 0)
        .or_else(|| bit(btf, "inet_sock", "inet_flags", btf.enumerator(number)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_kernel_has_every_field_within_reach() {
        let offsets = Offsets::resolve(&Btf::from_kernel().unwrap()).unwrap();
        // struct sock_common is the same in every kernel from 5.10 to 6.18.
        for (name, expected) in [
            (global::SKC_DADDR, 0),
            (global::SKC_RCV_SADDR, 4),
            (global::SKC_DPORT, 12),
            (global::SKC_NUM, 14),
            (global::SKC_FAMILY, 16),
            (global::SKC_STATE, 18),
            (global::SKC_NET, 48),
            (global::SKC_V6_DADDR, 56),
            (global::SKC_V6_RCV_SADDR, 72),
            (global::SKC_COOKIE, 88),
            (global::TIMER_FUNCTION, 24),
        ] {
            assert_eq!(offsets.get(name), Some(expected), "{name}");
        }
        assert!((34..=35).contains(&offsets.iter().count()));
        for name in
            [global::TP_RECENT_STAMP, global::DATA_SEGS_OUT, global::TASK_LEADER, global::TASK_COMM]
        {
            assert!(offsets.get(name).is_some_and(|offset| offset > 0), "{name}");
        }
    }

    #[test]
    fn a_kernel_without_the_structure_is_refused_by_name() {
        let empty = [&[0x9f, 0xeb, 1, 0, 24, 0, 0, 0][..], &[0; 16]].concat();
        let error = Offsets::resolve(&Btf::parse(empty).unwrap()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot find SKC_DADDR: the kernel's type information has no struct sock_common"
        );
    }
}
