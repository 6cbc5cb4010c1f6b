//! `tracer spread --release`: a rule ends, whoever began it.

use super::state::{Lock, State};
use crate::{error::Error, kernel::pins::Pins};

/// Ends a rule that no agent looks after.
///
/// # Errors
/// There is no such rule; its agent is running; pins that cannot be removed.
pub fn release(rule: &str) -> Result<(), Error> {
    let pins = Pins::all().into_iter().find(|(name, _)| name == rule).map(|(_, pins)| pins);
    // Whoever removed the pins by hand ended the rule, and left what its agent said of it.
    if pins.is_none() && State::read(rule).is_none() {
        return Err(Error::BadConfig(format!(
            "there is no rule {rule}; `tracer status` lists those that there are"
        )));
    }
    let _lock = Lock::take(rule)?;
    if let Some(pins) = pins {
        pins.remove()?;
    }
    State::remove(rule);
    Ok(())
}
