//! The error log of nginx: `YYYY/MM/DD HH:MM:SS [level] PID#TID: *N message`.
//!
//! The text in the parentheses of an error depends on the C library (musl: `99: Address not available`), so only the number
//! counts. Messages whose errno stands after a path (`open() "…" failed (24:`) do not count: a client can choose that path.

use jiff::civil::DateTime;

use super::{
    report::{Kind, Program},
    scan::{address, digits, errno, split, split_at},
    squid,
    time::slashed,
};

/// What a message says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Said<'a> {
    pub(super) kind: Kind,
    /// The address, upstream, backend or call that it is about; empty: it names none.
    pub(super) name: &'a [u8],
}

/// A line whose program is known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Line<'a> {
    pub(super) program: Program,
    /// Its local time; `None`: it has none.
    pub(super) local: Option<DateTime>,
    /// What it says; `None`: nothing that is counted.
    pub(super) said: Option<Said<'a>>,
}

/// What a line of nginx or Squid says, whose times have the same form; `line`: without what syslog and container engines put
/// before it. `None`: it begins as neither's lines do. [`Line::said`] is `None` if the message is none of those that are counted.
pub(super) fn dated(line: &[u8]) -> Option<Line<'_>> {
    let (local, rest) = slashed(line)?;
    if let Some(message) = squid::message(rest) {
        let said = squid::said(message);
        return Some(Line { program: Program::Squid, local: Some(local), said });
    }
    let (level, rest) = split(rest.strip_prefix(b" [")?, b']')?;
    let (_, rest) = digits(rest.strip_prefix(b" ")?)?;
    let (_, rest) = digits(rest.strip_prefix(b"#")?)?;
    let message = rest.strip_prefix(b": ")?;
    level.iter().all(u8::is_ascii_lowercase).then_some(())?;
    Some(Line { program: Program::Nginx, local: Some(local), said: said(without_number(message)) })
}

/// The message after `*N `, the number of the connection, if it has that.
fn without_number(message: &[u8]) -> &[u8] {
    let after = || digits(message.strip_prefix(b"*")?)?.1.strip_prefix(b" ");
    after().unwrap_or(message)
}

fn said(message: &[u8]) -> Option<Said<'_>> {
    let of = |kind, name| Some(Said { kind, name });
    if message.starts_with(b"no live upstreams while connecting to upstream") {
        return of(Kind::NoLive, upstream(message));
    }
    if let Some(rest) = message.strip_prefix(b"upstream timed out (110:") {
        let (_, rest) = split(rest, b')')?;
        return rest
            .starts_with(b" while connecting to upstream")
            .then(|| Said { kind: Kind::TimedOut, name: upstream(message) });
    }
    if let Some(rest) = message.strip_prefix(b"connect() to ") {
        let (to, number) = failed(rest)?;
        return of(connect(number)?, to);
    }
    if let Some(rest) = message.strip_prefix(b"bind(") {
        let (to, rest) = split(rest, b')')?;
        address(to)?;
        return match errno(rest.strip_prefix(b" failed (")?, b':')? {
            98 => of(Kind::AddressInUse, to),
            99 => of(Kind::BadSource, to),
            _ => None,
        };
    }
    if let Some((_, rest)) = digits(message) {
        let full = rest.starts_with(b" worker_connections are not enough");
        return full.then_some(Said { kind: Kind::WorkerConnections, name: b"" });
    }
    call(message)
}

/// `A failed (99:`: the address and the errno; `None`: it is another text, or A is no address.
fn failed(text: &[u8]) -> Option<(&[u8], u32)> {
    let (to, rest) = split_at(text, b" failed (")?;
    address(to)?;
    Some((to, errno(rest, b':')?))
}

/// What the errno of connect() means; `None`: nothing that is counted.
fn connect(errno: u32) -> Option<Kind> {
    match errno {
        98 => Some(Kind::AddressInUse),
        99 => Some(Kind::NoPort),
        110 => Some(Kind::TimedOut),
        111 => Some(Kind::Refused),
        _ => None,
    }
}

/// `socket() failed (24: …`: a system call that failed, with nothing before the errno that a client could have chosen.
fn call(message: &[u8]) -> Option<Said<'_>> {
    let (name, rest) = split_at(message, b"() failed (")?;
    let letter = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'_';
    name.iter().all(letter).then_some(())?;
    match (name, errno(rest, b':')?) {
        (b"connect", number) => Some(Said { kind: connect(number)?, name: upstream(message) }),
        (_, 23) => Some(Said { kind: Kind::HostDescriptors, name }),
        (_, 24) => Some(Said { kind: Kind::Descriptors, name }),
        _ => None,
    }
}

