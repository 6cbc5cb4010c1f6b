#![doc = include_str!("../ARCHITECTURE.md")]

pub mod advise;
pub mod app;
pub mod cli;
pub mod commands;
pub mod config;
pub mod doctor;
pub mod error;
pub mod export;
pub mod format;
pub mod host;
pub mod kernel;
pub mod ledger;
pub mod recording;
pub mod runtime;
pub mod spread;
pub mod view;
