//! Where each part of the screen is. Pure.

use ratatui::layout::Rect;

use super::model::Model;

/// The parts of a screen, from top to bottom; each can be empty.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Areas {
    pub header: Rect,
    pub tabs: Rect,
    pub body: Rect,
    pub time_bar: Option<Rect>,
    pub status: Rect,
}

/// For the model's size, in its view and mode.
pub fn areas(model: &Model) -> Areas {
    let size = model.size;
    let body = Rect::new(0, 3, size.width, size.height.saturating_sub(4));
    Areas { body, ..Areas::default() }
}

impl Areas {
    /// Rows that a table in the body has room for, below its header.
    pub fn rows(&self) -> usize {
        usize::from(self.body.height.saturating_sub(1))
    }
}