/// The upstream of a message: NAME of `upstream: "http://NAME/path"`, or all of `upstream: "NAME"`; empty: there is none. The
/// request stands before it, so a client of nginx before 1.21.1 (which takes requests with spaces) can choose it.
fn upstream(message: &[u8]) -> &[u8] {
    let of = || {
        let (url, _) = split(split_at(message, b", upstream: \"")?.1, b'"')?;
        let rest = split_at(url, b"://").map_or(url, |(_, rest)| rest);
        Some(split(rest, b'/').map_or(rest, |(name, _)| name))
    };
    of().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(message: &str) -> Option<(Kind, String)> {
        let line = format!("2026/11/29 19:15:15 [crit] 71#71: *45 {message}");
        let said = dated(line.as_bytes()).unwrap().said?;
        Some((said.kind, String::from_utf8(said.name.to_vec()).unwrap()))
    }

    const REST: &str = r#", client: 10.0.0.1, server: , request: "GET / HTTP/1.1""#;

    #[test]
    fn the_verb_and_the_number_decide() {
        let connect = |number: u32| {
            of(&format!(
                "connect() to 10.0.1.7:80 failed ({number}: x) while connecting to upstream"
            ))
        };
        let to = |kind| Some((kind, "10.0.1.7:80".to_owned()));
        assert_eq!(connect(99), to(Kind::NoPort));
        assert_eq!(connect(98), to(Kind::AddressInUse));
        assert_eq!(connect(111), to(Kind::Refused));
        assert_eq!(connect(110), to(Kind::TimedOut));
        assert_eq!(connect(13), None);
        assert_eq!(
            of("bind(10.94.0.2) failed (99: x)"),
            Some((Kind::BadSource, "10.94.0.2".into()))
        );
        assert_eq!(
            of("bind(10.9.0.2:7) failed (98: x)"),
            Some((Kind::AddressInUse, "10.9.0.2:7".into()))
        );
        assert_eq!(
            of("bind(2001:db8::1) failed (99: x)"),
            Some((Kind::BadSource, "2001:db8::1".into()))
        );
        assert_eq!(of("socket() failed (24: x)"), Some((Kind::Descriptors, "socket".into())));
        assert_eq!(of("accept4() failed (24: x)"), Some((Kind::Descriptors, "accept4".into())));
        assert_eq!(of("accept4() failed (23: x)"), Some((Kind::HostDescriptors, "accept4".into())));
        assert_eq!(of("recv() failed (104: x)"), None);
        assert_eq!(
            of("512 worker_connections are not enough"),
            Some((Kind::WorkerConnections, String::new()))
        );
    }

    #[test]
    fn the_upstream_has_a_name() {
        let live = |url: &str| {
            of(&format!(
                "no live upstreams while connecting to upstream{REST}, upstream: \"{url}\", host: \"x\""
            ))
        };
        let name = |name: &str| Some((Kind::NoLive, name.to_owned()));
        assert_eq!(live("http://api/v1?a"), name("api"));
        assert_eq!(live("api"), name("api"));
        assert_eq!(live("fastcgi://php"), name("php"));
        // The line is cut at 2,048 bytes.
        assert_eq!(
            of("no live upstreams while connecting to upstream, client: 1, upstream: \"http://a"),
            name("")
        );
        let refused = format!(
            "connect() failed (111: x) while connecting to upstream{REST}, upstream: \"http://[::1]:80/\""
        );
        assert_eq!(of(&refused), Some((Kind::Refused, "[::1]:80".into())));
        let late = |what: &str| {
            of(&format!(
                "upstream timed out (110: x) while {what}{REST}, upstream: \"http://10.0.0.1:80/\""
            ))
        };
        assert_eq!(late("connecting to upstream"), Some((Kind::TimedOut, "10.0.0.1:80".into())));
        assert_eq!(late("reading response header from upstream"), None);
    }

    #[test]
    fn a_client_cannot_write_an_error() {
        for message in [
            r#"open() "/html/socket() failed (24: x" failed (2: No such file)"#,
            r#"open() "/html/x" failed (24: y) failed (2: No such file)"#,
            "connect() to unix:/connect() to 10.0.0.1:80 failed (99: x) failed (2: y)",
            r#"client sent invalid header line: "connect() to 10.0.0.1:80 failed (99: x"#,
            r#""/x/bind(10.0.0.1) failed (99: " is not found (2: No such file or directory)"#,
            "bind(x) failed (99: y)",
            "connect() to 10.0.0.1:80 failed (99",
            "connect() to 10.0.0.1:80 failed 99:",
        ] {
            assert_eq!(of(message), None, "{message}");
        }
    }

    #[test]
    fn other_lines_are_not_of_nginx() {
        for line in [
            "2026/11/29 19:15:15 connect() to 10.0.0.1:80 failed (99: x)",
            "2026/11/29 19:15:15 [crit] connect() to 10.0.0.1:80 failed (99: x)",
            "2026/11/29 19:15:15 [crit] 1#1 connect()",
            "x 2026/11/29 19:15:15 [crit] 1#1: connect()",
            "",
        ] {
            assert_eq!(dated(line.as_bytes()), None, "{line}");
        }
    }
}
