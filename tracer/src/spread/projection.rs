//! `--dry-run`: what a pool would do for the tuples as they are. Pure.

use std::collections::BTreeMap;

use tracer_common::{Addr, TupleKey};

/// One destination, now and with the pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Projection {
    pub destination: Addr,
    pub port: u16,
    /// Ports in use of all sources together.
    pub in_use: u64,
    /// Of the fullest source, in use and as a part of 1 of its capacity.
    pub fullest: u64,
    pub now: f64,
    /// The same if the connections were spread over the pool.
    pub then: f64,
}

/// The destinations of these tuples, fullest first. `pool` says how many addresses of the
/// destination's family there would be.
pub fn project(
    tuples: impl IntoIterator<Item = (TupleKey, u64)>,
    capacity: u32,
    pool: impl Fn(&Addr) -> usize,
) -> Vec<Projection> {
    let mut sums: BTreeMap<(Addr, u16), (u64, u64)> = BTreeMap::new();
    for (key, in_use) in tuples {
        let (sum, fullest) = sums.entry((key.destination, key.destination_port)).or_insert((0, 0));
        *sum += in_use;
        *fullest = in_use.max(*fullest);
    }
    let part = |ports: f64| if capacity == 0 { 1.0 } else { ports / f64::from(capacity) };
    let as_float = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    let mut found: Vec<_> = sums
        .into_iter()
        .filter(|(_, (in_use, _))| *in_use > 0)
        .filter_map(|((destination, port), (in_use, fullest))| {
            let addresses = u32::try_from(pool(&destination)).ok().filter(|count| *count > 0)?;
            Some(Projection {
                destination,
                port,
                in_use,
                fullest,
                now: part(as_float(fullest)),
                then: part(as_float(in_use) / f64::from(addresses)),
            })
        })
        .collect();
    found.sort_by(|one, other| other.now.total_cmp(&one.now));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(source: u8, destination: u8, in_use: u64) -> (TupleKey, u64) {
        let key = TupleKey {
            source: Addr::v4([10, 0, 0, source]),
            destination: Addr::v4([10, 9, 0, destination]),
            netns: 1,
            destination_port: 80,
            zero: 0,
        };
        (key, in_use)
    }

    #[test]
    fn the_ports_of_all_sources_are_shared_out_among_the_pool() {
        let tuples = [tuple(1, 1, 960), tuple(1, 2, 100), tuple(2, 2, 300), tuple(1, 3, 0)];
        let found = project(tuples, 1000, |_| 4);
        assert_eq!(found.len(), 2);
        assert!((found[0].now - 0.96).abs() < 1e-9 && (found[0].then - 0.24).abs() < 1e-9);
        assert_eq!((found[1].in_use, found[1].fullest), (400, 300));
        assert!((found[1].then - 0.1).abs() < 1e-9);
        assert_eq!(project([tuple(1, 1, 5)], 1000, |_| 0), []);
    }
}
