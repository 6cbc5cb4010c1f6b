use std::io;

use super::*;

fn process(open: u64, soft: u64, hard: u64) -> OfProcess {
    let process = Process { pid: 12, name: "nginx".into(), container: None };
    OfProcess { process, open, limit: Limit { soft, hard }, failed: 0 }
}

fn of(seen: OfProcess) -> Option<Finding> {
    let mut found = descriptors(&[seen], None);
    assert!(found.len() < 2);
    found.pop()
}

#[test]
fn a_process_is_judged_by_its_share_of_the_limit() {
    use Severity::{Critical, Warning};
    let severity = |open| of(process(open, 1_000, 4_000)).map(|it| it.severity);
    let expected = [None, None, Some(Warning), Some(Warning), Some(Critical), Some(Critical)];
    assert_eq!([0, 799, 800, 949, 950, 1_200].map(severity), expected);
    assert_eq!(of(process(1 << 40, u64::MAX, u64::MAX)), None, "unlimited");
    assert_eq!(of(process(3, 0, 0)).map(|it| it.severity), Some(Critical), "a limit of none");
}

#[test]
fn failed_calls_are_critical_however_few_are_open_now() {
    let found = of(OfProcess { failed: 28, ..process(200, 1_000, 4_000) }).unwrap();
    assert_eq!(found.severity, Severity::Critical);
    let what =
        "200 of 1,000 descriptors are open (20 %); 28 calls failed for lack of one, by its log";
    assert_eq!(found.what, what);
    assert_eq!(found.subject, Subject::Process(process(0, 0, 0).process));
}

#[test]
fn the_command_raises_the_soft_limit_as_far_as_needed() {
    let command = |soft, hard| {
        let found = of(process(soft, soft, hard)).unwrap();
        found.advice.first().and_then(|it| it.command.clone())
    };
    assert_eq!(command(1_024, 524_288).as_deref(), Some("prlimit --pid 12 --nofile=2048:"));
    assert_eq!(command(1_024, 1_500).as_deref(), Some("prlimit --pid 12 --nofile=1500:"));
    assert_eq!(command(1_024, 1_024).as_deref(), Some("prlimit --pid 12 --nofile=2048"));
    // No process may have more than the kernel's own limit.
    assert_eq!(command(1 << 20, 1 << 20), None);
}

#[test]
fn what_lasts_is_the_setting_of_the_program() {
    let found = of(process(1_000, 1_000, 4_000)).unwrap();
    assert!(found.advice[1].what.starts_with("worker_rlimit_nofile 2048;"), "{found:?}");
    assert!(found.advice[1].persists && !found.advice[0].persists);
    let mut other = process(1_000, 1_000, 4_000);
    other.process.name = "java".into();
    assert!(of(other).unwrap().advice[1].what.starts_with("LimitNOFILE=2048 "));
}

#[test]
fn the_host_has_a_limit_too() {
    let host = |open| descriptors(&[], Some(HostFiles { open, limit: 1_000 }));
    assert_eq!(host(799), []);
    let found = host(960);
    assert_eq!((found[0].severity, &found[0].subject), (Severity::Critical, &Subject::Host));
    assert_eq!(found[0].advice[0].command.as_deref(), Some("sysctl -w fs.file-max=2000"));
    let unlimited = HostFiles { open: 960, limit: i64::MAX.cast_unsigned() };
    assert_eq!(descriptors(&[], Some(unlimited)), []);
}

#[test]
fn the_check_is_made_only_if_all_were_read() {
    let of = |all: All| check(&Ok(all)).missing.map(|it| (it.why, it.needs.is_some()));
    assert_eq!(of(All::default()), None);
    let (why, needs) = of(All { hidden: true, refused: 9, ..All::default() }).unwrap();
    assert!(why.contains("hidepid") && needs, "{why}");
    assert!(of(All { refused: 1, ..All::default() }).unwrap().1);
    assert!(!of(All { cut_short: true, ..All::default() }).unwrap().1);
    let error = check(&Err(io::Error::from(io::ErrorKind::NotFound)));
    assert!(error.core && error.missing.is_some());
}
