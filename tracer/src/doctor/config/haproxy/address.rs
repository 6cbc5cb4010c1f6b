//! Addresses and ports as HAProxy's configuration has them: `10.0.0.1:80`, `ipv6@[::1]:80`, `*:1000-2000`, `/run/x.sock`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What stands before the port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Host {
    /// An address. `*` and an empty text are `::` after `ipv6@` or `tcp6@`, else 0.0.0.0.
    Ip(IpAddr),
    /// A name, which is not resolved.
    Name(String),
    /// No address for TCP: a path, a socket that HAProxy was given, or one for QUIC or UDP.
    Local,
}

/// What stands after the last colon.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Ports {
    /// Nothing, or 0.
    None,
    One(u16),
    /// The first and the last port; the first is not 0, and not greater than the last.
    Range(u16, u16),
    /// `+N` or `-N`: so much more or less than the port that the client connected to.
    Shifted,
}

/// Splits an address into host and port. Of what is [`Host::Local`], no port is read. `None`: HAProxy refuses it, because the
/// host is neither an address nor a possible name, or the port is no number below 65,536 and no range.
pub(super) fn address(text: &str) -> Option<(Host, Ports)> {
    let (family, text) = match text.split_once('@') {
        Some((family @ ("ipv4" | "ipv6" | "tcp" | "tcp4" | "tcp6"), rest)) => (Some(family), rest),
        Some((
            "unix" | "abns" | "abnsz" | "uxst" | "fd" | "sockpair" | "quic4" | "quic6" | "udp"
            | "udp4" | "udp6",
            _,
        )) => {
            return Some((Host::Local, Ports::None));
        }
        _ => (None, text),
    };
    if text.starts_with('/') {
        return Some((Host::Local, Ports::None));
    }
    // The last colon is before the port, also of an IPv6 address without brackets.
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (text, ""),
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let host = match bare {
        "" | "*" if matches!(family, Some("ipv6" | "tcp6")) => {
            Host::Ip(Ipv6Addr::UNSPECIFIED.into())
        }
        "" | "*" => Host::Ip(Ipv4Addr::UNSPECIFIED.into()),
        _ => match bare.parse() {
            Ok(ip) => Host::Ip(ip),
            // No name has these.
            Err(_) if bare.contains([':', '[', ']', '/']) => return None,
            Err(_) => Host::Name(bare.to_owned()),
        },
    };
    Some((host, ports(port)?))
}

fn ports(text: &str) -> Option<Ports> {
    if text.is_empty() {
        return Some(Ports::None);
    }
    if text.starts_with(['+', '-']) {
        return Some(Ports::Shifted);
    }
    if let Some((low, high)) = text.split_once('-') {
        let (low, high) = (port(low)?, port(high)?);
        return (0 < low && low <= high).then_some(Ports::Range(low, high));
    }
    Some(match port(text)? {
        0 => Ports::None,
        one => Ports::One(one),
    })
}

fn port(text: &str) -> Option<u16> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Host {
        Host::Ip(text.parse().unwrap())
    }

    #[test]
    fn addresses_are_read_as_haproxy_reads_them() {
        let cases = [
            ("10.0.0.1", ip("10.0.0.1"), Ports::None),
            ("10.0.0.1:80", ip("10.0.0.1"), Ports::One(80)),
            ("10.0.0.1:0", ip("10.0.0.1"), Ports::None),
            ("10.0.0.1:+80", ip("10.0.0.1"), Ports::Shifted),
            ("10.0.0.1:5-9", ip("10.0.0.1"), Ports::Range(5, 9)),
            ("*:5-9", ip("0.0.0.0"), Ports::Range(5, 9)),
            (":80", ip("0.0.0.0"), Ports::One(80)),
            ("2001:db8::1:80", ip("2001:db8::1"), Ports::One(80)),
            ("fd00::5:", ip("fd00::5"), Ports::None),
            ("[fd00::5]", ip("fd00::5"), Ports::None),
            ("ipv6@[fd00::5]:80", ip("fd00::5"), Ports::One(80)),
            ("ipv6@*", ip("::"), Ports::None),
            ("udp4@10.0.0.1:53", Host::Local, Ports::None),
            ("udp6@[fd00::5]:53", Host::Local, Ports::None),
            ("ipv4@10.0.0.1:80", ip("10.0.0.1"), Ports::One(80)),
            ("app.example:80", Host::Name("app.example".into()), Ports::One(80)),
            ("/run/app.sock", Host::Local, Ports::None),
            ("unix@app.sock", Host::Local, Ports::None),
            ("abns@app:80", Host::Local, Ports::None),
        ];
        for (text, host, ports) in cases {
            assert_eq!(address(text), Some((host, ports)), "{text}");
        }
    }

    #[test]
    fn what_haproxy_refuses_is_no_address() {
        for text in
            ["fd00::5", "10.0.0.1:70000", "10.0.0.1:9-5", "10.0.0.1:60000-", "10.0.0.1:x", "a/b:80"]
        {
            assert_eq!(address(text), None, "{text}");
        }
    }
}
