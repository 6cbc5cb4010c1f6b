//! Tests the reader against btfparse on the running kernel, and with damaged input.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use btfparse::{Offset, Readable, TypeInformation};
use proptest::prelude::*;

use super::*;

static KERNEL: LazyLock<Vec<u8>> = LazyLock::new(|| fs::read(VMLINUX).unwrap());

struct Bytes<'a>(&'a [u8]);

impl Readable for Bytes<'_> {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> btfparse::Result<()> {
        let start = usize::try_from(offset).unwrap();
        buffer.copy_from_slice(&self.0[start..start + buffer.len()]);
        Ok(())
    }
}

#[test]
fn it_finds_fields_where_another_reader_finds_them() {
    let btf = Btf::parse(KERNEL.clone()).unwrap();
    let other = TypeInformation::new(&Bytes(&KERNEL)).unwrap();
    for (strukt, path) in [
        ("sock", "__sk_common.skc_daddr"),
        ("sock", "__sk_common.skc_cookie"),
        ("sock_common", "skc_num"),
        ("sock_common", "skc_v6_rcv_saddr"),
        ("sock_common", "skc_net"),
        ("sock", "sk_err"),
        ("sock", "sk_protocol"),
        ("sock", "sk_userlocks"),
        ("sock", "sk_cgrp_data.cgroup"),
        ("inet_sock", "inet_sport"),
        ("inet_sock", "inet_saddr"),
        ("net", "ns.inum"),
        ("timer_list", "function"),
        ("inet_timewait_sock", "tw_timer"),
        ("inet_timewait_sock", "__tw_common.skc_dport"),
        ("tcp_sock", "srtt_us"),
    ] {
        let found = btf.member(strukt, path).unwrap();
        let (_, expected) = other.offset_of(other.id_of(strukt).unwrap(), path).unwrap();
        match expected {
            Offset::ByteOffset(byte) => {
                assert_eq!((found.byte_offset, found.bit_size), (byte, None), "{strukt}.{path}");
            }
            Offset::BitOffsetAndSize(bit, size) => {
                assert_eq!(
                    (found.bit_offset, found.bit_size),
                    (bit, Some(size)),
                    "{strukt}.{path}"
                );
            }
        }
    }
}

#[test]
fn it_knows_functions_and_their_parameters() {
    let btf = Btf::parse(KERNEL.clone()).unwrap();
    assert_eq!(btf.parameter_count("tcp_set_state"), Some(2));
    assert_eq!(btf.parameter_count("inet_hash_connect"), Some(2));
    assert!(btf.has_function("inet_csk_get_port"));
    assert!(!btf.has_function("inet_csk_get_por"));
    assert!(!btf.has_function("no_such_function"));
}

#[test]
fn what_does_not_exist_is_named() {
    let btf = Btf::parse(KERNEL.clone()).unwrap();
    assert!(
        matches!(btf.member("no_such", "a"), Err(BtfError::NoStruct(name)) if name == "no_such")
    );
    assert!(matches!(btf.member("sock", "nothing"), Err(BtfError::NoMember { .. })));
    assert!(matches!(btf.member("sock", "sk_err.inside"), Err(BtfError::NoMember { .. })));
    assert!(matches!(btf.member("sock", ""), Err(BtfError::NoMember { .. })));
}

/// Builds a BTF file.
#[derive(Default)]
struct Builder {
    types: Vec<u8>,
    strings: Vec<u8>,
}

impl Builder {
    fn string(&mut self, text: &str) -> u32 {
        if self.strings.is_empty() {
            self.strings.push(0);
        }
        let at = u32::try_from(self.strings.len()).unwrap();
        self.strings.extend_from_slice(text.as_bytes());
        self.strings.push(0);
        at
    }

    fn words(&mut self, words: &[u32]) {
        self.types.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    }

