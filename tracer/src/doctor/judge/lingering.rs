//! `held_open` and `fin_wait2_held`: connections of which one end is closed, and the other is not.

use super::{
    Seen,
    text::{number, percent, rounded},
};
use crate::doctor::{
    finding::{Advice, Certainty, Finding, Id, Severity},
    tuples::{Ends, Tuple},
};

/// Share of a tuple's ports that connections with one closed end may hold.
const SHARE: f64 = 0.10;
/// How many connections that a program does not close are a leak, whatever share of the ports they are.
const LEAK: u32 = 1_000;

/// A finding for each tuple with many connections of which one end is closed.
pub(super) fn held(seen: &Seen) -> Vec<Finding> {
    let all = seen.now.by_ends.iter();
    all.flat_map(|(ends, tuple)| {
        let stays = staying(seen, ends, tuple);
        [not_closed_here(seen, ends, tuple, stays), not_closed_there(seen, ends, tuple, stays)]
    })
    .flatten()
    .collect()
}

/// Share of the connections with one closed end that two looks show; `None`: there was one look.
fn staying(seen: &Seen, ends: &Ends, tuple: &Tuple) -> Option<f64> {
    seen.before.as_ref()?;
    let Some(before) = seen.earlier(ends) else { return Some(0.0) };
    let stay =
        tuple.lingering.iter().filter(|cookie| before.lingering.binary_search(cookie).is_ok());
    let all = tuple.lingering.len().max(1);
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
    let share = stay.count() as f64 / all as f64;
    Some(share)
}

/// How many of these connections stay, and how sure that is.
fn judged(count: u32, stays: Option<f64>) -> (f64, Certainty) {
    match stays {
        Some(share) => (f64::from(count) * share, Certainty::Measured),
        None => (f64::from(count), Certainty::Inferred),
    }
}

fn not_closed_here(seen: &Seen, ends: &Ends, tuple: &Tuple, stays: Option<f64>) -> Option<Finding> {
    let (count, certainty) = judged(tuple.close_wait, stays);
    if count < SHARE * f64::from(tuple.capacity) && count < f64::from(LEAK) {
        return None;
    }
    let what = format!(
        "{} connections are in CLOSE_WAIT ({} of the ports): the other end has closed, the program here has not",
        number(tuple.close_wait.into()),
        percent(f64::from(tuple.close_wait) / f64::from(tuple.capacity.max(1)))
    );
    let gain = format!("{} ports come back", number(tuple.close_wait.into()));
    let finding = Finding::new(Id::HeldOpen, Severity::Warning, seen.tuple(ends), what)
        .sure(certainty)
        .with("ports.close_wait", tuple.close_wait)
        .with("ports.capacity", tuple.capacity)
        .because(
            "the program leaks sockets: it does not close a connection whose other end is closed"
                .to_owned(),
        );
    let advice = [
        Advice::new("restart the program", gain).until_reboot(),
        Advice::new(
            "let the program close its socket when a read returns 0",
            "it does not come again",
        ),
    ];
    let not = "sysctls: no time-out ends CLOSE_WAIT";
    Some(finding.advise(advice).verify_by(seen.look_again()).but_not(not))
}

fn not_closed_there(
    seen: &Seen,
    ends: &Ends,
    tuple: &Tuple,
    stays: Option<f64>,
) -> Option<Finding> {
    let (count, certainty) = judged(tuple.fin_wait2, stays);
    if count < SHARE * f64::from(tuple.capacity) {
        return None;
    }
    let what = format!(
        "{} connections are in FIN_WAIT2 ({} of the ports): this host has closed, the other end has not",
        number(tuple.fin_wait2.into()),
        percent(f64::from(tuple.fin_wait2) / f64::from(tuple.capacity.max(1)))
    );
    let finding = Finding::new(Id::FinWait2Held, Severity::Warning, seen.tuple(ends), what)
        .sure(certainty)
        .with("ports.fin_wait2", tuple.fin_wait2)
        .with("ports.capacity", tuple.capacity)
        .with(
            "ports.fin_wait2.staying",
            stays.map_or(serde_json::Value::Null, |it| rounded(it).into()),
        );
    let sooner =
        Advice::new("let FIN_WAIT2 end sooner", "ports come back after 10 s instead of 60 s")
            .command(super::text::command_in(&seen.place, "sysctl -w net.ipv4.tcp_fin_timeout=10"))
            .until_reboot()
            .risk("an upstream that still sends after 10 s gets a reset");
    let advice = [sooner, Advice::new("let the upstream close its end of the connections", "")];
    Some(finding.advise(advice).verify_by(seen.look_again()))
}

#[cfg(test)]
mod tests;
