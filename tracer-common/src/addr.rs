//! The type in which the ledger keeps each IP address, IPv4 or IPv6.

/// An IPv6 address, or an IPv4 address in its v4-mapped form (`::ffff:a.b.c.d`, RFC 4291 §2.5.5.2). The bytes are in network
/// order.
///
/// A v4-mapped IPv6 socket and an IPv4 socket share one port space in the kernel
/// (`tcp_v6_connect` hands the former to `tcp_v4_connect`), so they share one key here.
/// Aligned to 8 bytes so that the kernel side can read it as two u64.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Addr(pub [u8; 16]);

const _: () = assert!(size_of::<Addr>() == 16);

impl Addr {
    /// The all-zero address (`::`). The IPv4 address 0.0.0.0 is another value: `::ffff:0.0.0.0`.
    pub const UNSPECIFIED: Self = Self([0; 16]);

    /// An IPv4 address from its four bytes in network order.
    #[inline(always)]
    pub const fn v4(bytes: [u8; 4]) -> Self {
        let [a, b, c, d] = bytes;
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d])
    }

    /// The first and the last eight bytes of the address, each loaded as a u64 without a byte swap: to compare for equality and
    /// mask, not to order or show.
    #[inline(always)]
    pub const fn words(&self) -> [u64; 2] {
        let both = u128::from_ne_bytes(self.0);
        #[expect(clippy::cast_possible_truncation, reason = "that is what is wanted")]
        let (first, second) = (both as u64, (both >> 64) as u64);
        [first, second]
    }

    /// The address that has these words: the inverse of [`Self::words`].
    #[inline(always)]
    pub const fn from_words([first, second]: [u64; 2]) -> Self {
        Self((first as u128 | (second as u128) << 64).to_ne_bytes())
    }

    /// The four bytes of an IPv4 (v4-mapped) address, in network order; `None`: the address is IPv6.
    #[inline(always)]
    pub const fn to_v4(self) -> Option<[u8; 4]> {
        match self.0 {
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] => Some([a, b, c, d]),
            _ => None,
        }
    }
}
