use std::slice;

use super::*;
use crate::doctor::{
    finding::{Place, Process},
    verdict::Missing,
};

fn place(inum: u32) -> Place {
    Place { inum, ..Place::default() }
}

fn full(inum: u32, severity: Severity) -> Finding {
    Finding::new(Id::PortsExhausted, severity, Subject::Netns(place(inum)), "")
}

/// The changes of a round's findings, and the inode numbers of the namespaces whose finding is solved, or is missing.
type Compared = (Vec<Option<Change>>, Vec<u32>, Vec<u32>);

/// The changes of the findings of each round, and the subjects of those that are solved and missing, by inode number.
fn rounds(all: &[(&[Finding], Sight)]) -> Vec<Compared> {
    let mut history = History::default();
    let inums = |missed: &[Missed]| -> Vec<u32> {
        missed.iter().filter_map(|it| Some(it.subject.place()?.inum)).collect()
    };
    let compared = all.iter().enumerate().map(|(index, (findings, sight))| {
        let mut findings = findings.to_vec();
        let changes = history.compare(&mut findings, sight, &[]);
        assert_eq!(changes.round, index as u64 + 1);
        let of_findings = findings.iter().map(|it| it.change).collect();
        (of_findings, inums(&changes.solved), inums(&changes.missing))
    });
    compared.collect()
}

fn well() -> Sight {
    Sight::default()
}

#[test]
fn a_finding_is_new_gets_worse_and_better_and_stays() {
    let (warning, critical) = (full(1, Severity::Warning), full(1, Severity::Critical));
    let seen = rounds(&[
        (&[], well()),
        (slice::from_ref(&warning), well()),
        (slice::from_ref(&critical), well()),
        (slice::from_ref(&critical), well()),
        (&[warning.clone(), full(2, Severity::Info)], well()),
    ]);
    let changes: Vec<_> = seen.into_iter().map(|(changes, ..)| changes).collect();
    let [new, worse, better, same] =
        [Change::New, Change::Worse, Change::Better, Change::Same].map(Some);
    assert_eq!(changes, [vec![], vec![new], vec![worse], vec![same], vec![better, new]]);
}

#[test]
fn the_first_round_has_nothing_to_compare_with() {
    let seen = rounds(&[(&[full(1, Severity::Critical)], well())]);
    assert_eq!(seen, [(vec![None], vec![], vec![])]);
}

#[test]
fn a_finding_is_solved_after_two_rounds_without_it_and_once() {
    let one = [full(1, Severity::Critical)];
    let seen =
        rounds(&[(&one, well()), (&[], well()), (&[], well()), (&[], well()), (&one, well())]);
    let expected = [
        (vec![None], vec![], vec![]),
        (vec![], vec![], vec![1]),
        (vec![], vec![1], vec![]),
        (vec![], vec![], vec![]),
        (vec![Some(Change::New)], vec![], vec![]),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn a_finding_that_is_back_after_one_round_was_never_solved() {
    let one = [full(1, Severity::Critical)];
    let seen = rounds(&[(&one, well()), (&[], well()), (&one, well()), (&[], well())]);
    assert_eq!(seen[2], (vec![Some(Change::Same)], vec![], vec![]));
    assert_eq!(seen[3], (vec![], vec![], vec![1]), "counted from the beginning");
}

#[test]
fn what_could_not_be_seen_is_not_solved() {
    let one = [full(1, Severity::Critical), full(2, Severity::Critical)];
    let denied = Sight { failed: BTreeSet::from([1]), ..Sight::default() };
    let late = Sight { looked: BTreeSet::from([2]), cut_short: true, ..Sight::default() };
    let none = (vec![], vec![], vec![]);
    let seen = rounds(&[(&one, well()), (&[], denied), (&[], late), (&[], well())]);
    assert_eq!(seen[1..3], [(vec![], vec![], vec![2]), (vec![], vec![2], vec![])]);
    assert_eq!(seen[3], (vec![], vec![], vec![1]));
    assert_eq!(rounds(&[(&[], well())]), [none]);
}

#[test]
fn without_the_check_that_finds_it_a_finding_is_not_solved() {
    let slow = Finding::new(Id::SlowSearch, Severity::Warning, Subject::Netns(place(1)), "");
    let check = |missing: bool| {
        let missing = missing.then(|| Missing { why: "no".into(), needs: None });
        [Check { id: "window", core: true, missing }]
    };
    let mut history = History::default();
    let mut round = |findings: &[Finding], missing: bool| {
        let changes = history.compare(&mut findings.to_vec(), &well(), &check(missing));
        (changes.missing.len(), changes.solved.len())
    };
    let seen = [
        round(&[slow], false),
        round(&[], true),
        round(&[], true),
        round(&[], false),
        round(&[], false),
    ];
    assert_eq!(seen, [(0, 0), (0, 0), (0, 0), (1, 0), (0, 1)]);
}

#[test]
fn names_that_become_known_make_no_other_finding() {
    let process = |name: &str, container: Option<&str>| {
        let process =
            Process { pid: 7, name: name.into(), container: container.map(str::to_owned) };
        Finding::new(Id::Descriptors, Severity::Warning, Subject::Process(process), "")
    };
    let mut history = History::default();
    history.compare(&mut [process("sh", None)], &well(), &[]);
    let mut findings = [process("nginx", Some("nginx.service"))];
    let changes = history.compare(&mut findings, &well(), &[]);
    assert_eq!((findings[0].change, changes.missing), (Some(Change::Same), vec![]));
}

#[test]
fn of_several_findings_of_one_subject_the_worst_counts() {
    let both = [full(1, Severity::Warning), full(1, Severity::Critical)];
    let seen = rounds(&[(&both, well()), (&both[..1], well())]);
    assert_eq!(seen[1].0, [Some(Change::Better)]);
    let seen = rounds(&[(&both, well()), (&both, well())]);
    assert_eq!(seen[1].0, [Some(Change::Same); 2]);
}

#[test]
fn no_more_than_so_many_findings_are_remembered() {
    let many: Vec<Finding> = (0..20_000).map(|inum| full(inum, Severity::Warning)).collect();
    let mut history = History::default();
    history.compare(&mut many.clone(), &well(), &[]);
    assert_eq!(history.known.len(), MOST);
}
