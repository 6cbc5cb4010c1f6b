//! The program itself: its clocks, log, stdout, memory and CPU time, how its work shows progress and shares out time, what its
//! threads may do, and how it stops.

pub(crate) mod beat;
pub mod clock;
pub mod log;
pub(crate) mod memory;
pub(crate) mod sandbox;
pub mod shutdown;
pub mod stdout;
pub(crate) mod turns;
pub mod usage;
