//! The text of each program, for a small and a large plan, for IPv4 and IPv6.

use super::*;

/// A plan for 1,000 connections/s to one IPv4 destination, on a host with the kernel's defaults and a pool of so many IPv4
/// addresses (at most 256), of which it has the first.
pub(crate) fn plan(sources: u32) -> Plan {
    let settings = settings();
    let flow = settings.assumed(1_000.0, false);
    let source = |number: u32| {
        let address = std::net::Ipv4Addr::from_bits(0x0a00_0001 + number).into();
        Source { address, is_here: number == 0 }
    };
    Plan {
        pool: (0..sources).map(source).collect(),
        destinations: vec![Destination::steady(IpAddr::from([10, 0, 1, 7]), 8080, flow)],
        flow,
        basis: Basis::Given,
        no_load: String::new(),
        settings,
        networks: Vec::new(),
        interface: Some("eth0".to_owned()),
        workers: None,
        version: None,
        descriptors: None,
        remarks: Vec::new(),
    }
}

/// The text with each comment on one line.
pub(crate) fn unwrapped(text: &str) -> String {
    text.replace("\n#          ", " ")
}

fn settings() -> Settings {
    let keys = ["ip_local_port_range", "ip_local_reserved_ports", "tcp_tw_reuse", "tcp_timestamps"];
    Settings {
        range: PortRange::default(),
        capacity: 28_232,
        reuse: Reuse { setting: 2, delay_ms: None, timestamps: true },
        hz: Some(250),
        keys: keys.map(|key| format!("net.ipv4.{key}")).into(),
        listening: BTreeSet::from([22, 15_432]),
        has_node_ports: false,
    }
}

/// A plan with what a host and its programs can have: both families, two ports, a measured load, a version.
fn large() -> Plan {
    let here = |text: &str| Source { address: text.parse().unwrap(), is_here: true };
    let mut plan = plan(1);
    plan.pool = ["10.0.0.5", "10.0.0.6", "10.0.0.7", "fd00::5", "fd00::6"].map(here).to_vec();
    let flow = |rate| Flow { rate, open_s: 0.4, closes_first: 0.9, time_wait_s: 62.048 };
    let to = |text: &str, port, rate| Destination {
        sources: 2,
        peak: rate,
        ..Destination::steady(text.parse().unwrap(), port, flow(rate))
    };
    plan.destinations = vec![
        to("10.0.1.7", 8080, 700.0),
        to("10.0.1.8", 8080, 500.0),
        to("8.8.4.4", 443, 1.5),
        to("fd01::7", 8080, 100.0),
    ];
    plan.basis = Basis::Measured { seconds: 5.0 };
    plan.networks =
        ["10.0.1.0/24", "8.8.4.4/32", "fd01::/64"].map(|it| it.parse().unwrap()).to_vec();
    plan.workers = Some(4);
    plan.descriptors = Some(65_536);
    plan.settings.range.reserved = vec![40_000..=40_001];
    plan.settings.capacity = 28_230;
    plan.settings.listening.insert(40_003);
    plan.settings.reuse.timestamps = false;
    plan.settings.has_node_ports = true;
    plan.remarks = vec!["the load is that of network namespace edge".to_owned()];
    plan
}

const ALL: [Program; 6] = [
    Program::Nginx,
    Program::Haproxy,
    Program::Envoy,
    Program::Squid,
    Program::Sysctl,
    Program::Ip,
];

#[test]
fn a_small_plan_reads_well() {
    for program in ALL {
        insta::assert_snapshot!(format!("small_{}", program.name()), text(program, &plan(3)));
    }
}

#[test]
fn a_large_plan_reads_well() {
    for program in ALL {
        insta::assert_snapshot!(format!("large_{}", program.name()), text(program, &large()));
    }
}

#[test]
fn a_plan_of_ipv6_without_a_load_reads_well() {
    let mut plan = large();
    plan.basis = Basis::Nothing;
    plan.no_load = "none was seen in 5 s".to_owned();
    plan.destinations = vec![Destination::steady(
        "fd01::7".parse().unwrap(),
        8080,
        plan.settings.assumed(0.0, false),
    )];
    plan.networks = vec!["fd01::7/128".parse().unwrap()];
    plan.pool.iter_mut().filter(|it| it.address.is_ipv6()).for_each(|it| it.is_here = false);
    plan.pool.retain(|it| it.address.is_ipv6());
    for program in ALL {
        insta::assert_snapshot!(format!("ipv6_{}", program.name()), text(program, &plan));
    }
}

