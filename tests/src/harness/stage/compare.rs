//! Compares what the kernel has, what a workload expects and what a tracer counts.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use super::{Expected, Outcome};
use crate::harness::{
    oracle::{self, Table},
    tracer::watch::Counts,
    tuple::Tuple,
};

/// The tuples in which the kernel differs from what the workload expects, a line of text each; empty if there are none. A socket
/// in FIN_WAIT2 may count as TIME_WAIT or not.
pub(super) fn against_kernel(table: &Table, expected: &BTreeMap<Tuple, Expected>) -> String {
    let mut difference = String::new();
    for tuple in table.keys().chain(expected.keys()).collect::<BTreeSet<_>>() {
        let kernel = table.get(tuple).cloned().unwrap_or_default();
        let wanted = expected.get(tuple).cloned().unwrap_or_default();
        // It depends on timing whether a closed socket in FIN_WAIT2 becomes a time-wait socket: if the ACK of its FIN arrives
        // while a system call uses the socket, the socket stays a full one, with a timer (tcp_rcv_state_process).
        let waiting = |state| kernel.states.get(state).copied().unwrap_or(0);
        let at_most = waiting("TIME_WAIT") + waiting("FIN_WAIT2");
        let time_wait = (kernel.time_wait..=at_most).contains(&wanted.time_wait);
        if kernel.in_use != wanted.in_use || !time_wait {
            writeln!(difference, "  {tuple}: kernel {kernel:?}, expected {wanted:?}").ok();
        }
    }
    difference
}

/// How many ports the kernel has in each group of states: connecting, connecting after a retransmission of the SYN,
/// established, CLOSE_WAIT, closing.
fn by_state(kernel: &oracle::Sockets) -> [u64; 5] {
    [
        kernel.in_states(&["SYN_SENT", "SYN_RECV"]),
        kernel.unanswered,
        kernel.in_states(&["ESTABLISHED"]),
        kernel.in_states(&["CLOSE_WAIT"]),
        kernel.in_states(&["FIN_WAIT1", "FIN_WAIT2", "CLOSING", "LAST_ACK"]),
    ]
}

/// What a tracer counts, in the order of [`by_state`].
fn states(counted: &Counts) -> [u64; 5] {
    let Counts { connecting, unanswered, established, close_wait, closing, .. } = *counted;
    [connecting, unanswered, established, close_wait, closing]
}

/// Whether the counted failures are the expected ones, by cause, with a difference of at most `unseen` each. A call of which
/// the tracer saw only some of the hooks can be counted with another cause.
fn are_failures(
    counted: &BTreeMap<String, u64>,
    wanted: &BTreeMap<String, u64>,
    unseen: u64,
) -> bool {
    let of = |failures: &BTreeMap<String, u64>, cause: &str| failures.get(cause).copied();
    counted.keys().chain(wanted.keys()).all(|cause| {
        let [counted, wanted] = [counted, wanted].map(|it| of(it, cause).unwrap_or(0));
        counted.abs_diff(wanted) <= unseen
    })
}

/// Number of connect() calls that a workload knows of. If it does not know how many ports of a tuple were opened, those in use
/// count instead.
pub(super) fn calls(expected: &BTreeMap<Tuple, Expected>, outcome: Option<&Outcome>) -> u64 {
    let of_one = |it: &Expected| it.opened.unwrap_or(it.in_use) + it.failures.values().sum::<u64>();
    expected.values().map(of_one).sum::<u64>() + outcome.map_or(0, Outcome::calls)
}

/// The tuples in which a tracer differs from the kernel or from what the workload expects, or opened − released is not the number
/// of ports in use, a line each; empty if there are none. What `expected` does not have is compared with the kernel only. The
/// opened ports, the failures of each cause and the ends of connections ([`Uses::are`](crate::harness::tracer::watch::Uses::are))
/// may differ from what the workload expects by up to `unseen` each.
pub(super) fn against_tracer(
    table: &Table,
    expected: &BTreeMap<Tuple, Expected>,
    tracer: &BTreeMap<Tuple, Counts>,
    unseen: u64,
) -> String {
    let mut difference = String::new();
    for tuple in table.keys().chain(expected.keys()).chain(tracer.keys()).collect::<BTreeSet<_>>() {
        let kernel = table.get(tuple).cloned().unwrap_or_default();
        let counted = tracer.get(tuple).cloned().unwrap_or_default();
        let wanted = expected.get(tuple);
        let right = (kernel.in_use, kernel.time_wait) == (counted.in_use, counted.time_wait)
            && by_state(&kernel) == states(&counted)
            && counted.opened.checked_sub(counted.released) == Some(counted.in_use)
            && wanted
                .and_then(|wanted| wanted.opened)
                .is_none_or(|opened| opened.abs_diff(counted.opened) <= unseen)
            && wanted
                .and_then(|wanted| wanted.uses.as_ref())
                .is_none_or(|uses| counted.uses.are(uses, unseen))
            && wanted
                .is_none_or(|wanted| are_failures(&counted.failures, &wanted.failures, unseen));
        if !right {
            writeln!(
                difference,
                "  {tuple}: kernel {kernel:?}, tracer {counted:?}, expected {wanted:?}"
            )
            .ok();
        }
    }
    difference
}
