//! The styles. A colour never carries a meaning alone: there is a sign or a word, too.

use ratatui::style::{Color, Modifier, Style};

use crate::format::table::{CRITICAL, HIGH, SLOW};

/// The styles, with colour or (`NO_COLOR`) only bold, underlined and reversed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Theme {
    colour: bool,
}

impl Theme {
    pub const fn new(colour: bool) -> Self {
        Self { colour }
    }

    fn with(self, colour: Style, plain: Modifier) -> Style {
        if self.colour { colour } else { Style::new().add_modifier(plain) }
    }

    /// A tuple of this saturation, as a part of 1; `None`: not known.
    pub fn level(self, share: Option<f64>) -> Style {
        let style = Style::new();
        match share.unwrap_or_default() {
            CRITICAL.. => self.alarm(),
            HIGH.. => self.with(style.fg(Color::LightRed), Modifier::BOLD),
            SLOW.. => self.with(style.fg(Color::Yellow), Modifier::empty()),
            _ => style,
        }
    }

    /// No port is left, or soon none will be.
    pub fn alarm(self) -> Style {
        let bold = Style::new().add_modifier(Modifier::BOLD);
        let plain = Modifier::BOLD.union(Modifier::UNDERLINED);
        self.with(bold.fg(Color::White).bg(Color::Red), plain)
    }

    /// Failures, losses, errors.
    pub fn bad(self) -> Style {
        let bold = Style::new().add_modifier(Modifier::BOLD);
        self.with(bold.fg(Color::LightRed), Modifier::BOLD)
    }

    /// Not as it should be, but harmless.
    pub fn warn(self) -> Style {
        self.with(Style::new().fg(Color::Yellow), Modifier::BOLD)
    }

    /// Unimportant text.
    pub fn faint(self) -> Style {
        self.with(Style::new().fg(Color::DarkGray), Modifier::empty())
    }

    /// TIME_WAIT in a plot.
    pub fn waiting(self) -> Style {
        self.with(Style::new().fg(Color::Cyan), Modifier::empty())
    }

    /// Emphasized text.
    pub const fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// Titles of columns.
    pub const fn title(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD.union(Modifier::UNDERLINED))
    }

    /// What is selected or active.
    pub const fn selected(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }
}
