//! What syslog puts before a message: RFC 3164, RFC 5424, rsyslog's files, and the forms of HAProxy's `log … format`.

use super::{
    Asked,
    scan::{digits, split_at, word},
    time::{rfc3339, yearless},
};

/// A message of syslog.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Message<'a> {
    /// Seconds since 1970, those of [`Asked::to_s`] if RFC 5424 has `-` for the time; `None`: there is no time before the
    /// message.
    pub(super) time_s: Option<i64>,
    pub(super) text: &'a [u8],
}

/// Takes off what syslog put before a message. A line without that is the message.
pub(super) fn message<'a>(line: &'a [u8], asked: &Asked) -> Message<'a> {
    let rest = priority(line).unwrap_or(line);
    if let Some(text) = rest.strip_prefix(b"1 ").and_then(|rest| structured(rest, asked)) {
        return text;
    }
    let (first, after) = word(rest);
    let dated = rfc3339(first).map(|time_s| (time_s, after));
    match dated.or_else(|| yearless(rest, asked.to_s, asked.offset_s)) {
        Some((time_s, text)) => Message { time_s: Some(time_s), text: untagged(text) },
        None if rest.len() < line.len() => Message { time_s: None, text: untagged(rest) },
        None => Message { time_s: None, text: line },
    }
}

/// What follows `<134>`; `None`: it does not begin so.
fn priority(line: &[u8]) -> Option<&[u8]> {
    let (_, rest) = digits(line.strip_prefix(b"<")?)?;
    rest.strip_prefix(b">")
}

/// RFC 5424, after the version: time, host, program, process, id, and structured data (`-` or `[…]`), then the message.
fn structured<'a>(rest: &'a [u8], asked: &Asked) -> Option<Message<'a>> {
    let (time, mut rest) = word(rest);
    for _ in 0..4 {
        (_, rest) = word(rest);
    }
    let text = match rest.first()? {
        b'-' => rest.get(1..)?,
        b'[' => split_at(rest, b"] ")?.1,
        _ => return None,
    };
    let text = text.strip_prefix(b" ").unwrap_or(text);
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let time_s = rfc3339(time).or_else(|| (time == b"-").then_some(asked.to_s))?;
    Some(Message { time_s: Some(time_s), text })
}

/// The message after `HOST PROGRAM[PID]: ` or `PROGRAM[PID]: `; all of it if there is no program.
fn untagged(text: &[u8]) -> &[u8] {
    let is_tag = |word: &[u8]| {
        let letter = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-./[]".contains(byte);
        word.strip_suffix(b":").is_some_and(|name| !name.is_empty() && name.iter().all(letter))
    };
    let (first, after) = word(text);
    if is_tag(first) {
        return after;
    }
    let (second, after) = word(after);
    if is_tag(second) { after } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: i64 = 1_795_979_715;
    const ASKED: Asked = Asked { from_s: AT - 5, to_s: AT, offset_s: 3_600 };

    fn of(line: &str) -> (Option<i64>, &str) {
        let it = message(line.as_bytes(), &ASKED);
        (it.time_s, std::str::from_utf8(it.text).unwrap())
    }

    #[test]
    fn every_form_is_taken_off() {
        for line in [
            "2026-11-29T19:15:15.123456+00:00 host haproxy[12]: Connect() failed for",
            "Nov 29 20:15:15 host haproxy[12]: Connect() failed for",
            "<134>Nov 29 20:15:15 haproxy[12]: Connect() failed for",
            "<134>Nov 29 20:15:15 host haproxy: Connect() failed for",
            "<3>2026-11-29T19:15:15.123456+00:00 Connect() failed for",
            "<134>1 2026-11-29T19:15:15Z host haproxy 12 - - Connect() failed for",
            "<134>1 2026-11-29T19:15:15Z host haproxy 12 - [a b=\"c\"] Connect() failed for",
        ] {
            assert_eq!(of(line), (Some(AT), "Connect() failed for"), "{line}");
        }
    }

    #[test]
    fn a_line_without_a_time_is_a_message() {
        assert_eq!(of("<3>Connect() failed for"), (None, "Connect() failed for"));
        assert_eq!(of("<3>haproxy[1]: Connect() failed"), (None, "Connect() failed"));
        for line in ["Connect() failed for", "haproxy: Connect()", "<>x", "<1", "", "1 a b c d - e"]
        {
            assert_eq!(of(line), (None, line), "{line}");
        }
    }

    #[test]
    fn a_message_of_nginx_keeps_its_own_time() {
        let line = "<187>Nov 29 20:15:15 host nginx: 2026/11/29 20:15:15 [crit] 1#1: x";
        assert_eq!(of(line), (Some(AT), "2026/11/29 20:15:15 [crit] 1#1: x"));
    }
}
