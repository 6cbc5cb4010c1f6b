//! Finds out to which interface an address belongs that an advice adds: asks the kernel for routes.

use super::{finding::Finding, judge, snapshot::in_netns};
use crate::{
    host::netns::{Netns, Worker},
    spread::addresses,
};

/// Puts the names of interfaces into the advice of these findings ([`judge::name_interfaces`]); where none is found, the advice
/// says what to fill in. `all`: the namespaces that can be entered; `own`: inode number of this process's own one; `worker`: its
/// threads enter them.
pub fn name(findings: &mut [Finding], all: &[Netns], own: u32, worker: &Worker) {
    judge::name_interfaces(findings, |new| {
        let netns = all.iter().find(|it| it.inum == new.place.inum)?;
        let (address, towards) = (new.address, new.towards.clone());
        let found =
            in_netns(worker, netns, own, move || addresses::interface_for(address, &towards));
        found
            .inspect_err(|error| tracing::debug!("cannot read where {address} belongs: {error}"))
            .ok()
            .flatten()
    });
}
