//! What `tracer doctor`'s judges say of the newest reading: what is wrong with the worst tuples, and what to do. No I/O, no
//! clock.

mod past;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
};

use tracer_common::{Cause, TupleKey};

use super::{
    reading::{About, Call, Failure, Snapshot},
    tuple_history::{Judged, TupleHistory},
};
use crate::{
    doctor::{
        activity::Activity,
        finding::{Advice, Finding, Id, Place, Process, Severity, Subject},
        flow,
        from_ledger::{self, Counted, Held, Namespace},
        judge::{self, Around},
        open_ports::Open,
        tuples::ip,
        verdict,
    },
    format::text::until_nul,
    host::capacity::{Limits, PortRange},
    ledger::stats::Row,
};
use past::{Binds, Past, bind_key};

/// The findings of the newest reading, and what they need of earlier ones.
#[derive(Debug, Default)]
pub struct Answers {
    /// The worst first, causes before consequences; at most 16 of an id in a namespace.
    pub findings: Vec<Finding>,
    /// How many critical findings and how many warnings there are, those that are not in `findings` included.
    pub counts: (usize, usize),
    /// How many findings of the same kinds are not in `findings`.
    pub left_out: usize,
    /// How many tuples were judged, and how many there are.
    pub judged: (usize, usize),
    /// How many tuples could not be judged, because it is not known how many ports they can hold.
    pub unknown: usize,
    /// The first advice for each judged tuple that has one.
    first: HashMap<TupleKey, Answer>,
    past: HashMap<TupleKey, Past>,
    binds: Binds,
}

/// What to do, in short, about a tuple, an address at which bind() takes ports, or a failed call ([`Self::look_at`]).
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The severity of the finding that it is about; critical if there is none ([`Self::look_at`]).
    pub severity: Severity,
    /// Which kind of finding that is.
    pub id: Id,
    /// For people. With [`Kind::Does`] and a known gain: what the command achieves. In all other cases: the first advice, with
    /// its gain if that is known.
    pub text: String,
    /// A command to type.
    pub command: String,
    pub kind: Kind,
}

/// What the command of an answer is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// It does what the text says.
    Does,
    /// It belongs to a later advice, because the first one has no command.
    Other,
    /// It shows more about the cause; no advice has a command.
    Looks,
}

impl Answer {
    /// What to do about a call that failed for lack of ports, of which nothing more is known.
    pub fn look_at(about: &About, failure: &Failure) -> Self {
        let place = place(about, failure.key.netns, None);
        Self {
            severity: Severity::Critical,
            id: Id::PortsExhausted,
            text: "find out which ports are in use, and why".to_owned(),
            command: judge::look_again(&place),
            kind: Kind::Looks,
        }
    }
}

impl Answers {
    /// The first advice for a tuple, or for an address at which bind() takes ports; `None`: nothing is wrong with it, it was not
    /// judged, or its first finding that has an advice has no command.
    pub fn first(&self, key: &TupleKey) -> Option<&Answer> {
        self.first.get(key)
    }

    /// The first advice for a failed call: of its tuple, or of its address; `None` as for [`Self::first`].
    pub fn for_failure(&self, failure: &Failure) -> Option<&Answer> {
        self.first.get(&match failure.call {
            Call::Connect => failure.key,
            Call::Bind => bind_key(failure),
        })
    }

    /// Remembers, for 10 s, the calls of bind(address, 0) in `failures` that found no port; the others are ignored. `failures`:
    /// all of a reading. `now_ms`: its time on the readings' clock, ms; wraps.
    pub(super) fn remember(&mut self, failures: &[Failure], now_ms: u32) {
        self.binds.add(failures, now_ms);
    }

    /// The findings in [`Self::findings`] about a tuple, the cause first; none if nothing is wrong with it, or it was not judged.
    pub fn of<'a>(&'a self, key: &TupleKey) -> impl Iterator<Item = &'a Finding> {
        let key = *key;
        self.findings.iter().filter(move |finding| is_about(&finding.subject, &key))
    }
}

/// How many findings of each severity there are: critical ones, warnings.
fn counted_by_severity(findings: &[Finding]) -> (usize, usize) {
    let count = |severity| findings.iter().filter(|it| it.severity == severity).count();
    (count(Severity::Critical), count(Severity::Warning))
}

