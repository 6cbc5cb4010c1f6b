//! A set of ports as bits.

const WORDS: usize = 1024;

/// A set of ports, one bit each: always 8 KiB.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PortSet(Box<[u64; WORDS]>);

impl Default for PortSet {
    /// No ports.
    fn default() -> Self {
        Self(Box::new([0; WORDS]))
    }
}

impl PortSet {
    /// The bits: that of a port is bit `port % 64` of word `port / 64`.
    pub fn words(&self) -> &[u64; WORDS] {
        &self.0
    }

    pub fn insert(&mut self, port: u16) {
        self.0[usize::from(port >> 6)] |= 1 << (port & 63);
    }

    /// Removes a port, if it is there.
    pub fn remove_one(&mut self, port: u16) {
        self.0[usize::from(port >> 6)] &= !(1 << (port & 63));
    }

    pub fn has(&self, port: u16) -> bool {
        self.0[usize::from(port >> 6)] >> (port & 63) & 1 != 0
    }

    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// Whether another set has all of these ports.
    pub fn is_within(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0.iter()).all(|(one, other)| one & !other == 0)
    }

    /// How many ports there are.
    pub fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Adds the ports of another set.
    pub fn add(&mut self, other: &Self) {
        self.zip(other, |one, other| one | other);
    }

    /// Removes the ports of another set.
    pub fn remove(&mut self, other: &Self) {
        self.zip(other, |one, other| one & !other);
    }

    /// Keeps only the ports that another set has, too.
    pub fn keep(&mut self, other: &Self) {
        self.zip(other, |one, other| one & other);
    }

    fn zip(&mut self, other: &Self, with: impl Fn(u64, u64) -> u64) {
        for (one, other) in self.0.iter_mut().zip(other.0.iter()) {
            *one = with(*one, *other);
        }
    }
}

impl FromIterator<u16> for PortSet {
    fn from_iter<T: IntoIterator<Item = u16>>(ports: T) -> Self {
        let mut all = Self::default();
        ports.into_iter().for_each(|port| all.insert(port));
        all
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    use super::*;

    proptest! {
        #[test]
        fn it_behaves_as_a_set(one: BTreeSet<u16>, other: BTreeSet<u16>) {
            let set = |ports: &BTreeSet<u16>| ports.iter().copied().collect::<PortSet>();
            let change = |with: fn(&mut PortSet, &PortSet)| {
                let mut all = set(&one);
                with(&mut all, &set(&other));
                all
            };
            prop_assert_eq!(change(PortSet::add), set(&(&one | &other)));
            prop_assert_eq!(change(PortSet::remove), set(&(&one - &other)));
            prop_assert_eq!(change(PortSet::keep), set(&(&one & &other)));
            prop_assert_eq!(set(&one).count() as usize, one.len());
            prop_assert_eq!(set(&one).is_empty(), one.is_empty());
            prop_assert_eq!(set(&one).is_within(&set(&other)), one.is_subset(&other));
            prop_assert!(other.iter().all(|port| set(&one).has(*port) == one.contains(port)));
        }
    }
}
