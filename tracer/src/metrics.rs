//! What `GET /metrics` says, made from plain values; and how it is handed out: over HTTP, and as a file for node_exporter.
//!
//! A [`Reading`] goes in at each interval; [`Metrics`] makes a [`Snapshot`] of it, which is put into the [`Slot`]. A scrape gets the
//! newest snapshot as text, made at most once for each format, and reads no BPF map. `doc/metrics.md` lists all metrics; it is
//! made from `table`.

mod accept;
mod encode;
mod listener;
mod members;
mod process;
mod reading;
mod server;
mod slot;
mod snapshot;
mod table;
mod textfile;
mod totals;
mod update;

pub use encode::Format;
pub use listener::Listen;
pub use process::Process;
pub use reading::{
    ConfigReading, MapReading, NetnsReading, OutputReading, ProgramReading, Reading, TupleReading,
};
pub use server::Server;
pub use slot::Slot;
pub use snapshot::Snapshot;
pub use textfile::TextFile;
pub use update::Metrics;

#[cfg(test)]
mod test_reading;
