//! Parses the values of lines: addresses, names, counts.

use std::{
    marker::PhantomData,
    net::{IpAddr, Ipv4Addr},
};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use tracer_common::{Addr, Cause, ends::LIFETIMES, tuple::SEARCH_BUCKETS};

use crate::view::forecast::TIME_WAIT_S;

/// An address in the ledger's form: IPv4 as v4-mapped IPv6. But 0.0.0.0 becomes [`Addr::UNSPECIFIED`] (`::`), which means
/// that there is none.
pub(super) fn addr(address: IpAddr) -> Addr {
    match address {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Addr::UNSPECIFIED,
        IpAddr::V4(address) => Addr::v4(address.octets()),
        IpAddr::V6(address) => Addr(address.octets()),
    }
}

/// A process's or thread's name in the kernel's form: 16 bytes, NUL-padded (without a NUL if all 16 are used). A longer one is
/// cut between two characters: the kernel's names are shorter, but bytes that were not UTF-8 became longer when they were
/// written.
pub(super) fn comm(text: &str) -> [u8; 16] {
    let mut comm = [0; 16];
    let end = text.floor_char_boundary(comm.len());
    for (to, from) in comm.iter_mut().zip(text.bytes().take(end)) {
        *to = from;
    }
    comm
}

/// The cause with this name; `None`: this version of tracer does not know it.
pub(super) fn cause(name: &str) -> Option<Cause> {
    Cause::ALL.into_iter().find(|cause| cause.name() == name)
}

/// Failed calls by cause (index: [`Cause`]), from an object like `{"refused":2}`. An unknown name counts as [`Cause::Other`]; a
/// value that is no u64 is an error.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts(pub(super) [u64; Cause::COUNT]);

impl<'de> Deserialize<'de> for Counts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Causes;
        impl<'de> Visitor<'de> for Causes {
            type Value = Counts;

            fn expecting(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                to.write_str("counts by cause")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Counts, A::Error> {
                let mut counts = Counts::default();
                while let Some((name, count)) = map.next_entry::<&str, u64>()? {
                    // Causes of later versions count as `other`.
                    let cause = cause(name).unwrap_or(Cause::Other);
                    let sum = &mut counts.0[cause as usize];
                    *sum = sum.saturating_add(count);
                }
                Ok(counts)
            }
        }
        deserializer.deserialize_map(Causes)
    }
}

/// Numbers of port searches, by duration ([`tracer_common::tuple::search_bucket`]); zeros at the end may be left out.
pub(super) type Histogram = AtMost<u32, SEARCH_BUCKETS>;

/// Numbers of connections that ended, by how long they lasted ([`tracer_common::ends::lifetime_bucket`]); zeros at the end may be
/// left out.
pub(super) type Lifetimes = AtMost<u32, LIFETIMES>;

/// Numbers of TIME_WAITs that end in the first, second, … second after the reading (the last of the 61 counts has those that end
/// later, too); zeros at the end may be left out.
pub(super) type WaitEnds = AtMost<u16, TIME_WAIT_S>;

/// A list of at most `N` counts; missing ones at the end are 0. A longer list is an error.
#[derive(Clone, Copy, Debug)]
pub(super) struct AtMost<T, const N: usize>(pub(super) [T; N]);

impl<'de, T: Deserialize<'de> + Copy + Default, const N: usize> Deserialize<'de> for AtMost<T, N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<T, const N: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de> + Copy + Default, const N: usize> Visitor<'de> for List<T, N> {
            type Value = AtMost<T, N>;

            fn expecting(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(to, "at most {N} counts")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<AtMost<T, N>, A::Error> {
                let mut counts = [T::default(); N];
                let mut filled = 0;
                while let Some(count) = seq.next_element()? {
                    let place = counts.get_mut(filled);
                    *place.ok_or_else(|| serde::de::Error::invalid_length(filled, &self))? = count;
                    filled += 1;
                }
                Ok(AtMost(counts))
            }
        }
        deserializer.deserialize_seq(List(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_cut_between_two_letters() {
        assert_eq!(comm("nginx"), *b"nginx\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(comm("0123456789abcdeé"), *b"0123456789abcde\0");
        assert_eq!(comm("0123456789abcdefg"), *b"0123456789abcdef");
    }

    #[test]
    fn counts_of_a_later_version_are_among_the_others() {
        let counts: Counts = serde_json::from_str(r#"{"refused":2,"new":3,"other":1}"#).unwrap();
        assert_eq!(counts.0[Cause::Refused as usize], 2);
        assert_eq!(counts.0[Cause::Other as usize], 4);
    }

    #[test]
    fn a_histogram_has_as_many_buckets_as_there_are_at_most() {
        let short: Histogram = serde_json::from_str("[1,0,3]").unwrap();
        assert_eq!(short.0[..4], [1, 0, 3, 0]);
        let long = serde_json::to_string(&[1; SEARCH_BUCKETS + 1]).unwrap();
        assert!(serde_json::from_str::<Histogram>(&long).is_err());
    }
}
