//! The verdict: which findings explain others, in which order they are shown, and the exit code.

use std::collections::BTreeMap;

use super::finding::{Finding, Id, Severity, Subject};

/// A check, and what came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// Its name; never changed.
    pub id: &'static str,
    /// Whether the verdict can be "healthy" without it: a core check cannot be missing.
    pub core: bool,
    /// Why it was not made; `None`: it was made.
    pub missing: Option<Missing>,
}

impl Check {
    /// Whether a finding of this id comes from this check.
    pub fn is_about(&self, id: Id) -> bool {
        match self.id {
            "fill" => matches!(
                id,
                Id::PortsExhausted | Id::BlackHole | Id::HeldOpen | Id::FinWait2Held | Id::HotSpot
            ),
            "window" => matches!(id, Id::SlowSearch | Id::ClosesFirst | Id::Churn | Id::Kernel),
            "descriptors" => id == Id::Descriptors,
            "conntrack" => id == Id::ConntrackFull,
            "snat" => id == Id::SnatExhausted,
            _ => false,
        }
    }
}

/// Why a check was not made.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Missing {
    /// The reason, as a text for people.
    pub why: String,
    /// What it needs, for example a capability; `None`: nothing that could be given.
    pub needs: Option<String>,
}

/// The verdict on the host, which is the exit code, as monitoring systems read it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Verdict {
    Healthy = 0,
    Warning = 1,
    Critical = 2,
    /// Nothing is wrong as far as could be seen, and a core check was not made.
    Unknown = 3,
}

impl Verdict {
    /// Its name, as users read it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Warning => "warning",
            Self::Critical => "critical",
            Self::Unknown => "unknown",
        }
    }
}

/// The verdict of these findings and checks.
pub fn verdict(findings: &[Finding], checks: &[Check]) -> Verdict {
    match findings.iter().map(|finding| finding.severity).max() {
        Some(Severity::Critical) => Verdict::Critical,
        Some(Severity::Warning) => Verdict::Warning,
        _ if checks.iter().any(|check| check.core && check.missing.is_some()) => Verdict::Unknown,
        _ => Verdict::Healthy,
    }
}

/// Findings that hide the advice of others of the same subject: they are the cause, and what the others advise would feed it.
const CAUSES: [Id; 7] = [
    Id::BlackHole,
    Id::NatBehind,
    Id::SnatExhausted,
    Id::ConntrackFull,
    Id::UpstreamQueue,
    Id::HeldOpen,
    Id::FinWait2Held,
];
/// What these explain.
const CONSEQUENCES: [Id; 3] = [Id::PortsExhausted, Id::SlowSearch, Id::Churn];

/// How many findings of an id in a namespace are shown.
const MOST: usize = 16;

/// Marks consequences, takes their advice away, and sorts: causes before consequences, the worst first, the namespace of this
/// process before others, then by id and subject. A cause must be of the same subject, and at least a warning.
pub fn sort(mut findings: Vec<Finding>) -> Vec<Finding> {
    let mut causes: BTreeMap<Subject, Id> = BTreeMap::new();
    for it in &findings {
        if CAUSES.contains(&it.id) && it.severity > Severity::Info {
            let first = causes.entry(it.subject.clone()).or_insert(it.id);
            *first = it.id.min(*first);
        }
    }
    for finding in findings.iter_mut().filter(|it| CONSEQUENCES.contains(&it.id)) {
        if let Some(cause) = causes.get(&finding.subject) {
            finding.consequence_of = Some(*cause);
            finding.advice.clear();
        }
    }
    findings.sort_by(|one, other| {
        let foreign = |it: &Finding| it.subject.place().is_some_and(|place| !place.own);
        let rank = |it: &Finding| {
            (it.consequence_of.is_some(), std::cmp::Reverse(it.severity), foreign(it), it.id)
        };
        rank(one).cmp(&rank(other)).then_with(|| one.subject.cmp(&other.subject))
    });
    findings
}

/// Leaves out all but the first 16 findings of an id in a namespace: others are of the same cause. Returns how many are left out.
/// `findings`: sorted.
pub fn shorten(findings: &mut Vec<Finding>) -> usize {
    let before = findings.len();
    let mut counts: BTreeMap<(Option<u32>, Id), usize> = BTreeMap::new();
    findings.retain(|it| {
        let count = counts.entry((it.subject.place().map(|place| place.inum), it.id)).or_default();
        *count += 1;
        *count <= MOST
    });
    before - findings.len()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::doctor::finding::{Advice, Place};

    fn tuple(last: u8) -> Subject {
        Subject::Tuple {
            place: Place { inum: 1, name: None, own: true },
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

    #[test]
    fn the_own_namespace_comes_first_and_many_findings_of_one_kind_are_shortened() {
        let there = |last: u8| {
            let place = Place { inum: 2, name: None, own: false };
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
