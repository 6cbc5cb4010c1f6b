//! Opens the agent's two netlink sockets in the pool's network namespace.

use std::io;

use super::addresses::{QuerySocket, Watch};

/// Two sockets in the pool's network namespace, which they keep alive.
#[derive(Debug)]
pub(super) struct NetnsSockets {
    /// Reports changes of addresses, and of IPv4 routes of type local.
    pub(super) watch: Watch,
    /// Lists interfaces and addresses, and asks for routes.
    pub(super) query: QuerySocket,
}

impl NetnsSockets {
    /// Opens both in the network namespace of the calling thread. `watch` reports only changes after this call, so open
    /// it before the addresses are read.
    ///
    /// # Errors
    /// The kernel makes no such socket: there is no file descriptor or no memory left, or a sandbox forbids it.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { watch: Watch::open(true)?, query: QuerySocket::open()? })
    }
}