/// Whether the subject is this tuple, or this address at which bind() takes ports.
fn is_about(subject: &Subject, key: &TupleKey) -> bool {
    match subject {
        Subject::Tuple { place, source, destination } => {
            let ends = from_ledger::ends(key);
            let same = (*source, *destination) == (ends.from(), ends.peer());
            same && place.inum == key.netns && !key.is_of_bind()
        }
        Subject::Address { place, address } => {
            let bound = SocketAddr::new(ip(key.source), 0);
            key.is_of_bind() && *address == bound && place.inum == key.netns
        }
        Subject::Host | Subject::Netns(_) | Subject::Process(_) => false,
    }
}

/// Judges the newest reading, whose tuples the history has, and replaces what `answers` has. [`Answers::remember`] must have been
/// called with its failures. `detailed`: a tuple that is judged whatever it is like; `None`: none.
pub(super) fn refresh(
    answers: &mut Answers,
    history: &TupleHistory,
    (about, reading): (&About, &Snapshot),
    detailed: Option<TupleKey>,
) {
    let (judged, all) = history.judged(about.netns, detailed);
    let now_ms = history.now_ms();
    let Answers { mut past, binds, .. } = std::mem::take(answers);
    let known: HashSet<TupleKey> = judged.iter().map(|it| it.row.key).collect();
    past.retain(|key, past| known.contains(key) && past.is_before(now_ms));
    let mut namespaces: BTreeMap<u32, NetnsTuples> = BTreeMap::new();
    for tuple in &judged {
        let past = past.entry(tuple.row.key).or_insert_with(|| Past::new(tuple, now_ms));
        past.add(tuple, now_ms);
        let here = namespaces.entry(tuple.row.key.netns).or_default();
        here.add(about, tuple, counted(tuple, past, &binds));
    }
    for (key, counted) in binds.without(&known) {
        namespaces.entry(key.netns).or_default().tuples.push(counted);
    }
    let (mut findings, mut unknown) = (Vec::new(), 0);
    // Sockets and processes are not looked at.
    let around = Around::default();
    for (netns, here) in namespaces {
        let (seen, left_out) = here.seen(netns, about, reading);
        unknown += left_out;
        findings.extend(judge::of_tuples(&seen, &around));
        findings.extend(judge::held(&seen, &around));
    }
    // What share of all ports a destination has is known only if all were judged.
    findings.retain(|it| it.id != Id::HotSpot || judged.len() == all);
    let mut findings = verdict::sort(findings);
    let keys = known.iter().copied().chain(binds.keys());
    let first = firsts(&findings, keys);
    let counts = counted_by_severity(&findings);
    let left_out = verdict::shorten(&mut findings);
    let judged = (judged.len(), all);
    *answers = Answers { findings, counts, left_out, judged, unknown, first, past, binds };
}

/// The judged tuples of a network namespace.
#[derive(Default)]
struct NetnsTuples {
    place: Option<Place>,
    limits: Option<Limits>,
    reusable: Vec<(TupleKey, Option<u64>)>,
    tuples: Vec<Counted>,
}

impl NetnsTuples {
    fn add(&mut self, about: &About, tuple: &Judged, counted: Counted) {
        let row = &tuple.row;
        if self.place.as_ref().is_none_or(|it| it.name.is_none()) {
            self.place = Some(place(about, row.key.netns, row.netns_name.as_deref()));
        }
        self.limits = self.limits.or(row.limits);
        self.reusable.push((row.key, row.reusable));
        self.tuples.push(counted);
    }

    fn seen(self, netns: u32, about: &About, reading: &Snapshot) -> (judge::Seen, usize) {
        let reuse = reading.reuses.get(&netns).copied();
        let shown = || from_ledger::reuse(self.reusable.iter().map(|(key, some)| (key, *some)));
        // Without a tuple that shows it, it is not known.
        let reuse = reuse.or_else(|| Some(shown()).filter(|it| it.timestamps));
        let range = self.limits.zip(reading.reserved.get(&netns)).map(|(limits, reserved)| {
            PortRange { low: limits.low, high: limits.high, reserved: reserved.to_vec() }
        });
        let namespace = Namespace {
            place: self.place.unwrap_or_else(|| place(about, netns, None)),
            range,
            limits: self.limits,
            reuse,
            time_wait_s: flow::longest_time_wait_s(about.hz),
        };
        from_ledger::seen(namespace, self.tuples)
    }
}

