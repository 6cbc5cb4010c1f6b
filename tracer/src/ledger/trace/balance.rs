//! Compares the counters of tuples with the entries of `CONNS`. No I/O: readings in, commands out.

use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};
use tracer_common::{
    Conn, ConnKey, Halves, States, TupleCount, TupleKey, conn_flag,
    seed::{Command, Correction},
};

/// How many ports a tuple has now: all (`in_use`), those in TIME_WAIT, and those of `chosen` that are not `settled`
/// (`unanswered`). `held`, `waiting` ([`Halves`]) and `states` ([`States`]) are as in [`TupleCount`].
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
    /// Counts a port of an entry with these flags, as the ledger does.
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

/// What the entries of `CONNS` say about a tuple.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Found {
    ports: Ports,
    /// Entries with [`conn_flag::APART`].
    apart: u32,
    /// Those of `apart` in TIME_WAIT.
    apart_in_time_wait: u32,
    /// Flags that at least one entry has.
    any: u32,
}

impl Found {
    fn add(&mut self, port: u16, flags: u32) {
        self.ports.add(port, flags);
        self.any |= flags;
        if flags & conn_flag::APART != 0 {
            self.apart += 1;
            self.apart_in_time_wait += u32::from(flags & conn_flag::TIME_WAIT != 0);
        }
    }
}

/// The counters of a tuple that are compared.
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

/// The counters of all tuples that one reading of the map found.
pub(super) type Reading = HashMap<TupleKey, Counters>;

/// Commands that correct tuples by `conns`, which was read between the two readings. A tuple that did not change
/// meanwhile is corrected in full, another one only in numbers that do not depend on ports that come and go
/// ([`of_busy`]). A hook may have changed an entry and not yet the counter, so the caller carries out a correction only
/// if the next comparison gives the same one.
pub(super) fn corrections(
    before: &Reading,
    conns: &[(ConnKey, Conn)],
    after: &Reading,
) -> Vec<Command> {
    let mut held: HashMap<&TupleKey, Found> = HashMap::with_capacity(after.len());
    // A key that was removed and inserted again can be read twice.
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
            let before = before.get(key).copied().unwrap_or_default();
            let found = held.get(key).copied().unwrap_or_default();
            let correction = if before != counted {
                of_busy(&before, &counted, &found)?
            } else if found.ports != counted.ports {
                correction(&counted, &found.ports)
            } else {
                return None;
            };
            Some(Command::correcting(*key, &correction))
        })
        .collect()
}

/// The correction of a tuple whose counters changed between the readings `before` and `after`, from the entries `found`
/// between them. Two numbers stay the same while ports come and go, because each is a difference of two counters that
/// change together:
///
/// - `in_use - held`, the ports that take no room, must be the number of entries with APART.
/// - `time_wait - waiting`, the ports in TIME_WAIT that connect() cannot reuse, must be the number of entries with APART
///   and TIME_WAIT.
///
/// A number is not checked if it differs between the readings, or if entries may be part of it for another reason than
/// APART: the tuple has an entry with LISTED, or for the second number with BOUND or NO_STAMP. `None`: neither number
/// needs a correction, as far as they could be checked.
fn of_busy(before: &Counters, after: &Counters, found: &Found) -> Option<Correction> {
    const NO_ROOM: u32 = conn_flag::LISTED;
    const NEVER_REUSED: u32 = NO_ROOM | conn_flag::BOUND | conn_flag::NO_STAMP;
    // The lower 32 bits are enough: only differences of small numbers are used.
    let without = |all: u64, some: u64| (low(all)).wrapping_sub(Halves(some).sum());
    let missing = |by_counters: [u32; 2], right: u32, unknown: u32| {
        let [before, after] = by_counters;
        let known = before == after && found.any & unknown == 0;
        if known { after.wrapping_sub(right).cast_signed() } else { 0 }
    };
    let held = [before, after].map(|it| without(it.ports.in_use, it.ports.held));
    let held = missing(held, found.apart, NO_ROOM);
    let waiting = [before, after].map(|it| without(it.ports.time_wait, it.ports.waiting));
    let waiting = missing(waiting, found.apart_in_time_wait, NEVER_REUSED);
    (held != 0 || waiting != 0).then(|| Correction {
        opened: Correction::ALWAYS,
        held: in_a_half(held, found.ports.held, after.ports.held),
        waiting: in_a_half(waiting, found.ports.waiting, after.ports.waiting),
        ..Correction::default()
    })
}

/// `more` ports as [`Halves`], all in one half: the one in which `counted` has the fewest compared with `right`, or if
/// `more` is negative the most.
fn in_a_half(more: i32, right: u64, counted: u64) -> u64 {
    let [right, counted] = [Halves(right), Halves(counted)];
    let lacks = |right: u32, counted: u32| right.wrapping_sub(counted).cast_signed();
    let even = lacks(right.even(), counted.even());
    let odd = lacks(right.odd(), counted.odd());
    let one = if (even > odd) == (more > 0) { Halves::one(0) } else { Halves::one(1) };
    one.wrapping_mul(i64::from(more).cast_unsigned())
}

