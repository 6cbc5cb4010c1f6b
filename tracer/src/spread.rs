//! `tracer spread`: a pool of source addresses for the connections of some cgroups.
//!
//! What is asked for becomes the [`tracer_common::Rule`] that the hooks go by: [`pool`],
//! [`destinations`], [`ways`], [`rule`], [`health`] and [`projection`] take values and return values;
//! [`addresses`] asks the kernel, and `agent` keeps the rule true to the host.

pub mod addresses;
mod agent;
pub mod destinations;

mod decision_log;
pub mod dry_run;
mod ears;
pub mod health;
pub mod missing_connects;
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
pub mod ways;

pub use agent::{Agent, BEAT as LEASE_RENEWED};
pub use pools::pools;
pub use release::release;
