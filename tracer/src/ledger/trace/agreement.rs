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
    /// Differences of numbers that change all the time, which both comparisons of the previous call found: carried out
    /// if they are found again.
    unconfirmed: HashSet<Identity>,
}

impl Agreement {
    /// The commands to carry out: those of `second` that `first`, the comparison right before it, gave, too, in the order of
    /// `second`. A difference of numbers that change all the time (`CorrectFast`, and a `CorrectTuple` that is
    /// [`Correction::ALWAYS`]) must also have been found by both comparisons of the previous call, some seconds ago:
    /// counters that are equal before and after the entries were read can have changed in between, and then the
    /// entries match neither reading.
    pub(super) fn agreed(&mut self, first: &[Command], second: Vec<Command>) -> Vec<Command> {
        let first: HashSet<_> = first.iter().map(identity).collect();
        let unconfirmed = std::mem::take(&mut self.unconfirmed);
        let is_agreed = |command: &Command| {
            let identity = identity(command);
            if !first.contains(&identity) {
                return false;
            }
            let agreed = !is_of_moving_numbers(command) || unconfirmed.contains(&identity);
            if !agreed {
                self.unconfirmed.insert(identity);
            }
            agreed
        };
        second.into_iter().filter(is_agreed).collect()
    }
}

fn identity(command: &Command) -> Identity {
    const OF_VALUES: [Op; 3] = [Op::CorrectTuple, Op::SetState, Op::CorrectFast];
    let of_values = OF_VALUES.iter().any(|op| *op as u32 == command.op);
    (command.op, command.key, of_values.then_some(*command))
}

/// Whether a correction is of numbers that may change while they are read.
fn is_of_moving_numbers(command: &Command) -> bool {
    let of_busy =
        command.op == Op::CorrectTuple as u32 && command.correction().opened == Correction::ALWAYS;
    of_busy || command.op == Op::CorrectFast as u32
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
        let first = [removes(1), removes(2), of_tuple(5, 1)];
        let second = vec![removes(2), removes(3), of_tuple(5, 2)];
        assert_eq!(agreement.agreed(&first, second), [removes(2)]);
        let same = [of_tuple(5, 1)];
        assert_eq!(agreement.agreed(&same, same.to_vec()), same);
    }

    #[test]
    fn numbers_that_change_all_the_time_must_differ_in_the_same_way_again() {
        let mut agreement = Agreement::default();
        for moving in [Command::correcting_fast(5, 4), of_tuple(Correction::ALWAYS, 1)] {
            let mut compare = |commands: &[Command]| agreement.agreed(commands, commands.to_vec());
            assert_eq!(compare(&[moving]), []);
            assert_eq!(compare(&[]), []);
            assert_eq!(compare(&[moving]), []);
            assert_eq!(compare(&[moving]), [moving]);
        }
    }
}
