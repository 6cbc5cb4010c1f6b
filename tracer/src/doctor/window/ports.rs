//! How many ports each destination has in use now, in an open [`Window`].

use std::collections::BTreeMap;

use tracer_common::Addr;

use super::Window;
use crate::error::Error;

/// How many ports all source addresses have in use towards one destination.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Ports {
    /// Ports that are not in TIME_WAIT.
    pub open: u64,
    /// Ports in TIME_WAIT.
    pub waiting: u64,
}

impl Window {
    /// The ports in use towards each destination (address and port) of this network namespace, by its inode number, as the ledger
    /// has them now; without destinations that it does not know.
    ///
    /// # Errors
    /// A map cannot be read, or a command to the ledger fails.
    pub fn ports(&mut self, netns: u32) -> Result<BTreeMap<(Addr, u16), Ports>, Error> {
        self.tracer.read(false)?;
        let mut found: BTreeMap<_, Ports> = BTreeMap::new();
        for (key, count) in self.tracer.tuples().iter().filter(|(key, _)| key.netns == netns) {
            let waiting = count.time_wait();
            let ports = found.entry((key.destination, key.destination_port)).or_default();
            ports.open = ports.open.saturating_add(count.in_use().saturating_sub(waiting));
            ports.waiting = ports.waiting.saturating_add(waiting);
        }
        Ok(found)
    }
}
