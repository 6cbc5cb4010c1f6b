//! The verdict: which findings explain others, in which order they are shown, and the exit code.

use std::collections::BTreeMap;

use super::finding::{Advice, Finding, Id, Severity, Subject};

/// One of the things that `tracer doctor` checks, and whether it could.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// Its name in text and JSON, such as `fill`; never changed.
    pub id: &'static str,
    /// Whether the verdict cannot be [`Verdict::Healthy`] if this check was not made.
    pub core: bool,
    /// Why it was not made, or not completely; `None`: it was made.
    pub missing: Option<Missing>,
}

impl Check {
    /// Whether a finding of this id comes from this check. Some ids belong to no check.
    pub fn is_about(&self, id: Id) -> bool {
        match self.id {
            "fill" => matches!(
                id,
                Id::PortsExhausted | Id::BlackHole | Id::HeldOpen | Id::FinWait2Held | Id::HotSpot
            ),
            "window" => matches!(
                id,
                Id::SlowSearch | Id::ClosesFirst | Id::Churn | Id::HealthChecks | Id::Kernel
            ),
            "descriptors" => id == Id::Descriptors,
            "conntrack" => id == Id::ConntrackFull,
            "snat" => id == Id::SnatExhausted,
            "settings" => id == Id::ReuseIneffective,
            _ => false,
        }
    }
}

/// Why a check was not made.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Missing {
    /// The reason, as a text for people.
    pub why: String,
    /// What would make it possible, for example a capability; `None`: nothing that could be given.
    pub needs: Option<String>,
}

/// The verdict of a diagnosis. Its number is the exit code, as monitoring systems read it (Monitoring Plugins Development
/// Guidelines).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Verdict {
    /// No finding is worse than [`Severity::Info`], and each core check was made.
    Healthy = 0,
    /// The worst finding is a warning.
    Warning = 1,
    /// The worst finding is critical.
    Critical = 2,
    /// As healthy, but a core check was not made.
    Unknown = 3,
}

impl Verdict {
    /// Its name in text and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Warning => "warning",
            Self::Critical => "critical",
            Self::Unknown => "unknown",
        }
    }
}

/// The verdict of these findings and checks: the worst finding determines it, however many checks were not made; without a
/// warning or worse, [`Verdict::Unknown`] if a core check was not made, else [`Verdict::Healthy`].
pub fn verdict(findings: &[Finding], checks: &[Check]) -> Verdict {
    match findings.iter().map(|finding| finding.severity).max() {
        Some(Severity::Critical) => Verdict::Critical,
        Some(Severity::Warning) => Verdict::Warning,
        _ if checks.iter().any(|check| check.core && check.missing.is_some()) => Verdict::Unknown,
        _ => Verdict::Healthy,
    }
}

/// What a cause can explain, and hide the advice of: that would feed the cause.
const CONSEQUENCES: [Id; 4] = [Id::PortsExhausted, Id::SlowSearch, Id::Churn, Id::BlackHole];

/// Causes that are of one tuple.
const OF_A_TUPLE: [Id; 4] = [Id::BlackHole, Id::NatBehind, Id::HeldOpen, Id::FinWait2Held];
/// Causes for which SYNs have no answer: of a destination, or of a whole namespace.
const OF_ANSWERS: [Id; 3] = [Id::SnatExhausted, Id::ConntrackFull, Id::UpstreamQueue];

/// Whether a cause explains a finding about a tuple. Without the cause, most of its ports would be free.
fn explains(cause: &Finding, it: &Finding) -> bool {
    // Black holes have no other reason than that SYNs have no answer.
    let waits = || it.id == Id::BlackHole || is_mostly(it, it, "ports.syn_sent");
    match cause.id {
        // Which has the same subject.
        Id::BlackHole | Id::NatBehind => it.id != Id::BlackHole,
        Id::HeldOpen => it.id != Id::BlackHole && is_mostly(cause, it, "ports.close_wait"),
        Id::FinWait2Held => it.id != Id::BlackHole && is_mostly(cause, it, "ports.fin_wait2"),
        _ => concerns(&cause.subject, &it.subject) && waits(),
    }
}

