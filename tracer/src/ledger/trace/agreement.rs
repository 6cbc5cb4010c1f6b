//! Decides which differences between ledger and kernel are corrected. A reading is not a snapshot, so several must
//! agree. No I/O.

use std::collections::HashSet;

use tracer_common::{
    ConnKey,
    seed::{Command, Correction, Op},
};

/// What must be equal for two comparisons to have found the same difference: the op and the key; of corrections of a
/// value (`CorrectTuple`, `SetState`, `CorrectFast`) the whole command. `None` in its place: another command.
type Identity = (u32, ConnKey, Option<Command>);

/// What earlier comparisons found.
#[derive(Debug, Default)]
pub(super) struct Agreement {
    /// Differences that both comparisons of the previous call found, and that were not corrected: they are if they are found
    /// again.
    unconfirmed: HashSet<Identity>,
    /// Inode numbers of the network namespaces of `unconfirmed`; without 0, which commands have that name none.
    namespaces: HashSet<u32>,
}

impl Agreement {
    /// The commands to carry out: those of `second` that `first`, the comparison right before it, gave, too, in the order of
    /// `second`. Unless `at_once` holds for it, a command must also have been given by both comparisons of the previous call, 1 s
    /// ago or longer (the caller's promise), and not have been returned by it: a thread can lose its CPU after the kernel has
    /// given it a port and before the hook that reports this has run, and both comparisons of one call then find what no hook has
    /// missed.
    pub(super) fn agreed(
        &mut self,
        first: &[Command],
        second: Vec<Command>,
        at_once: impl Fn(&Command) -> bool,
    ) -> Vec<Command> {
        let first: HashSet<_> = first.iter().map(identity).collect();
        let earlier = std::mem::take(&mut self.unconfirmed);
        self.namespaces.clear();
        let is_agreed = |command: &Command| {
            if !first.contains(&identity(command)) {
                return false;
            }
            let lasting = lasting(command);
            let agreed = at_once(command) || earlier.contains(&lasting);
            if !agreed {
                self.unconfirmed.insert(lasting);
                self.namespaces.extend(Some(command.tuple.netns).filter(|netns| *netns != 0));
            }
            agreed
        };
        second.into_iter().filter(is_agreed).collect()
    }

    /// Whether the newest call found differences that the next one has to confirm.
    pub(super) fn lacks_confirmation(&self) -> bool {
        !self.unconfirmed.is_empty()
    }

    /// Inode numbers of the network namespaces of differences that the next call has to confirm, as far as the commands have them:
    /// those that add what the ledger lacks do.
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
    let differences = Correction { opened: 0, released: 0, ..command.correction() };
    identity(&Command::correcting(command.tuple, &differences))
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
        for command in [removes(1), Command::correcting_fast(5, 4), of_busy, of_tuple(5, 1)] {
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
    fn namespaces_of_what_is_to_be_confirmed_are_named() {
        let mut agreement = Agreement::default();
        let tuple = TupleKey { netns: 7, ..TupleKey::default() };
        let adds = Command { op: Op::AddConn as u32, tuple, ..Command::default() };
        let both = [adds, removes(1)];
        assert_eq!(agreement.agreed(&both, both.to_vec(), |_| false), []);
        assert_eq!(agreement.namespaces().collect::<Vec<_>>(), [7]);
        assert_eq!(agreement.agreed(&both, both.to_vec(), |_| false), both);
        assert_eq!(agreement.namespaces().count(), 0);
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
