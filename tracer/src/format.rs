//! How values are written: numbers, times, tuples, names of errors, texts from outside, tables.

pub mod errno;
pub(crate) mod json;
pub(crate) mod losses;
pub mod table;
pub mod tcp_state;
pub mod text;
pub(crate) mod timestamp;
pub mod tuple;
