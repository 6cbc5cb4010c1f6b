//! `tracer spread`: a pool of source addresses for the connections of some cgroups.
//!
//! The command line becomes the [`tracer_common::Rule`] that the hooks read. [`pool`], [`destinations`], [`auto`], [`reach`],
//! [`rule`], [`health`], [`missing_connects`] and [`projection`] do no I/O; [`addresses`] asks the kernel; `agent` updates the
//! rule when the host changes, writes its decisions as lines (`decision_log`), and publishes its [`state`]. [`dry_run`] and
//! [`recorded`] show what a pool would bring, [`status`], [`pools()`] and [`listing`] what is there now; [`release()`] ends a
//! rule. The other modules serve these.

pub mod addresses;
mod agent;
pub mod destinations;

pub mod auto;
mod decision_log;
pub mod dry_run;
pub mod health;
pub mod listing;
pub mod missing_connects;
mod netns_sockets;
mod notes;
pub mod pool;
mod pools;
mod ports;
pub mod projection;
pub mod reach;
pub mod recorded;
mod release;
pub mod rule;
mod start;
pub mod state;
pub mod status;

pub use agent::{Agent, LEASE_RENEWED};
pub use pools::pools;
pub use release::release;
