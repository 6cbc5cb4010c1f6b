//! Sets of ports in little memory, for those that are kept for long: a host can have thousands of namespaces, and the users who
//! make the namespaces choose the port ranges.

use std::ops::RangeInclusive;

use super::PortSet;

/// With more runs than this, a set has one bit for each port, and takes 8 KiB. As runs it could take 128 KiB.
const MOST_RUNS: usize = 128;

/// A set of ports: as runs of 4 bytes each if there are few, else as bits.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PackedPorts(Form);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Form {
    /// First and last port of each run, in ascending order; between two runs at least one port is missing.
    Runs(Box<[(u16, u16)]>),
    Bits(PortSet),
}

impl Default for PackedPorts {
    /// No ports.
    fn default() -> Self {
        Self(Form::Runs(Box::default()))
    }
}

impl PackedPorts {
    /// The ports from `low` to `high`, both inclusive, without `left_out`; none if `low` is above `high`.
    pub fn without(low: u16, high: u16, left_out: &[RangeInclusive<u16>]) -> Self {
        let mut left_out: Vec<(u16, u16)> = left_out
            .iter()
            .filter(|it| !it.is_empty())
            .map(|it| (*it.start(), *it.end()))
            .collect();
        left_out.sort_unstable();
        let mut runs = Vec::new();
        let mut next = u32::from(low);
        for (first, last) in left_out {
            if next < u32::from(first) {
                runs.extend(run(next, (u32::from(first) - 1).min(u32::from(high))));
            }
            next = next.max(u32::from(last) + 1);
        }
        runs.extend(run(next, u32::from(high)));
        Self::of_runs(runs)
    }

    /// The set of these ports. `ports` must be in ascending order and without duplicates. This is not checked: otherwise
    /// [`Self::has`] and [`Self::count`] of the set are wrong.
    pub fn of_sorted(ports: impl IntoIterator<Item = u16>) -> Self {
        let mut runs: Vec<(u16, u16)> = Vec::new();
        for port in ports {
            match runs.last_mut() {
                Some((_, last)) if last.checked_add(1) == Some(port) => *last = port,
                _ => runs.push((port, port)),
            }
        }
        Self::of_runs(runs)
    }

    fn of_runs(runs: Vec<(u16, u16)>) -> Self {
        if runs.len() <= MOST_RUNS {
            return Self(Form::Runs(runs.into()));
        }
        Self(Form::Bits(runs.into_iter().flat_map(|(first, last)| first..=last).collect()))
    }

    /// Whether the set takes the most memory that a set can: 8 KiB.
    pub fn is_large(&self) -> bool {
        matches!(self.0, Form::Bits(_))
    }

    pub fn is_empty(&self) -> bool {
        match &self.0 {
            Form::Runs(runs) => runs.is_empty(),
            Form::Bits(set) => set.is_empty(),
        }
    }

    pub fn has(&self, port: u16) -> bool {
        match &self.0 {
            Form::Runs(runs) => {
                let after = runs.partition_point(|(first, _)| *first <= port);
                let run = after.checked_sub(1).and_then(|at| runs.get(at));
                run.is_some_and(|(_, last)| port <= *last)
            }
            Form::Bits(set) => set.has(port),
        }
    }

    /// How many ports there are.
    pub fn count(&self) -> u32 {
        match &self.0 {
            Form::Runs(runs) => {
                runs.iter().map(|(first, last)| u32::from(*last) - u32::from(*first) + 1).sum()
            }
            Form::Bits(set) => set.count(),
        }
    }

    /// How many of these ports another set has, too.
    pub fn count_in(&self, other: &Self) -> u32 {
        if self.is_empty() || other.is_empty() {
            return 0;
        }
        let mut both = self.to_set();
        both.keep(&other.to_set());
        both.count()
    }

    /// The same ports as bits.
    pub fn to_set(&self) -> PortSet {
        match &self.0 {
            Form::Runs(runs) => runs.iter().flat_map(|(first, last)| *first..=*last).collect(),
            Form::Bits(set) => set.clone(),
        }
    }
}

fn run(first: u32, last: u32) -> Option<(u16, u16)> {
    let ends = (u16::try_from(first).ok()?, u16::try_from(last).ok()?);
    (first <= last).then_some(ends)
}

impl FromIterator<u16> for PackedPorts {
    /// The ports may be in any order, and occur several times.
    fn from_iter<T: IntoIterator<Item = u16>>(ports: T) -> Self {
        let mut all: Vec<u16> = ports.into_iter().collect();
        all.sort_unstable();
        all.dedup();
        Self::of_sorted(all)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    use super::*;

    proptest! {
        #[test]
        fn a_set_has_the_ports_that_it_was_made_of(
            one in prop::collection::btree_set(any::<u16>(), 0..400),
            other: BTreeSet<u16>,
        ) {
            let packed: PackedPorts = one.iter().copied().collect();
            let others: PackedPorts = other.iter().copied().collect();
            prop_assert_eq!(packed.is_large(), one.len() > MOST_RUNS && packed.count() > 0
                && runs_of(&one) > MOST_RUNS);
            prop_assert_eq!(packed.to_set(), one.iter().copied().collect());
            prop_assert_eq!(packed.count() as usize, one.len());
            prop_assert_eq!(packed.is_empty(), one.is_empty());
            prop_assert_eq!(packed.count_in(&others) as usize, one.intersection(&other).count());
            prop_assert!(other.iter().chain(&one).all(|port| packed.has(*port) == one.contains(port)));
        }

        #[test]
        fn a_range_does_not_have_the_ports_that_are_left_out(
            (low, high) in (any::<u16>(), any::<u16>()).prop_map(|(a, b)| (a.min(b), a.max(b))),
            left_out: Vec<(u16, u16)>,
        ) {
            let left_out: Vec<_> = left_out.into_iter().map(|(a, b)| a..=b).collect();
            let packed = PackedPorts::without(low, high, &left_out);
            let left = (low..=high).filter(|port| !left_out.iter().any(|it| it.contains(port)));
            prop_assert_eq!(packed, left.collect());
        }
    }

    fn runs_of(ports: &BTreeSet<u16>) -> usize {
        ports
            .iter()
            .filter(|port| port.checked_sub(1).is_none_or(|it| !ports.contains(&it)))
            .count()
    }

    #[test]
    fn the_first_and_the_last_port_are_like_others() {
        let all = PackedPorts::without(0, u16::MAX, &[]);
        assert_eq!((all.count(), all.has(0), all.has(u16::MAX)), (65_536, true, true));
        let none = PackedPorts::without(0, u16::MAX, &[0..=u16::MAX]);
        assert!(none.is_empty() && !none.has(0));
        assert_eq!(PackedPorts::of_sorted([u16::MAX - 1, u16::MAX]).count(), 2);
    }
}