/// Whether this number of `of` is at least half of the ports that `it` has in use; false also if either is not known.
fn is_mostly(of: &Finding, it: &Finding, key: &str) -> bool {
    let number = |finding: &Finding, key: &str| finding.evidence.get(key)?.as_u64();
    let (part, all) = (number(of, key), number(it, "ports.in_use"));
    part.zip(all).is_some_and(|(part, all)| part.saturating_mul(2) >= all)
}

/// Whether a cause is about connections of this tuple: they lead to its destination, or are of its namespace.
fn concerns(cause: &Subject, tuple: &Subject) -> bool {
    let Subject::Tuple { place, destination, .. } = tuple else { return false };
    match cause {
        Subject::Netns(there) => there == place,
        Subject::Tuple { destination: there, .. } => there == destination,
        // A listener of any address, or of this one.
        Subject::Address { address, .. } => {
            let any = address.ip().is_unspecified();
            address.port() == destination.port() && (any || address.ip() == destination.ip())
        }
        Subject::Host | Subject::Process(_) => false,
    }
}

/// How many findings of an id in a namespace are shown, and how many in all namespaces.
const MOST: usize = 16;
const MOST_IN_ALL: usize = 64;

/// Marks consequences ([`Finding::consequence_of`]), takes their advice away, and sorts: causes before consequences, the worst
/// first, what is in the namespace of this process or in none before others, then by id and subject. A cause is at least a
/// warning.
pub fn sort(mut findings: Vec<Finding>) -> Vec<Finding> {
    mark(&mut findings);
    order(findings)
}

/// Marks consequences, and takes their advice away.
fn mark(findings: &mut [Finding]) {
    let is_cause = |it: &&Finding| it.severity > Severity::Info;
    let causes: Vec<&Finding> = findings.iter().filter(is_cause).collect();
    let mut by_subject: BTreeMap<&Subject, Vec<&Finding>> = BTreeMap::new();
    for cause in causes.iter().filter(|it| OF_A_TUPLE.contains(&it.id)) {
        by_subject.entry(&cause.subject).or_default().push(cause);
    }
    let wide: Vec<&Finding> = causes.into_iter().filter(|it| OF_ANSWERS.contains(&it.id)).collect();
    let cause_of = |it: &Finding| -> Option<Id> {
        let same = by_subject.get(&it.subject).into_iter().flatten();
        let all = same.chain(&wide).filter(|cause| cause.id != it.id && explains(cause, it));
        all.map(|cause| cause.id).min()
    };
    let explained: Vec<Option<Id>> = findings
        .iter()
        .map(|it| if CONSEQUENCES.contains(&it.id) { cause_of(it) } else { None })
        .collect();
    for (finding, cause) in findings.iter_mut().zip(explained) {
        if cause.is_some() {
            finding.consequence_of = cause;
            finding.advice.clear();
        }
    }
}

/// Sorts findings in the order of [`sort`], by their [`Finding::consequence_of`] as it is; changes no finding.
pub fn order(mut findings: Vec<Finding>) -> Vec<Finding> {
    findings.sort_by(|one, other| {
        let foreign = |it: &Finding| it.subject.place().is_some_and(|place| !place.own);
        let rank = |it: &Finding| {
            (it.consequence_of.is_some(), std::cmp::Reverse(it.severity), foreign(it), it.id)
        };
        rank(one).cmp(&rank(other)).then_with(|| one.subject.cmp(&other.subject))
    });
    findings
}

/// The first advice for a subject, and the finding that gives it: of a cause before that of its consequence. `findings`: in the
/// order of [`sort`]. `None`: nothing is advised for it.
pub fn advice_for<'a>(
    findings: &'a [Finding],
    subject: &Subject,
) -> Option<(&'a Finding, &'a Advice)> {
    let mut about = findings.iter().filter(|it| it.subject == *subject);
    about.find_map(|finding| Some((finding, finding.advice.first()?)))
}

