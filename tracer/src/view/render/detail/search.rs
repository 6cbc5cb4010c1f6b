//! The durations of the kernel's port searches, as a histogram.

use ratatui::{
    style::Style,
    text::{Line, Span},
};
use tracer_common::tuple::{SEARCH_BUCKETS, search_bucket_end};

use super::{super::fmt::count, heading};
use crate::{format::table::nanoseconds, view::theme::Theme};

/// Width of the text for a bucket's limit.
const LIMIT: usize = 12;
/// Width of the number of its searches.
const NUMBER: usize = 10;
/// The longest bar is at most this wide.
const BAR: usize = 40;

/// How long port searches took, in `room` columns: a title, and one line for each bucket from the first to the last that is not
/// empty; if all are, a line that says so.
pub(super) fn lines(
    buckets: &[u32; SEARCH_BUCKETS],
    theme: Theme,
    room: usize,
) -> Vec<Line<'static>> {
    let filled = |count: &u32| *count > 0;
    let title = heading("Port searches so far, by duration", theme);
    let (Some(first), Some(last)) =
        (buckets.iter().position(filled), buckets.iter().rposition(filled))
    else {
        return vec![title, Line::from("not measured, or none so far")];
    };
    let most = buckets.iter().copied().max().unwrap_or(0);
    let width = room.saturating_sub(LIMIT + NUMBER + 1).min(BAR);
    let mut lines = vec![title];
    for (bucket, number) in buckets.iter().enumerate().take(last + 1).skip(first) {
        let limit = match search_bucket_end(bucket) {
            u64::MAX => format!("≥ {}", nanoseconds(search_bucket_end(bucket - 1))),
            end => format!("< {}", nanoseconds(end)),
        };
        let number_text = count((*number).into());
        lines.push(Line::from(vec![
            Span::raw(format!("{limit:<LIMIT$}{number_text:>NUMBER$} ")),
            Span::styled(bar(*number, most, width), Style::new()),
        ]));
    }
    lines
}

/// A horizontal bar of at most `width` characters, the last of which shows eighths; a number above 0 has at least one
/// eighth. `most`: the number for which the bar is `width` characters long.
fn bar(number: u32, most: u32, width: usize) -> String {
    let eighths = u64::from(number) * width as u64 * 8 / u64::from(most.max(1));
    let (whole, part) = (usize::try_from(eighths / 8).unwrap_or(width), eighths % 8);
    let mut bar = "█".repeat(whole.min(width));
    if part > 0 || (number > 0 && whole == 0) {
        let eighths_of = ['▏', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
        bar.push(
            usize::try_from(part)
                .ok()
                .and_then(|part| eighths_of.get(part))
                .copied()
                .unwrap_or('▏'),
        );
    }
    bar
}
