//! `TRACER_TEST_LIE`: falsifies what the tests read from the program and from the kernel. A test that still passes does not check
//! what was falsified. `cargo xtask test lies` chooses the lies, and lists the tests that no lie makes fail.
//!
//! Without the variable, or under a lie about something else, every function here returns what it is given.

mod json;

use std::{
    env,
    fmt::Write as _,
    fs,
    net::IpAddr,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{ChildStderr, ChildStdout, ExitStatus},
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::io::Errno;
use serde_json::Value;

const VARIABLE: &str = "TRACER_TEST_LIE";
/// The variable with the most seconds that a test waits for a condition: under a lie, most conditions never come true.
const WAIT: &str = "TRACER_TEST_WAIT";

/// One way to falsify what is read. KEY is a key of a JSON object, at any depth; NAME is such a key, or the name of an event (a
/// value of `event.name`). A `*` at the end of either stands for any ending.
#[derive(Debug, Eq, PartialEq)]
enum Lie {
    /// `exit`: exit code 1 where the program succeeded, 0 where it failed.
    Exit,
    /// `silence`: stderr is empty.
    Silence,
    /// `noise`: stderr has an error line that the program did not write.
    Noise,
    /// `empty`: stdout is empty, and a recording has only its first and its last line.
    Empty,
    /// `gap`: the line in the middle of stdout or of a file is missing.
    Gap,
    /// `digits`: in text that is not JSON, and on the screen, each number is one larger that is not a part of a word or an
    /// address.
    Digits,
    /// `screen`: the screen is empty.
    Screen,
    /// `other:KEY`: the value at this key is another one; `null` stays.
    Other(String),
    /// `zero:KEY`: the whole numbers at this key are 0.
    Zero(String),
    /// `double:KEY`: the whole numbers at this key are twice as large.
    Double(String),
    /// `added:KEY`: each object with the key `ports.in_use`, such as the row of a tuple, has this key with the value 1.
    Added(String),
    /// `without:NAME`: the lines of this event are missing, lists at this key are empty, and other values at it are missing.
    Without(String),
    /// `twice:NAME`: each line of this event is there twice, and so is each element of a list at this key.
    Twice(String),
    /// `kernel`: the kernel has one port more in use in each tuple, and each thread of the program has all capabilities.
    Kernel,
    /// `source`: each connection that spreading is tested with has 192.0.2.1 or 2001:db8::1 as its source.
    Source,
    /// `unspread`: each connection that spreading is tested with has its destination's address as its source, as if no rule
    /// spread it: the destinations of the tests are local, and the kernel then takes the same address as the source.
    Unspread,
    /// `refused`: the tenth successful connect() of a process seems to fail with EADDRNOTAVAIL, and the tenth request that a
    /// proxy answers with success seems to fail.
    Refused,
    /// `granted`: what the kernel refuses to an outsider, or to another user, seems to succeed.
    Granted,
}

impl Lie {
    fn parse(kind: &str) -> Result<Self> {
        let (name, key) = kind.split_once(':').unwrap_or((kind, ""));
        let keyed = ["other", "zero", "double", "added", "without", "twice"].contains(&name);
        if keyed == key.is_empty() {
            bail!("{VARIABLE}={kind}: no such lie");
        }
        let key = key.to_owned();
        Ok(match name {
            "exit" => Self::Exit,
            "silence" => Self::Silence,
            "noise" => Self::Noise,
            "empty" => Self::Empty,
            "gap" => Self::Gap,
            "digits" => Self::Digits,
            "screen" => Self::Screen,
            "other" => Self::Other(key),
            "zero" => Self::Zero(key),
            "double" => Self::Double(key),
            "added" => Self::Added(key),
            "without" => Self::Without(key),
            "twice" => Self::Twice(key),
            "kernel" => Self::Kernel,
            "source" => Self::Source,
            "unspread" => Self::Unspread,
            "refused" => Self::Refused,
            "granted" => Self::Granted,
            _ => bail!("{VARIABLE}={kind}: no such lie"),
        })
    }
}

static LIE: LazyLock<Result<Option<Lie>>> =
    LazyLock::new(|| env::var(VARIABLE).ok().map(|kind| Lie::parse(&kind)).transpose());

/// Fails if `TRACER_TEST_LIE` is set to a value that names none of the lies. (A value that is not UTF-8 counts as not set.)
pub fn check() -> Result<()> {
    LIE.as_ref().map(drop).map_err(|error| anyhow::anyhow!("{error:#}"))
}

fn lie() -> Option<&'static Lie> {
    LIE.as_ref().ok()?.as_ref()
}

