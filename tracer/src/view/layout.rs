//! The areas of the screen, from its size, and from whether a recording is played.

use ratatui::layout::Rect;

use super::model::Model;

/// The areas of a screen, from top to bottom. Each can be empty; they never overlap.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Areas {
    pub header: Rect,
    pub tabs: Rect,
    pub body: Rect,
    /// `None`: no recording is played, or there is no room for it.
    pub time_bar: Option<Rect>,
    pub status: Rect,
}

/// From this height on (lines of the terminal), the header has sparklines of the newest readings.
pub const SPARKLINES: u16 = 20;
/// From this height on, the sparklines are three lines high.
pub const TALL: u16 = 40;

/// The areas for the model's size. They do not depend on view and mode, so that nothing moves when these change.
pub fn areas(model: &Model) -> Areas {
    let (width, height) = (model.size.width, model.size.height);
    let header = header(height);
    let tabs = u16::from(height >= 5);
    let time_bar = u16::from(height >= 6 && model.replay.is_some());
    let status = u16::from(height >= 3);
    let body = height.saturating_sub(header + tabs + time_bar + status);
    let mut top = 0;
    let mut next = |height: u16| {
        let area = Rect::new(0, top, width, height);
        top += height;
        area
    };
    Areas {
        header: next(header),
        tabs: next(tabs),
        body: next(body),
        time_bar: Some(next(time_bar)).filter(|area| area.height > 0),
        status: next(status),
    }
}

/// Lines of the header on a screen of this height.
fn header(height: u16) -> u16 {
    match height {
        0 => 0,
        1..8 => 1,
        8..12 => 2,
        12..SPARKLINES => 4,
        SPARKLINES..TALL => 6,
        TALL.. => 8,
    }
}

impl Areas {
    /// Rows that a table in the body has room for, below its header.
    pub fn rows(&self) -> usize {
        usize::from(self.body.height.saturating_sub(1))
    }

    /// The areas, as far as they are within `area`: the terminal may have become smaller since the model's size was set.
    #[must_use]
    pub fn within(&self, area: Rect) -> Self {
        Self {
            header: self.header.intersection(area),
            tabs: self.tabs.intersection(area),
            body: self.body.intersection(area),
            time_bar: self.time_bar.map(|bar| bar.intersection(area)),
            status: self.status.intersection(area),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::{
        model::{Replay, Size},
        reading::About,
    };

    #[test]
    fn at_any_size_the_parts_fill_the_screen_and_do_not_overlap() {
        let mut model = Model::new(About::default());
        for replay in [None, Some(Replay::default())] {
            model.replay = replay;
            for height in 0..=200 {
                for width in [0, 1, 2, 40, 80, 500] {
                    model.size = Size { width, height };
                    let areas = areas(&model);
                    let bar = areas.time_bar.unwrap_or_default();
                    let parts = [areas.header, areas.tabs, areas.body, bar, areas.status];
                    let sum: u16 = parts.iter().map(|area| area.height).sum();
                    assert_eq!(sum, height);
                    let mut row = 0;
                    for part in parts.iter().filter(|part| part.height > 0) {
                        assert_eq!((part.y, part.width), (row, width));
                        row += part.height;
                    }
                }
            }
        }
    }

    #[test]
    fn a_small_screen_is_mostly_rows() {
        let mut model = Model::new(About::default());
        for (height, rows) in [(1, 0), (4, 1), (10, 5), (16, 9), (24, 15), (50, 39)] {
            model.size = Size { width: 80, height };
            assert_eq!(areas(&model).rows(), rows, "{height}");
        }
    }
}
