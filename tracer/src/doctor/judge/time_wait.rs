//! `time_wait_overflow` and `reuse_ineffective`: settings of TIME_WAIT that do not do what they are for.

use std::fmt::Write as _;

use serde_json::json;

use super::{
    set::set,
    text::{counted, netns_option, number, percent, seconds, short},
};
use crate::{
    doctor::finding::{Finding, Id, Place, Severity, Subject},
    host::{capacity::Reuse, counters::Counters},
};

/// Share of the most TIME_WAITs from which on it is said.
const NEARLY_FULL: f64 = 0.90;
/// What the kernel keeps of a TIME_WAIT, in bytes (`tw_sock_TCP` in /proc/slabinfo).
const TIME_WAIT_BYTES: u64 = 256;
/// The most TIME_WAITs that are advised.
const LARGEST: u64 = 1 << 22;

/// The TIME_WAITs of a namespace.
#[derive(Clone, Copy, Debug)]
pub struct TimeWaits<'a> {
    pub place: &'a Place,
    /// By how much the counters grew during the window, and how long that was in seconds; `None`: there was one look.
    pub growth: Option<(Counters, f64)>,
    /// How many there are, those of accepted connections included; 0 also if that is not known.
    pub now: u64,
    /// How many there may be (net.ipv4.tcp_max_tw_buckets); `None`: not known.
    pub most: Option<u64>,
    /// How long one lasts at most, in seconds.
    pub lasts_s: f64,
}

/// A finding if connections of the window ended without TIME_WAIT, because there are as many as there may be (a warning), or 90 %
/// of that many are there (good to know). `None`: there is room, or the limit is 0 or not known.
pub fn overflow(seen: &TimeWaits<'_>) -> Option<Finding> {
    let most = seen.most.filter(|most| *most > 0)?;
    let (lost, window_s) = match seen.growth {
        Some((growth, window_s)) => (growth.time_wait_overflows.unwrap_or(0), window_s),
        None => (0, 0.0),
    };
    let share = float(seen.now) / float(most);
    if lost == 0 && share < NEARLY_FULL {
        return None;
    }
    let severity = if lost > 0 { Severity::Warning } else { Severity::Info };
    let mut what =
        format!("{} of {} TIME_WAITs ({})", number(seen.now), number(most), percent(share));
    if lost > 0 {
        let lost = counted(lost, "connection", "connections");
        write!(what, "; {lost} ended without one in {}", seconds(window_s)).unwrap_or_default();
    }
    let finding = Finding::new(Id::TimeWaitOverflow, severity, Subject::Netns(seen.place.clone()), what)
        .with("time_waits", seen.now)
        .with("time_waits.most", most)
        .with("time_waits.lost", json!(seen.growth.and_then(|(it, _)| it.time_wait_overflows)))
        .because(
            "past net.ipv4.tcp_max_tw_buckets, a connection ends without TIME_WAIT: late packets of it can disturb the next one \
             on the same ports"
                .to_owned(),
        )
        .but_not("a lower tcp_max_tw_buckets: it frees ports by giving up this protection")
        .verify_by(format!("tracer doctor{}", netns_option(seen.place)));
    let wanted = wanted(seen, most);
    if wanted <= most {
        return Some(finding);
    }
    let mebibytes = short(float(wanted.saturating_mul(TIME_WAIT_BYTES)) / f64::from(1 << 20));
    let advice = set(
        seen.place,
        &[("net.ipv4.tcp_max_tw_buckets", wanted.to_string())],
        "allow more TIME_WAITs",
        format!("each connection is followed by one, in {mebibytes} MiB of memory at most"),
    );
    Some(finding.advise([advice.risk(
        "each TIME_WAIT more holds its port for a minute: a tuple that is nearly full can run out of ports",
    )]))
}

/// As many as the connections of the window need, twice as many as now at least; a power of two.
fn wanted(seen: &TimeWaits<'_>, most: u64) -> u64 {
    let rate = seen.growth.map_or(0.0, |(growth, window_s)| {
        let all = [growth.time_waits, growth.time_wait_overflows].map(|it| it.unwrap_or(0));
        if window_s > 0.0 { float(all[0].saturating_add(all[1])) / window_s } else { 0.0 }
    });
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
    let needed = (rate * seen.lasts_s).ceil() as u64;
    let wanted = needed.max(most.saturating_mul(2)).checked_next_power_of_two();
    wanted.unwrap_or(LARGEST).min(LARGEST)
}