/// Where a text that the program wrote was read from: some lies are about one of these only.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stream {
    Stdout,
    Stderr,
    File,
}

/// The stdout or stderr of a child process, to be read by a test.
pub trait Pipe {
    /// Which of the two it is.
    const STREAM: Stream;
}

impl Pipe for ChildStdout {
    const STREAM: Stream = Stream::Stdout;
}

impl Pipe for ChildStderr {
    const STREAM: Stream = Stream::Stderr;
}

/// What the program wrote to this stream; falsified under a lie, except `exit`, `screen`, `kernel`, `source`, `unspread`,
/// `refused` and `granted`.
pub fn text(stream: Stream, text: String) -> String {
    lie().map_or_else(|| text.clone(), |lie| falsified(lie, stream, &text))
}

fn falsified(lie: &Lie, stream: Stream, text: &str) -> String {
    match (lie, stream) {
        (Lie::Silence, Stream::Stderr) | (Lie::Empty, Stream::Stdout) => String::new(),
        (Lie::Noise, Stream::Stderr) => format!("{text}error: one line more\n"),
        (Lie::Empty, Stream::File) => ends(text),
        (Lie::Gap, Stream::Stdout | Stream::File) => with_a_gap(text),
        (Lie::Digits, _) => text.split_inclusive('\n').map(plain_digits).collect(),
        _ => json::text(lie, text),
    }
}

/// The first and the last line of the text.
fn ends(text: &str) -> String {
    let mut lines = text.split_inclusive('\n');
    let first = lines.next().unwrap_or_default();
    first.to_owned() + lines.next_back().unwrap_or_default()
}

/// The text without the line in the middle: of an even number of lines, without the first one of the second half.
fn with_a_gap(text: &str) -> String {
    let middle = text.lines().count() / 2;
    let lines = text.split_inclusive('\n').enumerate();
    lines.filter(|(number, _)| *number != middle).map(|(_, line)| line).collect()
}

/// The text of a file that the program wrote; falsified under a lie. An error if the file cannot be read, or is not UTF-8.
pub fn file(path: impl AsRef<Path>) -> Result<String> {
    read(Stream::File, path.as_ref())
}

/// The text of a file to which the program's stderr was redirected; falsified under a lie. Errors as of [`file()`].
pub fn log(path: impl AsRef<Path>) -> Result<String> {
    read(Stream::Stderr, path.as_ref())
}

fn read(stream: Stream, path: &Path) -> Result<String> {
    let read = fs::read_to_string(path);
    Ok(text(stream, read.with_context(|| format!("cannot read {}", path.display()))?))
}

/// Parses a line of JSON that the program wrote; falsified under a lie about JSON.
///
/// # Errors
/// It is not JSON, or the lie leaves out the line (`without:NAME`) or doubles it (`twice:NAME`).
pub fn line(line: &str) -> Result<Value> {
    let read = lie().map_or_else(|| line.to_owned(), |lie| json::text(lie, line));
    serde_json::from_str(&read).with_context(|| format!("bad line {read:?}"))
}

/// The text of the screen; empty under the lie `screen`, with other numbers under `digits`.
pub fn screen(text: String) -> String {
    match lie() {
        Some(Lie::Screen) => String::new(),
        Some(Lie::Digits) => text.split_inclusive('\n').map(digits).collect(),
        _ => text,
    }
}

/// The exit status of the program. Under the lie `exit`: exit code 1 instead of 0, and 0 instead of any other code or a signal.
pub fn status(status: ExitStatus) -> ExitStatus {
    match lie() {
        Some(Lie::Exit) if status.success() => ExitStatus::from_raw(1 << 8),
        Some(Lie::Exit) => ExitStatus::from_raw(0),
        _ => status,
    }
}

/// How many ports of a tuple are in use by the kernel's list of sockets; one more under the lie `kernel`.
pub fn in_use(ports: u64) -> u64 {
    if lie() == Some(&Lie::Kernel) { ports + 1 } else { ports }
}

/// The text of `/proc/PID/task/TID/status` of a thread of the program; under the lie `kernel`, all bits of each `Cap...` line are
/// set.
pub fn thread(status: String) -> String {
    if lie() != Some(&Lie::Kernel) {
        return status;
    }
    let falsify = |line: &str| match line.split_once('\t') {
        Some((set, _)) if set.starts_with("Cap") => format!("{set}\t{:x}\n", u64::MAX),
        _ => line.to_owned(),
    };
    status.split_inclusive('\n').map(falsify).collect()
}

