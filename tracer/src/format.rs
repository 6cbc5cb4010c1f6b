//! How values are written: times, numbers, tuples, names of errors and TCP states, losses, texts from outside, JSON, tables.

pub mod errno;
pub(crate) mod json;
pub(crate) mod losses;
pub(crate) mod number;
pub mod table;
pub mod tcp_state;
pub mod text;
pub(crate) mod timestamp;
pub mod tuple;
