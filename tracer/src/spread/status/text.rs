//! Formats the status as a text for people.

use std::fmt::Write as _;

use super::{RuleStatus, State, Status};
use crate::{format::text, runtime::clock};

/// The text that `tracer status` prints: a paragraph for each rule, then the folders that were not read; `no rule is active` if
/// there is none.
pub(super) fn of(status: &Status) -> String {
    let mut refused = String::new();
    for reason in &status.refused {
        _ = writeln!(refused, "not read: {reason}");
    }
    if status.rules.is_empty() && status.foreign.is_empty() {
        return format!("no rule is active\n{refused}");
    }
    let rules = status.rules.iter().map(rule);
    let foreign = status.foreign.iter().map(|it| {
        format!(
            "rule {}: of another version of tracer (layout {}), and only that version can show more; undo: `tracer \
             spread --release --rule {}`\n  pins        {}\n",
            it.rule, it.layout, it.rule, it.pins
        )
    });
    rules.chain(foreign).collect::<Vec<_>>().join("\n") + &refused
}

/// Number and name of a rule's network namespace: `4026532281 (blue)`; only the number if it has no name.
fn namespace(status: &RuleStatus) -> String {
    let name = status.netns_name.as_ref().map(|name| format!(" ({})", text::line(name)));
    format!("{}{}", status.netns, name.unwrap_or_default())
}

fn rule(status: &RuleStatus) -> String {
    let agent = match status.agent {
        Some(pid) => format!("agent {pid}"),
        None => {
            format!("active without an agent; undo: tracer spread --release --rule {}", status.rule)
        }
    };
    let state = &status.state;
    let cgroups: Vec<_> = state.cgroups.iter().map(|path| path.display().to_string()).collect();
    let mut out = format!(
        "rule {}: {agent}\n  cgroups     {}\n  namespace   {}, ports {}-{}, {} towards each \
         destination{}\n  fast ports  {}\n  pool        {} {}, {} in use by the rule\n",
        status.rule,
        cgroups.join(" "),
        namespace(status),
        state.range.0,
        state.range.1,
        status.capacity,
        taken_by(state),
        fast_ports(status),
        state.pool.len(),
        if state.pool.len() == 1 { "address" } else { "addresses" },
        state.in_use(),
    );
    // Writing to a String cannot fail.
    for (address, why) in &state.left_out {
        let quarantined = state.quarantined.iter().find(|it| it.address == *address);
        let until = quarantined.map(|it| left(it.until_mono_ns)).unwrap_or_default();
        _ = writeln!(out, "  left out    {address}: {why}{until}");
    }
    for one in &state.left_out_towards {
        let to = std::net::SocketAddr::new(one.destination, one.port);
        let until = one.until_mono_ns.map(left).unwrap_or_default();
        _ = writeln!(out, "  left out    {} towards {to}: {}{until}", one.address, one.reason);
    }
    for (word, text) in state.notes.lines() {
        _ = writeln!(out, "  {word:<11} {text}");
    }
    for path in &state.cgroups_gone {
        _ = writeln!(
            out,
            "  gone        cgroup {}; the agent attaches again when it is back",
            path.display()
        );
    }
    if let Some(reason) = &status.unbelieved {
        _ = writeln!(out, "  not shown   the agent's state: {reason}");
    }
    for reason in &state.degraded {
        _ = writeln!(out, "  limitations {reason}");
    }
    _ = writeln!(out, "  pins        {}, {} links", status.pins, status.links);
    if status.elsewhere > 0 {
        let count = status.elsewhere;
        _ = writeln!(
            out,
            "  elsewhere   {count} more links of this rule are active; the next start or --release removes them"
        );
    }
    _ = writeln!(out, "  decisions   {}", named(status.decisions.iter().copied()));
    let lost = named(status.lost.iter().map(|(name, count)| (*name, *count)));
    _ = writeln!(out, "  losses      {lost}; drift {}", state.drift);
    tuples(&mut out, status);
    out
}

/// Why a tuple cannot get all ports of the range, to follow their number; empty: it can, or that is not known.
fn taken_by(state: &State) -> String {
    if state.taken_by.is_empty() {
        return String::new();
    }
    format!("; the others are taken: {}", state.taken_by)
}

fn fast_ports(status: &RuleStatus) -> String {
    match &status.state.no_fast_ports {
        _ if status.fast_ports => {
            let count = |name| status.decisions.iter().find(|it| it.0 == name).map_or(0, |it| it.1);
            format!("on, {} handed out", count("fast_port"))
        }
        Some(why) => format!("off ({why})"),
        None => "off".to_owned(),
    }
}

/// How long an address is still left out, in words, rounded up: `, for 5 s more`.
fn left(until_mono_ns: u64) -> String {
    let ns = until_mono_ns.saturating_sub(clock::monotonic_ns());
    format!(", for {} s more", ns.div_ceil(1_000_000_000))
}

/// The counts that are not zero, each after its name; `none` if all are zero.
fn named(counts: impl Iterator<Item = (&'static str, u64)>) -> String {
    let happened = counts.filter(|(_, count)| *count > 0);
    let words: Vec<_> = happened.map(|(name, count)| format!("{name} {count}")).collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

fn tuples(out: &mut String, status: &RuleStatus) {
    if !status.tuples.is_empty() {
        out.push_str(
            "  SRC                        DST:PORT                      PORTS     OF     TW   2ND  %SAT    \
             CHOSEN    OPENED  FAILED\n",
        );
    }
    for one in &status.tuples {
        let to = std::net::SocketAddr::new(one.destination, one.port).to_string();
        let part = (100 * one.in_use).checked_div(one.capacity.into()).unwrap_or(100);
        // Writing to a String cannot fail.
        _ = writeln!(
            out,
            "  {:<26} {to:<28} {:>6} {:>6} {:>6} {:>5} {part:>5} {:>9} {:>9} {:>7}",
            one.source.to_string(),
            one.in_use,
            one.capacity,
            one.time_wait,
            one.other_half,
            one.chosen,
            one.opened,
            one.failed
        );
    }
}
