//! `black_hole`: the connections of a tuple wait for answers that do not come.

use super::{
    Seen, ports,
    text::{number, percent, rounded},
};
use crate::doctor::{
    finding::{Advice, Finding, Id, Severity},
    flow::FAST_SHARE,
    tuples::{Ends, Tuple},
};

/// Share of a tuple's ports in SYN_SENT from which on the rest of it does not matter.
const MOST: f64 = 0.5;
/// From how many unanswered connections on it matters, if no other gets through.
const SOME: u32 = 20;
/// The share of the ports that these need if there was one look: whether others got through before is not known.
const SOME_SHARE: f64 = 0.2;
/// Fewer connections than this prove nothing: one host that is switched off.
const FEW: u32 = 5;

/// A finding for each tuple with at least five SYNs that were sent again without an answer: critical if half of its ports in use
/// are in SYN_SENT, and it has 45 % of its ports in use or is exhausted; a warning if there are 20 such SYNs, and no connection
/// gets through.
pub(super) fn black_holes(seen: &Seen) -> Vec<Finding> {
    seen.now.by_ends.iter().filter_map(|(ends, tuple)| of_tuple(seen, ends, tuple)).collect()
}

/// How severe the finding of a tuple that [`black_holes`] makes is; `None`: it makes none. `tuple`: that of `ends` in `seen`.
pub(super) fn severity_of(seen: &Seen, ends: &Ends, tuple: &Tuple) -> Option<Severity> {
    if tuple.unanswered < FEW {
        return None;
    }
    let share = share(tuple);
    let established = seen.activity.get(ends).map(|it| it.established(tuple.syn_sent));
    let none_gets_through = tuple.established == 0
        && established.map_or(share >= SOME_SHARE, |established| established == 0);
    let much = f64::from(tuple.in_use()) >= FAST_SHARE * f64::from(tuple.capacity);
    if share >= MOST && (much || ports::is_exhausted(seen, ends, tuple)) {
        return Some(Severity::Critical);
    }
    (tuple.unanswered >= SOME && none_gets_through).then_some(Severity::Warning)
}

/// Share of the ports in use that wait in SYN_SENT. TIME_WAITs that connect() takes over hold no port against it.
fn share(tuple: &Tuple) -> f64 {
    f64::from(tuple.syn_sent) / f64::from(tuple.in_use().max(1))
}

fn of_tuple(seen: &Seen, ends: &Ends, tuple: &Tuple) -> Option<Finding> {
    let severity = severity_of(seen, ends, tuple)?;
    let share = share(tuple);
    let what = format!(
        "{} of {} ports in use wait in SYN_SENT ({}), {} after their SYN was sent again: no answer comes",
        number(tuple.syn_sent.into()),
        number(tuple.in_use().into()),
        percent(share),
        number(tuple.unanswered.into())
    );
    let finding = Finding::new(Id::BlackHole, severity, seen.tuple(ends), what)
        .with("ports.syn_sent", tuple.syn_sent)
        .with("ports.unanswered", tuple.unanswered)
        .with("ports.in_use", tuple.in_use())
        .with("ports.capacity", tuple.capacity)
        .with("syn_sent.share", rounded(share));
    let advice = [
        Advice::new(
            "find out why no answer comes: the route, a firewall on the way, the destination itself",
            "",
        ),
        Advice::new(
            "let the program give up sooner (nginx proxy_connect_timeout, HAProxy timeout connect)",
            "ports in use = connections/s × time-out",
        ),
    ];
    Some(finding.advise(advice).verify_by(seen.look_again()).but_not(
        "more ports, more source addresses, tcp_tw_reuse: they would wait in the same way",
    ))
}

#[cfg(test)]
mod tests;
