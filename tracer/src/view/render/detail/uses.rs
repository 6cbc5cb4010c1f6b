//! How the connections that ended were used, and SYNs without an answer.

use ratatui::{style::Style, text::Line};
use tracer_common::ends::{LIFETIMES, lifetime_bucket_end};

use super::{
    super::{fmt::count, self_stats::labelled},
    heading,
};
use crate::{
    format::table::{nanoseconds, rate, seconds},
    ledger::uses::Closed,
    view::{theme::Theme, tuple_history::Detail},
};

/// A heading and a few lines, in `room` columns; none if the readings do not say how connections ended, or if none ended, no SYN
/// was sent again, and none stayed without an answer.
pub(super) fn lines(detail: &Detail, theme: Theme, room: usize) -> Vec<Line<'static>> {
    let Some(uses) = detail.row.uses else { return Vec::new() };
    let mut texts = Vec::new();
    if let Some(requests) = uses.recent.per_connection() {
        texts.push(("REQ/CONN", format!("{} (segments with data)", rate(requests))));
        texts.push(("closed first", closers(&uses.closed)));
    }
    if let Some(lasted) = lasted(&detail.lifetimes) {
        texts.push(("lasted", lasted));
    }
    if uses.syns_again > 0 || uses.unanswered > 0 {
        let [again, unanswered] = [uses.syns_again, uses.unanswered].map(count);
        texts.push(("SYNRTX", format!("{again} SYNs sent again; {unanswered} never answered")));
    }
    if texts.is_empty() {
        return Vec::new();
    }
    let mut lines =
        vec![heading(format!("Connections that ended: {}", count(uses.closed.all())), theme)];
    for (label, text) in texts {
        lines.extend(labelled(label, &text, room, (Style::new(), Style::new())));
    }
    lines
}

/// Which end closed first, in how many of the connections: `here 80 %, the peer 20 %`; `neither` only if there are such.
fn closers(closed: &Closed) -> String {
    let all = closed.all().max(1);
    let share = |some: u64| u128::from(some) * 100 / u128::from(all);
    let mut text = format!("here {} %, the peer {} %", share(closed.here), share(closed.by_peer));
    if closed.aborted > 0 {
        let aborted = share(closed.aborted);
        text = format!("{text}, neither {aborted} % (reset, timed out)");
    }
    text
}

/// How long half and nine of ten of the connections lasted at most, by the ends of their buckets; `None`: there is none.
fn lasted(lifetimes: &[u32; LIFETIMES]) -> Option<String> {
    let all: u64 = lifetimes.iter().map(|count| u64::from(*count)).sum();
    let within = |tenths: u64| {
        let mut below = 0;
        lifetimes.iter().position(|count| {
            below += u64::from(*count);
            below * 10 >= all * tenths
        })
    };
    let [half, most] = [within(5)?, within(9)?].map(limit);
    (all > 0).then(|| format!("half {half}, nine of ten {most}"))
}

/// The end of a bucket as text, `< 16ms`; of the last one, its beginning, `≥ 137s`.
#[expect(clippy::cast_precision_loss, reason = "shown with at most four digits")]
fn limit(bucket: usize) -> String {
    let text = |ns: u64| match ns {
        1_000_000_000.. => seconds(ns as f64 / 1e9),
        _ => nanoseconds(ns),
    };
    match lifetime_bucket_end(bucket) {
        u64::MAX => format!("≥ {}", text(lifetime_bucket_end(bucket.saturating_sub(1)))),
        end => format!("< {}", text(end)),
    }
}

#[cfg(test)]
mod tests {
    use tracer_common::ends::lifetime_bucket;

    use super::*;

    #[test]
    fn half_and_nine_of_ten_are_the_ends_of_their_buckets() {
        let mut lifetimes = [0; LIFETIMES];
        assert_eq!(lasted(&lifetimes), None);
        lifetimes[lifetime_bucket(1_000_000)] = 5;
        lifetimes[lifetime_bucket(20_000_000)] = 4;
        lifetimes[lifetime_bucket(u64::MAX)] = 1;
        assert_eq!(lasted(&lifetimes).unwrap(), "half < 8.4ms, nine of ten < 33ms");
        lifetimes[LIFETIMES - 1] = 100;
        assert_eq!(lasted(&lifetimes).unwrap(), "half ≥ 2m, nine of ten ≥ 2m");
    }

    #[test]
    fn shares_of_all_connections_there_can_be_are_shares() {
        let closed = Closed { here: u64::MAX / 2, by_peer: u64::MAX / 2, ..Closed::default() };
        assert_eq!(closers(&closed), "here 50 %, the peer 50 %");
        let closed = Closed { here: 3, aborted: 1, ..Closed::default() };
        assert_eq!(closers(&closed), "here 75 %, the peer 0 %, neither 25 % (reset, timed out)");
    }
}
