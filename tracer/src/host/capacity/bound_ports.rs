//! A list of the bound ports of all network namespaces.

/// Ports by network namespace (its inode number), without duplicates; 8 bytes each.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct BoundPorts(Vec<(u32, u16)>);

impl BoundPorts {
    /// The ports of this namespace, in ascending order.
    pub fn of(&self, netns: u32) -> impl Iterator<Item = u16> {
        let from = self.0.partition_point(|(inum, _)| *inum < netns);
        let rest = self.0.get(from..).unwrap_or_default().iter();
        rest.take_while(move |(inum, _)| *inum == netns).map(|(_, port)| *port)
    }

    /// Whether there is a port of this namespace.
    pub fn has_any_of(&self, netns: u32) -> bool {
        self.of(netns).next().is_some()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The namespaces that have ports, in ascending order.
    pub fn namespaces(&self) -> impl Iterator<Item = u32> {
        self.0.chunk_by(|one, other| one.0 == other.0).filter_map(|ports| Some(ports.first()?.0))
    }
}

impl FromIterator<(u32, u16)> for BoundPorts {
    /// The ports may be in any order, and occur several times.
    fn from_iter<T: IntoIterator<Item = (u32, u16)>>(ports: T) -> Self {
        let mut all: Vec<_> = ports.into_iter().collect();
        all.sort_unstable();
        all.dedup();
        all.shrink_to_fit();
        Self(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_namespace_has_its_ports_once() {
        let ports: BoundPorts = [(7, 80), (5, 443), (5, 80), (5, 80), (9, 1)].into_iter().collect();
        let of = |netns| ports.of(netns).collect::<Vec<u16>>();
        assert_eq!([4, 5, 7, 8, 9].map(of), [vec![], vec![80, 443], vec![80], vec![], vec![1]]);
        assert_eq!(ports.namespaces().collect::<Vec<u32>>(), [5, 7, 9]);
        assert!(ports.has_any_of(5) && !ports.has_any_of(6));
        assert!(!ports.is_empty() && BoundPorts::default().is_empty());
    }
}
