//! Reads what `tracer record` wrote: plain or zstd, one file, a rotated set, or a pipe.
//!
//! `reader` gives one typed line after the other, and counts what is missing. `player` makes of these lines the
//! readings that the view shows. Any bytes can be read: what is not a line of the format is counted, and never ends
//! the program.

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

pub use line::{Degraded, Failure, Lost, Start, Totals, Tuple};
pub use losses::Losses;
pub use player::Player;
pub use reader::{At, Entry, Reader, Unreadable};
