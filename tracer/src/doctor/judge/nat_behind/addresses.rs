//! Which addresses are private, and which are global, as far as that shows whether a NAT is on the way.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether the address has no meaning in the internet, so that a NAT must translate it: RFC 1918, RFC 6598 (100.64.0.0/10), and
/// unique local addresses of IPv6 (fc00::/7).
pub(super) fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_private() || is_shared(address),
        IpAddr::V6(address) => address.is_unique_local(),
    }
}

/// Whether the address is one of the internet: of IPv4 (v4-mapped ones included), none that is private, shared (100.64.0.0/10),
/// loopback, link-local, multicast or reserved; of IPv6, 2000::/3 and the addresses of a NAT64.
pub fn is_global(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_global_v4(address),
        IpAddr::V6(address) => is_global_v6(address),
    }
}

fn is_global_v4(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    // 0.0.0.0/8 is this network, 198.18.0.0/15 is for measurements inside of networks, and 240.0.0.0/4 is reserved.
    let reserved = first == 0 || first >= 240 || (first == 198 && second & 0xfe == 18);
    let local = address.is_loopback() || address.is_link_local() || address.is_multicast();
    !(reserved || local || address.is_private() || is_shared(address))
}

/// 2000::/3, and 64:ff9b::/96, which has the IPv4 addresses behind a NAT64 (RFC 6052).
fn is_global_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    segments[0] & 0xe000 == 0x2000 || segments[..6] == [0x64, 0xff9b, 0, 0, 0, 0]
}

fn is_shared(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    first == 100 && second & 0xc0 == 64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_private_or_global_or_neither() {
        let private = [
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "100.127.255.255",
            "fd00::1",
            "::ffff:10.0.0.1",
        ];
        let global = [
            "8.8.8.8",
            "172.32.0.1",
            "100.63.0.1",
            "100.128.0.1",
            "198.17.0.1",
            "198.20.0.1",
            "2001:db8::1",
            "64:ff9b::808:808",
            "::ffff:8.8.8.8",
        ];
        let neither = [
            "127.0.0.1",
            "0.1.2.3",
            "169.254.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "224.0.0.1",
            "239.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::1",
            "fe80::1",
            "ff02::1",
            "::",
            "64:ff9c::1",
            "64:ff9b:1::808:808",
        ];
        let kind = |address: &str| {
            let address: IpAddr = address.parse().unwrap();
            (is_private(address), is_global(address))
        };
        for address in private {
            assert_eq!(kind(address), (true, false), "{address}");
        }
        for address in global {
            assert_eq!(kind(address), (false, true), "{address}");
        }
        for address in neither {
            assert_eq!(kind(address), (false, false), "{address}");
        }
    }
}
