//! `held_open` and `fin_wait2_held`: connections of which one end is closed, and the other is not.

use super::{
    Around, Seen,
    set::set,
    text::{counted, number, percent, rounded},
};
use crate::doctor::{
    finding::{Advice, Certainty, Finding, Id, Severity},
    tuples::{Ends, Tuple},
};

/// Share of a tuple's ports that connections with one closed end may hold.
const SHARE: f64 = 0.10;
/// How many connections that a program does not close are a leak, whatever share of the ports they are.
const LEAK: u32 = 1_000;
/// Share of the ports in use from which on one look is enough for a warning: a program that closes late has fewer.
const MOSTLY: f64 = 0.5;
/// What is advised for how long FIN_WAIT2 lasts, in seconds.
const SHORT_S: u64 = 10;

/// Findings `held_open` and `fin_wait2_held`: one for each tuple of which CLOSE_WAIT or FIN_WAIT2 holds a tenth of the capacity,
/// or CLOSE_WAIT 1,000 ports. With two looks, only connections that both show count.
pub fn held(seen: &Seen, around: &Around) -> Vec<Finding> {
    let all = seen.now.by_ends.iter();
    all.flat_map(|(ends, tuple)| {
        [not_closed_here(seen, around, (ends, tuple)), not_closed_there(seen, (ends, tuple))]
    })
    .flatten()
    .collect()
}

/// Connections of a tuple with one closed end.
struct Lingering {
    count: u32,
    /// Share of them that two looks show; `None`: there was one look.
    staying: Option<f64>,
    /// Share of the tuple's ports in use.
    share: f64,
}

impl Lingering {
    /// `count`: how many there are; `cookies`: their sockets.
    fn of(
        seen: &Seen,
        (ends, tuple): (&Ends, &Tuple),
        count: u32,
        cookies: impl Fn(&Tuple) -> &[u64],
    ) -> Self {
        let staying = |_: &_| {
            let Some(before) = seen.earlier(ends).map(&cookies) else { return 0.0 };
            let now = cookies(tuple);
            let stay = now.iter().filter(|cookie| before.binary_search(cookie).is_ok()).count();
            #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
            let share = stay as f64 / now.len().max(1) as f64;
            share
        };
        let share = f64::from(count) / f64::from(tuple.in_use().max(1));
        Self { count, staying: seen.before.as_ref().map(staying), share }
    }

    /// How many stay; all of them if that is not known.
    fn stay(&self) -> f64 {
        f64::from(self.count) * self.staying.unwrap_or(1.0)
    }

    /// Whether those that stay are a tenth of the tuple's ports.
    fn is_much(&self, tuple: &Tuple) -> bool {
        self.stay() > 0.0 && self.stay() >= SHARE * f64::from(tuple.capacity)
    }

    /// The finding with how bad and how sure it is: programs and peers that close late look the same at one look.
    fn grade(&self, finding: Finding) -> Finding {
        let (severity, certainty) = match self.staying {
            Some(_) => (Severity::Warning, Certainty::Measured),
            None if self.share >= MOSTLY => (Severity::Warning, Certainty::Inferred),
            None => (Severity::Info, Certainty::Inferred),
        };
        Finding { severity, ..finding.sure(certainty) }
    }
}

fn not_closed_here(
    seen: &Seen,
    around: &Around,
    (ends, tuple): (&Ends, &Tuple),
) -> Option<Finding> {
    let here = Lingering::of(seen, (ends, tuple), tuple.close_wait, |it| &it.close_wait_cookies);
    if !here.is_much(tuple) && here.stay() < f64::from(LEAK) {
        return None;
    }
    let holder = around.holder(tuple);
    let program = holder.map_or_else(
        || "the program".to_owned(),
        |holder| format!("{} (process {})", holder.name, holder.pid),
    );
    let what = format!(
        "{} in CLOSE_WAIT ({} of the ports): the other end has closed, {program} has not",
        counted(tuple.close_wait.into(), "connection is", "connections are"),
        percent(f64::from(tuple.close_wait) / f64::from(tuple.capacity.max(1)))
    );
    let gain = counted(tuple.close_wait.into(), "port comes back", "ports come back");
    let finding = Finding::new(Id::HeldOpen, Severity::Warning, seen.tuple(ends), what)
        .with("ports.close_wait", tuple.close_wait)
        .with("ports.capacity", tuple.capacity)
        .with("process.pid", serde_json::json!(holder.map(|it| it.pid)))
        .because(
            "a connection whose other end is closed keeps its port until the program closes its socket"
                .to_owned(),
        );
    let advice = [
        Advice::new(format!("restart {program}"), gain).until_reboot(),
        Advice::new(
            "let the program close its socket when a read returns 0",
            "it does not come again",
        ),
    ];
    let not = "sysctls: no time-out ends CLOSE_WAIT";
    let finding = here.grade(finding);
    Some(finding.advise(advice).verify_by(seen.look_again()).but_not(not))
}

fn not_closed_there(seen: &Seen, (ends, tuple): (&Ends, &Tuple)) -> Option<Finding> {
    let there = Lingering::of(seen, (ends, tuple), tuple.fin_wait2, |it| &it.fin_wait2_cookies);
    if !there.is_much(tuple) {
        return None;
    }
    let what = format!(
        "{} in FIN_WAIT2 ({} of the ports): this host has closed, the other end has not",
        counted(tuple.fin_wait2.into(), "connection is", "connections are"),
        percent(f64::from(tuple.fin_wait2) / f64::from(tuple.capacity.max(1)))
    );
    let finding = Finding::new(Id::FinWait2Held, Severity::Warning, seen.tuple(ends), what)
        .with("ports.fin_wait2", tuple.fin_wait2)
        .with("ports.capacity", tuple.capacity)
        .with(
            "ports.fin_wait2.staying",
            there.staying.map_or(serde_json::Value::Null, |it| rounded(it).into()),
        );
    let finding = there.grade(finding).advise(sooner(seen)).advise([Advice::new(
        "let the upstream close its end of the connections",
        "their ports are free at once",
    )]);
    Some(finding.verify_by(seen.look_again()))
}

/// The advice to let FIN_WAIT2 end sooner; `None`: it ends soon already.
fn sooner(seen: &Seen) -> Option<Advice> {
    let now = seen.details.as_ref().and_then(|it| it.network.fin_wait2_s);
    let gain = match now {
        Some(..=SHORT_S) => return None,
        Some(now) => format!("ports come back after {SHORT_S} s instead of {} s", number(now)),
        None => format!("ports come back after {SHORT_S} s; by default after 60 s"),
    };
    let keys = [("net.ipv4.tcp_fin_timeout", SHORT_S.to_string())];
    let advice = set(&seen.place, &keys, "let FIN_WAIT2 end sooner", gain);
    Some(advice.risk("an upstream that still sends after 10 s gets a reset"))
}

#[cfg(test)]
mod tests;
