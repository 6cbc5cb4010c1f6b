//! The configuration of `tracer top` and `tracer replay`.

use std::{path::PathBuf, time::Duration};

use super::{FilterSpec, TableConfig};
use crate::{
    cli::{ReplayArgs, ShowArgs, TableFormat, TopArgs},
    error::Error,
    view::filter::Filter,
};

/// How readings are shown.
#[derive(Clone, Debug, PartialEq)]
pub struct ShowConfig {
    /// Whether readings are printed one after another; false: they are shown on a screen if stdout is a terminal.
    pub batch: bool,
    /// How many readings are shown before the program ends; `None`: any number.
    pub count: Option<u64>,
    pub table: TableConfig,
    /// The filter of `--filter`, for the rows that are shown.
    pub filter: Filter,
}

impl From<&ShowArgs> for ShowConfig {
    fn from(args: &ShowArgs) -> Self {
        Self {
            // JSON and CSV can only be printed, not shown on a screen.
            batch: args.batch || args.table.format != TableFormat::Columns,
            count: args.count,
            table: TableConfig::from(&args.table),
            filter: args.filter.clone(),
        }
    }
}

/// `tracer top`
#[derive(Clone, Debug, PartialEq)]
pub struct TopConfig {
    /// Time between readings.
    pub interval: Duration,
    pub show: ShowConfig,
    /// The filter of the other options (`--dst` and so on): for the rows, and for the events that the BPF programs emit.
    pub rows: FilterSpec,
}

impl TryFrom<&TopArgs> for TopConfig {
    type Error = Error;

    /// # Errors
    /// [`Error::Usage`]: the filter's options are wrong (see [`FilterSpec`]).
    fn try_from(args: &TopArgs) -> Result<Self, Error> {
        Ok(Self {
            interval: args.interval,
            show: ShowConfig::from(&args.show),
            rows: FilterSpec::try_from(&args.rows)?,
        })
    }
}

/// `tracer replay`
#[derive(Clone, Debug, PartialEq)]
pub struct ReplayConfig {
    /// Recordings; `-` is standard input.
    pub files: Vec<PathBuf>,
    /// Speed, as a multiple of real time: 0.125 to 1024.
    pub speed: f64,
    /// The time to start at, as it was typed, because its meaning depends on the recording; `None`: the recording's
    /// beginning.
    pub at: Option<String>,
    pub show: ShowConfig,
}

impl From<&ReplayArgs> for ReplayConfig {
    fn from(args: &ReplayArgs) -> Self {
        Self {
            files: args.files.clone(),
            speed: args.speed,
            at: args.at.clone(),
            show: ShowConfig::from(&args.show),
        }
    }
}
