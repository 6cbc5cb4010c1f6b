//! Bars over time, made of block characters.

/// Bars of 0 to 8 eighths of a line.
const EIGHTHS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The newest `width` values as bars, one column each, the newest on the right: `height` lines, the top one first. If there are
/// fewer values, the left is empty. Each value above 0 is visible, by an eighth of a line at least. `top`: the value of a bar of
/// full height; greater values have that height, too; with 0, each value above 0 has one eighth.
pub(super) fn bars(values: &[f64], (width, height): (usize, usize), top: f64) -> Vec<String> {
    let values = &values[values.len().saturating_sub(width)..];
    let pad = width - values.len();
    (0..height)
        .rev()
        .map(|row| {
            let cells = values.iter().map(|value| cell(eighths(*value, top, height), row));
            std::iter::repeat_n(' ', pad).chain(cells).collect()
        })
        .collect()
}

/// The character in line `row` (0: the lowest) of a bar that is `eighths` eighths of a line high.
fn cell(eighths: usize, row: usize) -> char {
    let here = eighths.saturating_sub(row * 8).min(8);
    EIGHTHS.get(here).copied().unwrap_or('█')
}

/// The height of a value's bar in eighths of a line: at most `height` lines, and at least one eighth if the value is above 0.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "between 0 and the height in eighths"
)]
fn eighths(value: f64, top: f64, height: usize) -> usize {
    let all = (height * 8) as f64;
    let share = if top > 0.0 { (value / top).clamp(0.0, 1.0) } else { 0.0 };
    // A bar is full only at the top, and empty only at 0.
    let bar = (share * all).floor();
    if value > 0.0 { bar.max(1.0) as usize } else { 0 }
}

/// The newest `width` pairs of a whole and a part of it as bars, one column each, the newest on the right; the part is drawn at
/// the bottom. `height` lines, the top one first, each with `width` characters; with each, whether it belongs to the part. If
/// there are fewer pairs, the left is empty. A character with both shows the larger of them. `top`: as in [`bars`].
pub(super) fn stacked(
    points: &[(f64, f64)],
    (width, height): (usize, usize),
    top: f64,
) -> Vec<Vec<(char, bool)>> {
    let points = &points[points.len().saturating_sub(width)..];
    let pad = width - points.len();
    (0..height)
        .rev()
        .map(|row| {
            let cells = points.iter().map(|(whole, below)| {
                let (whole, below) = (eighths(*whole, top, height), eighths(*below, top, height));
                // A character with both the part and the rest shows the larger one.
                let lower = below.saturating_sub(row * 8).min(8);
                let upper = whole.saturating_sub(row * 8).min(8);
                if lower > 0 && lower * 2 >= upper {
                    let letter = if upper == 8 { '▒' } else { cell(whole, row) };
                    (letter, true)
                } else {
                    (cell(whole, row), false)
                }
            });
            std::iter::repeat_n((' ', false), pad).chain(cells).collect()
        })
        .collect()
}

/// At most `width` values, oldest first; each is the largest of the successive values that it stands for, as `larger` (which gets
/// an older and a newer one) says. Fewer values than `width` stay as they are; with `width` 0, there are none.
pub(super) fn squeezed<T: Copy>(values: &[T], width: usize, larger: impl Fn(T, T) -> T) -> Vec<T> {
    let (count, columns) = (values.len(), width.min(values.len()));
    let chunk = |column: usize| {
        let range = column * count / columns..(column + 1) * count / columns;
        values.get(range)?.iter().copied().reduce(&larger)
    };
    (0..columns).filter_map(chunk).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_full_only_at_the_top_and_empty_only_at_0() {
        assert_eq!(bars(&[0.0, 0.01, 4.0, 7.99, 8.0], (6, 1), 8.0), ["  ▁▄▇█"]);
        assert_eq!(bars(&[1.0, 2.0, 3.0], (2, 2), 3.0), ["▂█", "██"]);
        assert_eq!(bars(&[0.0, f64::NAN], (2, 1), 0.0), ["  "]);
    }

    #[test]
    fn the_lower_part_of_a_stack_looks_different_without_colour() {
        let text = |points: &[(f64, f64)]| -> Vec<String> {
            let lines = stacked(points, (points.len(), 2), 16.0);
            lines.iter().map(|line| line.iter().map(|(letter, _)| letter).collect()).collect()
        };
        assert_eq!(text(&[(16.0, 8.0), (12.0, 0.0), (16.0, 16.0)]), ["█▄▒", "▒█▒"]);
    }

    #[test]
    fn many_values_become_as_many_as_fit_and_none_is_hidden() {
        assert_eq!(squeezed(&[1, 9, 2, 3, 4], 3, i32::max), [1, 9, 4]);
        assert_eq!(squeezed(&[1, 2], 3, i32::max), [1, 2]);
        assert_eq!(squeezed(&[1; 0], 0, i32::max), [0; 0]);
    }
}
