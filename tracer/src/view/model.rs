//! Everything on the screen, as one value.

use std::{collections::VecDeque, sync::Arc};

use jiff::tz::TimeZone;
use tracer_common::TupleKey;

use super::{
    answers::Answers,
    failures::{FailureGroup, FailureRates},
    filter::Filter,
    group::GroupBy,
    input::Input,
    reading::{About, Snapshot},
    tuple_history::{TupleHistory, Window, Worst},
};
use crate::{format::table::Column, ledger::stats::Row};

/// The direction in which to go in time.
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
    /// What tracer itself costs and has lost.
    SelfStats,
    /// What is wrong, and what to do.
    Doctor,
}

impl View {
    /// All views, in the order of their keys, `1` to `6`.
    pub const ALL: [Self; 6] = [
        Self::Tuples,
        Self::Processes,
        Self::Sources,
        Self::Failures,
        Self::SelfStats,
        Self::Doctor,
    ];

    /// Its name in titles.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tuples => "tuples",
            Self::Processes => "processes",
            Self::Sources => "sources",
            Self::Failures => "failures",
            Self::SelfStats => "self",
            Self::Doctor => "doctor",
        }
    }

    /// The columns of its table, in order; empty: it has no table.
    pub const fn columns(self) -> &'static [Column] {
        match self {
            Self::Tuples => &Column::VIEW,
            Self::Processes => &Column::PROCESS,
            Self::Sources => &Column::SOURCE,
            Self::Failures | Self::SelfStats | Self::Doctor => &[],
        }
    }
}

/// What is open, and so what keys do.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Mode {
    /// The view's list.
    #[default]
    Browse,
    /// The details of one tuple.
    Detail(TupleKey),
    /// Choosing a column to sort by: index into the view's columns.
    Sort(usize),
    /// Typing a filter. `error`: why the text that was entered is no filter; `None`: nothing wrong was entered.
    Filter { input: Input, error: Option<String> },
    /// Typing a time of the recording to go to. `error`: why the text that was entered is no time; `None`: nothing
    /// wrong was entered. `direction`: in which a duration without a sign goes.
    Jump { input: Input, error: Option<String>, direction: Direction },
    /// The help. `scroll`: its first shown line; `back`: the mode before it.
    Help { scroll: usize, back: Box<Self> },
}

/// The order of a table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sort {
    pub by: Column,
    /// Whether the order is reversed, so that the row that matters least comes first.
    pub reverse: bool,
}

/// The part of a list that is on the screen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct List {
    /// The rows that are on the screen, in their order.
    pub rows: Vec<Row>,
    /// Index of the first of `rows` in the whole list.
    pub first: usize,
    /// How many rows the whole list has.
    pub total: usize,
    /// How many rows the whole list would have without the filter. (Of groups and sources, the same as `total`: there, the
    /// filter chooses tuples before these are grouped.)
    pub unfiltered: usize,
    /// Whether two of `rows` differ in nothing but their network namespace.
    pub alike: bool,
    /// Index in `rows` of the selected row; `None`: none is selected.
    pub cursor: Option<usize>,
}

/// The state of a recording that is played.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Replay {
    /// When the recording begins, ns since 1970; 0: not known.
    pub begin_ns: u64,
    /// When the recording ends, ns since 1970; 0: not known.
    pub end_ns: u64,
    /// Speed, as a multiple of real time.
    pub speed: f64,
    /// Whether the shown reading is the last one.
    pub at_end: bool,
    /// Lines that are missing so far, by gaps in `seq`.
    pub missing: u64,
    /// Lines, and ends of compressed files, that could not be read so far.
    pub unreadable: u64,
    /// What was left out so far because a limit of memory was reached (of tuples, failed calls or names), one text each; empty:
    /// nothing was.
    pub limits: Vec<String>,
    /// Name of the file; of several files, how many there are.
    pub name: String,
}

/// The size of the screen in columns and lines.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Size {
    pub width: u16,
    pub height: u16,
}

/// What the next reading of a live source should have that costs more than the tuples.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Wants {
    /// Who holds ports: `Some(None)`: of all tuples; `Some(Some(key))`: of this one; `None`: not needed.
    pub holders: Option<Option<TupleKey>>,
    /// The ports that bind() and listen() took.
    pub blocked: bool,
    /// All that the tracer itself costs, its memory included.
    pub self_stats: bool,
}

/// Everything on the screen, and what it is made of.
#[derive(Debug)]
pub struct Model {
    // From the source.
    pub about: Arc<About>,
    pub history: TupleHistory,
    /// The newest reading.
    pub reading: Snapshot,
    /// CPU time of the tracer between the last two readings, per elapsed time (1: a whole core); `None`: not known.
    pub cpu_share: Option<f64>,
    /// The newest failed calls, newest last.
    pub failures: VecDeque<FailureGroup>,
    /// Failed calls by process, of the last minute.
    pub failure_rates: FailureRates,
    // Chosen by keys.
    pub view: View,
    pub mode: Mode,
    /// How the view of tuples is grouped.
    pub by: GroupBy,
    /// The time over which rates are shown.
    pub window: Window,
    /// The order of each view, in the order of [`View::ALL`].
    pub sorts: [Sort; 6],
    /// The filter of `--filter` or typed after `/`; that of the other options (`--dst` and so on) is in `about`.
    pub filter: Filter,
    /// Whether the screen stands still: a live source then adds no readings, a recording is not played.
    pub paused: bool,
    pub size: Size,
    /// The time zone of the times that are shown and typed.
    pub zone: TimeZone,
    /// Whether colours are used (`NO_COLOR` is not set, or empty).
    pub colour: bool,
    /// The recording's state; `None`: a live source.
    pub replay: Option<Replay>,
    // Computed from the source's values and the chosen ones.
    /// The rows of the view that are on the screen; empty in a view without a table.
    pub list: List,
    /// The tuple with the worst problem, or else the fullest; kept, because finding it reads all tuples. `None`: there is no
    /// tuple.
    pub worst: Option<Worst>,
    /// What is wrong in the newest reading, and what to do.
    pub answers: Answers,
    /// The selected row as it was last seen; `None`: none is selected.
    pub selected: Option<Row>,
    /// First shown line of a view without a cursor: failures, details, self, doctor.
    pub scroll: usize,
    /// A message at the bottom of the screen, until the next key; `None`: the keys are shown there.
    pub message: Option<String>,
}

impl Model {
    /// A live model without readings, for a screen of 80 columns and 24 lines, with colours and times in UTC: the view of tuples,
    /// fullest first, without a filter, with rates over one second.
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
            sorts: [sort, ports, sort, sort, sort, sort],
            filter: Filter::default(),
            paused: false,
            size: Size { width: 80, height: 24 },
            zone: TimeZone::UTC,
            colour: true,
            replay: None,
            list: List::default(),
            worst: None,
            answers: Answers::default(),
            selected: None,
            scroll: 0,
            message: None,
        }
    }

    /// The order of the present view.
    pub fn sort(&self) -> Sort {
        self.sorts[self.view as usize]
    }

    /// The tuple whose details are open, also behind the help; `None`: none.
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

    /// What the next reading should have, for what is open now, that costs more than the tuples.
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