fn low(count: u64) -> u32 {
    u32::try_from(count & u64::from(u32::MAX)).unwrap_or_default()
}

/// The command that corrects the count of fast ports by the entries `conns`. `before` and `after`: that count, read before and
/// after the entries; `None`: there is none, because this is no spreader. Returns `None` if the count is right, has changed
/// between the two, or is not there.
pub(super) fn fast(
    before: Option<u32>,
    conns: &[(ConnKey, Conn)],
    after: Option<u32>,
) -> Option<Command> {
    let counted = after.filter(|_| before == after)?;
    // A key that was removed and inserted again can be read twice, so keys are counted.
    let of_spreader = |flags: u32| {
        flags & (conn_flag::BOUND | conn_flag::LISTED | conn_flag::APART) == conn_flag::BOUND
    };
    let held: HashSet<_> =
        conns.iter().filter(|(_, conn)| of_spreader(conn.flags)).map(|(key, _)| key).collect();
    let right = u32::try_from(held.len()).unwrap_or(u32::MAX);
    (right != counted).then(|| Command::correcting_fast(counted, right))
}

/// The correction of a tuple that did not change during the comparison: it applies only while `opened` and `released`
/// are still as `counted`.
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

/// What must be added to `counted` to make it `right`, within the limits of i32; can be negative.
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
    fn right_counters_and_changing_ones_are_not_corrected() {
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
    fn of_a_tuple_that_changes_all_the_time_ports_without_room_are_corrected() {
        let (even, odd) = (1 << 32, 1);
        let conns: Vec<_> = (0..10)
            .map(|it| conn(it, 40_000 + u16::try_from(it).unwrap(), tuple(1), 0))
            .chain([conn(10, 40_010, tuple(1), conn_flag::APART)])
            .chain([conn(11, 40_011, tuple(1), conn_flag::APART | conn_flag::TIME_WAIT)])
            .chain([conn(12, 40_013, tuple(1), conn_flag::TIME_WAIT)])
            .collect();
        // 5 even ports and 6 odd ones take room; one of the odd ones is in TIME_WAIT.
        let right = |more| TupleCount {
            held: even * 5 + odd * (6 + more),
            waiting: odd,
            time_wait_begun: 2,
            ..count(100 + more, 87)
        };
        let wrong = |more| TupleCount { held: right(more).held - even, waiting: 2, ..right(more) };
        let compare = |of: &dyn Fn(u64) -> TupleCount, conns: &[_]| {
            corrections(&reading(&[(1, of(0))]), conns, &reading(&[(1, of(1))]))
        };
        assert_eq!(compare(&right, &conns), []);
        let correction = Correction {
            opened: Correction::ALWAYS,
            held: even,
            waiting: odd.wrapping_neg(),
            ..Correction::default()
        };
        assert_eq!(compare(&wrong, &conns), [Command::correcting(tuple(1), &correction)]);
        // Ports that bind() took change as well, and take no room either.
        let mut listed = conns.clone();
        listed.push(conn(13, 40_015, tuple(1), conn_flag::LISTED));
        assert_eq!(compare(&wrong, &listed), []);
        // One of the two counters has changed, and the other not yet.
        let moving = |more| TupleCount { held: wrong(0).held, ..wrong(more) };
        let waiting_alone = Correction { held: 0, ..correction };
        assert_eq!(compare(&moving, &conns), [Command::correcting(tuple(1), &waiting_alone)]);
    }

    #[test]
    fn fast_ports_are_corrected_if_their_count_did_not_change() {
        let bound = conn_flag::BOUND;
        let conns = [
            conn(1, 40_001, tuple(1), bound),
            conn(1, 40_001, tuple(1), bound),
            conn(2, 40_001, tuple(2), bound | conn_flag::TIME_WAIT),
            conn(3, 40_003, tuple(1), bound | conn_flag::LISTED),
            conn(4, 40_005, tuple(1), bound | conn_flag::APART),
            conn(5, 40_007, tuple(1), 0),
        ];
        assert_eq!(fast(Some(2), &conns, Some(2)), None);
        assert_eq!(fast(Some(5), &conns, Some(5)), Some(Command::correcting_fast(5, 2)));
        assert_eq!(fast(Some(5), &conns, Some(4)), None);
        assert_eq!(fast(None, &conns, None), None);
    }

    #[test]
    fn wrong_counters_are_corrected_by_the_difference() {
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
    fn ports_whose_tuple_has_no_entry_add_one() {
        let conns = [conn(1, 40_001, tuple(1), 0), conn(1, 40_001, tuple(1), 0)];
        let commands = corrections(&Reading::default(), &conns, &Reading::default());
        let all = Correction { in_use: 1, held: 1, ..Correction::default() };
        assert_eq!(commands, [Command::correcting(tuple(1), &all)]);
    }
}
