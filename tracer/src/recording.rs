//! Reads what `tracer record` wrote: plain or zstd, one file, a rotated set, or a pipe.
//!
//! `reader` gives one typed line after the other, and counts what is missing. `player` makes of these lines the
//! readings that the view shows. The content of a file is not trusted: a file whose first line is not one of the format
//! is refused; further lines that are not of the format are counted, and never end the program.

mod bytes;
mod envelope;
mod input;
mod line;
mod losses;
mod player;
mod reader;
mod set;
#[cfg(test)]
pub(crate) mod test_recorder;
mod time;
mod value;

pub use line::{Degraded, Failure, Lost, Settings, Start, Totals, Tuple};
pub use losses::Losses;
pub use player::Player;
pub use reader::{At, Entry, Reader, Unreadable};
