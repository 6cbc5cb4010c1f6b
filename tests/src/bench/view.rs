//! What `tracer top` costs with 10,000 tuples of which few change, compared with htop and btop.

mod cost;
mod load;

use std::{
    fmt::Write,
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::targets::Targets;
use crate::harness::{
    probe::no_programs,
    pty::{Pty, Size},
    tracer::{START_LIMIT, STOP_LIMIT, command},
};
use cost::{Cost, Keys};

const SCREEN: Size = Size(120, 40);
/// How long to wait before measuring, so that everything is shown and one-time work is done.
const WARM_UP: Duration = Duration::from_secs(5);
/// Longest time from a key to its effect; if the screen does not change by then, the measurement fails.
const KEY_LIMIT: Duration = Duration::from_secs(5);

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    /// For how many seconds the costs are measured; at least 1.
    pub seconds: u32,
    /// For how many keys the time is measured until the screen shows their effect.
    pub keys: u32,
}

impl Amount {
    /// For the tables of the document.
    pub const FULL: Self = Self { seconds: 60, keys: 30 };
    /// A quick run, which shows only that everything works.
    pub const QUICK: Self = Self { seconds: 5, keys: 6 };
}

/// Measures what `tracer top` costs, and htop and btop where they are installed. Returns the tables as Markdown.
///
/// # Errors
/// The connections cannot be made (10,000 need as many open files), or a program cannot be started, does not show what it
/// should, or does not end when asked to.
pub fn run(amount: Amount) -> Result<String> {
    let (top, keys) = load::during(|| top(amount))?;
    let mut text = format!(
        "{} tuples with a connection each, {} connections a second more; one reading a second on a terminal of {} × {}, \
         for {} s:\n\n\
         | | CPU, of a core | of it in the kernel | RSS | to the terminal | key to paint: median | max |\n\
         |---|--:|--:|--:|--:|--:|--:|\n",
        load::TUPLES,
        load::CHANGES,
        SCREEN.0,
        SCREEN.1,
        amount.seconds
    );
    let [median, max] = [keys.median_us, keys.max_us].map(milliseconds);
    // Writing to a String cannot fail.
    _ = writeln!(text, "| `tracer top` | {} | {median} | {max} |", columns(&top));
    for name in ["htop", "btop"] {
        _ = match no_programs(&[name]) {
            Some(_) => writeln!(text, "| {name} | not installed | | | | | |"),
            None => writeln!(text, "| {name} | {} | | |", columns(&other(name, amount)?)),
        };
    }
    text.push_str("\nRSS is without the mapped ring buffer, which only tracer has.\n\n");
    text.push_str(&judged(&top, &keys).table());
    Ok(text)
}

fn judged(top: &Cost, keys: &Keys) -> Targets {
    let mut targets = Targets::default();
    let mut judge = |what: &str, measured, met| {
        targets.judge(format!("`tracer top`, {} tuples: {what}", load::TUPLES), measured, met);
    };
    judge("≤ 1 % of a core", percent(top.cpu), top.cpu <= 0.01);
    judge("RSS without the ring ≤ 12 MiB", mebibytes(top.rss_kib), top.rss_kib <= 12 << 10);
    judge("key to paint ≤ 50 ms", milliseconds(keys.max_us), keys.max_us <= 50_000);
    judge("≤ 10 KiB/s to the terminal", kibibytes(top.bytes), top.bytes <= 10 << 10);
    targets
}

fn top(amount: Amount) -> Result<(Cost, Keys)> {
    let mut command = command(&["top", "-i", "1"])?;
    command.env_remove("NO_COLOR");
    let mut top = Pty::spawn(&command, SCREEN)?;
    top.wait("the first screen", START_LIMIT, |text| text.contains("[1 tuples]"))?;
    thread::sleep(WARM_UP);
    // The list's title has the number of tuples; the screen has no room for all of them.
    let all = shown_tuples(&top.text());
    ensure!(all >= Some(load::TUPLES), "not all tuples are there:\n{}", top.text());
    let cost = cost::of(&top, amount.seconds)?;
    let keys = keys(&mut top, amount.keys)?;
    top.signal(Signal::TERM)?;
    ensure!(top.wait_for_end(STOP_LIMIT)?.success(), "`tracer top` failed");
    Ok((cost, keys))
}

