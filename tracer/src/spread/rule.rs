//! From a pool and what a namespace has to give, to what the hooks go by. Pure.

use std::net::IpAddr;

use tracer_common::{
    Rule,
    filter::{Ports, Prefix},
    spread::{DESTINATIONS_MAX, Destination, POOL_MAX, Side},
};

use super::pool::{PoolAddress, addr};
use crate::capacity::PortRange;

/// What a rule is made of.
#[derive(Clone, Debug)]
pub struct Inputs<'a> {
    pub netns: u32,
    /// 0: not known.
    pub netns_cookie: u64,
    /// [`tracer_common::spread::rule_flag`] bits.
    pub flags: u32,
    /// Addresses that can be used now.
    pub pool: &'a [PoolAddress],
    pub destinations: &'a [Destination],
    pub range: &'a PortRange,
    /// Ports of the range that a tuple can hold.
    pub capacity: u32,
    /// One decision in so many is told, a power of two; 0: none.
    pub sample: u32,
    /// Makes the order of our ports one of many.
    pub random: u64,
}

/// The rule. More than [`POOL_MAX`] addresses of a family or [`DESTINATIONS_MAX`] destinations are cut
/// off: both were checked before.
pub fn build(inputs: &Inputs<'_>) -> Rule {
    let (low, high) = (inputs.range.low, inputs.range.high);
    // `__inet_hash_connect` (net/ipv4/inet_hashtables.c) makes the number of ports even, begins with
    // those of the parity of the first one, and goes on with the others.
    let half = (u32::from(high) + 1 - u32::from(low)) / 2;
    let mut rule = Rule {
        netns_cookie: inputs.netns_cookie,
        netns: inputs.netns,
        flags: inputs.flags,
        capacity: inputs.capacity,
        other_low: low.saturating_add(1),
        half,
        step: step(half, inputs.random),
        offset: u32::try_from(inputs.random >> 32).unwrap_or(0),
        sample: inputs.sample,
        v4: side(inputs.pool, IpAddr::is_ipv4),
        v6: side(inputs.pool, IpAddr::is_ipv6),
        ..Rule::default()
    };
    for (to, from) in rule.destinations.iter_mut().zip(inputs.destinations) {
        *to = *from;
        rule.destination_count += 1;
    }
    rule
}

/// A number near the golden section of `half`, without a common divisor, so that every candidate
/// comes once in a round, and neighbours far apart.
fn step(half: u32, random: u64) -> u32 {
    if half < 2 {
        return 1;
    }
    let spread = u64::from(half / 8).max(1);
    let start = u64::from(half) * 618 / 1000 + random % spread;
    let candidates = (0..half).map(|more| {
        let number = (start + u64::from(more)) % u64::from(half);
        u32::try_from(number).unwrap_or(1)
    });
    candidates.filter(|step| *step > 0).find(|step| coprime(*step, half)).unwrap_or(1)
}

fn coprime(one: u32, other: u32) -> bool {
    let (mut a, mut b) = (one, other);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a == 1
}

fn side(pool: &[PoolAddress], of_family: impl Fn(&IpAddr) -> bool) -> Side {
    let mut side = Side::default();
    let members: Vec<_> = pool.iter().filter(|it| of_family(&it.address)).take(POOL_MAX).collect();
    for (index, member) in members.iter().enumerate() {
        side.addresses[index] = addr(member.address);
        side.weights[index] = member.weight;
        side.count += 1;
    }
    side.loopback = u32::from(members.first().is_some_and(|it| it.address.is_loopback()));
    let weights: Vec<u32> = members.iter().map(|it| u32::from(it.weight)).collect();
    for (slot, index) in side.slots.iter_mut().zip(slots(&weights)) {
        *slot = index;
        side.slot_count += 1;
    }
    side
}

/// At most [`POOL_MAX`] slots, one at least for each index, the rest by weight.
fn slots(weights: &[u32]) -> Vec<u8> {
    let total: u32 = weights.iter().sum();
    let room = u32::try_from(POOL_MAX).unwrap_or(0);
    let mut slots = Vec::new();
    for (index, weight) in weights.iter().enumerate() {
        let fair = if total <= room {
            *weight
        } else {
            let spare = room - u32::try_from(weights.len()).unwrap_or(room);
            1 + spare * weight / total
        };
        let index = u8::try_from(index).unwrap_or(0);
        slots.extend(std::iter::repeat_n(index, fair as usize));
    }
    slots
}

/// `--to`: `NETWORK`, `NETWORK:PORTS`, `[NETWORK]:PORTS` for IPv6, `*:PORTS`.
pub fn destination(text: &str) -> Result<Vec<Destination>, String> {
    let expected = || {
        format!(
            "{text:?}: expected ADDRESS[/LENGTH][:PORT[-HIGH]], such as 10.0.0.0/8:443, \
             [fd00::/8]:443 or *:8000-8999"
        )
    };
    let whole = (1, u16::MAX);
    let (network, ports) = if let Some(rest) = text.strip_prefix('[') {
        let (network, rest) = rest.split_once(']').ok_or_else(expected)?;
        match rest.strip_prefix(':') {
            Some(range) => (network, ports(range).ok_or_else(expected)?),
            None if rest.is_empty() => (network, whole),
            None => return Err(expected()),
        }
    } else if text.matches(':').count() == 1 {
        let (network, range) = text.split_once(':').ok_or_else(expected)?;
        (network, ports(range).ok_or_else(expected)?)
    } else {
        (text, whole)
    };
    if ports.0 > ports.1 {
        return Err(format!(
            "{text:?}: the ports are written backwards; write {}-{}",
            ports.1, ports.0
        ));
    }
    let ports = Ports { low: ports.0, high: ports.1 };
    let networks = if network == "*" { vec!["0.0.0.0/0", "::/0"] } else { vec![network] };
    networks
        .into_iter()
        .map(|network| {
            let prefix = prefix(network).ok_or_else(expected)??;
            Ok(Destination { prefix, ports, zero: 0 })
        })
        .collect()
}

