//! `tracer spread --release`: a rule ends, whoever began it.

use super::state::{Lock, State};
use crate::{
    error::Error,
    kernel::{pins::Pins, spreader::Pinned},
};

/// Ends a rule that no agent looks after, also one that another version of tracer began.
///
/// # Errors
/// There is no such rule; its agent is running; pins that cannot be removed.
pub fn release(rule: &str) -> Result<(), Error> {
    let own = Pins::all().into_iter().filter(|(name, _)| name == rule).map(|(_, pins)| pins);
    let own: Vec<Pins> = own.collect();
    let foreign = Pins::foreign().into_iter().filter(|it| it.rule == rule).map(|it| it.pins);
    let all: Vec<Pins> = own.iter().cloned().chain(foreign).collect();
    // Whoever removed the pins by hand ended the rule, and left what its agent said of it.
    if all.is_empty() && State::read(rule).is_none() {
        return Err(Error::BadConfig(format!(
            "there is no rule {rule}; `tracer status` lists those that there are"
        )));
    }
    let _lock = Lock::take(rule)?;
    // The kernel lets go of a link some time after its last pin; nothing is spread from here on.
    for pins in &own {
        if let Err(error) = Pinned::open(pins).and_then(|mut pinned| pinned.rule.clear()) {
            tracing::debug!("the rule cannot be cleared first: {error}");
        }
    }
    for pins in all {
        pins.remove()?;
    }
    State::remove(rule);
    Ok(())
}
