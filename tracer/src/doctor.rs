//! `tracer doctor`: names the cause, says how sure that is, and what to do, with this host's numbers.
//!
//! What is seen ([`snapshot`], [`tuples`]) is kept apart from what follows from it: [`judge`] has pure functions from facts to
//! [`finding`]s, [`verdict`] says which finding explains another, and the exit code, [`show`] prints.

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
