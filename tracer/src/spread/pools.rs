//! What is being spread, for a view: without the maps, which take privileges to open.

use super::state::{Lock, State};
use crate::{kernel::spread::pinned::Pins, view::reading::Pool};

/// The rules that are in force.
pub fn pools() -> Vec<Pool> {
    Pins::all().rules.into_iter().map(|(rule, _)| pool(rule)).collect()
}

fn pool(rule: String) -> Pool {
    let said = State::read(&rule).believed().unwrap_or_default();
    let addresses = said.pool.iter().map(|(address, _)| {
        let out = said.left_out.iter().find(|(left, _)| left == address);
        (*address, out.map(|(_, why)| why.clone()))
    });
    Pool { agent: Lock::holder(&rule), addresses: addresses.collect(), rule }
}
