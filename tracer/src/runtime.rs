//! What the program needs as a process: clocks ([`clock`]), log, stdout, its own memory and CPU time ([`usage`]), how its work
//! shows progress and takes turns, what its threads may do, signals, and how it stops ([`shutdown`]).

pub(crate) mod beat;
pub mod clock;
pub mod log;
pub(crate) mod memory;
pub(crate) mod sandbox;
pub mod shutdown;
pub mod stdout;
pub(crate) mod turns;
pub mod usage;