#[test]
fn without_a_pool_no_source_is_named() {
    for program in ALL {
        let text = text(program, &plan(0));
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        assert!(lines.clone().all(|line| !line.contains("10.0.0.")), "{text}");
        let nothing = matches!(program, Program::Envoy | Program::Squid | Program::Ip);
        assert_eq!(lines.count() == 1, nothing, "{text}");
    }
}

#[test]
fn since_nginx_1_29_7_only_what_differs_from_its_defaults_is_printed() {
    let mut plan = plan(3);
    plan.version = Some(Version(1, 29, 7));
    let with = text(Program::Nginx, &plan);
    for gone in ["proxy_http_version", "proxy_set_header"] {
        assert!(!with.contains(gone), "{with}");
    }
    assert!(with.contains("    keepalive 128;\n") && with.contains("upstream app {\n"), "{with}");
    plan.destinations[0].peak = 32.0;
    assert!(!text(Program::Nginx, &plan).contains("keepalive 32;"));
    plan.version = Some(Version(1, 29, 6));
    let before = text(Program::Nginx, &plan);
    assert!(
        before.contains("    keepalive 32;\n") && before.contains("proxy_http_version 1.1;\n"),
        "{before}"
    );
}

#[test]
fn requests_of_a_connection_are_set_where_the_default_is_a_hundred() {
    let set = |version| {
        let plan = Plan { version, ..plan(1) };
        text(Program::Nginx, &plan).contains("    keepalive_requests 1000;\n")
    };
    let versions = [Version(1, 14, 2), Version(1, 15, 3), Version(1, 19, 9), Version(1, 19, 10)];
    assert_eq!(versions.map(|version| set(Some(version))), [false, true, true, false]);
    assert!(!set(None));
}

#[test]
fn numbers_are_those_of_the_flow() {
    let head = unwrapped(&text(Program::Ip, &plan(4)));
    // 1,000 connections/s that hold their ports for 62.148 s, of 45 % of 28,232 ports.
    assert!(head.contains("each held for 62.15 s: at most 454 connections/s"), "{head}");
    assert!(head.contains("fast up to 204/s"), "{head}");
    assert!(head.contains("5 addresses, or 1 if each connection carries 5 requests"), "{head}");
    assert!(head.contains("112,928 ports from 4 addresses, now 28,232 from 1 address"), "{head}");
    let reused = Settings { reuse: Reuse { setting: 1, ..settings().reuse }, ..settings() };
    assert_eq!((reused.time_wait_s(false), settings().time_wait_s(true)), (1.0, 1.0));
    assert!(settings().time_wait_s(false) > 62.0);
    // Without timestamps, tcp_tw_reuse has no effect.
    let ineffective = Reuse { setting: 1, timestamps: false, ..settings().reuse };
    assert!(Settings { reuse: ineffective, ..settings() }.time_wait_s(false) > 62.0);
}

#[test]
fn haproxy_needs_no_ports_for_time_waits_in_mode_http() {
    let assumed = unwrapped(&text(Program::Haproxy, &plan(4)));
    assert!(assumed.contains("each held for 0.1 s: at most 282,320 connections/s"), "{assumed}");
    assert!(assumed.contains("1 address is enough"), "{assumed}");
    // In mode tcp, it may close first.
    assert!(assumed.contains("mode tcp, to one destination from 454 connections/s"), "{assumed}");
    let measured = unwrapped(&text(Program::Haproxy, &large()));
    assert!(measured.contains("this host closes 90 % first"), "{measured}");
}

#[test]
fn a_pool_that_is_no_larger_than_what_is_used_gains_nothing() {
    let mut plan = plan(2);
    plan.destinations[0].sources = 2;
    let text = unwrapped(&text(Program::Squid, &plan));
    assert!(
        text.contains("gain   none: connections to one destination come from 2 addresses already"),
        "{text}"
    );
}

#[test]
fn comments_fit_a_terminal() {
    for program in ALL {
        for plan in [plan(0), plan(200), large()] {
            let text = text(program, &plan);
            // A command stays on its line.
            let comment = |line: &&str| line.starts_with('#') && !line.contains(" sysctl -w ");
            let long = text.lines().filter(comment).find(|line| line.chars().count() > 100);
            assert_eq!(long, None, "{text}");
            assert!(text.is_ascii(), "{text}");
        }
    }
}
