//! A value of a configuration: set, not set, or not understood.

use super::At;

/// What a configuration says about one thing.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Setting<T> {
    /// Nothing: the program's default holds.
    #[default]
    Unset,
    /// This, in that line.
    Is(T, At),
    /// It is set in that line, and the value is not known: it has an environment variable, depends on a condition, or is not
    /// understood.
    Unread(At),
}

impl<T> Setting<T> {
    /// The value; the default if it is not set; `None`: not read.
    pub fn or(&self, default: T) -> Option<T>
    where
        T: Clone,
    {
        match self {
            Self::Unset => Some(default),
            Self::Is(value, _) => Some(value.clone()),
            Self::Unread(_) => None,
        }
    }

    /// The value that is set; `None`: not set, or not read.
    pub fn value(&self) -> Option<&T> {
        match self {
            Self::Is(value, _) => Some(value),
            Self::Unset | Self::Unread(_) => None,
        }
    }

    /// The line that sets it; `None`: not set.
    pub fn at(&self) -> Option<&At> {
        match self {
            Self::Is(_, at) | Self::Unread(at) => Some(at),
            Self::Unset => None,
        }
    }
}

/// What was not read of a configuration.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Unread {
    /// The first places, at most [`Self::MOST`], each with the reason.
    pub places: Vec<(At, &'static str)>,
    /// How many places there are.
    pub count: u32,
}

impl Unread {
    /// How many places are kept.
    pub const MOST: usize = 50;

    /// Adds a place with the reason; after [`Self::MOST`], it is only counted.
    pub(super) fn add(&mut self, at: At, why: &'static str) {
        self.count = self.count.saturating_add(1);
        if self.places.len() < Self::MOST {
            self.places.push((at, why));
        }
    }
}
