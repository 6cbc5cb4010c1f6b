//! Values of directives: numbers, times, addresses.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// A whole number in decimal digits, without a sign; `None`: it is none, or too large for the type.
pub(super) fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}

/// A time in ms: `500ms`, `1m30s`, or `60` for seconds (units `ms`, `s`, `m`, `h`, `d`, `w`, `M` of 30 days, `y` of 365 days, in
/// any order); `None`: it is none, such as an empty text, or too large.
pub(super) fn millis(text: &str) -> Option<u64> {
    let mut total = 0_u64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|it: char| it.is_ascii_digit()).len();
        let (count, after) = rest.split_at(digits);
        let letters =
            after.len() - after.trim_start_matches(|it: char| it.is_ascii_alphabetic()).len();
        let (unit, after) = after.split_at(letters);
        let factor = match unit {
            "ms" => 1,
            "" | "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 7 * 86_400_000,
            "M" => 30 * 86_400_000,
            "y" => 365 * 86_400_000,
            _ => return None,
        };
        total = total.checked_add(number::<u64>(count)?.checked_mul(factor)?)?;
        rest = after;
    }
    (!text.is_empty()).then_some(total)
}

/// Where a server is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Peer {
    Address(SocketAddr),
    /// A name that is not resolved here.
    Name {
        host: String,
        port: u16,
    },
    /// A unix socket, a text without a port where there must be one, or something that is not understood: no connection of TCP is
    /// known to go there.
    Other,
}

impl Peer {
    /// Parses `host`, `host:port` or `[address]:port`. `port`: the one that is meant where the text has none; `None`: there must
    /// be one. [`Self::Other`]: a unix socket, a text with a variable or a slash, a port that is missing, 0 or no number, or an
    /// empty text.
    pub(super) fn parse(text: &str, port: Option<u16>) -> Self {
        Self::parsed(text, port).unwrap_or(Self::Other)
    }

    fn parsed(text: &str, default: Option<u16>) -> Option<Self> {
        if text.is_empty() || has_prefix(text, "unix:") || text.contains(['$', '/']) {
            return None;
        }
        let port = |after: &str| match after.strip_prefix(':') {
            Some(port) => number(port).filter(|port| *port != 0),
            None if after.is_empty() => default,
            None => None,
        };
        if let Some(rest) = text.strip_prefix('[') {
            let (address, after) = rest.split_once(']')?;
            let address: Ipv6Addr = address.parse().ok()?;
            return Some(Self::Address(SocketAddr::new(address.into(), port(after)?)));
        }
        let (host, after) = text.split_at(text.find(':').unwrap_or(text.len()));
        let port = port(after)?;
        Some(match host.parse::<IpAddr>() {
            Ok(address) => Self::Address(SocketAddr::new(address, port)),
            Err(_) => Self::Name { host: host.to_owned(), port },
        })
    }
}

/// Whether a text begins with this, in ASCII letters of either case.
pub(super) fn has_prefix(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units_and_seconds_are_meant_without() {
        for (text, expected) in [
            ("60", Some(60_000)),
            ("500ms", Some(500)),
            ("1m30s", Some(90_000)),
            ("1h", Some(3_600_000)),
            ("0", Some(0)),
            ("", None),
            ("s", None),
            ("5x", None),
            ("-1", None),
            ("99999999999999999999", None),
            ("9999999999999999y", None),
        ] {
            assert_eq!(millis(text), expected, "{text}");
        }
    }

    #[test]
    fn peers_are_addresses_names_or_something_else() {
        let address = |text: &str| Peer::Address(text.parse().unwrap());
        let name = |host: &str, port| Peer::Name { host: host.into(), port };
        for (text, expected) in [
            ("10.0.0.1:8080", address("10.0.0.1:8080")),
            ("10.0.0.1", address("10.0.0.1:80")),
            ("[2001:db8::1]:8080", address("[2001:db8::1]:8080")),
            ("[::1]", address("[::1]:80")),
            ("api.internal:8080", name("api.internal", 8080)),
            ("localhost", name("localhost", 80)),
            ("unix:/run/x.sock", Peer::Other),
            ("UNIX:/run/x.sock", Peer::Other),
            ("[::1", Peer::Other),
            ("[::1]x", Peer::Other),
            ("10.0.0.1:0", Peer::Other),
            ("10.0.0.1:99999", Peer::Other),
            ("10.0.0.1:+80", Peer::Other),
            ("$host:80", Peer::Other),
            ("", Peer::Other),
        ] {
            assert_eq!(Peer::parse(text, Some(80)), expected, "{text}");
        }
        assert_eq!(Peer::parse("10.0.0.1", None), Peer::Other);
    }
}
