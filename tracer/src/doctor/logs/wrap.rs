//! What container engines put around a line: CRI (`TIME stdout|stderr F|P LINE`) and Docker's json-file driver
//! (`{"log":"LINE\n","stream":"stderr","time":"TIME"}`).

use memchr::{memchr, memchr2};

use super::{
    scan::{split_at, split_last, word},
    time::rfc3339,
};

/// The stream that a container wrote a line to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stream {
    Out,
    Err,
}

/// What a container wrote: a line, or a part of one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Part<'a> {
    /// When the engine read it, in seconds since 1970.
    pub(super) time_s: i64,
    pub(super) stream: Stream,
    /// Whether the line goes on in the next part of this stream.
    pub(super) partial: bool,
    /// What the container wrote, without the newline at its end.
    pub(super) text: &'a [u8],
}

/// A line of a file, by what wrote it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Wrapped<'a> {
    /// No engine put anything around it.
    Plain(&'a [u8]),
    Part(Part<'a>),
    /// It begins as one of Docker's json-file driver, but cannot be read as one.
    Broken,
}

/// Takes off what an engine put around a line. `line`: without its newline. `scratch`: where a text with escapes is put; its
/// contents do not matter. A line that begins with CRI's words but cannot be read as CRI's is [`Wrapped::Plain`].
pub(super) fn open<'a>(line: &'a [u8], scratch: &'a mut Vec<u8>) -> Wrapped<'a> {
    if let Some(rest) = line.strip_prefix(br#"{"log":""#) {
        return docker(rest, scratch).map_or(Wrapped::Broken, Wrapped::Part);
    }
    cri(line).map_or(Wrapped::Plain(line), Wrapped::Part)
}

fn cri(line: &[u8]) -> Option<Part<'_>> {
    // A line of another form is the usual case, and a time costs more to parse than the words behind it.
    let (time, rest) = word(line);
    let (stream, rest) = word(rest);
    let stream = named(stream)?;
    let (tags, text) = word(rest);
    let partial = match tags.split(|byte| *byte == b':').next()? {
        b"P" => true,
        b"F" => false,
        _ => return None,
    };
    Some(Part { time_s: rfc3339(time)?, stream, partial, text })
}

fn named(stream: &[u8]) -> Option<Stream> {
    match stream {
        b"stdout" => Some(Stream::Out),
        b"stderr" => Some(Stream::Err),
        _ => None,
    }
}

