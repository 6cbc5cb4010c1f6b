#![doc = include_str!("../ARCHITECTURE.md")]

pub mod app;
mod beat;
pub mod cli;
pub mod clock;
pub mod config;
pub mod error;
pub mod export;
pub mod host;
pub mod kernel;
pub mod ledger;
pub mod log;
mod losses;
mod memory;
pub mod record;
pub mod recording;
pub mod replay;
pub mod report;
mod sandbox;
pub mod shutdown;
pub mod spread;
pub mod table;
pub mod text;
pub mod top;
pub mod tuples;
mod turns;
pub mod usage;
pub mod view;
