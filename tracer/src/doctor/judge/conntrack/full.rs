//! `conntrack_full`: the table of tracked connections is full, or has too few chains.

use std::fmt::Write as _;

use super::{Growth, Tracking};
use crate::{
    doctor::{
        finding::{Advice, Finding, Id, Severity, Subject},
        judge::{
            set::set,
            text::{counted, netns_option, number, percent},
        },
    },
    host::conntrack::Fill,
};

/// Share of the entries in use from which on the table is as good as full: the kernel itself removes entries faster from there
/// on.
const FULL: f64 = 0.95;
/// From which on it may be full soon.
const NEARLY_FULL: f64 = 0.80;
/// Memory of an entry, and of a chain, in bytes.
const ENTRY: u64 = 320;
const CHAIN: u64 = 8;
/// An idle established connection keeps its entry for 5 days by default; a day, in seconds, is what is advised.
const DAY: u32 = 86_400;

/// A finding if the table of connections is full (critical: 95 % of its entries are in use, and packets were dropped for that) or
/// nearly so (a warning: 80 %, or the kernel removed entries early), or if it drops connections because its chains are too long
/// (a warning). Without a known limit, only the latter.
pub(super) fn full(seen: &Tracking) -> Option<Finding> {
    let (fill, growth) = (seen.now.fill, seen.growth());
    let Some(max) = fill.max else { return chains(seen, growth) };
    let share = fill.share();
    let drops = growth.dropped_as_full();
    let early = growth.counters.early_drop;
    let severity = if share >= FULL && drops > 0 {
        Severity::Critical
    } else if share >= NEARLY_FULL || early > 0 {
        Severity::Warning
    } else {
        return chains(seen, growth);
    };
    let mut what = format!(
        "the table of tracked connections has {} of {} entries in use ({})",
        number(fill.count.into()),
        number(max.into()),
        percent(share)
    );
    let time = growth.time();
    if drops > 0 {
        write!(what, "; {} in {time}", dropped(drops)).unwrap_or_default();
    }
    if early > 0 {
        let removed =
            counted(early.into(), "entry was removed early", "entries were removed early");
        write!(what, "; {removed} in {time}").unwrap_or_default();
    }
    let why = "a new connection without an entry is dropped on this host: connect() waits and sends its SYN again";
    let finding =
        Finding::new(Id::ConntrackFull, severity, Subject::Netns(seen.place.clone()), what)
            .because(Some(why.to_owned()))
            .advise([larger(fill, max)])
            .advise(shorter(seen, fill))
            .advise([untracked()]);
    Some(evidence(finding, seen, growth))
}

/// A finding if packets were dropped because a chain of the table was too long.
fn chains(seen: &Tracking, growth: Growth) -> Option<Finding> {
    let (fill, counters) = (seen.now.fill, growth.counters);
    if counters.chain_too_long == 0 || counters.drop == 0 {
        return None;
    }
    let what = format!(
        "the table of tracked connections has too long chains: {} in {}",
        dropped(counters.chain_too_long),
        growth.time()
    );
    let advice = fill.buckets.map(|buckets| {
        let more = u64::from(buckets) * 2;
        let command = format!("sysctl -w net.netfilter.nf_conntrack_buckets={more}");
        let gain = format!("half as long, for {}", memory(u64::from(buckets) * CHAIN));
        Advice::new("give the table more chains, in the first network namespace of the host", gain)
            .command(command)
            .until_reboot()
    });
    let subject = Subject::Netns(seen.place.clone());
    let finding = Finding::new(Id::ConntrackFull, Severity::Warning, subject, what).advise(advice);
    Some(evidence(finding, seen, growth))
}

/// `28 packets of new connections were dropped`.
pub(super) fn dropped(packets: u32) -> String {
    counted(
        packets.into(),
        "packet of a new connection was dropped",
        "packets of new connections were dropped",
    )
}

fn evidence(finding: Finding, seen: &Tracking, growth: Growth) -> Finding {
    let (fill, counters) = (seen.now.fill, growth.counters);
    let known = seen.before.is_some() && seen.now.counters.is_ok();
    let grown = |count: u32| known.then_some(count);
    finding
        .with("conntrack.count", fill.count)
        .with("conntrack.max", fill.max)
        .with("conntrack.buckets", fill.buckets)
        .with("conntrack.drop", grown(counters.drop))
        .with("conntrack.insert_failed", grown(counters.insert_failed))
        .with("conntrack.early_drop", grown(counters.early_drop))
        .with("conntrack.chain_too_long", grown(counters.chain_too_long))
        .verify_by(format!("tracer doctor{}", netns_option(&seen.place)))
        .but_not("more source addresses, a wider port range: ports are not what runs out here")
}

/// Twice the entries, and as many chains for them.
fn larger(fill: Fill, max: u32) -> Advice {
    let more = u64::from(max) * 2;
    let mut command = format!("sysctl -w net.netfilter.nf_conntrack_max={more}");
    let mut bytes = u64::from(max) * ENTRY;
    if let Some(buckets) = fill.buckets {
        // Chains first, or the entries are in too few of them for a while.
        let chains = u64::from(buckets).max(more.min(u64::from(buckets) * 2));
        if chains > u64::from(buckets) {
            command =
                command.replace("-w ", &format!("-w net.netfilter.nf_conntrack_buckets={chains} "));
            bytes += (chains - u64::from(buckets)) * CHAIN;
        }
    }
    let gain = format!("{} more entries, {} if all are in use", number(max.into()), memory(bytes));
    let what = "raise the limit in the first network namespace of the host: it holds for all, and is read-only in others";
    Advice::new(what, gain).command(command).factor(2.0).until_reboot()
}

/// A shorter life of idle entries, if it is longer than a day.
fn shorter(seen: &Tracking, fill: Fill) -> Option<Advice> {
    let now = fill.established_s.filter(|now| *now > DAY)?;
    let keys = [("net.netfilter.nf_conntrack_tcp_timeout_established", DAY.to_string())];
    let gain = format!("1 day in place of {}, from each connection's next packet on", days(now));
    Some(
        set(&seen.place, &keys, "forget idle connections earlier", gain)
            .risk("connections that are idle for longer than a day break where NAT or a firewall needs their entry"),
    )
}

fn untracked() -> Advice {
    Advice::new(
        "do not track connections that need neither NAT nor a firewall's `ct` rule: `notrack` in a chain of priority raw",
        "they take no entry",
    )
}

/// A time of more than a day: `5 days`, `30 hours`.
fn days(seconds: u32) -> String {
    if seconds < 2 * DAY {
        return format!("{:.0} hours", f64::from(seconds) / 3_600.0);
    }
    format!("{:.0} days", f64::from(seconds) / f64::from(DAY))
}

/// Bytes as `80 MiB`, rounded up.
fn memory(bytes: u64) -> String {
    format!("{} MiB", number(bytes.div_ceil(1 << 20)))
}
