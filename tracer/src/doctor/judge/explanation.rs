//! What the configuration of a program adds to a finding.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::new_address;
use crate::doctor::finding::{
    Advice, Certainty, Finding, Id, NewAddress, Place, Process, Severity, Subject,
};

/// Why something is so, and what to do, by the configuration of the program that does it.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// The reason, with the file and line that say so.
    pub why: String,
    /// How sure the reason is.
    pub certainty: Certainty,
    /// The best first; empty: nothing is known that helps, as where the setting was not read.
    pub advice: Vec<Advice>,
}

impl Explanation {
    /// The finding with this reason in place of its own, and with this advice after what it has. Its certainty stays.
    #[must_use]
    pub fn add_to(self, finding: Finding) -> Finding {
        finding.because(self.why).advise(self.advice)
    }
}

/// Whether bind() of an address succeeds on a host with these addresses.
fn has(addresses: &BTreeSet<IpAddr>, address: IpAddr) -> bool {
    let loopback = matches!(address, IpAddr::V4(address) if address.is_loopback());
    address.is_unspecified() || loopback || addresses.contains(&address)
}

/// A finding for each address that a program binds and that is not in its namespace, in the order of the addresses. `program`:
/// its name for people. `sources`: addresses, each with the file and line that name it. `addresses`: those of the namespace;
/// 0.0.0.0, `::` and 127.0.0.0/8 always count as there.
pub(super) fn bad_source(
    program: &str,
    sources: impl IntoIterator<Item = (IpAddr, String)>,
    addresses: &BTreeSet<IpAddr>,
    place: &Place,
    process: &Process,
) -> Vec<Finding> {
    let mut missing: BTreeMap<IpAddr, Vec<String>> = BTreeMap::new();
    for (address, at) in sources.into_iter().filter(|(address, _)| !has(addresses, *address)) {
        let lines = missing.entry(address).or_default();
        if !lines.contains(&at) {
            lines.push(at);
        }
    }
    let findings = missing.into_iter().map(|(address, lines)| {
        let what = format!("{program} opens connections from {address}, which this host does not have: each of them fails");
        let new = NewAddress {
            place: place.clone(),
            address,
            towards: Vec::new(),
            may_be_elsewhere: false,
        };
        let advice = new_address::add(new, "");
        let other = Advice::new(format!("name an address that the host has in {}", some(&lines)), "");
        Finding::new(Id::BadSource, Severity::Critical, Subject::Process(process.clone()), what)
            .sure(Certainty::Inferred)
            .with("source.address", address.to_string())
            .because(format!("{} names it", some(&lines)))
            .advise([advice, other])
    });
    findings.collect()
}

/// The first three places, and how many more there are: `a, b, c and 5 more`. Without places, an empty text.
pub(super) fn some(places: &[String]) -> String {
    const SHOWN: usize = 3;
    let shown = places.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match places.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
