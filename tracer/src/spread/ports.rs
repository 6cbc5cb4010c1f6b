//! Computes the port counts and port bits of a rule from a port range and the ports that bind() took. No I/O. The first port of
//! `range` must not be above its last one (not checked).

use crate::host::capacity::{PortRange, Usable};

/// How many ports connect() is sure to find for a tuple of the rule that holds none. `blocked`: ports that connect() is
/// not given because of bind() or listen(). If the range has an odd number of ports, the search of a connect() leaves out
/// the first or the last one, depending on where it begins (`__inet_hash_connect`), so the last one does not count.
pub(super) fn capacity(range: &PortRange, blocked: &[u16]) -> u32 {
    let odd = (range.high - range.low).is_multiple_of(2);
    let high = if odd && range.high > range.low { range.high - 1 } else { range.high };
    let range = PortRange { high, ..range.clone() };
    Usable::new(&range, blocked.iter().copied().collect()).limits().usable()
}

/// Whether there is one port more than [`capacity`] counts, which a search may leave out. `excluded`: see [`excluded`].
pub(super) fn is_last_unsure(range: &PortRange, excluded: &[u64; 1024]) -> bool {
    let odd = (range.high - range.low).is_multiple_of(2) && range.high > range.low;
    odd && excluded
        .get(usize::from(range.high >> 6))
        .is_some_and(|word| word >> (range.high & 63) & 1 == 0)
}

/// One bit for each port (bit `port % 64` of word `port / 64`), set if the hooks must not hand it out: it is reserved, or
/// it is one of `blocked`, the ports that connect() is not given because of bind() or listen().
pub(super) fn excluded(range: &PortRange, blocked: &[u16]) -> Box<[u64; 1024]> {
    let mut bits = Box::new([0; 1024]);
    let reserved = range.reserved.iter().cloned().flatten();
    for port in reserved.chain(blocked.iter().copied()) {
        if let Some(word) = bits.get_mut(usize::from(port >> 6)) {
            *word |= 1_u64 << (port & 63);
        }
    }
    bits
}

/// How many ports of the second parity (`low + 1`, `low + 3` and so on, which the kernel tries after the others) are not
/// excluded. `excluded`: see [`excluded`].
pub(super) fn other_capacity(range: &PortRange, excluded: &[u64; 1024]) -> u32 {
    let is_free = |port: &u16| {
        let word = excluded.get(usize::from(port >> 6)).copied().unwrap_or(0);
        word >> (port & 63) & 1 == 0
    };
    // Every second port from the second one on. The last port of an odd number of ports is not among them.
    let second_parity = (range.low..=range.high).skip(1).step_by(2);
    second_parity.filter(is_free).map(|_| 1).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_and_bound_ports_are_taken_and_no_others() {
        let range = PortRange { low: 1, high: 9, reserved: vec![63..=65, 65_535..=65_535] };
        let bits = excluded(&range, &[0, 7, 7]);
        let ports: Vec<u16> = (0..=u16::MAX)
            .filter(|port| bits[usize::from(port >> 6)] >> (port & 63) & 1 != 0)
            .collect();
        assert_eq!(ports, [0, 7, 63, 64, 65, 65_535]);
    }

    #[test]
    fn the_second_parity_is_every_second_port_that_is_not_excluded() {
        let range = |low, high| PortRange { low, high, reserved: vec![150..=159] };
        let other = |range, blocked: &[u16]| other_capacity(&range, &excluded(&range, blocked));
        assert_eq!(other(range(100, 199), &[]), 45);
        assert_eq!(other(range(100, 200), &[101, 102, 199]), 43);
        assert_eq!(other(range(65_534, 65_535), &[]), 1);
        assert_eq!(other(range(7, 7), &[]), 0);
    }

    #[test]
    fn the_last_of_an_odd_number_of_ports_does_not_count() {
        let range = |low, high| PortRange { low, high, reserved: Vec::new() };
        assert_eq!(capacity(&range(100, 199), &[]), 100);
        assert_eq!(capacity(&range(100, 200), &[]), 100);
        assert_eq!(capacity(&range(100, 200), &[200, 150]), 99);
        assert_eq!(capacity(&range(7, 7), &[]), 1);
        let unsure = |range, blocked: &[u16]| is_last_unsure(&range, &excluded(&range, blocked));
        assert!(unsure(range(100, 200), &[]));
        assert!(!unsure(range(100, 200), &[200]));
        assert!(!unsure(range(100, 199), &[]));
        assert!(!unsure(range(7, 7), &[]));
    }
}