fn place(about: &About, netns: u32, name: Option<&str>) -> Place {
    Place {
        inum: netns,
        name: name.map(str::to_owned),
        own: about.netns == Some(netns),
        path: None,
    }
}

/// A tuple as the judges take it.
fn counted(tuple: &Judged, past: &Past, binds: &Binds) -> Counted {
    let row = &tuple.row;
    let mut held = Held::from(row);
    if let Some(states) = &mut held.states {
        // Proxies close such a connection at their leisure.
        states.close_wait = past.close_wait();
    }
    if row.key.is_of_bind() {
        return Counted { key: row.key, held, activity: binds.activity(&row.key) };
    }
    let activity = tuple.since.map(|since| {
        let mut failed = [0; Cause::COUNT];
        if let Some(count) = failed.get_mut(Cause::PortsExhausted as usize) {
            *count = since.exhausted.into();
        }
        Activity {
            seconds: since.seconds,
            opened: since.opened.into(),
            ended: u64::from(since.begun) + u64::from(since.closed),
            closed_first: since.begun.into(),
            closed: past.closed(tuple),
            open: Open::of_two(since.open),
            growth: since.more / since.seconds,
            constant: None,
            failed,
            search: past.searches(tuple),
            caller: caller(row),
            cgroup: tuple.cgroup.clone(),
        }
    });
    Counted { key: row.key, held, activity }
}

/// The process that connected last; `None`: not known.
fn caller(row: &Row) -> Option<Process> {
    let name = String::from_utf8_lossy(until_nul(&row.called.name)).into_owned();
    let container = row.container.as_ref().map(ToString::to_string);
    (row.pid != 0 || !name.is_empty()).then_some(Process { pid: row.pid, name, container })
}

/// The first advice for each of these that has one. `findings`: sorted.
fn firsts(findings: &[Finding], keys: impl Iterator<Item = TupleKey>) -> HashMap<TupleKey, Answer> {
    let mut by_subject: HashMap<(u32, bool, SocketAddr, SocketAddr), &Finding> = HashMap::new();
    let none = SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), 0);
    for finding in findings.iter().filter(|it| !it.advice.is_empty()) {
        let id = match &finding.subject {
            Subject::Tuple { place, source, destination } => {
                (place.inum, false, SocketAddr::new(*source, 0), *destination)
            }
            Subject::Address { place, address } => (place.inum, true, *address, none),
            Subject::Host | Subject::Netns(_) | Subject::Process(_) => continue,
        };
        by_subject.entry(id).or_insert(finding);
    }
    let of = |key: TupleKey| {
        let source = SocketAddr::new(ip(key.source), 0);
        let to = if key.is_of_bind() { none } else { from_ledger::ends(&key).peer() };
        let finding = by_subject.get(&(key.netns, key.is_of_bind(), source, to))?;
        Some((key, answer(finding)?))
    };
    keys.filter_map(of).collect()
}

/// A finding's first advice, and a command.
fn answer(finding: &Finding) -> Option<Answer> {
    let first = finding.advice.first()?;
    let other = || finding.advice.iter().find_map(|it| it.command.clone());
    let looks = || Some((finding.verify.clone()?, Kind::Looks));
    let own = first.command.clone().map(|it| (it, Kind::Does));
    let (command, kind) = own.or_else(|| Some((other()?, Kind::Other))).or_else(looks)?;
    let (severity, id) = (finding.severity, finding.id);
    let text = match kind {
        Kind::Does if !first.gain.is_empty() => first.gain.clone(),
        _ => text(first),
    };
    Some(Answer { severity, id, text, command, kind })
}

fn text(advice: &Advice) -> String {
    let Advice { what, gain, .. } = advice;
    if gain.is_empty() { what.clone() } else { format!("{what}: {gain}") }
}

#[cfg(test)]
mod tests;