/// The source address of a connection, as the kernel reports it. Under the lie `source`, an address for documentation of the same
/// family; under `unspread`, `destination`. `None`: the caller does not know it, and `unspread` changes nothing.
pub fn source(address: IpAddr, destination: Option<IpAddr>) -> IpAddr {
    match (lie(), destination) {
        (Some(Lie::Source), _) => another(address),
        (Some(Lie::Unspread), Some(destination)) => destination,
        _ => address,
    }
}

/// An address of the same family from a range for documentation, which is no connection's source in any test.
fn another(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::from([192, 0, 2, 1]),
        IpAddr::V6(_) => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
    }
}

/// Which success the lie `refused` turns into a failure. Under a lie, each test runs in its own process. So every test with ten
/// or more successful connect() calls has exactly one such failure; so has every test with ten or more answered requests.
const TENTH: u64 = 10;

fn is_the_tenth(count: &AtomicU64) -> bool {
    lie() == Some(&Lie::Refused) && count.fetch_add(1, Ordering::Relaxed) + 1 == TENTH
}

/// The result of a connect(). Under the lie `refused`, the tenth success of this process becomes EADDRNOTAVAIL; errors stay, and
/// are not counted.
pub fn connected(result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    result?;
    if is_the_tenth(&COUNT) { Err(Errno::ADDRNOTAVAIL) } else { Ok(()) }
}

/// To be called for each request that a proxy answered with success. False if the test is to take it for a failure: the tenth of
/// this process, under the lie `refused`.
pub fn answered() -> bool {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    !is_the_tenth(&COUNT)
}

/// Returns `allowed`: whether the kernel let a user without privileges do something. Always true under the lie `granted`.
pub fn may(allowed: bool) -> bool {
    allowed || lie() == Some(&Lie::Granted)
}

/// The shorter of this limit and the seconds in `TRACER_TEST_WAIT`, which `cargo xtask test lies` sets. This limit if the
/// variable is not set, or is no whole number.
pub fn limit(limit: Duration) -> Duration {
    static LONGEST: LazyLock<Option<Duration>> = LazyLock::new(|| {
        let seconds = env::var(WAIT).ok()?.parse().ok()?;
        Some(Duration::from_secs(seconds))
    });
    LONGEST.map_or(limit, |longest| limit.min(longest))
}

/// [`digits`] of a line that is not JSON. A line of JSON, which begins with `{`, stays as it is.
fn plain_digits(line: &str) -> String {
    if line.starts_with('{') { line.to_owned() } else { digits(line) }
}

/// The line with each number one larger; numbers that are part of a word or an address stay.
fn digits(line: &str) -> String {
    let alone =
        |one: Option<char>| one.is_none_or(|one| one.is_whitespace() || ",%(/".contains(one));
    let mut changed = String::new();
    let mut rest = line;
    while let Some(start) = rest.find(|one: char| one.is_ascii_digit()) {
        let (before, from) = rest.split_at(start);
        changed.push_str(before);
        let end = from.find(|one: char| !one.is_ascii_digit()).unwrap_or(from.len());
        let (number, after) = from.split_at(end);
        match number.parse::<u64>() {
            Ok(value) if alone(changed.chars().next_back()) && alone(after.chars().next()) => {
                write!(changed, "{:01$}", value.wrapping_add(1), number.len()).ok();
            }
            _ => changed.push_str(number),
        }
        rest = after;
    }
    changed + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separate_numbers_are_one_larger() {
        assert_eq!(
            digits("10.1.0.1:7000 has 9 of 1,000 (96 %)"),
            "10.1.0.1:7000 has 10 of 2,001 (97 %)"
        );
    }

    #[test]
    fn an_unknown_lie_is_an_error() {
        for kind in ["", "lies", "other", "other:", "exit:0"] {
            assert!(Lie::parse(kind).is_err(), "{kind}");
        }
        assert_eq!(Lie::parse("other:a.b").unwrap(), Lie::Other("a.b".to_owned()));
    }

    #[test]
    fn a_recording_without_its_events_keeps_its_first_and_last_line() {
        assert_eq!(falsified(&Lie::Empty, Stream::File, "a\nb\nc\n"), "a\nc\n");
        assert_eq!(falsified(&Lie::Empty, Stream::Stderr, "a\n"), "a\n");
        assert_eq!(falsified(&Lie::Gap, Stream::File, "a\nb\nc\n"), "a\nc\n");
    }
}
