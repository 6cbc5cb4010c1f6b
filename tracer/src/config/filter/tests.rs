use proptest::prelude::*;

use super::*;

fn spec(args: FilterArgs) -> FilterSpec {
    FilterSpec::try_from(&args).unwrap()
}

fn networks(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn addr(address: IpAddr) -> Addr {
    match address {
        IpAddr::V4(v4) => Addr::v4(v4.octets()),
        IpAddr::V6(v6) => Addr(v6.octets()),
    }
}

fn key(source: &str, destination: &str, port: u16) -> TupleKey {
    TupleKey {
        source: addr(source.parse().unwrap()),
        destination: addr(destination.parse().unwrap()),
        netns: 7,
        destination_port: port,
        zero: 0,
    }
}

#[test]
fn an_empty_filter_is_not_active_and_lets_everything_through() {
    let filter = FilterSpec::default().to_kernel(&[], &[]);
    assert_eq!(filter, Filter::default());
    assert!(RowFilter(&filter).matches(&key("10.0.0.1", "10.0.0.2", 80)));
    assert!(RowFilter(&filter).matches_owner(&Who::default(), None, &[]));
}

#[test]
fn a_filter_reads_as_the_options_that_make_it() {
    assert_eq!(FilterSpec::default().to_string(), "");
    let spec = spec(FilterArgs {
        pid: vec![7],
        comm: vec!["nginx".into()],
        netns: vec![NetnsRef::Name("blue".into()), NetnsRef::Inode(42)],
        dst: networks(&["10.0.0.0/8"]),
        dport: vec![Ports { low: 80, high: 80 }, Ports { low: 8000, high: 8099 }],
        ..FilterArgs::default()
    });
    assert_eq!(
        spec.to_string(),
        "--pid 7 --comm nginx --netns blue --netns 42 --dst 10.0.0.0/8 --dport 80 --dport 8000-8099"
    );
    let ipv6 = FilterSpec { family: 6, ..FilterSpec::default() };
    assert_eq!(ipv6.to_string(), "-6");
}

#[test]
fn the_kernel_form_holds_every_value_and_its_count() {
    let spec = spec(FilterArgs {
        pid: vec![1, 2],
        comm: vec!["nginx".into()],
        src: networks(&["10.0.0.0/8"]),
        dport: vec![Ports { low: 80, high: 90 }],
        ..FilterArgs::default()
    });
    let filter = spec.to_kernel(&[Cgroup { id: 5, level: 2, zero: 0 }], &[7, 8, 9]);
    assert_eq!((filter.pids, filter.pid_count), ([1, 2, 0, 0], 2));
    assert_eq!((&filter.comms[0], filter.comm_count), (b"nginx\0\0\0\0\0\0\0\0\0\0\0", 1));
    assert_eq!((filter.netns, filter.netns_count), ([7, 8, 9, 0], 3));
    assert_eq!((filter.cgroups[0].id, filter.cgroup_count), (5, 1));
    assert_eq!(filter.sources[0].network, Addr::v4([10, 0, 0, 0]));
    let mask = Addr([255; 13].into_iter().chain([0; 3]).collect::<Vec<_>>().try_into().unwrap());
    assert_eq!((filter.sources[0].mask, filter.source_count), (mask, 1));
    assert_eq!((filter.destination_ports[0].high, filter.destination_port_count), (90, 1));
    assert_eq!((filter.family, filter.active), (4, 1));
}

#[test]
fn values_are_alternatives_and_options_must_all_match() {
    let spec = spec(FilterArgs {
        dst: networks(&["10.1.0.0/16", "10.2.0.0/16"]),
        dport: vec![Ports { low: 80, high: 89 }],
        ..FilterArgs::default()
    });
    let filter = spec.to_kernel(&[], &[]);
    let rows = RowFilter(&filter);
    assert!(rows.matches(&key("10.0.0.1", "10.1.0.2", 80)));
    assert!(rows.matches(&key("10.0.0.1", "10.2.0.2", 89)));
    assert!(!rows.matches(&key("10.0.0.1", "10.3.0.2", 80)));
    assert!(!rows.matches(&key("10.0.0.1", "10.1.0.2", 90)));
}

#[test]
fn the_whole_of_ipv6_does_not_mean_ipv4() {
    let filter =
        spec(FilterArgs { dst: networks(&["::/0"]), ..FilterArgs::default() }).to_kernel(&[], &[]);
    assert!(RowFilter(&filter).matches(&key("2001:db8::1", "2001:db8::2", 80)));
    assert!(!RowFilter(&filter).matches(&key("10.0.0.1", "10.0.0.2", 80)));
}

#[test]
fn contradictions_are_refused() {
    let refused = [
        FilterArgs { ipv4: true, src: networks(&["2001:db8::/32"]), ..FilterArgs::default() },
        FilterArgs { ipv6: true, dst: networks(&["10.0.0.0/8"]), ..FilterArgs::default() },
        FilterArgs {
            src: networks(&["10.0.0.1/32"]),
            dst: networks(&["2001:db8::1/128"]),
            ..FilterArgs::default()
        },
        FilterArgs { dst: networks(&["::/0", "10.0.0.0/8"]), ..FilterArgs::default() },
        FilterArgs { pid: vec![1, 2, 3, 4, 5], ..FilterArgs::default() },
    ];
    let errors: Vec<_> =
        refused.iter().map(|args| FilterSpec::try_from(args).unwrap_err().to_string()).collect();
    insta::assert_snapshot!(errors.join("\n"));
}

#[test]
fn the_owner_is_the_newest_caller_or_anything_below_the_cgroup() {
    let spec = spec(FilterArgs { comm: vec!["nginx".into()], ..FilterArgs::default() });
    let filter = spec.to_kernel(&[Cgroup { id: 5, level: 2, zero: 0 }], &[]);
    let who = Who { comm: padded("nginx"), ..Who::default() };
    assert!(RowFilter(&filter).matches_owner(&who, None, &[9, 5, 1]));
    assert!(!RowFilter(&filter).matches_owner(&who, None, &[9, 1]));
    let other = Who { comm: padded("nginx2"), ..who };
    assert!(!RowFilter(&filter).matches_owner(&other, None, &[5]));
    // A thread with another name, of a process called nginx.
    assert!(RowFilter(&filter).matches_owner(&other, Some(padded("nginx")), &[5]));
    assert!(!RowFilter(&filter).matches_owner(&other, Some(padded("java")), &[5]));
}

proptest! {
    #[test]
    fn a_prefix_holds_exactly_the_addresses_that_ipnet_says(
        address: u32, other: u32, length in 0_u8..=32,
    ) {
        let network = IpNet::new(IpAddr::V4(address.into()), length).unwrap().trunc();
        let filter = spec(FilterArgs { src: vec![network], ..FilterArgs::default() })
            .to_kernel(&[], &[]);
        for candidate in [address, other, address ^ 1, address ^ (1 << 31)] {
            let candidate = IpAddr::V4(candidate.into());
            let key = TupleKey { source: addr(candidate), ..key("10.0.0.1", "10.0.0.2", 80) };
            prop_assert_eq!(RowFilter(&filter).matches(&key), network.contains(&candidate));
        }
    }

    #[test]
    fn an_ipv6_prefix_holds_exactly_the_addresses_that_ipnet_says(
        address: u128, other: u128, length in 0_u8..=128,
    ) {
        let network = IpNet::new(IpAddr::V6(address.into()), length).unwrap().trunc();
        let filter = spec(FilterArgs { dst: vec![network], ..FilterArgs::default() })
            .to_kernel(&[], &[]);
        for candidate in [address, other, address ^ 1, address ^ (1 << 127)] {
            let v6 = std::net::Ipv6Addr::from(candidate);
            prop_assume!(v6.to_ipv4_mapped().is_none());
            let key = TupleKey { destination: addr(v6.into()), ..key("::1", "::1", 80) };
            prop_assert_eq!(RowFilter(&filter).matches(&key), network.contains(&IpAddr::V6(v6)));
        }
    }
}