/// Leaves out all but the first 16 findings of an id in a namespace, and all but the first 64 in all namespaces: others are of
/// the same cause. Returns how many are left out. `findings`: in the order of [`sort`].
pub fn shorten(findings: &mut Vec<Finding>) -> usize {
    let before = findings.len();
    let mut counts: BTreeMap<(Option<u32>, Id), usize> = BTreeMap::new();
    let mut shown: BTreeMap<Id, usize> = BTreeMap::new();
    findings.retain(|it| {
        let count = counts.entry((it.subject.place().map(|place| place.inum), it.id)).or_default();
        *count += 1;
        let in_all = shown.entry(it.id).or_default();
        let is_shown = *count <= MOST && *in_all < MOST_IN_ALL;
        *in_all += usize::from(is_shown);
        is_shown
    });
    before - findings.len()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::doctor::finding::Place;

    fn tuple(last: u8) -> Subject {
        Subject::Tuple {
            place: Place { inum: 1, own: true, ..Place::default() },
            source: Ipv4Addr::new(10, 0, 0, last).into(),
            destination: (Ipv4Addr::new(10, 0, 1, 1), 80).into(),
        }
    }

    fn finding(id: Id, severity: Severity, subject: Subject) -> Finding {
        Finding::new(id, severity, subject, "").advise([Advice::new("do it", "")])
    }

    fn check(core: bool, missing: bool) -> Check {
        let missing = missing.then(|| Missing { why: "no".into(), needs: None });
        Check { id: "fill", core, missing }
    }

    #[test]
    fn the_worst_finding_decides_and_a_missing_core_check_is_never_healthy() {
        let of = |severity| vec![finding(Id::SmallRange, severity, Subject::Host)];
        let (made, not_made) = ([check(true, false)], [check(true, true)]);
        assert_eq!(verdict(&of(Severity::Critical), &not_made), Verdict::Critical);
        assert_eq!(verdict(&of(Severity::Warning), &not_made), Verdict::Warning);
        assert_eq!(verdict(&of(Severity::Info), &not_made), Verdict::Unknown);
        assert_eq!(verdict(&of(Severity::Info), &made), Verdict::Healthy);
        assert_eq!(verdict(&[], &[check(false, true)]), Verdict::Healthy);
    }

    #[test]
    fn a_tuple_full_of_unanswered_syns_is_a_black_hole_first_without_advice_to_add_ports() {
        let sorted = sort(vec![
            finding(Id::PortsExhausted, Severity::Critical, tuple(1)),
            finding(Id::PortsExhausted, Severity::Warning, tuple(2)),
            finding(Id::BlackHole, Severity::Warning, tuple(1)),
        ]);
        let seen: Vec<_> =
            sorted.iter().map(|it| (it.id, it.consequence_of, it.advice.len())).collect();
        let expected = [
            (Id::BlackHole, None, 1),
            (Id::PortsExhausted, None, 1),
            (Id::PortsExhausted, Some(Id::BlackHole), 0),
        ];
        assert_eq!(seen, expected);
        assert_eq!(sorted[2].subject, tuple(1));
    }

    fn cause_of(cause: Finding, consequence: Finding) -> Option<Id> {
        let id = consequence.id;
        sort(vec![cause, consequence]).iter().find(|it| it.id == id).unwrap().consequence_of
    }

    #[test]
    fn connections_that_are_not_closed_explain_a_full_tuple_only_if_they_hold_most_of_it() {
        let full = || finding(Id::PortsExhausted, Severity::Critical, tuple(1));
        let of = |id, key: &str, count: u32| {
            let cause = finding(id, Severity::Warning, tuple(1)).with(key, count);
            cause_of(cause, full().with("ports.in_use", 1_000))
        };
        assert_eq!(of(Id::HeldOpen, "ports.close_wait", 499), None, "the rest is in TIME_WAIT");
        assert_eq!(of(Id::HeldOpen, "ports.close_wait", 500), Some(Id::HeldOpen));
        assert_eq!(of(Id::FinWait2Held, "ports.fin_wait2", 100), None);
        assert_eq!(of(Id::FinWait2Held, "ports.fin_wait2", 900), Some(Id::FinWait2Held));
        let sorted = sort(vec![
            finding(Id::HeldOpen, Severity::Warning, tuple(1)).with("ports.close_wait", 100),
            full().with("ports.in_use", 1_000),
        ]);
        assert_eq!((sorted[0].id, sorted[0].advice.len()), (Id::PortsExhausted, 1));
    }

    #[test]
    fn what_leaves_syns_without_an_answer_explains_tuples_that_wait_for_one() {
        let Subject::Tuple { place, destination, .. } = tuple(1) else { unreachable!() };
        let at = |address: &str| Subject::Address {
            place: place.clone(),
            address: address.parse().unwrap(),
        };
        let elsewhere = Place { inum: 9, ..Place::default() };
        let snat = |port| {
            let source = Ipv4Addr::new(192, 0, 2, 1).into();
            let destination = (destination.ip(), port).into();
            Subject::Tuple { place: elsewhere.clone(), source, destination }
        };
        let explained = [
            (Id::UpstreamQueue, at("10.0.1.1:80")),
            (Id::UpstreamQueue, at("0.0.0.0:80")),
            (Id::ConntrackFull, Subject::Netns(place.clone())),
            (Id::SnatExhausted, snat(80)),
        ];
        let others = [
            (Id::UpstreamQueue, at("0.0.0.0:81")),
            (Id::UpstreamQueue, at("10.0.1.2:80")),
            (Id::ConntrackFull, Subject::Netns(elsewhere.clone())),
            (Id::SnatExhausted, snat(81)),
        ];
        let waiting = |syn_sent: u32| {
            let full = finding(Id::PortsExhausted, Severity::Critical, tuple(1));
            full.with("ports.in_use", 100).with("ports.syn_sent", syn_sent)
        };
        let hole = || finding(Id::BlackHole, Severity::Critical, tuple(1));
        for (id, subject) in explained {
            let cause = || finding(id, Severity::Warning, subject.clone());
            assert_eq!(cause_of(cause(), hole()), Some(id));
            assert_eq!(cause_of(cause(), waiting(50)), Some(id));
            assert_eq!(cause_of(cause(), waiting(49)), None, "{id}: it is full for another reason");
        }
        for (id, subject) in others {
            let cause = finding(id, Severity::Warning, subject);
            assert_eq!(cause_of(cause.clone(), hole()), None, "{id}");
            assert_eq!(cause_of(cause, waiting(100)), None, "{id}");
        }
    }

    #[test]
    fn the_own_namespace_comes_first_and_many_findings_of_one_kind_are_shortened() {
        let there = |last: u8| {
            let place = Place { inum: 2, ..Place::default() };
            let Subject::Tuple { source, destination, .. } = tuple(last) else { unreachable!() };
            finding(
                Id::BlackHole,
                Severity::Critical,
                Subject::Tuple { place, source, destination },
            )
        };
        let mut all: Vec<Finding> = (1..=20).map(there).collect();
        all.push(finding(Id::PortsExhausted, Severity::Critical, tuple(1)));
        let mut sorted = sort(all);
        assert_eq!(sorted[0].id, Id::PortsExhausted);
        assert_eq!((shorten(&mut sorted), sorted.len()), (4, 17));
        // A finding in each of many namespaces is no long text either.
        let small = |inum| {
            let place = Place { inum, ..Place::default() };
            finding(Id::SmallRange, Severity::Warning, Subject::Netns(place))
        };
        let mut many = sort((0..10_000).map(small).collect());
        assert_eq!((shorten(&mut many), many.len()), (9_936, 64));
    }

    #[test]
    fn what_is_good_to_know_explains_nothing() {
        let sorted = sort(vec![
            finding(Id::FinWait2Held, Severity::Info, tuple(1)),
            finding(Id::PortsExhausted, Severity::Critical, tuple(1)),
        ]);
        assert_eq!(sorted[0].id, Id::PortsExhausted);
        assert_eq!(sorted[0].consequence_of, None);
    }
}
