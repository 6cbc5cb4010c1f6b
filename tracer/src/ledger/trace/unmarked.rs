//! Corrects the entries of sockets that ended while the older ones were being read, and whose marks found no room in TOMBSTONES.

use std::collections::HashSet;

use tracer_common::{
    ConnKey, Loss, TupleKey,
    seed::{Command, Op},
};

use super::Tracer;
use crate::{
    error::Error,
    runtime::{clock, shutdown},
};

impl Tracer {
    /// Compares the ledger with the kernel immediately if marks of ended sockets found no room: these sockets would count
    /// as open until the first regular comparison. Each counts as a loss already (`tombstones_full`), so not as drift.
    ///
    /// # Errors
    /// A map cannot be read, a command fails, or a signal asked the program to stop.
    pub(super) fn correct_unmarked(&mut self) -> Result<(), Error> {
        let lost = Loss::ALL.into_iter().zip(self.totals()?.lost);
        if lost.filter(|(loss, _)| *loss == Loss::TombstonesFull).all(|(_, count)| count == 0) {
            return Ok(());
        }
        let before_ns = clock::monotonic_ns();
        let all = self.namespaces();
        // A dump is not a snapshot: only what two in a row say is corrected.
        let first: HashSet<_> =
            self.differences(before_ns, all.clone())?.iter().filter_map(end).collect();
        shutdown::check_stop()?;
        let mut corrected = 0_u64;
        if !first.is_empty() {
            for command in self.differences(before_ns, all)? {
                shutdown::check_stop()?;
                if end(&command).is_some_and(|end| first.contains(&end)) {
                    corrected += u64::from(self.session.commands.run(&command)?);
                }
            }
        }
        tracing::info!(
            "{corrected} entries of sockets that ended unnoticed during the start were corrected"
        );
        Ok(())
    }
}

/// What a command changes, if a mark would have made it unnecessary: it removes a port that is not held or bound any more,
/// marks a TIME_WAIT, or adds a connection (a TIME_WAIT whose beginning was taken for the end of the socket). `None`: another
/// command.
fn end(command: &Command) -> Option<(u32, ConnKey, TupleKey)> {
    const OPS: [Op; 4] = [Op::RemoveConn, Op::AddConn, Op::MarkTimeWait, Op::RemoveBound];
    OPS.map(|op| op as u32).contains(&command.op).then_some((
        command.op,
        command.key,
        command.tuple,
    ))
}
