//! Computes for `--dry-run` how full the pool's addresses would be with the present connections, or at the peaks of a recording.
//! No I/O.

use std::collections::BTreeMap;

use tracer_common::{Addr, TupleKey};

/// How full the source addresses are towards one destination, now and with the pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Projection {
    /// IPv4 as v4-mapped IPv6.
    pub destination: Addr,
    /// Port of the destination, host byte order.
    pub port: u16,
    /// Ports in use of all sources together.
    pub in_use: u64,
    /// Ports in use of the fullest source.
    pub fullest: u64,
    /// `fullest` divided by a source's capacity: 1 is full. 1, too, if the capacity is 0.
    pub now: f64,
    /// What `now` would be if the connections were spread over the pool. Above 1: all addresses are full, and this is the
    /// number of connections for each port of the pool.
    pub then: f64,
}

/// Projections for the destinations of these tuples, each with its ports in use, as [`of_peaks`] makes them of [`peaks`]: fullest
/// first, without destinations towards which no port is in use. `capacity`: ports of a source; 0: see [`Projection::now`].
/// `weights`: those of the pool's addresses of the destination's family; a destination for which none is above 0 is left out.
pub fn project(
    tuples: impl IntoIterator<Item = (TupleKey, u64)>,
    capacity: u32,
    weights: impl Fn(&Addr) -> Vec<u16>,
) -> Vec<Projection> {
    of_peaks(&peaks(tuples), capacity, weights)
}

/// Ports in use towards a destination, at one time or at the highest in a recording.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Peak {
    /// Ports in use of all sources together.
    pub in_use: u64,
    /// Ports in use of the fullest source.
    pub fullest: u64,
}

/// Peaks by destination address and destination port.
pub type Peaks = BTreeMap<(Addr, u16), Peak>;

/// The peaks of one reading, from the ports in use of each tuple, which must be there once (not checked). Tuples of different
/// network namespaces count together.
pub fn peaks(tuples: impl IntoIterator<Item = (TupleKey, u64)>) -> Peaks {
    let mut peaks = Peaks::new();
    for (key, in_use) in tuples {
        let peak = peaks.entry((key.destination, key.destination_port)).or_default();
        peak.in_use += in_use;
        peak.fullest = peak.fullest.max(in_use);
    }
    peaks
}

/// Projections for the destinations of these peaks, fullest first, without those towards which no port is in use. `capacity`:
/// ports of a source; 0: see [`Projection::now`]. `weights`: those of the pool's addresses of the destination's family; a
/// destination for which none is above 0 is left out.
pub fn of_peaks(
    peaks: &Peaks,
    capacity: u32,
    weights: impl Fn(&Addr) -> Vec<u16>,
) -> Vec<Projection> {
    let part = |ports: f64| if capacity == 0 { 1.0 } else { ports / f64::from(capacity) };
    let mut found: Vec<_> = peaks
        .iter()
        .filter(|(_, peak)| peak.in_use > 0)
        .filter_map(|(&(destination, port), &Peak { in_use, fullest })| {
            let then = spread(part(as_float(in_use)), &weights(&destination))?;
            let now = part(as_float(fullest));
            Some(Projection { destination, port, in_use, fullest, now, then })
        })
        .collect();
    found.sort_by(|one, other| other.now.total_cmp(&one.now));
    found
}

/// How full the fullest address would be: 1 is full. Above 1: all addresses are full, and this is the number of connections
/// for each port of the pool, so that some find none. `all`: the connections, as a multiple of one address's capacity. Each
/// address gets its share by weight; what a full one cannot take goes to the others. `None`: no address has a weight above 0.
fn spread(all: f64, weights: &[u16]) -> Option<f64> {
    let heaviest = weights.iter().copied().max().filter(|weight| *weight > 0)?;
    let sum: u32 = weights.iter().copied().map(u32::from).sum();
    let fullest = all * f64::from(heaviest) / f64::from(sum);
    let even = all / f64::from(u32::try_from(weights.len()).ok()?);
    Some(if fullest > 1.0 { even.max(1.0) } else { fullest })
}

fn as_float(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
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
        let found = project(tuples, 1000, |_| vec![1; 4]);
        assert_eq!(found.len(), 2);
        assert!((found[0].now - 0.96).abs() < 1e-9 && (found[0].then - 0.24).abs() < 1e-9);
        assert_eq!((found[1].in_use, found[1].fullest), (400, 300));
        assert!((found[1].then - 0.1).abs() < 1e-9);
        assert_eq!(project([tuple(1, 1, 5)], 1000, |_| Vec::new()), []);
    }

    #[test]
    fn a_heavier_address_gets_more_until_it_is_full() {
        let then = |in_use, weights: &[u16]| {
            project([tuple(1, 1, in_use)], 1000, |_| weights.to_vec())[0].then
        };
        for (in_use, weights, expected) in [
            (800, &[3, 1][..], 0.6),
            (800, &[100, 100], 0.4),
            // The heavier address is full; the other one takes the rest.
            (1_600, &[3, 1], 1.0),
            // Both are full, and some connections find no port.
            (3_000, &[3, 1], 1.5),
        ] {
            assert!((then(in_use, weights) - expected).abs() < 1e-9, "{in_use} {weights:?}");
        }
    }
}