    fn build(&self) -> Vec<u8> {
        let (types, strings) = (self.types.len(), self.strings.len());
        let sizes = [24, 0, types, types, strings].map(|n| u32::try_from(n).unwrap().to_le_bytes());
        [&[0x9f, 0xeb, 1, 0][..], &sizes.concat(), &self.types, &self.strings].concat()
    }
}

const STRUCT: u32 = 4 << 24;
const KIND_FLAG: u32 = 1 << 31;

#[test]
fn bitfields_of_both_encodings_are_understood() {
    let mut file = Builder::default();
    let [new, old, field] = ["new", "old", "field"].map(|name| file.string(name));
    file.words(&[0, 1 << 24, 4, 32]); // 1: u32
    file.words(&[0, 1 << 24, 4, 4 | 3 << 16]); // 2: four bits of an u32, from bit 3
    file.words(&[new, STRUCT | KIND_FLAG | 1, 4, field, 1, (4 << 24) + 12]);
    file.words(&[old, STRUCT | 1, 4, field, 2, 16]);
    let btf = Btf::parse(file.build()).unwrap();
    let member =
        |bit_offset, byte_offset| Member { bit_offset, bit_size: Some(4), byte_offset, size: 4 };
    assert_eq!(btf.member("new", "field").unwrap(), member(12, 1));
    assert_eq!(btf.member("old", "field").unwrap(), member(19, 2));
}

#[test]
fn types_that_contain_each_other_end_in_an_error() {
    let mut file = Builder::default();
    let name = file.string("loop");
    // 1: two anonymous members of its own type; 2: a typedef of itself, used by 3.
    file.words(&[name, STRUCT | 2, 8, 0, 1, 0, 0, 1, 0]);
    file.words(&[0, 8 << 24, 2]);
    let other = file.string("alias");
    file.words(&[other, STRUCT | 1, 8, 0, 2, 0]);
    // 4..=33: a chain in which each has two anonymous members of the next: 2^30 ways down.
    let chain = file.string("chain");
    for id in 4..34 {
        file.words(&[if id == 4 { chain } else { 0 }, STRUCT | 2, 8, 0, id + 1, 0, 0, id + 1, 0]);
    }
    file.words(&[0, STRUCT, 8]);
    let btf = Btf::parse(file.build()).unwrap();
    let begun = Instant::now();
    for strukt in ["loop", "alias", "chain"] {
        assert!(matches!(btf.member(strukt, "x"), Err(BtfError::TooDeep { .. })), "{strukt}");
    }
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[test]
fn every_truncation_of_a_small_file_is_an_error() {
    let mut file = Builder::default();
    let name = file.string("some");
    file.words(&[name, STRUCT | 1, 8, name, 1, 0]);
    let whole = file.build();
    assert!(Btf::parse(whole.clone()).is_ok());
    for len in 0..whole.len() {
        assert!(Btf::parse(whole[..len].to_vec()).is_err(), "{len} bytes");
    }
}

fn ask_everything(bytes: Vec<u8>) {
    let Ok(btf) = Btf::parse(bytes) else { return };
    for (strukt, path) in [("sock", "__sk_common.skc_daddr"), ("net", "ns.inum"), ("", "")] {
        drop(btf.member(strukt, path));
    }
    btf.parameter_count("tcp_set_state");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn random_types_never_panic(words in prop::collection::vec(any::<u32>(), 0..200)) {
        let mut file = Builder::default();
        file.string("sock");
        file.words(&words);
        ask_everything(file.build());
    }

    #[test]
    fn random_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        ask_everything(bytes.clone());
        let magic = [0x9f, 0xeb, 1, 0, 24, 0, 0, 0];
        bytes.splice(0..magic.len().min(bytes.len()), magic);
        ask_everything(bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_damaged_kernel_file_never_panics_and_takes_bounded_time(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8_u8), 1..400),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = KERNEL.clone();
        for (place, bit) in flips {
            let place = place.index(bytes.len());
            bytes[place] ^= 1 << bit;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let begun = Instant::now();
        ask_everything(bytes);
        prop_assert!(begun.elapsed() < Duration::from_secs(2));
    }
}
