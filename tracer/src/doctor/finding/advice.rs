//! One thing to do about a finding.

use std::{net::IpAddr, ops::RangeInclusive};

use super::Place;

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Advice {
    /// What to do, as a sentence without a full stop.
    pub what: String,
    /// The command to type; `None`: there is none.
    pub command: Option<String>,
    /// What that gives, with numbers; empty: it removes the finding, and there is no number.
    pub gain: String,
    /// The factor by which the largest rate of connections of the tuple grows; `None`: it is not known, or no rate grows.
    pub factor: Option<f64>,
    /// Whether it is still there after a reboot.
    pub persists: bool,
    /// What it can break; `None`: nothing known.
    pub risk: Option<&'static str>,
    /// What its command sets; `None`: it does not set net.ipv4.ip_local_reserved_ports.
    pub reserves: Option<Reservation>,
    /// The address that it adds, as long as it is not known to which interface; `None`: it adds none, or names the interface.
    pub adds: Option<NewAddress>,
}

/// An address that a namespace should have.
#[derive(Clone, Debug, PartialEq)]
pub struct NewAddress {
    pub place: Place,
    pub address: IpAddr,
    /// Where connections from it lead; empty: not known.
    pub towards: Vec<IpAddr>,
    /// Whether another host may have it: then somebody has to look before the command is typed.
    pub may_be_elsewhere: bool,
}

/// A command that sets net.ipv4.ip_local_reserved_ports, by what it sets: several of one namespace can be united.
#[derive(Clone, Debug, PartialEq)]
pub struct Reservation {
    /// The network namespace in which it is typed.
    pub place: Place,
    /// All ports that are reserved after the command, those that were reserved before included; each run from its first to its
    /// last one.
    pub ports: Vec<RangeInclusive<u16>>,
    /// Further sysctls that the command sets after that, with their values.
    pub then: Vec<(&'static str, String)>,
    /// [`Advice::what`] before the settings are appended to it, which is done if there is no command.
    pub what: String,
}

impl Advice {
    /// An advice that is still there after a reboot, without a command, a factor, a risk and ports to reserve. `what`, `gain`:
    /// see the fields.
    pub fn new(what: impl Into<String>, gain: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            command: None,
            gain: gain.into(),
            factor: None,
            persists: true,
            risk: None,
            reserves: None,
            adds: None,
        }
    }

    /// The advice with the command to type.
    #[must_use]
    pub fn command(self, command: impl Into<String>) -> Self {
        Self { command: Some(command.into()), ..self }
    }

    /// The advice with the factor by which the largest rate grows; one that is infinite or no number counts as not known.
    #[must_use]
    pub fn factor(self, factor: f64) -> Self {
        Self { factor: factor.is_finite().then_some(factor), ..self }
    }

    /// The advice, marked as one that is gone after a reboot.
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
