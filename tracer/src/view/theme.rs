//! The styles. A colour never carries a meaning alone: there is a sign or a word, too.

use ratatui::style::{Color, Modifier, Style};

use crate::format::table::{CRITICAL, HIGH, SLOW};

/// The styles, with colour or (`NO_COLOR`) only bold, underlined and reversed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Theme {
    colour: bool,
}

impl Theme {
    /// `colour`: whether colours may be used.
    pub const fn new(colour: bool) -> Self {
        Self { colour }
    }

    fn with(self, colour: Style, plain: Modifier) -> Style {
        if self.colour { colour } else { Style::new().add_modifier(plain) }
    }

    /// The style for a tuple of this saturation (1: full): plain below 45 %, and if it is not known (`None`).
    pub fn level(self, share: Option<f64>) -> Style {
        let style = Style::new();
        match share.unwrap_or_default() {
            CRITICAL.. => self.alarm(),
            HIGH.. => self.with(style.fg(Color::LightRed), Modifier::BOLD),
            SLOW.. => self.with(style.fg(Color::Yellow), Modifier::empty()),
            _ => style,
        }
    }

    /// The style for a tuple that has no free port or soon will have none, and for calls that failed for lack of ports.
    pub fn alarm(self) -> Style {
        let bold = Style::new().add_modifier(Modifier::BOLD);
        let plain = Modifier::BOLD.union(Modifier::UNDERLINED);
        self.with(bold.fg(Color::White).bg(Color::Red), plain)
    }

    /// The style for failures, losses and errors.
    pub fn bad(self) -> Style {
        let bold = Style::new().add_modifier(Modifier::BOLD);
        self.with(bold.fg(Color::LightRed), Modifier::BOLD)
    }

    /// The style for what is not as it should be, but harmless.
    pub fn warn(self) -> Style {
        self.with(Style::new().fg(Color::Yellow), Modifier::BOLD)
    }

    /// The style for unimportant text.
    pub fn faint(self) -> Style {
        self.with(Style::new().fg(Color::DarkGray), Modifier::empty())
    }

    /// The style for TIME_WAIT in a plot.
    pub fn waiting(self) -> Style {
        self.with(Style::new().fg(Color::Cyan), Modifier::empty())
    }

    /// The style for emphasized text.
    pub const fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// The style for titles of columns.
    pub const fn title(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD.union(Modifier::UNDERLINED))
    }

    /// The style for what is selected or active.
    pub const fn selected(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }
}
