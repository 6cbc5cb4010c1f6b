//! Decides which differences between ledger and kernel are corrected. A reading is not a snapshot, so several must
//! agree. No I/O.

use std::collections::{HashMap, HashSet};

use tracer_common::{
    ConnKey,
    seed::{Command, Correction, Op},
};

/// What must be equal for two comparisons to have found the same difference: the op and the key; of corrections of a
/// value (`CorrectTuple`, `SetState`, `CorrectFast`) the whole command. `None` in its place: another command.
type Identity = (u32, ConnKey, Option<Command>);

/// For so many calls a difference of the counters of a tuple is kept that was not found again: a busy tuple is compared only if
/// none of its ports comes or goes during a whole comparison.
const KEPT: u32 = 8;

/// What earlier comparisons found.
#[derive(Debug, Default)]
pub(super) struct Agreement {
    /// Differences that both comparisons of an earlier call found, and that were not corrected: they are if they are found
    /// again. Each with the number of calls since: 0, but up to [`KEPT`] for counters of a tuple.
    unconfirmed: HashMap<Identity, u32>,
    /// Whether the next call should come soon.
    hurries: bool,
    /// Inode numbers of the network namespaces of those of `unconfirmed` that the newest call found; without 0, which commands have
    /// that name none.
    namespaces: HashSet<u32>,
}

impl Agreement {
    /// The commands to carry out: those of `second` that `first`, the comparison right before it, gave, too, in the order of
    /// `second`. Unless `at_once` holds for it, a command must also have been given by both comparisons of the previous call, 1 s
    /// ago or longer (the caller's promise), and not have been returned by it: a thread can lose its CPU after the kernel has
    /// given it a port and before the hook that reports this has run, and both comparisons of one call then find what no hook has
    /// missed. (A `CorrectTuple` that is not [`Correction::ALWAYS`]: by those of one of the [`KEPT`] + 1 calls before.)
    pub(super) fn agreed(
        &mut self,
        first: &[Command],
        second: Vec<Command>,
        at_once: impl Fn(&Command) -> bool,
    ) -> Vec<Command> {
        let first: HashSet<_> = first.iter().map(identity).collect();
        let mut earlier = std::mem::take(&mut self.unconfirmed);
        self.namespaces.clear();
        let mut confirmed = false;
        let is_agreed = |command: &Command| {
            if !first.contains(&identity(command)) {
                return false;
            }
            let lasting = lasting(command);
            let known = earlier.remove(&lasting).is_some();
            confirmed |= known;
            let agreed = known || at_once(command);
            if !agreed {
                self.unconfirmed.insert(lasting, 0);
                self.namespaces.extend(Some(command.tuple.netns).filter(|netns| *netns != 0));
            }
            agreed
        };
        let agreed = second.into_iter().filter(is_agreed).collect();
        // Differences that come and go, each of them a new one, must not have the ledger compared every second for ever.
        self.hurries = !self.unconfirmed.is_empty() && (confirmed || !self.hurries);
        let kept = earlier.into_iter().filter(|(found, ago)| *ago < KEPT && is_of_rest(found));
        self.unconfirmed.extend(kept.map(|(found, ago)| (found, ago + 1)));
        agreed
    }

    /// Whether the newest call found differences that the next one should soon confirm. False also if that call came for this
    /// reason, and confirmed nothing.
    pub(super) const fn lacks_confirmation(&self) -> bool {
        self.hurries
    }

    /// How many ports that the ledger lacks the newest call found and the next one has to confirm.
    pub(super) fn waiting_additions(&self) -> u64 {
        const ADD: [Op; 2] = [Op::AddConn, Op::AddBound];
        let adds = |(op, ..): &&Identity| ADD.iter().any(|add| *add as u32 == *op);
        self.unconfirmed.keys().filter(adds).count() as u64
    }

    /// Inode numbers of the network namespaces of differences that the newest call found and the next one has to confirm.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = u32> + '_ {
        self.namespaces.iter().copied()
    }
}

/// What two comparisons of one call must agree on.
fn identity(command: &Command) -> Identity {
    const OF_VALUES: [Op; 3] = [Op::CorrectTuple, Op::SetState, Op::CorrectFast];
    let of_values = OF_VALUES.iter().any(|op| *op as u32 == command.op);
    (command.op, command.key, of_values.then_some(*command))
}

/// What two calls must agree on: of a `CorrectTuple` the differences alone, because ports are opened and released meanwhile.
fn lasting(command: &Command) -> Identity {
    if command.op != Op::CorrectTuple as u32 {
        return identity(command);
    }
    let correction = command.correction();
    let opened = if correction.opened == Correction::ALWAYS { Correction::ALWAYS } else { 0 };
    let differences = Correction { opened, released: 0, ..correction };
    identity(&Command::correcting(command.tuple, &differences))
}

