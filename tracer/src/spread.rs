//! `tracer spread`: a pool of source addresses for the connections of some cgroups.

pub mod addresses;
mod agent;
pub mod dry_run;
pub mod health;
pub mod pool;
pub mod projection;
pub mod rule;
mod start;
pub mod state;
pub mod status;
mod tell;

pub use agent::{Agent, release};