fn ports(text: &str) -> Option<(u16, u16)> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let (low, high) = (low.parse().ok()?, high.parse().ok()?);
    (low > 0 && high > 0).then_some((low, high))
}

fn prefix(text: &str) -> Option<Result<Prefix, String>> {
    let network: ipnet::IpNet = match text.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().into(),
        Err(_) => text.parse().ok()?,
    };
    if network.trunc() != network {
        return Some(Err(format!(
            "{text} is an address in a network; write {}, or {} for it alone",
            network.trunc(),
            network.addr()
        )));
    }
    let length = network.prefix_len() + if network.addr().is_ipv4() { 96 } else { 0 };
    let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
    Some(Ok(Prefix {
        network: addr(network.addr()),
        mask: tracer_common::Addr(mask.to_be_bytes()),
    }))
}

/// Whether a destination is an address of the pool: a connection from it to itself.
pub fn is_in_pool(destination: &Destination, pool: &[PoolAddress]) -> bool {
    let whole = destination.prefix.mask.0 == [0xff; 16];
    whole && pool.iter().any(|it| addr(it.address) == destination.prefix.network)
}

/// Whether a rule takes so many destinations.
pub fn fits(destinations: usize) -> bool {
    destinations <= DESTINATIONS_MAX
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use tracer_common::spread::candidate;

    use super::*;

    fn rule(low: u16, high: u16, weights: &[u16]) -> Rule {
        let pool: Vec<_> = (1_u8..)
            .zip(weights)
            .map(|(last, weight)| PoolAddress {
                address: IpAddr::from([10, 0, 0, last]),
                weight: *weight,
            })
            .collect();
        build(&Inputs {
            netns: 1,
            netns_cookie: 0,
            flags: 0,
            pool: &pool,
            destinations: &[],
            range: &PortRange { low, high, reserved: Vec::new() },
            capacity: 1000,
            sample: 0,
            random: 0x1234_5678_9abc_def0,
        })
    }

    #[test]
    fn our_ports_are_those_that_the_kernel_tries_last_each_once_in_a_round() {
        for (low, high) in
            [(32_768, 60_999), (40_000, 40_999), (40_001, 41_000), (7, 8), (1024, 65_535)]
        {
            let rule = rule(low, high, &[1]);
            let ports: HashSet<u16> =
                (0..rule.half).filter_map(|number| candidate(&rule, number)).collect();
            assert_eq!(ports.len() as u32, rule.half, "{low}-{high}");
            assert!(ports.iter().all(|port| (low..=high).contains(port) && (port ^ low) & 1 == 1));
        }
        assert_eq!(candidate(&rule(7, 7, &[1]), 0), None);
    }

    #[test]
    fn slots_follow_the_weights_and_leave_nobody_out() {
        let count = |rule: &Rule, index: u8| {
            rule.v4.slots[..rule.v4.slot_count as usize]
                .iter()
                .filter(|slot| **slot == index)
                .count()
        };
        let even = rule(1, 1000, &[1, 1, 1]);
        assert_eq!((even.v4.slot_count, even.v4.count, even.v6.count), (3, 3, 0));
        let uneven = rule(1, 1000, &[1, 3]);
        assert_eq!((count(&uneven, 0), count(&uneven, 1)), (1, 3));
        let heavy: Vec<u16> = (0..250).map(|index| if index == 7 { 100 } else { 10 }).collect();
        let heavy = rule(1, 1000, &heavy);
        assert!(heavy.v4.slot_count <= 256);
        assert!((0..250).all(|index| count(&heavy, index) >= 1));
        assert_eq!(rule(1, 1000, &[1; 250]).v4.slot_count, 250);
    }

    #[test]
    fn destinations_are_read_or_refused() {
        let one = |text: &str| {
            let found = destination(text).unwrap();
            let [one] = found[..] else { panic!("{text}") };
            (
                one.prefix.network.0,
                u128::from_be_bytes(one.prefix.mask.0).count_ones(),
                one.ports.low,
                one.ports.high,
            )
        };
        let v4 = |octets| tracer_common::Addr::v4(octets).0;
        assert_eq!(one("10.0.0.0/8:443"), (v4([10, 0, 0, 0]), 104, 443, 443));
        assert_eq!(one("10.1.2.3:80-90"), (v4([10, 1, 2, 3]), 128, 80, 90));
        assert_eq!(one("10.1.2.3"), (v4([10, 1, 2, 3]), 128, 1, 65_535));
        assert_eq!(one("0.0.0.0/0").1, 96);
        assert_eq!(one("[fd00::/8]:443").1, 8);
        assert_eq!(one("fd00::1").1, 128);
        assert_eq!(one("[fd00::1]").2, 1);
        assert_eq!(destination("*:443").unwrap().len(), 2);
        for (text, expected) in [
            ("", "expected"),
            ("10.0.0.0/33", "expected"),
            ("10.0.0.1/8", "write 10.0.0.0/8, or 10.0.0.1"),
            ("10.0.0.1:90-80", "backwards; write 80-90"),
            ("10.0.0.1:0", "expected"),
            ("[fd00::1]443", "expected"),
            ("host:80", "expected"),
        ] {
            let error = destination(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
