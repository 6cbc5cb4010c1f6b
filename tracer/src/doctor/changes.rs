//! What has changed since the last round of `tracer doctor --watch`. No I/O.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    finding::{Change, Finding, Id, Severity, Subject},
    verdict::Check,
};

/// In how many rounds in a row a finding has to be missing until it is solved: a load that pauses for a round solves nothing.
const SOLVED_AFTER: u32 = 2;
/// How many findings are remembered: other processes decide how many there are. Any other one is new in each round.
const MOST: usize = 10_000;

/// The findings of the rounds so far, at most 10,000; any other one is [`Change::New`] in each round.
#[derive(Clone, Debug, Default)]
pub struct History {
    rounds: u64,
    known: BTreeMap<(Id, Subject), Known>,
}

/// A finding of an earlier round.
#[derive(Clone, Debug)]
struct Known {
    subject: Subject,
    severity: Severity,
    /// In how many rounds in a row it was missing.
    missing: u32,
}

/// What has changed since the last round, without the findings of this round: how these differ is in [`Finding::change`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// The number of this round, from 1 on.
    pub round: u64,
    /// Findings that are missing for the second time in a row, rounds that could not see them not counted. They are forgotten.
    pub solved: Vec<Missed>,
    /// Findings that are missing for the first time: they are solved if the next round that can see them does not find them
    /// either.
    pub missing: Vec<Missed>,
}

/// A finding of an earlier round that is missing in this one.
#[derive(Clone, Debug, PartialEq)]
pub struct Missed {
    pub id: Id,
    pub subject: Subject,
    /// How bad it was when it was last seen.
    pub severity: Severity,
}

/// What a round could see. A finding that could not be seen is not missing.
#[derive(Clone, Debug, Default)]
pub struct Sight {
    /// Inode numbers of the network namespaces that were looked at.
    pub looked: BTreeSet<u32>,
    /// Inode numbers of those that could not be looked at.
    pub failed: BTreeSet<u32>,
    /// Whether the time did not suffice for all namespaces: those that are in neither set were not looked at. False: those had
    /// gone.
    pub cut_short: bool,
}

impl Sight {
    /// Whether a finding of this id and subject would have been seen. `checks`: those of the round.
    fn has(&self, id: Id, subject: &Subject, checks: &[Check]) -> bool {
        let place = subject.place().is_none_or(|place| {
            let late = self.cut_short && !self.looked.contains(&place.inum);
            !late && !self.failed.contains(&place.inum)
        });
        // Which namespaces were looked at is known better than by this check, which is about all of them.
        let others = checks.iter().filter(|check| check.id != "fill");
        place && others.filter(|check| check.missing.is_some()).all(|check| !check.is_about(id))
    }
}

impl History {
    /// Compares the findings of a round with those of the rounds before, and sets [`Finding::change`]; in the first round, it
    /// stays `None`. Several findings of the same id and subject have the same change, by the worst of them; names and paths do
    /// not distinguish subjects. A finding that was missing for one round is compared with what it was before; one that was
    /// solved is new. `checks`: those of the round; a finding whose check was not made, or whose namespace `sight` lacks, is not
    /// missing.
    pub fn compare(
        &mut self,
        findings: &mut [Finding],
        sight: &Sight,
        checks: &[Check],
    ) -> Changes {
        self.rounds += 1;
        let mut now: BTreeMap<(Id, Subject), Known> = BTreeMap::new();
        for finding in &*findings {
            let Finding { severity, ref subject, .. } = *finding;
            let fresh = Known { subject: subject.clone(), severity, missing: 0 };
            let known = now.entry(key(finding)).or_insert(fresh);
            known.severity = known.severity.max(severity);
        }
        if self.rounds > 1 {
            for finding in findings {
                let key = key(finding);
                let severity = now.get(&key).map_or(finding.severity, |it| it.severity);
                finding.change = Some(change(self.known.get(&key), severity));
            }
        }
        let mut changes = Changes { round: self.rounds, ..Changes::default() };
        self.known.retain(|(id, _), known| {
            let seen = now.contains_key(&(*id, identity(&known.subject)));
            if seen || !sight.has(*id, &known.subject, checks) {
                return true;
            }
            known.missing += 1;
            let missed =
                Missed { id: *id, subject: known.subject.clone(), severity: known.severity };
            if known.missing < SOLVED_AFTER {
                changes.missing.push(missed);
                return true;
            }
            changes.solved.push(missed);
            false
        });
        for (key, fresh) in now {
            if self.known.len() < MOST || self.known.contains_key(&key) {
                self.known.insert(key, fresh);
            }
        }
        changes
    }
}

fn change(before: Option<&Known>, severity: Severity) -> Change {
    match before.map(|before| severity.cmp(&before.severity)) {
        None => Change::New,
        Some(std::cmp::Ordering::Greater) => Change::Worse,
        Some(std::cmp::Ordering::Less) => Change::Better,
        Some(std::cmp::Ordering::Equal) => Change::Same,
    }
}

fn key(finding: &Finding) -> (Id, Subject) {
    (finding.id, identity(&finding.subject))
}

/// The subject without names and paths: these can become known, or change, while it stays the same one.
fn identity(subject: &Subject) -> Subject {
    let mut subject = subject.clone();
    match &mut subject {
        Subject::Host => {}
        Subject::Netns(place) | Subject::Tuple { place, .. } | Subject::Address { place, .. } => {
            (place.name, place.path) = (None, None);
        }
        Subject::Process(process) => {
            process.name.clear();
            process.container = None;
        }
    }
    subject
}

#[cfg(test)]
mod tests;
