//! Messages and request lines of HAProxy, without what syslog puts before them.
//!
//! It reports the same failure to syslog and on stderr; there with `[ALERT]    (PID) : ` before it, or with nothing.

use super::{
    nginx::{Line, Said},
    report::{Kind, Program},
    scan::{digits, split, split_at, split_last, word},
    time::of_requests,
};

/// What a line of HAProxy says; `text`: the line without what syslog and container engines put before it. `None`: its form is not
/// known. [`Line::said`] is `None` for a request that did not fail with the flags `SC`; [`Line::local`] is `None` for a message.
pub(super) fn line(text: &[u8]) -> Option<Line<'_>> {
    request(text).or_else(|| {
        let said = message(alert(text).unwrap_or(text));
        said.map(|it| Line { program: Program::Haproxy, local: None, said: Some(it) })
    })
}

/// The message after `[ALERT]    (PID) : `, or `[ALERT] 332/191515 (PID) : `; `None`: it does not begin so.
fn alert(text: &[u8]) -> Option<&[u8]> {
    let (level, rest) = split(text.strip_prefix(b"[")?, b']')?;
    level.iter().all(u8::is_ascii_uppercase).then_some(())?;
    let (before, rest) = split_at(rest, b") : ")?;
    (before.len() <= 32).then_some(rest)
}

fn message(text: &[u8]) -> Option<Said<'_>> {
    let of = |kind, name: Option<_>| name.map(|name| Said { kind, name });
    if let Some(rest) = text.strip_prefix(b"Connect() failed for backend ") {
        let (backend, why) = split_last(rest, b": ")?;
        return match why {
            b"no free ports." => of(Kind::NoPort, name(backend)),
            b"local address already in use." => of(Kind::AddressInUse, name(backend)),
            _ => None,
        };
    }
    if let Some(rest) = text.strip_prefix(b"Cannot bind to source address before connect() for ") {
        let rest = rest.strip_prefix(b"backend ").or_else(|| rest.strip_prefix(b"server "))?;
        let rest = rest.strip_suffix(b" Aborting.").unwrap_or(rest);
        return of(Kind::BadSource, name(rest.strip_suffix(b".")?));
    }
    if let Some(rest) = text.strip_prefix(b"Proxy ") {
        let (proxy, what) = word(rest);
        return match what {
            _ if what.starts_with(b"reached process FD limit") => {
                of(Kind::Descriptors, name(proxy))
            }
            _ if what.starts_with(b"reached system FD limit") => {
                of(Kind::HostDescriptors, name(proxy))
            }
            _ => None,
        };
    }
    let rest = text.strip_prefix(b"backend ").or_else(|| text.strip_prefix(b"proxy "))?;
    let backend = rest.strip_suffix(b" has no server available!")?;
    let quoted = backend.strip_prefix(b"'").and_then(|rest| rest.strip_suffix(b"'"));
    of(Kind::NoLive, name(quoted.unwrap_or(backend)))
}

/// The name of a proxy, or of a proxy and a server; `None`: names cannot be so.
fn name(text: &[u8]) -> Option<&[u8]> {
    let letter = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-.:/".contains(byte);
    (!text.is_empty() && text.iter().all(letter)).then_some(text)
}

