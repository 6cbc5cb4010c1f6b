//! Whether the counters of tuples are what the entries of `CONNS` come to. Pure: readings in, commands out.

use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};
use tracer_common::{
    Conn, ConnKey, Halves, States, TupleCount, TupleKey, conn_flag,
    seed::{Command, Correction},
};

/// What a tuple has of ports now.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Ports {
    in_use: u64,
    time_wait: u64,
    held: u64,
    waiting: u64,
    states: u64,
    unanswered: u32,
}

impl Ports {
    /// As the ledger counts a port of an entry with these flags.
    fn add(&mut self, port: u16, flags: u32) {
        let is = |flag| flags & flag != 0;
        let one = Halves::one(port);
        self.in_use += 1;
        self.states = self.states.wrapping_add(States::one(flags));
        let takes_room = !is(conn_flag::LISTED) && !is(conn_flag::APART);
        if takes_room {
            self.held = self.held.wrapping_add(one);
        }
        if is(conn_flag::TIME_WAIT) {
            self.time_wait += 1;
            if takes_room && !is(conn_flag::BOUND | conn_flag::NO_STAMP) {
                self.waiting = self.waiting.wrapping_add(one);
            }
        }
        self.unanswered += u32::from(is(conn_flag::SPREAD) && !is(conn_flag::ESTABLISHED));
    }
}

/// The counters of a tuple that must be right.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Counters {
    opened: u64,
    released: u64,
    ports: Ports,
}

impl From<&TupleCount> for Counters {
    fn from(count: &TupleCount) -> Self {
        Self {
            opened: count.opened,
            released: count.released,
            ports: Ports {
                in_use: count.opened.wrapping_sub(count.released),
                time_wait: count.time_wait_begun.wrapping_sub(count.time_wait_ended),
                held: count.held,
                waiting: count.waiting,
                states: count.states,
                unanswered: count.chosen.wrapping_sub(count.settled),
            },
        }
    }
}

pub(super) type Reading = HashMap<TupleKey, Counters>;

/// What corrects the tuples by `conns`, which was read between the two readings: only those that did not change
/// meanwhile. A hook can be between its two steps, so it counts only if the next readings say the same.
pub(super) fn corrections(
    before: &Reading,
    conns: &[(ConnKey, Conn)],
    after: &Reading,
) -> Vec<Command> {
    let mut held: HashMap<&TupleKey, Ports> = HashMap::with_capacity(after.len());
    // One that was removed and inserted again can be read twice.
    let mut seen = HashSet::with_capacity(conns.len());
    for (key, conn) in conns {
        if seen.insert(key) {
            held.entry(&conn.tuple).or_default().add(key.port, conn.flags);
        }
    }
    let without_entry = held.keys().copied().filter(|key| !after.contains_key(*key));
    let tuples = after.keys().chain(without_entry);
    tuples
        .filter_map(|key| {
            let counted = after.get(key).copied().unwrap_or_default();
            if before.get(key).copied().unwrap_or_default() != counted {
                return None;
            }
            let right = held.get(key).copied().unwrap_or_default();
            (right != counted.ports)
                .then(|| Command::correcting(*key, &correction(&counted, &right)))
        })
        .collect()
}

fn correction(counted: &Counters, right: &Ports) -> Correction {
    let ports = &counted.ports;
    Correction {
        opened: counted.opened,
        released: counted.released,
        in_use: difference(right.in_use, ports.in_use),
        time_wait: difference(right.time_wait, ports.time_wait),
        unanswered: right.unanswered.wrapping_sub(ports.unanswered).cast_signed(),
        held: right.held.wrapping_sub(ports.held),
        waiting: right.waiting.wrapping_sub(ports.waiting),
        states: right.states.wrapping_sub(ports.states),
    }
}

/// What must be added to `counted`, which can be below 0.
fn difference(right: u64, counted: u64) -> i32 {
    let difference = right.wrapping_sub(counted).cast_signed();
    i32::try_from(difference.clamp(i64::from(i32::MIN), i64::from(i32::MAX))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use tracer_common::{PortState, seed::Op};

    use super::*;

    fn tuple(port: u16) -> TupleKey {
        TupleKey { destination_port: port, ..TupleKey::default() }
    }

    fn conn(cookie: u64, port: u16, tuple: TupleKey, flags: u32) -> (ConnKey, Conn) {
        (ConnKey::new(cookie, port), Conn { tuple, flags, ..Conn::default() })
    }

    fn count(opened: u64, released: u64) -> TupleCount {
        TupleCount { opened, released, ..TupleCount::default() }
    }

    fn reading(counts: &[(u16, TupleCount)]) -> Reading {
        counts.iter().map(|(port, count)| (tuple(*port), Counters::from(count))).collect()
    }

    #[test]
    fn right_counters_need_nothing_and_changing_ones_are_left_alone() {
        let conns = [
            conn(1, 40_001, tuple(1), conn_flag::TIME_WAIT),
            conn(2, 40_002, tuple(1), conn_flag::BOUND | conn_flag::TIME_WAIT),
            conn(3, 40_003, tuple(1), conn_flag::LISTED | PortState::CloseWait.flags()),
            conn(4, 40_004, tuple(1), conn_flag::SPREAD),
            conn(5, 40_005, tuple(2), 0),
            conn(6, 40_006, tuple(1), conn_flag::APART | conn_flag::TIME_WAIT),
        ];
        let right = TupleCount {
            time_wait_begun: 4,
            time_wait_ended: 1,
            held: 2 << 32 | 1,
            waiting: 1,
            states: States::one(PortState::CloseWait.flags()),
            chosen: 7,
            settled: 6,
            ..count(7, 2)
        };
        let before = reading(&[(1, right), (2, count(8, 8))]);
        let after = reading(&[(1, right), (2, count(9, 8))]);
        assert_eq!(corrections(&before, &conns, &after), []);
    }

    #[test]
    fn wrong_counters_are_corrected_by_how_much() {
        let conns = [conn(1, 40_001, tuple(1), conn_flag::TIME_WAIT)];
        let wrong = TupleCount { held: 3 << 32, states: 7, chosen: 1, ..count(5, 2) };
        let reading = reading(&[(1, wrong), (2, TupleCount { waiting: 1, ..count(1, 2) })]);
        let commands = corrections(&reading, &conns, &reading);
        let first = Correction {
            opened: 5,
            released: 2,
            in_use: -2,
            time_wait: 1,
            unanswered: -1,
            held: 1_u64.wrapping_sub(3 << 32),
            waiting: 1,
            states: 7_u64.wrapping_neg(),
        };
        let second = Correction {
            opened: 1,
            released: 2,
            in_use: 1,
            waiting: u64::MAX,
            ..Correction::default()
        };
        assert_eq!(commands.len(), 2);
        assert!(commands.contains(&Command::correcting(tuple(1), &first)), "{commands:?}");
        assert!(commands.contains(&Command::correcting(tuple(2), &second)), "{commands:?}");
        assert!(commands.iter().all(|command| command.op == Op::CorrectTuple as u32));
    }

    #[test]
    fn ports_whose_tuple_has_no_entry_get_one() {
        let conns = [conn(1, 40_001, tuple(1), 0), conn(1, 40_001, tuple(1), 0)];
        let commands = corrections(&Reading::default(), &conns, &Reading::default());
        let all = Correction { in_use: 1, held: 1, ..Correction::default() };
        assert_eq!(commands, [Command::correcting(tuple(1), &all)]);
    }
}
