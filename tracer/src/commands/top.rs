//! `tracer top`: the ledger on a terminal, or as text, one reading after the other.

mod batch;
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

/// Runs until it is asked to stop, has shown all it was asked for, or nobody looks any more.
///
/// # Errors
/// BPF maps that cannot be read; a terminal or a stdout that cannot be used.
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

/// Without a terminal, or where it is asked for, readings are printed one behind the other.
pub fn is_batch(show: &ShowConfig) -> bool {
    show.batch || !io::stdout().is_terminal()
}

/// The model with what the command line says of it.
pub fn model(about: crate::view::reading::About, show: &ShowConfig) -> Model {
    let mut model = Model::new(about);
    model.zone = jiff::tz::TimeZone::system();
    // https://no-color.org
    model.colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    model.filter = show.filter.clone();
    model.sorts[View::Tuples as usize] = Sort { by: show.table.sort, reverse: false };
    model
}
