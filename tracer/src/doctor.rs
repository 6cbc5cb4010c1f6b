//! `tracer doctor`: names the cause, says how sure that is, and what to do, with this host's numbers.
//!
//! [`snapshot`] and [`tuples`] gather facts; [`judge`] derives [`finding`]s from them, without I/O; [`verdict`] says which
//! finding explains another, and the exit code; [`show`] formats the result; [`recorded`] does the same with a recording. The
//! other modules serve these.

pub mod activity;
pub mod arrivals;
pub mod changes;
pub mod config;
pub mod finding;
pub mod flow;
pub mod from_ledger;
pub mod homes;
pub mod interfaces;
pub mod judge;
pub mod logs;
pub mod nat;
pub mod open_ports;
pub mod owners;
pub mod proxies;
pub mod recorded;
pub mod scope;
pub mod selection;
pub mod show;
pub mod snapshot;
pub mod translation;
pub mod tuples;
pub mod verdict;
pub mod window;
