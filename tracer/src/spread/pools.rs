//! Lists the active rules for the screen of `tracer top`, from the pins and the agents' states. Reads no maps: that would
//! take privileges.

use super::state::{Lock, State};
use crate::{kernel::spread::pinned::Pins, view::reading::Pool};

/// All pinned rules of this version of tracer, sorted by name, each with its agent and its addresses; without addresses if the
/// agent's state cannot be trusted or read. Empty: there is no such rule in any bpffs that can be opened.
pub fn pools() -> Vec<Pool> {
    Pins::all().rules.into_iter().map(|(rule, _)| pool(rule)).collect()
}

fn pool(rule: String) -> Pool {
    let state = State::read(&rule).trusted().unwrap_or_default();
    let addresses = state.pool.iter().map(|(address, _)| {
        let out = state.left_out.iter().find(|(left, _)| left == address);
        (*address, out.map(|(_, why)| why.clone()))
    });
    Pool { agent: Lock::holder(&rule), addresses: addresses.collect(), rule }
}
