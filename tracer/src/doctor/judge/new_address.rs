//! Advice to add an address to an interface.

use super::text::{command_in, is_unprintable, quoted};
use crate::doctor::finding::{Advice, Finding, NewAddress};

/// An advice to add this address until the next reboot, with the command in its text, and INTERFACE in place of a name: see
/// [`name_interfaces`]. `gain`: see [`Advice::gain`].
pub(super) fn add(new: NewAddress, gain: &str) -> Advice {
    let (what, command) = named(&new, None);
    let advice = Advice::new(what, gain).until_reboot();
    Advice { command, adds: Some(new), ..advice }
}

/// Puts the name of the interface into the text of each advice to add an address, and gives the advice its command if that can be
/// typed as it is. `interface`: returns the name of the interface to which an address belongs. If it returns `None`, or a name
/// that a terminal cannot show, the advice stays as it is and says what to fill in. Either way [`Advice::adds`] becomes `None`: a
/// second call changes nothing.
pub fn name_interfaces(
    findings: &mut [Finding],
    mut interface: impl FnMut(&NewAddress) -> Option<String>,
) {
    for advice in findings.iter_mut().flat_map(|it| &mut it.advice) {
        let Some(new) = advice.adds.take() else { continue };
        // Whoever owns a container names its interfaces.
        let name = interface(&new).filter(|name| !name.contains(is_unprintable));
        if let Some(name) = name {
            (advice.what, advice.command) = named(&new, Some(&name));
        }
    }
}

/// What to do, and the command if it can be typed as it is.
fn named(new: &NewAddress, interface: Option<&str>) -> (String, Option<String>) {
    let NewAddress { place, address, towards: _, may_be_elsewhere } = new;
    let length = if address.is_ipv4() { 32 } else { 128 };
    let device = interface.map_or_else(|| "INTERFACE".to_owned(), quoted);
    let plain = format!("ip addr add {address}/{length} dev {device}");
    let command = command_in(place, &plain);
    let mut what = match interface {
        Some(name) => format!("add {address} to interface {name}"),
        None => format!("add {address} to the interface that leads to the servers"),
    };
    if command.is_none() {
        what += " of its container or network namespace";
    }
    if *may_be_elsewhere {
        what += ", unless another host has it";
    }
    match (command, interface) {
        (Some(command), Some(_)) if !may_be_elsewhere => (what, Some(command)),
        (command, Some(_)) => (format!("{what}: {}", command.unwrap_or(plain)), None),
        (command, None) => {
            let command = command.unwrap_or(plain);
            (format!("{what}: {command}, with the name of the interface for INTERFACE"), None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::{Id, Place, Severity, Subject};

    fn new(name: Option<&str>) -> NewAddress {
        let place = Place { inum: 7, name: name.map(str::to_owned), ..Place::default() };
        let address = "10.9.9.9".parse().unwrap();
        NewAddress { place, address, towards: Vec::new(), may_be_elsewhere: false }
    }

    /// What the advice says, and its command, if the interface has this name.
    fn advised(new: NewAddress, interface: Option<&str>) -> (String, Option<String>) {
        let finding = Finding::new(Id::BadSource, Severity::Critical, Subject::Host, "");
        let mut found = [finding.advise([add(new, "it works").risk("a risk")])];
        name_interfaces(&mut found, |_| interface.map(str::to_owned));
        let advice = found[0].advice.remove(0);
        assert_eq!((advice.gain.as_str(), advice.risk), ("it works", Some("a risk")));
        assert_eq!((advice.adds, advice.persists), (None, false));
        (advice.what, advice.command)
    }

    #[test]
    fn a_command_is_printed_if_it_can_be_typed_as_it_is() {
        let (what, command) = advised(new(Some("proxy")), Some("eth0"));
        assert_eq!(what, "add 10.9.9.9 to interface eth0");
        let expected = "ip netns exec proxy ip addr add 10.9.9.9/32 dev eth0";
        assert_eq!(command.as_deref(), Some(expected));
        let v6 = NewAddress { address: "2001:db8::9".parse().unwrap(), ..new(Some("proxy")) };
        let (_, command) = advised(v6, Some("eth0"));
        assert!(command.unwrap().ends_with("ip addr add 2001:db8::9/128 dev eth0"));
    }

    #[test]
    fn without_the_interface_the_text_says_what_to_fill_in() {
        let (what, command) = advised(new(Some("proxy")), None);
        let expected = "add 10.9.9.9 to the interface that leads to the servers: ip netns exec proxy ip addr add 10.9.9.9/32 dev \
                        INTERFACE, with the name of the interface for INTERFACE";
        assert_eq!((what.as_str(), command), (expected, None));
    }

    #[test]
    fn what_cannot_be_entered_or_may_be_elsewhere_is_no_command() {
        let (what, command) = advised(new(None), Some("eth0"));
        let expected = "add 10.9.9.9 to interface eth0 of its container or network namespace: ip addr add 10.9.9.9/32 dev eth0";
        assert_eq!((what.as_str(), command), (expected, None));
        let elsewhere = NewAddress { may_be_elsewhere: true, ..new(Some("proxy")) };
        let (what, command) = advised(elsewhere, Some("eth0"));
        let expected = "add 10.9.9.9 to interface eth0, unless another host has it: ip netns exec proxy ip addr add 10.9.9.9/32 dev eth0";
        assert_eq!((what.as_str(), command), (expected, None));
    }

    #[test]
    fn an_interface_cannot_put_a_command_into_a_shell() {
        let (_, command) = advised(new(Some("proxy")), Some("$(id)"));
        assert!(command.unwrap().ends_with(" dev '$(id)'"));
        for name in ["a\u{1b}[2J", "a\u{fffd}"] {
            assert_eq!(advised(new(Some("proxy")), Some(name)).1, None, "{name:?}");
        }
    }
}
