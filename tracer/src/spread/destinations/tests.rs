use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

fn targets(texts: &[&str]) -> Result<Vec<Target>, TargetError> {
    parse(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
}

fn pool(addresses: &[&str]) -> Vec<PoolAddress> {
    let address = |text: &&str| to_addr(text.parse::<IpAddr>().unwrap());
    addresses.iter().map(|text| PoolAddress { address: address(text), weight: 1 }).collect()
}

fn matches(text: &str, address: &str, port: u16) -> bool {
    let Destination { prefix, ports, .. } = targets(&[text]).unwrap()[0].destination;
    let address = bits(to_addr(address.parse().unwrap()));
    address & bits(prefix.mask) == bits(prefix.network) && (ports.low..=ports.high).contains(&port)
}

#[test]
fn a_destination_is_a_network_and_ports() {
    for (text, address, port, expected) in [
        ("10.0.0.0/8", "10.255.0.1", 1, true),
        ("10.0.0.0/8", "11.0.0.1", 1, false),
        ("10.0.0.0/8:8080", "10.1.1.1", 8080, true),
        ("10.0.0.0/8:8080", "10.1.1.1", 8081, false),
        ("10.1.2.3:80-90", "10.1.2.3", 90, true),
        ("10.1.2.3:80-90", "10.1.2.4", 90, false),
        ("0.0.0.0/0", "1.2.3.4", 65_535, true),
        ("0.0.0.0/0", "fd00::1", 1, false),
        ("*:443", "fd00::1", 443, true),
        ("*:443", "10.0.0.1", 443, true),
        ("*:443", "10.0.0.1", 80, false),
        ("*", "::", 1, true),
        ("fd00::/64", "fd00::1:2", 1, true),
        ("fd00::1", "fd00::2", 1, false),
        ("[fd00::/64]:443", "fd00::9", 443, true),
        ("[fd00::/64]:443", "fd00:0:0:1::9", 443, false),
        ("[fd00::1]", "fd00::1", 9, true),
        ("::ffff:10.1.0.0/112", "10.1.2.3", 9, true),
        ("2000::/3", "10.1.2.3", 9, false),
    ] {
        assert_eq!(matches(text, address, port), expected, "{text} {address} {port}");
    }
}

#[test]
fn every_mistake_is_named_with_what_is_expected() {
    let mut errors = Vec::new();
    for text in [
        "",
        "upstream",
        "upstream:80",
        "10.0.0.0/33",
        "10.1.2.3/8",
        "10.0.0.1:",
        "10.0.0.1:0",
        "10.0.0.1:90-80",
        "10.0.0.1:http",
        "fd00::/64:443",
        "[fd00::/64",
        "[fd00::/64]443",
        "[10.0.0.0/8]:80",
        "fd00::1/64",
        "::/0",
        "::/0:443",
        "*:",
        "*80",
    ] {
        errors.push(targets(&[text]).unwrap_err().to_string());
    }
    errors.push(targets(&["10.0.0.1"; 17]).unwrap_err().to_string());
    let both = pool(&["10.0.0.5", "10.0.0.6", "fd00::5"]);
    for (text, pool) in [
        ("10.0.0.5:80", &both),
        ("10.0.0.4/30", &both),
        ("fd00::5", &both),
        ("10.0.0.0/8", &pool(&["fd00::5"])),
        ("fd00::/8", &pool(&["10.0.0.5"])),
    ] {
        errors.push(check(&targets(&[text]).unwrap(), pool).unwrap_err().to_string());
    }
    insta::assert_snapshot!(errors.join("\n"));
}

#[test]
fn the_pool_may_lie_in_a_wider_destination() {
    let both = pool(&["10.0.0.5", "10.0.0.6", "fd00::5"]);
    for text in ["10.0.0.0/8", "10.0.0.0/29", "10.0.0.6/31", "*", "0.0.0.0/0", "fd00::/64"] {
        assert_eq!(check(&targets(&[text]).unwrap(), &both), Ok(()), "{text}");
    }
    assert_eq!(check(&targets(&["*:80"]).unwrap(), &pool(&["fd00::5"])), Ok(()));
    assert_eq!(check(&targets(&["10.0.0.1"; 16]).unwrap(), &both), Ok(()));
}

proptest! {
    #[test]
    fn any_text_is_a_value_or_refused(text in "[\\[\\]0-9a-f:./*-]{0,40}|\\PC{0,20}") {
        if let Ok(targets) = parse(&[text]) {
            drop(check(&targets, &pool(&["10.0.0.5", "fd00::5"])));
        }
    }
}