/// A line about a request (`option httplog`) or a connection (`option tcplog`):
/// `10.0.0.1:5000 [29/Nov/2026:19:15:15.123] f B/S 0/0/-1/-1/0 503 217 - - SC-- 1/1/0/0/3 0/0 "GET / HTTP/1.1"`. Those that ended
/// because no connection to a server could be made have the flags `SC`.
fn request(text: &[u8]) -> Option<Line<'_>> {
    let (client, rest) = word(text);
    // An IPv6 address has no brackets here.
    let letter = |byte: &u8| byte.is_ascii_hexdigit() || b".:".contains(byte);
    (!client.is_empty() && client.iter().all(letter)).then_some(())?;
    let (time, rest) = word(rest);
    let local = of_requests(time.strip_prefix(b"[")?.strip_suffix(b"]")?)?;
    let (_, rest) = word(rest);
    let (server, rest) = word(rest);
    let (backend, _) = split(server, b'/')?;
    let (timers, rest) = word(rest);
    // A request has five times, a status and two cookies; a connection has three times.
    let before = if timers.split(|byte| *byte == b'/').count() == 5 { 4 } else { 1 };
    let mut rest = rest;
    for _ in 0..before {
        (_, rest) = word(rest);
    }
    let (flags, counts) = word(rest);
    digits(counts)?;
    let failed = flags.starts_with(b"SC");
    let said = failed.then(|| name(backend)).flatten();
    let said = said.map(|name| Said { kind: Kind::Aborted, name });
    Some(Line { program: Program::Haproxy, local: Some(local), said })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<(Kind, String)> {
        let said = line(text.as_bytes())?.said?;
        Some((said.kind, String::from_utf8(said.name.to_vec()).unwrap()))
    }

    #[test]
    fn messages_name_their_backend() {
        let expected = |kind, name: &str| Some((kind, name.to_owned()));
        assert_eq!(
            of("Connect() failed for backend B: no free ports."),
            expected(Kind::NoPort, "B")
        );
        assert_eq!(
            of("Connect() failed for backend a:b: local address already in use."),
            expected(Kind::AddressInUse, "a:b")
        );
        let bind = "Cannot bind to source address before connect() for";
        assert_eq!(of(&format!("{bind} backend B.")), expected(Kind::BadSource, "B"));
        assert_eq!(
            of(&format!("[ALERT]    (12) : {bind} backend B. Aborting.")),
            expected(Kind::BadSource, "B")
        );
        assert_eq!(
            of(&format!("[ALERT] 332/191515 (12) : {bind} server B/S. Aborting.")),
            expected(Kind::BadSource, "B/S")
        );
        assert_eq!(
            of("Proxy P reached process FD limit (maxsock=9). Please"),
            expected(Kind::Descriptors, "P")
        );
        assert_eq!(
            of("Proxy P reached system FD limit at 9. Please"),
            expected(Kind::HostDescriptors, "P")
        );
        assert_eq!(of("backend B has no server available!"), expected(Kind::NoLive, "B"));
        assert_eq!(
            of("[ALERT]    (8) : backend 'B' has no server available!"),
            expected(Kind::NoLive, "B")
        );
        for none in [
            "Connect() failed for backend B: can't connect to destination unix socket.",
            "Connect() failed for backend B C: no free ports.",
            "Cannot bind to tproxy source address before connect() for backend B.",
            "Proxy P started.",
            "x Connect() failed for backend B: no free ports.",
            "",
        ] {
            assert_eq!(of(none), None, "{none}");
        }
    }

    #[test]
    fn requests_and_connections_without_a_server_are_counted() {
        let http = |flags: &str| {
            format!(
                "10.0.0.1:5000 [29/Nov/2026:19:15:15.123] f B/S 0/0/-1/-1/0 503 217 - - {flags} 1/1/0/0/3 0/0 \"GET / HTTP/1.1\""
            )
        };
        assert_eq!(of(&http("SC--")), Some((Kind::Aborted, "B".to_owned())));
        assert_eq!(of(&http("----")), None);
        assert!(line(http("----").as_bytes()).unwrap().local.is_some());
        let tcp = "10.0.0.1:5000 [29/Nov/2026:19:15:15.123] f B/S 0/-1/0 0 SC 1/1/0/0/3 0/0";
        assert_eq!(of(tcp), Some((Kind::Aborted, "B".to_owned())));
        assert_eq!(line(b"10.0.0.1:5000 - - [29/Nov/2026:19:15:15 +0000] \"GET / SC"), None);
    }
}
