//! The cache.log of Squid: `YYYY/MM/DD HH:MM:SS kidN| message`.

use super::{
    nginx::Said,
    report::Kind,
    scan::{address, errno, split_at, split_last, word},
};

/// The message of a line; `rest`: the line from after `YYYY/MM/DD HH:MM:SS` on. `None`: it is not Squid's.
pub(super) fn message(rest: &[u8]) -> Option<&[u8]> {
    let rest = match rest.strip_prefix(b".") {
        Some(fraction) => fraction.get(3..)?,
        None => rest,
    };
    if let Some(message) = rest.strip_prefix(b"| ") {
        return Some(message);
    }
    let (process, message) = word(rest.strip_prefix(b" ")?);
    let is_process = process.starts_with(b"kid") && process.ends_with(b"|");
    is_process.then_some(message)
}

/// What a message says; `None`: nothing that is counted.
pub(super) fn said(message: &[u8]) -> Option<Said<'_>> {
    let message = after_place(message);
    if let Some(rest) = message.strip_prefix(b"Cannot bind socket FD ") {
        let (to, rest) = split_last(split_at(rest, b" to ")?.1, b": (")?;
        let bound = address(to)?;
        // With a port, or for all addresses, it is a listener.
        if bound.port() != 0 || bound.ip().is_unspecified() {
            return None;
        }
        return match errno(rest, b')')? {
            98 => Some(Said { kind: Kind::AddressInUse, name: to }),
            99 => Some(Said { kind: Kind::BadSource, name: to }),
            _ => None,
        };
    }
    if let Some(rest) = message.strip_prefix(b"socket failure: (") {
        return match errno(rest, b')')? {
            23 => Some(Said { kind: Kind::HostDescriptors, name: b"socket" }),
            24 => Some(Said { kind: Kind::Descriptors, name: b"socket" }),
            _ => None,
        };
    }
    let scarce = message.starts_with(b"WARNING! Your cache is running out of filedescriptors");
    scarce.then_some(Said { kind: Kind::Descriptors, name: b"accept" })
}

/// The message after the words that say where in Squid it comes from: `50,0| comm.cc(231) commBind: `. Only words that Squid
/// itself puts there are left out, so that a URL in a message is none of them.
fn after_place(message: &[u8]) -> &[u8] {
    const FUNCTIONS: [&[u8]; 3] = [b"commBind", b"comm_openex", b"ERROR"];
    let mut rest = message;
    for _ in 0..4 {
        let (first, after) = word(rest);
        let bare = first.strip_suffix(b":").unwrap_or(first);
        let level = first.ends_with(b"|") && first.len() <= 8;
        let place = first.starts_with(b"comm.cc(") && first.len() <= 16;
        if !level && !place && !FUNCTIONS.contains(&bare) {
            break;
        }
        rest = after;
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rest: &str) -> Option<(Kind, String)> {
        let said = said(message(rest.as_bytes())?)?;
        Some((said.kind, String::from_utf8(said.name.to_vec()).unwrap()))
    }

    #[test]
    fn every_version_names_the_address() {
        let bind = "Cannot bind socket FD 59 to 10.94.0.2: (98) Address already in use";
        for before in [
            " kid1| commBind ",
            "| commBind: ",
            ".123 kid1| 50,0| comm.cc(231) commBind: ",
            " kid1| ERROR: commBind ",
        ] {
            let expected = Some((Kind::AddressInUse, "10.94.0.2".to_owned()));
            assert_eq!(of(&format!("{before}{bind}")), expected, "{before}");
        }
        assert_eq!(
            of(" kid1| commBind Cannot bind socket FD 9 to [2001:db8::1]: (99) x"),
            Some((Kind::BadSource, "[2001:db8::1]".into()))
        );
    }

    #[test]
    fn a_listener_is_no_source() {
        assert_eq!(of("| commBind Cannot bind socket FD 9 to [::]:3128: (98) x"), None);
        assert_eq!(of("| commBind Cannot bind socket FD 9 to [::]: (98) x"), None);
        assert_eq!(of("| commBind Cannot bind socket FD 9 to 10.0.0.1:3128: (99) x"), None);
    }

    #[test]
    fn descriptors_are_counted_and_urls_are_not() {
        assert_eq!(of("| comm_openex socket failure: (24) x").unwrap().0, Kind::Descriptors);
        assert_eq!(of("| comm_openex socket failure: (23) x").unwrap().0, Kind::HostDescriptors);
        let scarce = "| WARNING! Your cache is running out of filedescriptors";
        assert_eq!(of(scarce).unwrap().0, Kind::Descriptors);
        for line in [
            "| WARNING: http://a/ Cannot bind socket FD 1 to 10.0.0.1: (99)",
            " x| socket failure: (24)",
        ] {
            assert_eq!(of(line), None, "{line}");
        }
    }
}
