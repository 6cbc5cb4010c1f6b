use super::*;

const GIB: u64 = 1 << 30;

/// A host of this much memory, of which half is free, with few sockets.
fn host(memory: u64, time_waits: u64) -> Facts {
    let memory = Memory { total: Some(memory), available: Some(memory / 2), limit: None };
    Facts { sockets: 1000, time_waits, range: 28_232, memory }
}

fn by_host(facts: &Facts) -> Chosen {
    choose(&RequestedSizes::default(), &Kept::default(), facts)
}

#[test]
fn a_small_host_does_not_pay_for_a_large_one() {
    let small = by_host(&host(GIB / 2, 2048));
    assert!(small.sizes.bytes() <= GIB / 2 / 16, "{}", small.text());
    // A destination that takes a whole range has room, and is no reason for a warning.
    assert!(small.sizes.conns >= 28_232 * 5 / 4, "{}", small.text());
    let usual = by_host(&host(24 * GIB, 131_072));
    assert_eq!((usual.sizes.conns, usual.sizes.tuples), (262_144, 65_536));
    assert!(usual.why.starts_with("tcp_max_tw_buckets (131072)"), "{}", usual.why);
    assert!(usual.sizes.bytes() > 2 * small.sizes.bytes());
}

#[test]
fn a_large_host_has_room_for_all_of_its_time_waits() {
    let large = by_host(&host(256 * GIB, 2_000_000));
    assert!(u64::from(large.sizes.conns) * 4 / 5 >= 2_000_000, "{}", large.text());
    let busy = Facts { sockets: 500_000, ..host(256 * GIB, 262_144) };
    let busy = by_host(&busy);
    assert!(busy.sizes.conns >= 2_000_000, "{}", busy.text());
    assert!(busy.why.starts_with("four times the 500000"), "{}", busy.why);
}

#[test]
fn memory_is_a_limit_and_says_so() {
    let tight = by_host(&host(2 * GIB, 2_000_000));
    assert!(tight.sizes.bytes() <= 2 * GIB / 16, "{}", tight.text());
    assert!(tight.why.ends_with("no more than 128 MiB of memory is for tables"), "{}", tight.why);
    // Memory that others use counts, and so does the limit of the cgroup.
    let mut facts = host(64 * GIB, 2_000_000);
    facts.memory.available = Some(GIB);
    assert!(by_host(&facts).sizes.bytes() <= GIB / 4);
    facts.memory.limit = Some(200 << 20);
    assert!(by_host(&facts).sizes.bytes() <= 50 << 20);
    // However little memory there is, the tables have their smallest size.
    facts.memory.limit = Some(1 << 20);
    let least = by_host(&facts);
    assert_eq!((least.sizes, least.sizes.bytes() > 1 << 18), (LEAST, true));
    assert!(least.why.contains("no more than 0 MiB"), "{}", least.why);
}

#[test]
fn requested_sizes_are_kept_and_those_of_a_rule_come_first() {
    let requested =
        RequestedSizes { conns: Some(1_000_000), binds: Some(64), ..RequestedSizes::default() };
    let chosen = choose(&requested, &Kept::default(), &host(GIB, 2048));
    assert_eq!((chosen.sizes.conns, chosen.sizes.binds), (1_000_000, 64));
    assert!(chosen.sizes.tuples < 250_000, "memory is a limit for the others");
    assert!(chosen.why.starts_with("as --max-conns says"), "{}", chosen.why);
    let kept = Kept { conns: Some(32), tuples: Some(16), binds: Some(48) };
    let chosen = choose(&requested, &kept, &host(GIB, 2048));
    let Sizes { conns, tuples, binds, .. } = chosen.sizes;
    assert_eq!((conns, tuples, binds), (32, 16, 48));
    assert_eq!(chosen.why, "as since the first start of the rule");
}

#[test]
fn nothing_known_is_no_reason_to_refuse() {
    let chosen = by_host(&Facts::default());
    assert_eq!(chosen.sizes, USUAL);
    let odd = Facts { sockets: u64::MAX, time_waits: u64::MAX, ..Facts::default() };
    assert_eq!(u64::from(by_host(&odd).sizes.conns), MOST_CONNS);
}

#[test]
fn the_settings_are_listed_by_what_they_take() {
    let sizes = Sizes { conns: 1024, tuples: 65_536, ..USUAL };
    let text = sizes.by_setting();
    assert!(text.starts_with("--max-tuples 65536: "), "{text}");
    assert!(text.contains(", --max-conns 1024: 1 MiB"), "{text}");
}

#[test]
fn requested_sizes_that_a_rule_ignores_are_listed() {
    let kept = Kept { conns: Some(32), tuples: Some(16), binds: None };
    assert_eq!(kept.ignored(&RequestedSizes::default()), None);
    let requested = RequestedSizes {
        conns: Some(32),
        tuples: Some(64),
        binds: Some(8),
        ..RequestedSizes::default()
    };
    let text = kept.ignored(&requested).unwrap();
    assert!(text.contains(": --max-tuples 64 (it has 16);"), "{text}");
}

#[test]
fn a_table_that_cannot_be_made_says_how_much_is_needed_and_what_makes_it_less() {
    let error = io::Error::from_raw_os_error(libc::ENOMEM);
    let text = not_made("CONNS", &error, &USUAL, (16 << 20, false)).unwrap();
    for word in [
        "CONNS: cannot allocate memory",
        " MiB of kernel memory (--max-tuples 32768: ",
        "memory.max",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert!(text.contains("ring buffer 16 MiB (--ring-size)"), "{text}");
    let error = io::Error::from_raw_os_error(libc::EPERM);
    assert!(not_made("CONNS", &error, &USUAL, (0, true)).unwrap().contains("RLIMIT_MEMLOCK"));
    // On other kernels that limit is not the reason.
    let text = not_made("CONNS", &error, &USUAL, (0, false)).unwrap();
    assert!(text.contains("seccomp") && !text.contains("MEMLOCK"), "{text}");
    let other = io::Error::from_raw_os_error(libc::EMFILE);
    assert_eq!(not_made("CONNS", &other, &USUAL, (0, true)), None);
}
