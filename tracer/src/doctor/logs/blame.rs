//! Whether lines that blame an upstream follow from failures of this host.

use super::report::{Kind, Program, Report};

/// How long after a failed connect() "no live upstreams" is taken to follow from it, in seconds: nginx takes a server for
/// failed for `fail_timeout`, 10 s by default.
pub(super) const WITHIN_S: i64 = 10;

/// Lines that blame the servers of an upstream.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Blamed {
    /// Lines in the window that say that all servers have failed.
    pub lines: u64,
    /// Of these: lines at most 10 s after one that says that connect() found no port.
    pub explained: u64,
    /// Lines that say that connect() found no port, from 10 s before the window until its end.
    pub failures: u64,
    /// Whether a server also refused a connection or did not answer, at most 10 s before one of these lines: then it may
    /// have failed indeed.
    pub refused: bool,
}

impl Report {
    /// What lines of this program say about the upstream of this name; `None`: that of lines whose names are not kept.
    /// `is_server`: whether what a line names (a destination, an upstream or a backend; `None`: not kept) belongs to the
    /// upstream. If no line of the window blames it, all counts are 0, and `refused` is false. Of more than 16,384 seconds with
    /// lines, only the latest are known: failures in others explain nothing.
    pub fn blamed(
        &self,
        program: Program,
        upstream: Option<&str>,
        is_server: impl Fn(Option<&str>) -> bool,
    ) -> Blamed {
        let of = |kind| self.with_margin(kind, program).filter(|(name, _)| is_server(*name));
        let (ports, in_use) = (of(Kind::NoPort), of(Kind::AddressInUse));
        // With HAProxy, EADDRINUSE of connect() is a source port that is taken; nginx counts bind() as no failure of a server.
        let in_use = in_use.filter(|_| program == Program::Haproxy);
        let failures: Vec<_> = ports.chain(in_use).map(|(_, group)| &group.seconds).collect();
        let refused: Vec<_> =
            of(Kind::Refused).chain(of(Kind::TimedOut)).map(|(_, group)| &group.seconds).collect();
        let blaming = self.with_margin(Kind::NoLive, program).find(|(name, _)| *name == upstream);
        let Some((_, blaming)) = blaming.filter(|(_, group)| group.lines > 0) else {
            return Blamed::default();
        };
        let first = blaming.first_s.unwrap_or(i64::MIN);
        let mut found = Blamed { lines: blaming.lines, ..Blamed::default() };
        for (second, lines) in blaming.seconds.range(first..) {
            let before = second.saturating_sub(WITHIN_S)..=*second;
            let any = |seconds: &&std::collections::BTreeMap<i64, u32>| {
                seconds.range(before.clone()).next().is_some()
            };
            if failures.iter().any(any) {
                found.explained = found.explained.saturating_add((*lines).into());
            }
            found.refused |= refused.iter().any(any);
        }
        let all = failures.iter().flat_map(|seconds| seconds.values());
        found.failures = all.fold(0, |sum, lines| sum.saturating_add((*lines).into()));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::logs::Asked;

    const ASKED: Asked = Asked { from_s: 100, to_s: 200, offset_s: 0 };

    fn blamed(lines: &[(Kind, &str, i64)], server: Option<&str>) -> Blamed {
        let mut report = Report::default();
        for (kind, name, at) in lines {
            report.add(*kind, Program::Nginx, name.as_bytes(), *at, &ASKED);
        }
        report.blamed(Program::Nginx, Some("api"), |name| server.is_none_or(|it| name == Some(it)))
    }

    #[test]
    fn a_failure_explains_what_follows_within_ten_seconds() {
        let of = |failed, blames| {
            blamed(&[(Kind::NoLive, "api", blames), (Kind::NoPort, "a", failed)], None).explained
        };
        let explained = [(120, 120), (120, 121), (120, 130), (95, 105), (90, 100)];
        assert_eq!(explained.map(|(failed, blames)| of(failed, blames)), [1; 5]);
        let not = [(120, 131), (121, 120), (94, 105), (89, 99)];
        assert_eq!(not.map(|(failed, blames)| of(failed, blames)), [0; 4]);
    }

    #[test]
    fn failures_of_another_upstream_explain_nothing() {
        let lines =
            [(Kind::NoPort, "b", 120), (Kind::NoLive, "api", 121), (Kind::NoLive, "x", 121)];
        let expected = Blamed { lines: 1, ..Blamed::default() };
        assert_eq!(blamed(&lines, Some("a")), expected);
        assert_eq!(blamed(&lines, Some("b")), Blamed { explained: 1, failures: 1, ..expected });
    }

    #[test]
    fn a_refusal_explains_it_as_well() {
        let refused = [(Kind::Refused, "a", 119), (Kind::NoLive, "api", 120)];
        assert_eq!(blamed(&refused, None), Blamed { lines: 1, refused: true, ..Blamed::default() });
        let early = [(Kind::TimedOut, "a", 109), (Kind::NoLive, "api", 120)];
        assert!(!blamed(&early, None).refused);
        assert_eq!(blamed(&[(Kind::NoPort, "a", 120)], None), Blamed::default());
    }
}
