//! `TRACER_TEST_LIE`: what the tests read of the program and of the kernel is changed on purpose. A test that passes all
//! the same does not look at it. `cargo xtask test lies` chooses the lies, and names the tests that none makes fail.

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

use crate::harness::{oracle::Table, outsider::Answer};

const VARIABLE: &str = "TRACER_TEST_LIE";
/// Seconds that a test waits for a condition at most: under a lie most conditions never come.
const WAIT: &str = "TRACER_TEST_WAIT";

/// One way to read something else than what is there. A KEY is that of a JSON object, at any depth; a `*` at its end stands
/// for any ending.
#[derive(Debug, Eq, PartialEq)]
enum Lie {
    /// `exit`: the program fails where it succeeded, and the other way round.
    Exit,
    /// `silence`: nothing is on stderr.
    Silence,
    /// `noise`: stderr has one line more.
    Noise,
    /// `empty`: nothing is on stdout, and a recording has its first and its last line.
    Empty,
    /// `gap`: the line in the middle of what is on stdout or in a file is not there.
    Gap,
    /// `digits`: each number in text that is not JSON is one larger.
    Digits,
    /// `screen`: nothing is on the screen.
    Screen,
    /// `other:KEY`: the value at this key is another one.
    Other(String),
    /// `zero:KEY`: the numbers at this key are 0.
    Zero(String),
    /// `double:KEY`: the numbers at this key are twice as large.
    Double(String),
    /// `added:KEY`: each row of a tuple has this key, with 1.
    Added(String),
    /// `without:NAME`: no line of this event, and nothing at this key.
    Without(String),
    /// `twice:NAME`: each line of this event comes twice, as does each element of a list at this key.
    Twice(String),
    /// `kernel`: the kernel has one port more in use in each tuple, and each thread has all capabilities.
    Kernel,
    /// `source`: the kernel says that a connection of the application comes from another address.
    Source,
    /// `unspread`: it says that one comes from its destination's own address, as without a rule.
    Unspread,
    /// `refused`: the kernel has no port for what would be the tenth connection of a process, and a proxy no connection for
    /// its tenth answer.
    Refused,
    /// `granted`: the kernel lets an outsider, or another user, do what it refuses.
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

/// Fails where the variable names no lie that there is.
pub fn check() -> Result<()> {
    LIE.as_ref().map(drop).map_err(|error| anyhow::anyhow!("{error:#}"))
}

fn lie() -> Option<&'static Lie> {
    LIE.as_ref().ok()?.as_ref()
}

/// Where text of the program was read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stream {
    Stdout,
    Stderr,
    File,
}

/// A pipe of a child process.
pub trait Pipe {
    const STREAM: Stream;
}

impl Pipe for ChildStdout {
    const STREAM: Stream = Stream::Stdout;
}

impl Pipe for ChildStderr {
    const STREAM: Stream = Stream::Stderr;
}

/// What the program wrote there.
pub fn text(stream: Stream, text: String) -> String {
    lie().map_or_else(|| text.clone(), |lie| told(lie, stream, &text))
}

fn told(lie: &Lie, stream: Stream, text: &str) -> String {
    match (lie, stream) {
        (Lie::Silence, Stream::Stderr) | (Lie::Empty, Stream::Stdout) => String::new(),
        (Lie::Noise, Stream::Stderr) => format!("{text}error: one line more\n"),
        (Lie::Empty, Stream::File) => ends(text),
        (Lie::Gap, Stream::Stdout | Stream::File) => with_a_gap(text),
        (Lie::Digits, _) => text.split_inclusive('\n').map(plain_digits).collect(),
        _ => json::text(lie, text),
    }
}

/// The first and the last line.
fn ends(text: &str) -> String {
    let mut lines = text.split_inclusive('\n');
    let first = lines.next().unwrap_or_default();
    first.to_owned() + lines.next_back().unwrap_or_default()
}

/// Without the line in the middle.
fn with_a_gap(text: &str) -> String {
    let middle = text.lines().count() / 2;
    let lines = text.split_inclusive('\n').enumerate();
    lines.filter(|(number, _)| *number != middle).map(|(_, line)| line).collect()
}

/// A file that the program wrote.
pub fn file(path: impl AsRef<Path>) -> Result<String> {
    read(Stream::File, path.as_ref())
}

/// A file that was its stderr.
pub fn log(path: impl AsRef<Path>) -> Result<String> {
    read(Stream::Stderr, path.as_ref())
}

fn read(stream: Stream, path: &Path) -> Result<String> {
    let read = fs::read_to_string(path);
    Ok(text(stream, read.with_context(|| format!("cannot read {}", path.display()))?))
}

/// A line of JSON that the program wrote.
pub fn line(line: &str) -> Result<Value> {
    let told = lie().map_or_else(|| line.to_owned(), |lie| json::text(lie, line));
    serde_json::from_str(&told).with_context(|| format!("bad line {told:?}"))
}

