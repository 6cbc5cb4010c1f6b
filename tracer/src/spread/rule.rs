//! Makes the [`Rule`] that the hooks read. No I/O.

use std::net::IpAddr;

use tracer_common::{
    Addr, Rule,
    spread::{Destination, FamilyPool, POOL_MAX},
};

use super::pool::PoolAddress;
use crate::{host::capacity::Reuse, kernel::spread::programs::BoundCounts};

/// What a rule is made of.
///
/// The second parity is the ports that connect() tries last: `low + 1`, `low + 3` and so on.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// Cookie of the pool's network namespace; 0: not known.
    pub netns_cookie: u64,
    /// Inode number of the pool's network namespace.
    pub netns: u32,
    /// `rule_flag` bits.
    pub flags: u32,
    /// How many ports connect() is sure to find in that namespace for a tuple that holds none.
    pub capacity: u32,
    /// How many ports of the second parity are neither reserved nor bound.
    pub other_capacity: u32,
    /// Whether there is one port more than `capacity`, which a search may leave out.
    pub unsure: bool,
    /// The hooks' counts of bound ports when the reading began from which `capacity` is computed.
    pub bound: BoundCounts,
    /// net.ipv4.tcp_tw_reuse and tcp_tw_reuse_delay of the namespace.
    pub reuse: Reuse,
    /// net.ipv4.ip_local_port_range of the namespace, both ends included.
    pub low: u16,
    pub high: u16,
    /// A random number. It stays the same for the life of a rule: with another, the search for fast ports would start
    /// again among ports that were just handed out.
    pub random: u64,
    /// N, if 1 in N decisions is to be recorded, a power of two; 0: none. (Some are recorded in any case: see
    /// [`Rule::sample`].)
    pub sample: u32,
    /// The addresses that can be used now; of more than [`POOL_MAX`] of a family the rest is left out.
    pub addresses: &'a [PoolAddress],
    /// Which connections are spread; empty: those to every destination. Of more than `DESTINATIONS_MAX` the rest is
    /// left out.
    pub destinations: &'a [Destination],
}

/// The kernel's default of net.ipv4.tcp_tw_reuse_delay, ms. Kernels before 6.14 do not have the setting: they reuse a
/// TIME_WAIT from the next second of their clock on.
const DEFAULT_REUSE_DELAY_MS: u32 = 1000;

/// The rule for the hooks. Without addresses of a family it spreads nothing of that family. Numbers are in host byte order.
pub fn build(inputs: &Inputs<'_>) -> Rule {
    let half = half(inputs.low, inputs.high);
    let of_family = |v4: bool| {
        let mut addresses = inputs.addresses.to_vec();
        addresses.retain(|member| member.address.to_v4().is_some() == v4);
        let mut family_pool = family_pool(&addresses);
        family_pool.reuse = u32::from(inputs.reuse.is_on(family_pool.loopback != 0));
        family_pool
    };
    let mut rule = Rule {
        netns_cookie: inputs.netns_cookie,
        netns: inputs.netns,
        flags: inputs.flags,
        capacity: inputs.capacity,
        other_low: inputs.low.saturating_add(1),
        unsure: inputs.unsure.into(),
        half,
        other_capacity: inputs.other_capacity,
        step: step(half, high_word(inputs.random)),
        offset: low_word(inputs.random).checked_rem(half).unwrap_or(0),
        sample: inputs.sample,
        reuse_delay_ms: inputs.reuse.delay_ms.unwrap_or(DEFAULT_REUSE_DELAY_MS),
        bound: inputs.bound.bound,
        released: inputs.bound.released,
        back: inputs.bound.back,
        v4: of_family(true),
        v6: of_family(false),
        ..Rule::default()
    };
    for (to, from) in rule.destinations.iter_mut().zip(inputs.destinations) {
        *to = *from;
        rule.destination_count += 1;
    }
    rule
}

/// How many ports of each parity a range has. connect() tries `low`, `low + 2` and so on first, then `low + 1` and so on.
/// Of an odd number of ports, the last one does not count: a search leaves out that one or the first one, depending on
/// where it begins (`__inet_hash_connect`,
/// <https://github.com/torvalds/linux/blob/v6.12/net/ipv4/inet_hashtables.c>).
fn half(low: u16, high: u16) -> u32 {
    (u32::from(high) + 1).saturating_sub(u32::from(low)) / 2
}

/// The distance from one candidate for a fast port to the next, counted in ports of the second parity. It has no divisor
/// in common with `half` but 1, so that the candidates cover all these ports before they repeat, and it is at least a
/// quarter of `half`, so that they are far apart.
fn step(half: u32, random: u32) -> u32 {
    let start = half / 4 + random.checked_rem(half / 2).unwrap_or(0);
    // half - 1 and 1 always qualify.
    (start..half).find(|step| *step > 0 && gcd(*step as usize, half as usize) == 1).unwrap_or(1)
}

fn gcd(one: usize, other: usize) -> usize {
    if other == 0 { one } else { gcd(other, one % other) }
}

fn high_word(random: u64) -> u32 {
    u32::try_from(random >> 32).unwrap_or_default()
}

fn low_word(random: u64) -> u32 {
    u32::try_from(random & u64::from(u32::MAX)).unwrap_or_default()
}

/// The pool of one family, at most [`POOL_MAX`] addresses, with the slots from which the hooks choose.
fn family_pool(addresses: &[PoolAddress]) -> FamilyPool {
    let addresses = addresses.get(..POOL_MAX).unwrap_or(addresses);
    let mut family_pool = FamilyPool::default();
    let shares = shares(addresses);
    let mut slots = family_pool.slots.iter_mut();
    let places = family_pool.addresses.iter_mut().zip(&mut family_pool.weights);
    for (((to, weight), from), (index, share)) in
        places.zip(addresses).zip((0..=u8::MAX).zip(shares))
    {
        (*to, *weight) = (from.address, from.weight);
        family_pool.count += 1;
        for slot in slots.by_ref().take(share) {
            *slot = index;
            family_pool.slot_count += 1;
        }
    }
    family_pool.loopback =
        u32::from(addresses.first().is_some_and(|member| is_loopback(member.address)));
    family_pool
}

fn is_loopback(address: Addr) -> bool {
    IpAddr::from(address.0).to_canonical().is_loopback()
}

/// How many slots each address gets: its weight divided by the greatest common divisor of all weights. If these are more
/// than [`POOL_MAX`], each address gets one, and each further slot goes to the address that has the fewest for its
/// weight (the method of Sainte-Laguë).
fn shares(addresses: &[PoolAddress]) -> Vec<usize> {
    let weights: Vec<usize> =
        addresses.iter().map(|member| usize::from(member.weight.max(1))).collect();
    let common = weights.iter().copied().fold(0, gcd).max(1);
    let exact: Vec<usize> = weights.iter().map(|weight| weight / common).collect();
    if exact.iter().sum::<usize>() <= POOL_MAX {
        return exact;
    }
    let mut shares = vec![1; weights.len()];
    for _ in weights.len()..POOL_MAX {
        // weight / (2 * share + 1), compared without a division.
        let neediest = shares
            .iter_mut()
            .zip(&weights)
            .max_by(|(a, of_a), (b, of_b)| (*of_a * (2 * **b + 1)).cmp(&(*of_b * (2 * **a + 1))));
        if let Some((share, _)) = neediest {
            *share += 1;
        }
    }
    shares
}

#[cfg(test)]
mod tests;