/// A finding if net.ipv4.tcp_tw_reuse is 1, but no TIME_WAIT is reused, because net.ipv4.tcp_timestamps is 0; else `None`.
/// `lasts_s`: how long a TIME_WAIT lasts at most, in seconds.
pub fn reuse_ineffective(place: &Place, reuse: Reuse, lasts_s: f64) -> Option<Finding> {
    if reuse.setting != 1 || reuse.timestamps {
        return None;
    }
    let after_s = reuse.delay_ms.map_or(1.0, |ms| f64::from(ms) / 1e3);
    let gain = format!(
        "connect() takes over new TIME_WAITs after {} in place of {}",
        seconds(after_s),
        seconds(lasts_s)
    );
    let keys = [("net.ipv4.tcp_timestamps", "1".to_owned())];
    let advice = set(place, &keys, "switch TCP timestamps on", gain)
        .risk("only connections that begin afterwards have timestamps, and only if the other end uses them, too");
    let what = "net.ipv4.tcp_tw_reuse=1 has no effect: net.ipv4.tcp_timestamps=0";
    let finding =
        Finding::new(Id::ReuseIneffective, Severity::Warning, Subject::Netns(place.clone()), what)
            .with("tcp_tw_reuse", reuse.setting)
            .with("tcp_timestamps", 0)
            .because(
                "connect() takes over a TIME_WAIT only if its connection used timestamps"
                    .to_owned(),
            )
            .advise([advice])
            .verify_by(format!("tracer doctor{}", netns_option(place)));
    Some(finding)
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place { inum: 1, own: true, ..Place::default() }
    }

    fn found(now: u64, growth: Option<(u64, u64)>) -> Option<Finding> {
        let growth = growth.map(|(time_waits, overflows)| {
            let growth = Counters {
                time_waits: Some(time_waits),
                time_wait_overflows: Some(overflows),
                ..Counters::default()
            };
            (growth, 5.0)
        });
        overflow(&TimeWaits { place: &place(), growth, now, most: Some(1_000), lasts_s: 62.0 })
    }

    #[test]
    fn connections_without_time_wait_are_a_warning_and_a_nearly_full_table_is_good_to_know() {
        let severity = |now, growth| found(now, growth).map(|it| it.severity);
        assert_eq!(severity(500, None), None);
        assert_eq!(severity(899, Some((10, 0))), None);
        assert_eq!(severity(900, Some((10, 0))), Some(Severity::Info));
        assert_eq!(severity(1_000, None), Some(Severity::Info));
        assert_eq!(severity(1_000, Some((10, 1))), Some(Severity::Warning));
        assert_eq!(severity(0, Some((0, 1))), Some(Severity::Warning));
        let what = found(1_000, Some((10, 1_250))).unwrap().what;
        assert_eq!(
            what,
            "1,000 of 1,000 TIME_WAITs (100 %); 1,250 connections ended without one in 5 s"
        );
        let unknown =
            TimeWaits { place: &place(), growth: None, now: 9, most: None, lasts_s: 62.0 };
        assert_eq!(overflow(&unknown), None);
    }

    #[test]
    fn more_are_advised_as_the_connections_need_and_with_what_they_cost() {
        let command = |growth| found(1_000, growth).unwrap().advice[0].command.clone().unwrap();
        assert_eq!(command(None), "sysctl -w net.ipv4.tcp_max_tw_buckets=2048");
        // 1,000 a second for 62 s.
        assert_eq!(command(Some((100, 4_900))), "sysctl -w net.ipv4.tcp_max_tw_buckets=65536");
        assert_eq!(command(Some((0, u64::MAX))), "sysctl -w net.ipv4.tcp_max_tw_buckets=4194304");
        let found = found(1_000, Some((100, 4_900))).unwrap();
        assert!(found.advice[0].gain.contains("16 MiB"), "{found:?}");
        assert!(found.advice[0].risk.unwrap().contains("run out of ports"));
    }

    #[test]
    fn no_fewer_are_ever_advised() {
        let most = Some(LARGEST * 2);
        let many =
            TimeWaits { place: &place(), growth: None, now: LARGEST * 2, most, lasts_s: 62.0 };
        assert_eq!(overflow(&many).unwrap().advice, []);
    }

    #[test]
    fn reuse_without_timestamps_is_without_effect() {
        let found = |setting, timestamps| {
            let reuse = Reuse { setting, delay_ms: Some(1_000), timestamps };
            reuse_ineffective(&place(), reuse, 62.05)
        };
        for (setting, timestamps) in [(0, false), (0, true), (1, true), (2, true), (2, false)] {
            assert_eq!(found(setting, timestamps), None, "{setting} {timestamps}");
        }
        let found = found(1, false).unwrap();
        assert_eq!(found.severity, Severity::Warning);
        let command = found.advice[0].command.as_deref();
        assert_eq!(command, Some("sysctl -w net.ipv4.tcp_timestamps=1"));
    }
}
