//! Which differences between ledger and kernel are corrected: a reading is no snapshot, so it takes several that agree. Pure.

use std::collections::HashSet;

use tracer_common::{
    ConnKey,
    seed::{Command, Correction, Op},
};

/// What makes a difference the same one in two comparisons.
type Identity = (u32, ConnKey, Option<Command>);

/// What the comparisons before said.
#[derive(Debug, Default)]
pub(super) struct Agreement {
    /// Differences of numbers that were not at rest, which two comparisons in a row found last time.
    doubted: HashSet<Identity>,
}

impl Agreement {
    /// What is to be corrected of what two comparisons say, one right after the other. Numbers that are not at rest must have
    /// been found so by the two of some seconds ago as well: the same numbers can be those of other ports, and what was read
    /// between them be neither's.
    pub(super) fn of(&mut self, first: &[Command], second: Vec<Command>) -> Vec<Command> {
        let first: HashSet<_> = first.iter().map(identity).collect();
        let doubted = std::mem::take(&mut self.doubted);
        let is_agreed = |command: &Command| {
            let identity = identity(command);
            if !first.contains(&identity) {
                return false;
            }
            let agreed = !is_in_passing(command) || doubted.contains(&identity);
            if !agreed {
                self.doubted.insert(identity);
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

/// Whether a correction is of numbers that need not have been at rest.
fn is_in_passing(command: &Command) -> bool {
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
        assert_eq!(agreement.of(&first, second), [removes(2)]);
        let same = [of_tuple(5, 1)];
        assert_eq!(agreement.of(&same, same.to_vec()), same);
    }

    #[test]
    fn numbers_that_are_not_at_rest_must_be_found_so_again_later() {
        let mut agreement = Agreement::default();
        for moving in [Command::correcting_fast(5, 4), of_tuple(Correction::ALWAYS, 1)] {
            let mut compare = |commands: &[Command]| agreement.of(commands, commands.to_vec());
            assert_eq!(compare(&[moving]), []);
            assert_eq!(compare(&[]), []);
            assert_eq!(compare(&[moving]), []);
            assert_eq!(compare(&[moving]), [moving]);
        }
    }
}
