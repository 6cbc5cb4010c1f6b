//! `tracer top`: shows the ledger on a terminal, or prints readings as text.

mod batch;
mod failure;
mod groups;
mod holders;
mod holding;
mod live;
mod self_stats;

use std::io::{self, IsTerminal};

pub use batch::Batch;
use live::Live;
use tracer_common::Filter;

use crate::{
    config::{ShowConfig, TopConfig},
    error::Error,
    host::callers::Callers,
    ledger::trace::Tracer,
    runtime::shutdown::StopSignals,
    view::{
        model::{Model, Sort, View},
        screen,
    },
};

/// Shows readings of the ledger until a key or a signal ends it, all wanted readings were shown, or the terminal or the reader of
/// stdout is gone. `filter`: which tuples are shown.
///
/// # Errors
/// A BPF map cannot be read; the ledger refuses a command; the terminal or stdout cannot be used.
pub fn run(
    tracer: Tracer,
    config: &TopConfig,
    filter: Filter,
    callers: Callers,
    signals: &StopSignals,
) -> Result<(), Error> {
    let filter = (&filter, config.rows.to_string());
    let mut source = Live::new(tracer, filter, callers, config.interval);
    let model = model(source.about(), &config.show);
    if is_batch(&config.show) {
        Batch::new(&config.show, signals).live(&mut source, model, config.interval)
    } else {
        screen::run(&mut source, model, config.show.count, signals)
    }
}

/// Whether readings are printed as text: it is asked for, or stdout is no terminal.
pub fn is_batch(show: &ShowConfig) -> bool {
    show.batch || !io::stdout().is_terminal()
}

/// A model without a reading, with the settings of the command line, the system's time zone, and no colours if `NO_COLOR` is set
/// (and not empty).
pub fn model(about: crate::view::reading::About, show: &ShowConfig) -> Model {
    let mut model = Model::new(about);
    model.zone = jiff::tz::TimeZone::system();
    // https://no-color.org
    model.colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    model.filter = show.filter.clone();
    model.sorts[View::Tuples as usize] = Sort { by: show.table.sort, reverse: false };
    model
}
