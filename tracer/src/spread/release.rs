//! `tracer spread --release`: ends a rule that has no agent.

use super::state::{Lock, State, StateFile};
use crate::{
    error::Error,
    kernel::spread::{loaded, pinned::Pins, programs::Pinned},
};

/// Ends a rule that has no agent, including one of another version of tracer: removes its pins and its state. Connections that
/// it spread stay open.
///
/// # Errors
/// Missing privileges, or this process is in a user namespace of its own; there is no such rule; its agent is running;
/// its lock file cannot be opened or locked; pins cannot be removed; links of the rule are left after that.
pub fn release(rule: &str) -> Result<(), Error> {
    loaded::check_rights()?;
    let found = Pins::all();
    let own = found.rules.into_iter().filter(|(name, _)| name == rule).map(|(_, pins)| pins);
    let own: Vec<Pins> = own.collect();
    let foreign = found.foreign.into_iter().filter(|it| it.rule == rule).map(|it| it.pins);
    let all: Vec<Pins> = own.iter().cloned().chain(foreign).collect();
    // Removing the pins by hand ends the rule, but leaves the agent's state. Hiding the pins (by a mount over them)
    // leaves the rule active.
    let known = !all.is_empty() || loaded::is_in_force(rule);
    if !known && matches!(State::read(rule), StateFile::Nothing) {
        return Err(Error::BadConfig(format!(
            "there is no rule {rule}; `tracer status` lists all rules"
        )));
    }
    let _lock = Lock::take(rule)?;
    // The kernel removes a link some time after its last pin: clearing the rule stops spreading now.
    for pins in &own {
        if let Err(error) = Pinned::open(pins).and_then(|mut pinned| pinned.rule.clear()) {
            tracing::debug!("cannot clear the rule first: {error}");
        }
    }
    for pins in all {
        pins.remove()?;
    }
    loaded::check_ended(rule)?;
    State::remove(rule);
    Ok(())
}