/// Whether this is a difference of the counters of a tuple that did not change during the comparison.
fn is_of_rest((op, _, command): &Identity) -> bool {
    let opened = command.as_ref().map(|command| command.correction().opened);
    *op == Op::CorrectTuple as u32 && opened != Some(Correction::ALWAYS)
}

#[cfg(test)]
mod tests {
    use tracer_common::TupleKey;

    use super::*;

    fn removes(port: u16) -> Command {
        Command { op: Op::RemoveConn as u32, key: ConnKey::new(1, port), ..Command::default() }
    }

    fn of_tuple(opened: u64, in_use: i32) -> Command {
        let correction = Correction { opened, in_use, ..Correction::default() };
        Command::correcting(TupleKey::default(), &correction)
    }

    #[test]
    fn two_comparisons_must_say_the_same() {
        let mut agreement = Agreement::default();
        let mut agreed = |first: &[Command], second: &[Command]| {
            agreement.agreed(first, second.to_vec(), |_| true)
        };
        let first = [removes(1), removes(2), of_tuple(5, 1)];
        assert_eq!(agreed(&first, &[removes(2), removes(3), of_tuple(5, 2)]), [removes(2)]);
        assert_eq!(agreed(&[of_tuple(5, 1)], &[of_tuple(6, 1)]), []);
        let same = [of_tuple(5, 1)];
        assert_eq!(agreed(&same, &same), same);
    }

    #[test]
    fn the_next_call_must_find_the_same_difference_again() {
        let of_busy = of_tuple(Correction::ALWAYS, 1);
        for command in [removes(1), Command::correcting_fast(5, 4), of_busy] {
            let mut agreement = Agreement::default();
            let mut compare = |commands: &[Command]| {
                let agreed = agreement.agreed(commands, commands.to_vec(), |_| false);
                (agreed, agreement.lacks_confirmation())
            };
            assert_eq!(compare(&[command]), (vec![], true));
            assert_eq!(compare(&[]), (vec![], false));
            assert_eq!(compare(&[command]), (vec![], true));
            assert_eq!(compare(&[command]), (vec![command], false));
        }
    }

    #[test]
    fn differences_that_come_and_go_do_not_hurry_for_ever() {
        let mut agreement = Agreement::default();
        let mut port = 0;
        let mut flicker = |also: &[Command]| {
            port += 1;
            let commands: Vec<_> = also.iter().copied().chain([removes(port)]).collect();
            let agreed = agreement.agreed(&commands, commands.clone(), |_| false);
            (agreed.len(), agreement.lacks_confirmation())
        };
        assert_eq!([0; 4].map(|_| flicker(&[])), [(0, true), (0, false), (0, true), (0, false)]);
        let lasting = [removes(1000)];
        assert_eq!(flicker(&lasting), (0, true));
        assert_eq!(flicker(&lasting), (1, true), "the other one is new");
    }

    #[test]
    fn counters_of_a_busy_tuple_are_kept_until_it_rests() {
        for (busy, found) in [(0, 1), (KEPT, 1), (KEPT + 1, 0)] {
            let mut agreement = Agreement::default();
            let mut compare = |commands: &[Command]| {
                agreement.agreed(commands, commands.to_vec(), |_| false).len()
            };
            assert_eq!(compare(&[of_tuple(5, 1), removes(1)]), 0);
            assert_eq!((0..busy).map(|_| compare(&[])).sum::<usize>(), 0);
            assert_eq!(compare(&[of_tuple(7, 1)]), found, "{busy}");
        }
    }

    #[test]
    fn namespaces_of_what_is_to_be_confirmed_are_named() {
        let mut agreement = Agreement::default();
        let tuple = TupleKey { netns: 7, ..TupleKey::default() };
        let adds = Command { op: Op::AddConn as u32, tuple, ..Command::default() };
        let both = [adds, removes(1)];
        assert_eq!(agreement.agreed(&both, both.to_vec(), |_| false), []);
        assert_eq!(agreement.namespaces().collect::<Vec<_>>(), [7]);
        assert_eq!(agreement.waiting_additions(), 1);
        assert_eq!(agreement.agreed(&both, both.to_vec(), |_| false), both);
        assert_eq!((agreement.namespaces().count(), agreement.waiting_additions()), (0, 0));
    }

    #[test]
    fn ports_may_come_and_go_between_two_calls() {
        let mut agreement = Agreement::default();
        let mut compare = |command: Command| agreement.agreed(&[command], vec![command], |_| false);
        assert_eq!(compare(of_tuple(5, 1)), []);
        assert_eq!(compare(of_tuple(5, 2)), []);
        assert_eq!(compare(of_tuple(7, 2)), [of_tuple(7, 2)]);
    }
}
