//! `tracer spread --release`: a rule ends, whoever began it.

use super::state::{Lock, Said, State};
use crate::{
    error::Error,
    kernel::spread::{loaded, pinned::Pins, programs::Pinned},
};

/// Ends a rule that no agent looks after, also one that another version of tracer began.
///
/// # Errors
/// There is no such rule; its agent is running; pins that cannot be removed.
pub fn release(rule: &str) -> Result<(), Error> {
    loaded::check_rights()?;
    let found = Pins::all();
    let own = found.rules.into_iter().filter(|(name, _)| name == rule).map(|(_, pins)| pins);
    let own: Vec<Pins> = own.collect();
    let foreign = found.foreign.into_iter().filter(|it| it.rule == rule).map(|it| it.pins);
    let all: Vec<Pins> = own.iter().cloned().chain(foreign).collect();
    // Whoever removed the pins by hand ended the rule, and left what its agent said of it.
    // So did whoever hid them; then it goes on.
    let known = !all.is_empty() || loaded::is_in_force(rule);
    if !known && matches!(State::read(rule), Said::Nothing) {
        return Err(Error::BadConfig(format!(
            "there is no rule {rule}; `tracer status` lists all rules"
        )));
    }
    let _lock = Lock::take(rule)?;
    // The kernel lets go of a link some time after its last pin; nothing is spread from here on.
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
