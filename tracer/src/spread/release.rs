//! `tracer spread --release`: a rule ends, whoever began it.

use super::state::{Lock, State};
use crate::{error::Error, kernel::pins::Pins};

/// Ends a rule that no agent looks after, also one that another version of tracer began.
///
/// # Errors
/// There is no such rule; its agent is running; pins that cannot be removed.
pub fn release(rule: &str) -> Result<(), Error> {
    let own = Pins::all().into_iter().filter(|(name, _)| name == rule).map(|(_, pins)| pins);
    let foreign = Pins::foreign().into_iter().filter(|it| it.rule == rule).map(|it| it.pins);
    let all: Vec<Pins> = own.chain(foreign).collect();
    // Whoever removed the pins by hand ended the rule, and left what its agent said of it.
    if all.is_empty() && State::read(rule).is_none() {
        return Err(Error::BadConfig(format!(
            "there is no rule {rule}; `tracer status` lists those that there are"
        )));
    }
    let _lock = Lock::take(rule)?;
    for pins in all {
        pins.remove()?;
    }
    State::remove(rule);
    Ok(())
}
