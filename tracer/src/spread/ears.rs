//! What the agent hears of a network namespace: changes of its addresses.

use std::io;

use super::addresses::{Asker, Watch};

/// Sockets of the pool's network namespace, which they keep alive.
#[derive(Debug)]
pub(super) struct Ears {
    pub(super) watch: Watch,
    pub(super) asker: Asker,
}

impl Ears {
    /// In the network namespace of the calling thread. Changes before this are not told, so open
    /// them before reading the addresses.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { watch: Watch::open(true)?, asker: Asker::open()? })
    }
}
