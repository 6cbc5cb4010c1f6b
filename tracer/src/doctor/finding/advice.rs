//! One thing to do about a finding.

use std::ops::RangeInclusive;

use super::Place;

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Advice {
    /// What to do, as a sentence without a full stop.
    pub what: String,
    /// The command to type; `None`: there is none.
    pub command: Option<String>,
    /// What it gives, with numbers; empty: it removes the finding, and there is no number.
    pub gain: String,
    /// By how much the largest rate grows; `None`: it is not known, or no rate grows.
    pub factor: Option<f64>,
    /// Whether it is still there after a reboot.
    pub persists: bool,
    /// What it can break; `None`: nothing known.
    pub risk: Option<&'static str>,
    /// The ports that its command reserves; `None`: it reserves none.
    pub reserves: Option<Reservation>,
}

/// A command that sets `net.ipv4.ip_local_reserved_ports`, and the other keys that it sets.
#[derive(Clone, Debug, PartialEq)]
pub struct Reservation {
    pub place: Place,
    /// All ports that are reserved after the command, those that were reserved before included.
    pub ports: Vec<RangeInclusive<u16>>,
    /// Keys that are set after it, with their values.
    pub then: Vec<(&'static str, String)>,
    /// What to do, without the command.
    pub what: String,
}

impl Advice {
    /// An advice without a command, a factor and a risk, that lasts.
    pub fn new(what: impl Into<String>, gain: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            command: None,
            gain: gain.into(),
            factor: None,
            persists: true,
            risk: None,
            reserves: None,
        }
    }

    /// The advice with the command to type.
    #[must_use]
    pub fn command(self, command: impl Into<String>) -> Self {
        Self { command: Some(command.into()), ..self }
    }

    /// The advice with the factor by which the largest rate grows.
    #[must_use]
    pub fn factor(self, factor: f64) -> Self {
        Self { factor: factor.is_finite().then_some(factor), ..self }
    }

    /// The advice, which is gone after a reboot.
    #[must_use]
    pub fn until_reboot(self) -> Self {
        Self { persists: false, ..self }
    }

    /// The advice with what it can break.
    #[must_use]
    pub fn risk(self, risk: &'static str) -> Self {
        Self { risk: Some(risk), ..self }
    }
}
