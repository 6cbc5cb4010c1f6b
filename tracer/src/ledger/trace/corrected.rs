//! The text of corrections: which entries and counters of the ledger were wrong, and how.

use std::net::IpAddr;

use tracer_common::{
    PortState, conn_flag,
    seed::{Command, Op},
};

/// How many corrections a warning names.
const NAMED: usize = 5;

/// The corrections of one comparison: their number, and the texts of the first [`NAMED`].
#[derive(Debug, Default)]
pub(super) struct Corrected {
    /// How many.
    pub(super) count: u64,
    named: Vec<String>,
}

impl Corrected {
    /// Counts a command that changed the ledger at `now_ns` (CLOCK_MONOTONIC).
    pub(super) fn add(&mut self, command: &Command, now_ns: u64) {
        self.count += 1;
        if self.named.len() < NAMED {
            self.named.push(text(command, now_ns));
        }
    }

    /// For people: the named corrections, and how many more there are.
    pub(super) fn text(&self) -> String {
        let more = self.count.saturating_sub(self.named.len() as u64);
        let more = if more > 0 { format!("; {more} more") } else { String::new() };
        format!("{}{more}", self.named.join("; "))
    }
}

/// What a command corrects at `now_ns` (CLOCK_MONOTONIC), for people.
fn text(command: &Command, now_ns: u64) -> String {
    let tuple = &command.tuple;
    let [source, destination] =
        [tuple.source, tuple.destination].map(|it| IpAddr::from(it.0).to_canonical());
    let port = command.key.port;
    let to = format!("{source} to {destination}:{}", tuple.destination_port);
    let at = format!("in namespace {}", tuple.netns);
    let is = |op: Op| command.op == op as u32;
    if is(Op::AddConn) {
        format!("port {port} from {to} {at} was missing")
    } else if is(Op::RemoveConn) {
        format!("port {port} from {to} {at}, {}, is no longer in use", entry(command, now_ns))
    } else if is(Op::AddBound) {
        format!("bound port {port} of {source} {at} was missing")
    } else if is(Op::RemoveBound) {
        format!("port {port} {at} is no longer bound")
    } else if is(Op::MarkTimeWait) {
        format!("port {port} from {to} {at} is in TIME_WAIT")
    } else if is(Op::SetState) {
        format!("port {port} from {to} {at} is in another state")
    } else if is(Op::CorrectTuple) {
        let of = command.correction();
        format!("from {to} {at} {:+} in use, {:+} in TIME_WAIT", of.in_use, of.time_wait)
    } else {
        "the number of ports that the spreader bound".to_owned()
    }
}

/// The entry that a `RemoveConn` removed at `now_ns`, for people: its state, its age, and whether the start read it.
fn entry(command: &Command, now_ns: u64) -> String {
    let state = match PortState::of(command.flags) {
        _ if command.flags & conn_flag::TIME_WAIT != 0 => "TIME_WAIT",
        PortState::Connecting => "connecting",
        PortState::Unanswered => "unanswered",
        PortState::Established => "ESTABLISHED",
        PortState::CloseWait => "CLOSE_WAIT",
        PortState::Closing => "closing",
    };
    let age_ms = now_ns.saturating_sub(command.before_ns) / 1_000_000;
    let read = if command.flags & conn_flag::SEEDED != 0 { ", older than tracer" } else { "" };
    format!("{state}, added {}.{} s ago{read}", age_ms / 1000, age_ms % 1000 / 100)
}

#[cfg(test)]
mod tests {
    use tracer_common::{Addr, ConnKey, TupleKey, seed::Correction};

    use super::*;

    #[test]
    fn the_first_are_named_and_the_others_counted() {
        let tuple = TupleKey {
            source: Addr::v4([10, 0, 0, 1]),
            destination: Addr::v4([10, 0, 0, 2]),
            netns: 5,
            destination_port: 80,
            zero: 0,
        };
        let now_ns = 5_000_000_000;
        let removed = |port| Command {
            op: Op::RemoveConn as u32,
            flags: conn_flag::SEEDED | PortState::Established.flags(),
            key: ConnKey::new(1, port),
            tuple,
            before_ns: 2_700_000_000,
            ..Command::default()
        };
        let mut corrected = Corrected::default();
        let correction = Correction { in_use: -1, ..Correction::default() };
        corrected.add(&Command::correcting(tuple, &correction), now_ns);
        corrected.add(&removed(40_000), now_ns);
        assert_eq!(
            corrected.text(),
            "from 10.0.0.1 to 10.0.0.2:80 in namespace 5 -1 in use, +0 in TIME_WAIT; \
             port 40000 from 10.0.0.1 to 10.0.0.2:80 in namespace 5, ESTABLISHED, added 2.3 s ago, \
             older than tracer, is no longer in use"
        );
        (1..=10).for_each(|port| corrected.add(&removed(port), now_ns));
        assert_eq!(corrected.count, 12);
        assert!(corrected.text().ends_with("; 7 more"), "{}", corrected.text());
    }
}
