//! Chooses which entries the table of ports that bind() took at some time does not need any more, and warns if it has no room.

use std::time::Duration;

use foldhash::{HashMap, HashSet};
use tracer_common::{Loss, Touched, seed::Command, settings::MAX_TOUCHED, touched::netns_of};

use super::Tracer;
use crate::{error::Error, kernel::maps::Totals, runtime::clock};

/// How long after the newest bind() or listen() of a port its entry may be removed. By then every connection that had the port
/// before that call is in the ledger, which shows whether the entry is still needed.
const SETTLED: Duration = Duration::from_secs(2);
/// How many entries one call removes at most, as the caller has other things to do.
const AT_ONCE: usize = 16_384;

/// Touched ports that found no room in their table.
#[derive(Debug, Default)]
pub(super) struct NotNoted {
    ports: u64,
    /// When the newest of them was found to be lost (CLOCK_MONOTONIC, ns).
    at_ns: u64,
    /// Whether the oldest connection was older than that when all connections were last read.
    matters: bool,
}

impl NotNoted {
    /// Notes how many ports were lost so far, and `now_ns` (CLOCK_MONOTONIC) if these are more than before. To be called before
    /// all connections are read.
    pub(super) const fn count(&mut self, totals: &Totals, now_ns: u64) {
        let ports = totals.lost[Loss::TouchedShare as usize];
        if ports != self.ports {
            (self.ports, self.at_ns) = (ports, now_ns);
        }
    }

    /// Notes whether the oldest connection is older than the newest lost port. `oldest_ns`: when that connection took
    /// its port (CLOCK_MONOTONIC, ns); `None`: there is no connection.
    pub(super) fn compare(&mut self, oldest_ns: Option<u64>) {
        self.matters = self.ports > 0 && oldest_ns.is_some_and(|oldest| oldest < self.at_ns);
    }

    /// Whether [`Self::reason`] returns a warning.
    pub(super) const fn is_any(&self) -> bool {
        self.matters
    }

    /// The warning; `None`: no connection is old enough to hold such a port.
    pub(super) fn reason(&self) -> Option<String> {
        self.matters.then(|| {
            format!(
                "ports that bind() took found no room in the table of touched ports ({MAX_TOUCHED} entries; lost: \
                 touched_share): such a port counts as free even if a connection keeps connect() from getting it"
            )
        })
    }
}

/// Commands that remove those entries of `touched` (by [`tracer_common::port_of`]) which are older than [`SETTLED`] (2 s) and not
/// needed, at most [`AT_ONCE`] (16,384), first of owners that have few entries: these have the least room if somebody fills the
/// table. `needed`: ports that a connection holds since before their newest bind(); `unread`: namespaces whose connections are
/// not all known: their entries stay; `began_ns`: when the reading began (CLOCK_MONOTONIC).
pub(super) fn leaving(
    touched: &HashMap<u64, Touched>,
    needed: &HashSet<u64>,
    unread: &HashSet<u32>,
    began_ns: u64,
) -> Vec<Command> {
    let before_ns = began_ns.saturating_sub(clock::as_ns(SETTLED));
    let mut owners: HashMap<u32, usize> = HashMap::default();
    for one in touched.values() {
        *owners.entry(one.owner).or_default() += 1;
    }
    let leaves = |(port, one): &(&u64, &Touched)| {
        one.at_ns < before_ns && !needed.contains(*port) && !unread.contains(&netns_of(**port))
    };
    let mut leaving: Vec<_> = touched.iter().filter(leaves).collect();
    leaving.sort_unstable_by_key(|(_, one)| owners.get(&one.owner));
    leaving.truncate(AT_ONCE);
    leaving.into_iter().map(|(port, one)| Command::removing_touched(*port, one)).collect()
}

impl Tracer {
    /// Runs the commands of [`leaving`]: removes the entries, except those that a hook has used since they were read.
    ///
    /// # Errors
    /// A command fails.
    pub(super) fn forget_touched(&self, leaving: &[Command]) -> Result<(), Error> {
        for command in leaving {
            self.session.commands.run(command)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use foldhash::HashMapExt;
    use tracer_common::{port_of, seed::Op};

    use super::*;

    const NOW: u64 = 10_000_000_000;

    fn entry(owner: u32, at_ns: u64) -> Touched {
        Touched { at_ns, owner, uses: 7 }
    }

    fn ports(commands: &[Command]) -> Vec<u64> {
        assert!(commands.iter().all(|it| it.op == Op::RemoveTouched as u32 && it.user == 7));
        commands.iter().map(|it| it.key.cookie).collect()
    }

    #[test]
    fn an_entry_that_no_older_connection_needs_is_removed_after_a_while() {
        let at = |port| port_of(5, port);
        let touched = HashMap::from_iter([
            (at(1), entry(1, 1)),
            (at(2), entry(1, 1)),
            (port_of(6, 1), entry(1, 1)),
            (at(3), entry(1, NOW - 2_000_000_000)),
            (at(4), entry(1, NOW + 1)),
        ]);
        let needed = HashSet::from_iter([at(2)]);
        let unread = HashSet::from_iter([6]);
        assert_eq!(ports(&leaving(&touched, &needed, &unread, NOW)), [at(1)]);
        let later = leaving(&touched, &HashSet::default(), &HashSet::default(), NOW + 1);
        assert_eq!(later.len(), 4);
    }

    #[test]
    fn entries_of_owners_with_few_ports_come_first() {
        let mut touched = HashMap::new();
        touched.extend((0..60_000).map(|port| (port_of(5, port), entry(1, 1))));
        touched.extend((0..3).map(|port| (port_of(6, port), entry(2, 1))));
        let none = HashSet::default();
        let leaving = ports(&leaving(&touched, &none, &HashSet::default(), NOW));
        assert_eq!(leaving.len(), AT_ONCE);
        assert!(leaving[..3].iter().all(|port| netns_of(*port) == 6));
    }

    #[test]
    fn lost_ports_are_reported_until_every_connection_is_newer() {
        let mut lost = NotNoted::default();
        let mut reason = |ports, now_ns, oldest| {
            let mut totals = Totals::default();
            totals.lost[Loss::TouchedShare as usize] = ports;
            lost.count(&totals, now_ns);
            lost.compare(oldest);
            lost.reason()
        };
        assert_eq!(reason(0, 100, Some(1)), None);
        assert!(reason(5, 200, Some(1)).is_some_and(|text| text.contains("65536 entries")));
        assert!(reason(5, 300, Some(199)).is_some());
        assert_eq!(reason(5, 400, Some(200)), None);
        assert!(reason(6, 500, Some(200)).is_some());
        assert_eq!(reason(6, 600, None), None);
    }
}
