//! Everything on the screen, as one value.

use std::{collections::VecDeque, sync::Arc};

use jiff::tz::TimeZone;
use tracer_common::TupleKey;

use super::{
    failures::{FailureGroup, FailureRates},
    filter::Filter,
    group::GroupBy,
    input::Input,
    reading::{About, Snapshot},
    tuple_history::{TupleHistory, Window, Worst},
};
use crate::{format::table::Column, ledger::stats::Row};

/// Which way to go in time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    Forward,
    Back,
}

/// What the main part of the screen shows.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum View {
    #[default]
    Tuples,
    Processes,
    Sources,
    Failures,
    /// What the tracer itself costs and loses.
    SelfStats,
}

impl View {
    pub const ALL: [Self; 5] =
        [Self::Tuples, Self::Processes, Self::Sources, Self::Failures, Self::SelfStats];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Tuples => "tuples",
            Self::Processes => "processes",
            Self::Sources => "sources",
            Self::Failures => "failures",
            Self::SelfStats => "self",
        }
    }

    /// The columns of its table, in order; none: it has no table of rows.
    pub const fn columns(self) -> &'static [Column] {
        match self {
            Self::Tuples => &Column::VIEW,
            Self::Processes => &Column::PROCESS,
            Self::Sources => &Column::SOURCE,
            Self::Failures | Self::SelfStats => &[],
        }
    }
}

/// What keys mean at the moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Mode {
    /// The view's list.
    #[default]
    Browse,
    /// One tuple.
    Detail(TupleKey),
    /// Choosing what to sort by: index into the view's columns.
    Sort(usize),
    /// Typing a filter, and why what was typed is none.
    Filter { input: Input, error: Option<String> },
    /// Typing a time to go to (replay).
    Jump { input: Input, error: Option<String>, direction: Direction },
    /// The keys. `back`: what was shown before.
    Help { scroll: usize, back: Box<Self> },
}

/// The order of a table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sort {
    pub by: Column,
    /// The least pressing row first.
    pub reverse: bool,
}

/// The part of a list that is on the screen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct List {
    pub rows: Vec<Row>,
    /// Index of the first of `rows` in the whole list.
    pub first: usize,
    /// Rows in the whole list, and in it without the filter.
    pub total: usize,
    pub unfiltered: usize,
    /// Whether rows of the whole list differ in nothing but their network namespace.
    pub alike: bool,
    /// Index in `rows` of the row that is selected.
    pub cursor: Option<usize>,
}

/// Where a recording is being played.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Replay {
    /// Of the recording, ns since 1970; 0: not known.
    pub begin_ns: u64,
    pub end_ns: u64,
    /// Times as fast as it was recorded.
    pub speed: f64,
    /// Nothing comes after the reading that is shown.
    pub at_end: bool,
    /// Lines of which something is missing: gaps in `seq`, and lines that could not be read.
    pub missing: u64,
    pub unreadable: u64,
    /// What there was more of than is remembered; empty: everything was.
    pub limits: Vec<String>,
    /// Name of the file, or how many there are.
    pub name: String,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Size {
    pub width: u16,
    pub height: u16,
}

/// What a live source is asked for beside the tuples: it costs more.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Wants {
    /// Who holds ports: of all tuples, or of this one.
    pub holders: Option<Option<TupleKey>>,
    /// The ports that bind() and listen() took.
    pub blocked: bool,
    /// What the tracer itself costs, in full.
    pub self_stats: bool,
}

#[derive(Debug)]
pub struct Model {
    // What is known.
    pub about: Arc<About>,
    pub history: TupleHistory,
    /// The newest reading that was taken in.
    pub reading: Snapshot,
    /// CPU time of the tracer between the last two readings, as a share of a core.
    pub cpu_share: Option<f64>,
    /// Newest last.
    pub failures: VecDeque<FailureGroup>,
    pub failure_rates: FailureRates,
    // What was asked for.
    pub view: View,
    pub mode: Mode,
    pub by: GroupBy,
    pub window: Window,
    /// Of each view in [`View::ALL`].
    pub sorts: [Sort; 5],
    pub filter: Filter,
    /// The screen stands still.
    pub paused: bool,
    pub size: Size,
    /// Of the times that are shown and typed.
    pub zone: TimeZone,
    /// The terminal may show colours (`NO_COLOR` is not set).
    pub colour: bool,
    /// `None`: live.
    pub replay: Option<Replay>,
    // What follows from both.
    pub list: List,
    /// The tuple of the host that is nearest to its end; kept, because finding it looks at all of them.
    pub worst: Option<Worst>,
    /// The row that is selected, as long as there is one like it; `None`: the first.
    pub selected: Option<Row>,
    /// First line of what is scrolled without a cursor: failures, details.
    pub scroll: usize,
    /// What the last key led to, if that has to be said.
    pub message: Option<String>,
}

impl Model {
    pub fn new(about: About) -> Self {
        let sort = Sort { by: Column::Saturation, reverse: false };
        let ports = Sort { by: Column::Ports, reverse: false };
        Self {
            about: Arc::new(about),
            history: TupleHistory::default(),
            reading: Snapshot::default(),
            cpu_share: None,
            failures: VecDeque::new(),
            failure_rates: FailureRates::default(),
            view: View::default(),
            mode: Mode::default(),
            by: GroupBy::default(),
            window: Window::default(),
            sorts: [sort, ports, sort, sort, sort],
            filter: Filter::default(),
            paused: false,
            size: Size { width: 80, height: 24 },
            zone: TimeZone::UTC,
            colour: true,
            replay: None,
            list: List::default(),
            worst: None,
            selected: None,
            scroll: 0,
            message: None,
        }
    }

    pub fn sort(&self) -> Sort {
        self.sorts[self.view as usize]
    }

    /// The tuple that is looked at in detail.
    pub fn detailed(&self) -> Option<TupleKey> {
        match &self.mode {
            Mode::Detail(key) => Some(*key),
            Mode::Help { back, .. } => match **back {
                Mode::Detail(key) => Some(key),
                _ => None,
            },
            _ => None,
        }
    }

    /// What the next reading should have.
    pub fn wants(&self) -> Wants {
        match (self.detailed(), self.view) {
            (Some(key), _) => Wants { holders: Some(Some(key)), blocked: true, ..Wants::default() },
            (None, View::Processes) => Wants { holders: Some(None), ..Wants::default() },
            (None, view) => Wants { self_stats: view == View::SelfStats, ..Wants::default() },
        }
    }

    pub fn is_live(&self) -> bool {
        self.replay.is_none()
    }
}