/// `rest`: the line from the value of `log` on. Docker writes this key first and `time` last, and labels in between.
fn docker<'a>(rest: &'a [u8], scratch: &'a mut Vec<u8>) -> Option<Part<'a>> {
    let (log, rest) = value(rest)?;
    let rest = rest.strip_suffix(b"}")?;
    let (_, stream) = split_at(rest, br#""stream":""#)?;
    let (_, time) = split_last(rest, br#""time":""#)?;
    let (stream, time) = (named(value(stream)?.0)?, rfc3339(value(time)?.0)?);
    let text = if memchr(b'\\', log).is_some() {
        unescape(log, scratch)?;
        &*scratch
    } else {
        log
    };
    let line = text.strip_suffix(b"\n");
    Some(Part { time_s: time, stream, partial: line.is_none(), text: line.unwrap_or(text) })
}

/// The JSON string that begins here, after its first quote, with its escapes; and what follows its last quote.
fn value(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut at = 0_usize;
    loop {
        // Where there is one escape, there are often many: no search for the next one that is here.
        let found = match text.get(at)? {
            b'"' | b'\\' => at,
            _ => at.checked_add(memchr2(b'"', b'\\', text.get(at..)?)?)?,
        };
        if text.get(found) == Some(&b'"') {
            return Some((text.get(..found)?, text.get(found.checked_add(1)?..)?));
        }
        at = found.checked_add(2)?;
    }
}

/// Puts the text of a JSON string into `to`, which it empties first. `None`: it is no JSON string.
fn unescape(text: &[u8], to: &mut Vec<u8>) -> Option<()> {
    to.clear();
    let mut rest = text;
    let next =
        |rest: &[u8]| if rest.first() == Some(&b'\\') { Some(0) } else { memchr(b'\\', rest) };
    while let Some(at) = next(rest) {
        to.extend_from_slice(rest.get(..at)?);
        let escape = *rest.get(at.checked_add(1)?)?;
        rest = rest.get(at.checked_add(2)?..)?;
        match escape {
            b'"' | b'\\' | b'/' => to.push(escape),
            b'n' => to.push(b'\n'),
            b't' => to.push(b'\t'),
            b'r' => to.push(b'\r'),
            b'b' => to.push(8),
            b'f' => to.push(12),
            b'u' => {
                let (digits, after) = rest.split_at_checked(4)?;
                let code = u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
                // Half of a pair has no letter of its own; none of the lines that are looked for has one.
                let letter = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
                to.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
                rest = after;
            }
            _ => return None,
        }
    }
    to.extend_from_slice(rest);
    Some(())
}

/// The parts of a line that has not ended yet, of one stream.
#[derive(Debug, Default)]
pub(super) struct Pending {
    bytes: Vec<u8>,
    /// When its first part was read; `None`: there is none.
    since_s: Option<i64>,
    /// Whether it has become too long.
    over: bool,
}

/// A line that was put together.
#[derive(Debug, Default)]
pub(super) struct Joined {
    /// When the engine read its first part, in seconds since 1970.
    pub(super) time_s: i64,
    pub(super) text: Vec<u8>,
    /// Whether a part is missing, because the line would have become longer than [`Pending::add`] allows.
    pub(super) over: bool,
}

impl Pending {
    /// Adds a part. `most`: the most bytes that a line may have; a part beyond that is left out, and the line becomes
    /// `over`.
    pub(super) fn add(&mut self, part: &Part<'_>, most: usize) {
        self.since_s.get_or_insert(part.time_s);
        if self.bytes.len().saturating_add(part.text.len()) > most {
            self.over = true;
        } else {
            self.bytes.extend_from_slice(part.text);
        }
    }

    /// The line so far, which is then forgotten; `None`: there is no part.
    pub(super) fn take(&mut self) -> Option<Joined> {
        let Self { bytes, since_s, over } = std::mem::take(self);
        Some(Joined { time_s: since_s?, text: bytes, over })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: i64 = 1_795_979_715;

    fn part(line: &str) -> Option<(i64, Stream, bool, String)> {
        let mut scratch = b"left over".to_vec();
        match open(line.as_bytes(), &mut scratch) {
            Wrapped::Part(it) => {
                let text = String::from_utf8(it.text.to_vec()).unwrap();
                Some((it.time_s, it.stream, it.partial, text))
            }
            Wrapped::Plain(_) | Wrapped::Broken => None,
        }
    }

    #[test]
    fn cri_has_a_time_a_stream_and_a_tag() {
        let of = |tag: &str| part(&format!("2026-11-29T19:15:15.5+00:00 stderr {tag} a b"));
        let text = || "a b".to_owned();
        assert_eq!(of("F"), Some((AT, Stream::Err, false, text())));
        assert_eq!(of("P"), Some((AT, Stream::Err, true, text())));
        assert_eq!(of("F:x:y"), Some((AT, Stream::Err, false, text())));
        assert_eq!(of("X"), None);
        assert_eq!(part("2026-11-29T19:15:15Z stdin F a"), None);
        assert_eq!(part("2026/11/29 stdout F a"), None);
        assert_eq!(
            part("2026-11-29T19:15:15.0Z stdout F"),
            Some((AT, Stream::Out, false, String::new()))
        );
    }

    #[test]
    fn docker_has_escapes_and_parts_without_a_newline() {
        let of = |log: &str| {
            part(&format!(
                r#"{{"log":"{log}","stream":"stdout","attrs":{{"time":"x"}},"time":"2026-11-29T19:15:15.1Z"}}"#
            ))
        };
        let line = |text: &str| Some((AT, Stream::Out, false, text.to_owned()));
        assert_eq!(of(r"a\n"), line("a"));
        assert_eq!(
            of(r#"\"GET \\ \u003c\u00e9\ud83d\t\"\n"#),
            line("\"GET \\ <\u{e9}\u{fffd}\t\"")
        );
        assert_eq!(of("a"), Some((AT, Stream::Out, true, "a".to_owned())));
        assert_eq!(of(r"a\"), None);
        assert_eq!(of(r"a\x\n"), None);
        assert_eq!(of(r"\u12"), None);
    }

    #[test]
    fn a_line_of_docker_that_is_cut_is_broken() {
        let whole = r#"{"log":"a\n","stream":"stdout","time":"2026-11-29T19:15:15.1Z"}"#;
        let of = |line: &str| open(line.as_bytes(), &mut Vec::new()) == Wrapped::Broken;
        assert!(!of(whole));
        for end in 8..whole.len() {
            assert!(of(&whole[..end]), "{end}");
        }
        assert!(!of("{\"log\": 1}"));
    }

    #[test]
    fn a_line_that_becomes_too_long_is_not_kept() {
        let mut pending = Pending::default();
        assert!(pending.take().is_none());
        let of = |time_s| Part { time_s, stream: Stream::Out, partial: true, text: b"abc" };
        for time_s in 1..4 {
            pending.add(&of(time_s), 7);
        }
        let joined = pending.take().unwrap();
        assert_eq!((joined.time_s, joined.text.as_slice(), joined.over), (1, &b"abcabc"[..], true));
        assert!(pending.take().is_none());
    }
}
