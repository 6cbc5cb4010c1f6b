//! A diagnosis with everything, for tests.

use std::{net::Ipv4Addr, time::Duration};

use super::{Diagnosis, Metrics, OfRecording};
use crate::doctor::{
    changes::{Changes, Missed},
    finding::{
        Advice, Certainty, Change, Finding, Home, Id, Place, Pod, Process, Severity, Subject,
    },
    scope::Judged,
    verdict::{self, Check, Missing},
};

fn tuple() -> Subject {
    Subject::Tuple {
        place: Place { inum: 4_026_532_281, name: Some("proxy".into()), ..Place::default() },
        source: Ipv4Addr::new(10, 0, 0, 8).into(),
        destination: (Ipv4Addr::new(10, 0, 1, 7), 8080).into(),
    }
}

fn full() -> Finding {
    let now = Advice::new(
        "let connect() take over TIME_WAITs older than a second",
        "about 25,665 connections/s",
    )
    .command("ip netns exec proxy sysctl -w net.ipv4.tcp_tw_reuse=1")
    .factor(56.5)
    .until_reboot()
    .risk("the other end must use TCP timestamps, too");
    let keep = Advice::new("reuse connections (keepalive), or let the other end close first", "");
    Finding::new(
        Id::PortsExhausted,
        Severity::Critical,
        tuple(),
        "28,232 of 28,232 ports in use, 27,900 in TIME_WAIT; nginx wants 612 connections/s; 454/s is all that one \
         source address can give; 1,204 connect() failed in 5 s",
    )
    .with("ports.in_use", 28_232)
    .because("this host closes first (99 %)".to_owned())
    .advise([now, keep])
    .verify_by("tracer doctor --netns proxy")
    .but_not("more file descriptors, net.ipv4.tcp_fin_timeout: neither is what runs out here")
}

fn leak() -> Finding {
    let process =
        Process { pid: 7, name: "a\u{1b}[2Jb".into(), container: Some("api.service".into()) };
    let what = "1,020 of 1,024 descriptors are open | more fail";
    Finding::new(Id::Descriptors, Severity::Warning, Subject::Process(process), what)
        .sure(Certainty::Inferred)
}

/// A critical diagnosis with two findings, a consequence, and a check that was not made.
pub(super) fn diagnosis() -> Diagnosis {
    let hole = Finding::new(Id::BlackHole, Severity::Warning, Subject::Host, "no answer");
    let slow = Finding::new(Id::SlowSearch, Severity::Warning, Subject::Host, "slow");
    let findings = verdict::sort(vec![leak(), slow, full(), hole]);
    let missing = Missing { why: "privileges are missing".into(), needs: Some("CAP_BPF".into()) };
    let checks = vec![
        Check { id: "fill", core: true, missing: None },
        Check { id: "window", core: true, missing: Some(missing) },
    ];
    Diagnosis {
        wall_ns: 1_764_000_000_000_000_000,
        host: "edge".into(),
        kernel: "6.12.1".into(),
        window: Duration::from_secs(5),
        metrics: Metrics { saturation: 1.0, failed: Some(1_204), search_ms: Some(0.74) },
        verdict: verdict::verdict(&findings, &checks),
        findings,
        left_out: 3,
        checks,
        judged: None,
        changes: None,
        recording: None,
    }
}

/// The second round of a watch over some processes: one finding is new, one worse, one is missing and one solved.
pub(super) fn round() -> Diagnosis {
    let mut diagnosis = diagnosis();
    let changes = [Change::New, Change::Worse, Change::Same, Change::Better];
    for (finding, change) in diagnosis.findings.iter_mut().zip(changes) {
        finding.change = Some(change);
        finding.home = Some(home());
    }
    let missed = |severity| Missed { id: Id::HeldOpen, subject: tuple(), severity };
    let changes = Changes {
        round: 2,
        solved: vec![missed(Severity::Critical)],
        missing: vec![missed(Severity::Info)],
    };
    let judged = Judged { pids: vec![7, 8], cgroups: vec!["/a\u{1b}[2Jb".into()] };
    Diagnosis { changes: Some(changes), judged: Some(judged), ..diagnosis }
}

fn home() -> Home {
    Home {
        container: Some("0123456789abcdef".repeat(4)),
        container_name: Some("we\u{1b}b".into()),
        pod_uid: Some("0b1a3c5d-1111-2222-3333-444455556666".into()),
        pod: Some(Pod { namespace: "shop".into(), name: "cart-7f9".into() }),
        unit: None,
    }
}

/// A healthy diagnosis.
pub(super) fn healthy() -> Diagnosis {
    let checks = vec![Check { id: "fill", core: true, missing: None }];
    let verdict = verdict::verdict(&[], &checks);
    let metrics = Metrics { saturation: 0.1, failed: None, search_ms: None };
    Diagnosis { findings: Vec::new(), left_out: 0, checks, verdict, metrics, ..diagnosis() }
}

/// As [`diagnosis`], of a recording.
pub(super) fn recorded() -> Diagnosis {
    let begin_ns = 1_763_999_000_000_000_000;
    let recording =
        OfRecording { begin_ns, end_ns: begin_ns + 60_000_000_000, lines: 1_200, readings: 6 };
    Diagnosis { recording: Some(recording), ..diagnosis() }
}
