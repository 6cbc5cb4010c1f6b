//! The event stream: JSON Lines, one object a line, described by `schema/events-v1.json`.
//!
//! Every line starts with the same envelope ([`line::LineWriter`] writes it): `v`, the version of the format; `seq`, the
//! number of the line in its stream (numbers that are missing in a file are lines that could not be written; the losses
//! `output_full` and `output_full_other` count them); `ts` and `mono_ns`, the wall clock and CLOCK_MONOTONIC; `event.name`.
//! The first line is `tracer.start`, the last one `tracer.stop`, which is missing if tracer was killed.
//!
//! [`mod@line`] formats the lines of socket events without serde, for speed; serde formats the rare lines ([`record`]).

pub mod line;
mod lines;
mod namespaces;
pub mod port_settings;
mod process;
pub mod record;
pub mod sink;

pub use line::{Context, LineWriter, Moment};
pub use lines::Lines;
pub use sink::Sink;

/// The JSON Schema (draft 2020-12) of every line.
pub const SCHEMA: &str = include_str!("../schema/events-v1.json");