/// Number of tuples in the list, from its title: 10,000 for `1-33 of 10,000`. `None` if the screen has no such title.
fn shown_tuples(text: &str) -> Option<usize> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let places = words.windows(3).filter(|place| place[0].contains('-') && place[1] == "of");
    places.filter_map(|place| place[2].replace(',', "").parse().ok()).max()
}

/// Presses `count` keys that move the selection, and measures the time from each key until the screen shows the moved selection.
fn keys(top: &mut Pty, count: u32) -> Result<Keys> {
    let mut times = Vec::new();
    // Moves the selection to the middle of the list first: at the top, `k` could not move it up, and rows that change are sorted
    // to the top.
    top.press("jjjjjjjjjjjjjjj")?;
    thread::sleep(WARM_UP);
    for number in 0..count {
        // The pause differs, so that keys are pressed at different times between two readings, which are 1 s apart.
        thread::sleep(Duration::from_millis(u64::from(number * 331 % 1000)));
        let before = reversed(top);
        let pressed = Instant::now();
        top.press(if number % 2 == 0 { "j" } else { "k" })?;
        while reversed(top) == before {
            ensure!(pressed.elapsed() < KEY_LIMIT, "a key moves nothing:\n{}", top.text());
            thread::sleep(Duration::from_micros(200));
        }
        times.push(u64::try_from(pressed.elapsed().as_micros())?);
    }
    Ok(Keys::new(times))
}

/// The rows of the screen in reverse video; the selected row is one of them.
fn reversed(top: &Pty) -> Vec<u16> {
    let screen = top.screen();
    let is = |row: &u16| screen.cell(*row, 1).is_some_and(vt100::Cell::inverse);
    (0..SCREEN.1).filter(is).collect()
}

/// What htop or btop costs, with one update a second.
fn other(name: &str, amount: Amount) -> Result<Cost> {
    let folder = tempfile::tempdir()?;
    let mut command = Command::new(name);
    // The program gets an empty home: it reads and writes its user's configuration.
    command.env("XDG_CONFIG_HOME", folder.path()).env("HOME", folder.path()).env("LANG", "C.UTF-8");
    if name == "htop" {
        command.args(["--interval", "10"]);
    } else {
        fs::create_dir(folder.path().join("btop"))?;
        fs::write(folder.path().join("btop/btop.conf"), "update_ms = 1000\n")?;
        command.arg("--utf-force");
    }
    let mut program = Pty::spawn(&command, SCREEN)?;
    program.wait(name, START_LIMIT, |text| text.split_whitespace().count() > 20)?;
    thread::sleep(WARM_UP);
    let cost = cost::of(&program, amount.seconds)?;
    program.press("q")?;
    program.wait_for_end(STOP_LIMIT).with_context(|| format!("{name} did not end by q"))?;
    Ok(cost)
}

fn columns(cost: &Cost) -> String {
    [percent(cost.cpu), percent(cost.system), mebibytes(cost.rss_kib), kibibytes(cost.bytes)]
        .join(" | ")
}

fn percent(part: f64) -> String {
    format!("{:.2} %", part * 100.0)
}

fn milliseconds(us: u64) -> String {
    format!("{}.{} ms", us / 1000, us % 1000 / 100)
}

fn mebibytes(kib: u64) -> String {
    format!("{}.{} MiB", kib / 1024, kib % 1024 * 10 / 1024)
}

fn kibibytes(bytes: u64) -> String {
    format!("{}.{} KiB/s", bytes / 1024, bytes % 1024 * 10 / 1024)
}