/// What is on the screen.
pub fn screen(text: String) -> String {
    match lie() {
        Some(Lie::Screen) => String::new(),
        Some(Lie::Digits) => text.split_inclusive('\n').map(digits).collect(),
        _ => text,
    }
}

/// How the program ended.
pub fn status(status: ExitStatus) -> ExitStatus {
    match lie() {
        Some(Lie::Exit) if status.success() => ExitStatus::from_raw(1 << 8),
        Some(Lie::Exit) => ExitStatus::from_raw(0),
        _ => status,
    }
}

/// The tuples that the kernel has.
pub fn table(mut table: Table) -> Table {
    if lie() == Some(&Lie::Kernel) {
        for sockets in table.values_mut() {
            sockets.in_use += 1;
        }
    }
    table
}

/// What /proc says of a thread of the program.
pub fn thread(status: String) -> String {
    if lie() != Some(&Lie::Kernel) {
        return status;
    }
    let told = |line: &str| match line.split_once('\t') {
        Some((set, _)) if set.starts_with("Cap") => format!("{set}\t{:x}\n", u64::MAX),
        _ => line.to_owned(),
    };
    status.split_inclusive('\n').map(told).collect()
}

/// The address that the kernel says a connection comes from.
pub fn source(address: IpAddr, destination: Option<IpAddr>) -> IpAddr {
    match (lie(), destination) {
        (Some(Lie::Source), _) => another(address),
        (Some(Lie::Unspread), Some(destination)) => destination,
        _ => address,
    }
}

/// An address for documentation, which no test uses.
fn another(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::from([192, 0, 2, 1]),
        IpAddr::V6(_) => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
    }
}

/// The success that is taken for a failure: every test that needs ten of them meets it once.
const TENTH: u64 = 10;

fn is_the_tenth(count: &AtomicU64) -> bool {
    lie() == Some(&Lie::Refused) && count.fetch_add(1, Ordering::Relaxed) + 1 == TENTH
}

/// What came of a connect().
pub fn connected(result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    result?;
    if is_the_tenth(&COUNT) { Err(Errno::ADDRNOTAVAIL) } else { Ok(()) }
}

/// Whether a success that a proxy answered is one.
pub fn answered() -> bool {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    !is_the_tenth(&COUNT)
}

/// Whether the kernel lets a user without privileges do something.
pub fn may(allowed: bool) -> bool {
    allowed || lie() == Some(&Lie::Granted)
}

/// Whether the kernel refused what an outsider tried.
pub fn refused(answer: Answer) -> Answer {
    match answer {
        Answer::Refused(..) if lie() == Some(&Lie::Granted) => Answer::Done(Vec::new()),
        _ => answer,
    }
}

/// How long a test may wait for a condition that it would give so long.
pub fn limit(limit: Duration) -> Duration {
    static LONGEST: LazyLock<Option<Duration>> = LazyLock::new(|| {
        let seconds = env::var(WAIT).ok()?.parse().ok()?;
        Some(Duration::from_secs(seconds))
    });
    LONGEST.map_or(limit, |longest| limit.min(longest))
}

/// [`digits`], but of a line that is not JSON.
fn plain_digits(line: &str) -> String {
    if line.starts_with('{') { line.to_owned() } else { digits(line) }
}

/// Each number that stands alone is one larger: those of an address, and of a word, stay.
fn digits(line: &str) -> String {
    let alone =
        |one: Option<char>| one.is_none_or(|one| one.is_whitespace() || ",%(/".contains(one));
    let mut told = String::new();
    let mut rest = line;
    while let Some(start) = rest.find(|one: char| one.is_ascii_digit()) {
        let (before, from) = rest.split_at(start);
        told.push_str(before);
        let end = from.find(|one: char| !one.is_ascii_digit()).unwrap_or(from.len());
        let (number, after) = from.split_at(end);
        match number.parse::<u64>() {
            Ok(value) if alone(told.chars().next_back()) && alone(after.chars().next()) => {
                write!(told, "{:01$}", value.wrapping_add(1), number.len()).ok();
            }
            _ => told.push_str(number),
        }
        rest = after;
    }
    told + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_stand_alone_are_one_larger() {
        assert_eq!(
            digits("10.1.0.1:7000 has 9 of 1,000 (96 %)"),
            "10.1.0.1:7000 has 10 of 2,001 (97 %)"
        );
    }

    #[test]
    fn a_lie_that_there_is_not_is_an_error() {
        for kind in ["", "lies", "other", "other:", "exit:0"] {
            assert!(Lie::parse(kind).is_err(), "{kind}");
        }
        assert_eq!(Lie::parse("other:a.b").unwrap(), Lie::Other("a.b".to_owned()));
    }

    #[test]
    fn a_recording_without_its_events_has_its_ends() {
        assert_eq!(told(&Lie::Empty, Stream::File, "a\nb\nc\n"), "a\nc\n");
        assert_eq!(told(&Lie::Empty, Stream::Stderr, "a\n"), "a\n");
        assert_eq!(told(&Lie::Gap, Stream::File, "a\nb\nc\n"), "a\nc\n");
    }
}
