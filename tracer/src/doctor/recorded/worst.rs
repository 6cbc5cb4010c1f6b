//! [`Worst`]: keeps each finding as it was at its worst.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use tracer_common::{Addr, TupleKey};

use super::Keep;
use crate::{
    doctor::{
        finding::{Finding, Id, Severity, Subject},
        judge::{self, Around, Seen, time_wait::reuse_ineffective},
        verdict,
    },
    format::timestamp::Timestamp,
};

/// Findings that are kept at most.
const MOST: usize = 5_000;

/// What a finding is about, whatever the name of its namespace.
type About = (Id, Option<u32>, Option<IpAddr>, Option<SocketAddr>);

/// The findings of all windows, each as it was at its worst; at most 5,000.
#[derive(Debug, Default)]
pub struct Worst {
    all: HashMap<About, Found>,
    is_limited: bool,
    /// The earliest and the latest time of a finding, ns since 1970; `None`: there is none.
    days: Option<(u64, u64)>,
}

#[derive(Debug)]
struct Found {
    finding: Finding,
    rank: Rank,
    /// When it was at its worst, and when it was found first and last, ns since 1970.
    at_ns: u64,
    first_ns: u64,
    last_ns: u64,
}

/// How bad a finding is: its severity, then two numbers that depend on its id, the first one before the second. The greater the
/// worse.
pub(super) type Rank = (Severity, [f64; 2]);

impl Keep for Worst {
    fn window(&mut self, seen: &Seen, knows_reuse: bool, at: impl Fn(&Finding) -> u64) {
        let mut findings = judge::of_tuples(seen, &Around::default());
        if knows_reuse {
            let (place, reuse) = (&seen.place, seen.settings.reuse);
            findings.extend(reuse_ineffective(place, reuse, seen.time_wait_s));
        }
        self.add(verdict::sort(findings), at);
    }

    fn without_readings(&mut self, seen: &Seen, failed: u64, at_ns: u64) {
        let findings = verdict::sort(judge::of_tuples(seen, &Around::default())).into_iter();
        // Which other tuples there were is not known.
        let findings = findings.filter(|it| it.id != Id::HotSpot);
        self.add(findings.map(|it| it.with("failed", failed)), |_| at_ns);
    }
}

impl Worst {
    /// Adds the findings of a window. `at`: when a finding was so bad, ns since 1970. Beyond 5,000 they are left out.
    fn add(&mut self, findings: impl IntoIterator<Item = Finding>, at: impl Fn(&Finding) -> u64) {
        for finding in findings {
            let (about, rank, at_ns) = (about(&finding), rank(&finding), at(&finding));
            if self.all.len() >= MOST && !self.all.contains_key(&about) {
                self.is_limited = true;
                continue;
            }
            let (begin, end) = self.days.unwrap_or((at_ns, at_ns));
            self.days = Some((begin.min(at_ns), end.max(at_ns)));
            let new = Found { finding, rank, at_ns, first_ns: at_ns, last_ns: at_ns };
            match self.all.get_mut(&about) {
                None => _ = self.all.insert(about, new),
                Some(found) => {
                    found.first_ns = found.first_ns.min(at_ns);
                    found.last_ns = found.last_ns.max(at_ns);
                    if is_worse(new.rank, found.rank) {
                        let Found { finding, rank, at_ns, .. } = new;
                        *found = Found { finding, rank, at_ns, ..*found };
                    }
                }
            }
        }
    }

    /// Whether findings were left out because there were more than 5,000.
    pub(super) const fn is_limited(&self) -> bool {
        self.is_limited
    }

    /// The findings, in no order. The text and the evidence of each have the time when it was at its worst; the text has the
    /// date, too, if not all are of one day.
    pub(super) fn findings(self) -> Vec<Finding> {
        let with_date = self.days.is_some_and(|(begin, end)| date(begin) != date(end));
        self.all.into_values().map(|found| found.with_times(with_date)).collect()
    }
}

impl Found {
    fn with_times(self, with_date: bool) -> Finding {
        let Self { finding, at_ns, first_ns, last_ns, .. } = self;
        let short = |ns| if with_date { format!("{} {}", date(ns), time(ns)) } else { time(ns) };
        let lasts = if time(first_ns) == time(last_ns) {
            String::new()
        } else {
            format!(" (found from {} to {})", short(first_ns), short(last_ns))
        };
        let what = format!("at {}{lasts}: {}", short(at_ns), finding.what);
        Finding { what, ..finding }
            .with("at", text(at_ns))
            .with("at.first", text(first_ns))
            .with("at.last", text(last_ns))
    }
}

/// Whether `new` is greater than `old`; false if both are equal.
pub(super) fn is_worse(new: Rank, old: Rank) -> bool {
    let numbers = || {
        let [one, two] = new.1;
        let [first, second] = old.1;
        one.total_cmp(&first).then(two.total_cmp(&second)).is_gt()
    };
    new.0 > old.0 || (new.0 == old.0 && numbers())
}

/// The rank of a finding, by its evidence; a number that is missing is 0. [`super::cases`] makes the same rank without a finding,
/// of `ports_exhausted` and `black_hole`.
fn rank(finding: &Finding) -> Rank {
    let keys = match finding.id {
        Id::PortsExhausted => ["failed", "saturation"],
        Id::SlowSearch => ["search.mean_ms", "saturation"],
        Id::BlackHole => ["ports.syn_sent", "ports.in_use"],
        Id::HotSpot => ["ports.in_use", "ports.share"],
        _ => ["ports.needed", "connects_per_s"],
    };
    let number = |key: &str| finding.evidence.get(key).and_then(serde_json::Value::as_f64);
    (finding.severity, keys.map(|key| number(key).unwrap_or(0.0)))
}

fn about(finding: &Finding) -> About {
    let netns = finding.subject.place().map(|place| place.inum);
    match &finding.subject {
        Subject::Tuple { source, destination, .. } => {
            (finding.id, netns, Some(*source), Some(*destination))
        }
        Subject::Address { address, .. } => (finding.id, netns, None, Some(*address)),
        Subject::Host | Subject::Netns(_) | Subject::Process(_) => (finding.id, netns, None, None),
    }
}

/// The tuple that a finding is about, as a key of the ledger: IPv4 addresses v4-mapped, but 0.0.0.0 as `::`. `None`: it is about
/// something else.
pub(super) fn tuple_of(subject: &Subject) -> Option<TupleKey> {
    let Subject::Tuple { place, source, destination } = subject else { return None };
    Some(TupleKey {
        source: address(*source),
        destination: address(destination.ip()),
        netns: place.inum,
        destination_port: destination.port(),
        zero: 0,
    })
}

fn address(address: IpAddr) -> Addr {
    match address {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Addr::UNSPECIFIED,
        IpAddr::V4(address) => Addr::v4(address.octets()),
        IpAddr::V6(address) => Addr(address.octets()),
    }
}

fn text(ns: u64) -> String {
    String::from_utf8_lossy(&Timestamp::default().text(ns)).into_owned()
}

/// `2026-11-21` of `2026-11-21T02:44:53.123456789Z`.
fn date(ns: u64) -> String {
    text(ns).get(..10).unwrap_or_default().to_owned()
}

/// `02:44:53` of the same.
fn time(ns: u64) -> String {
    text(ns).get(11..19).unwrap_or_default().to_owned()
}
