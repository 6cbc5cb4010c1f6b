//! `cargo xtask test vm`: the tests on every kernel of the matrix (how many of them: [`kernels::Depths`]), in emulated guests.

use std::{
    cmp::Reverse, collections::VecDeque, fs, num::NonZero, path::Path, sync::Mutex, thread,
    time::Instant,
};

use anyhow::{Context as _, Result};

use crate::report::Suite;
use guest::{ALIVE, Payload};
use kernels::{KERNELS, Kernel, Matrix};
use modules::Tree;
use qemu::{Emulator, End};

mod fetch;
pub(crate) mod guest;
mod initramfs;
pub(crate) mod kernels;
mod modules;
mod qemu;
mod sources;

/// The most times that a guest is booted, if its kernel hangs or ends before the tests begin.
const BOOTS: u32 = 3;

/// Fetches busybox, QEMU and the kernels, so that later runs work offline. Fails if one of them cannot be fetched.
pub(crate) fn prepare() -> Result<()> {
    fetch::busybox()?;
    Emulator::find()?;
    KERNELS.iter().try_for_each(|kernel| fetch::kernel(kernel).map(drop))
}

/// Runs the tests on every kernel, or if `only` is not empty, on those of its versions (one that [`KERNELS`] does not have is
/// ignored); returns one suite for each, in the order of [`KERNELS`]. A guest that cannot be booted is a failure in its suite.
/// `host` runs on the calling thread at the same time as the first guests: one fewer than this machine has CPUs, at least one.
/// When `host` has returned, one more guest runs. A guest that gets too little of a CPU is interrupted after fewer instructions:
/// its kernel then skips hooks, and the other end of a connection closes before it has got a FIN.
pub(crate) fn test(
    payload: &Payload,
    matrix: Matrix,
    only: &[String],
    host: impl FnOnce(),
) -> Vec<Suite> {
    let wanted =
        |kernel: &&Kernel| only.is_empty() || only.iter().any(|version| version == kernel.version);
    let mut queue: Vec<&Kernel> = KERNELS.iter().filter(wanted).collect();
    // The kernels with most tests, which take longest, come first.
    queue.sort_by_key(|kernel| Reverse(kernel.depth(matrix)));
    let queue = Mutex::new(VecDeque::from(queue));
    let suites = Mutex::new(Vec::new());
    let next = || queue.lock().ok()?.pop_front();
    let work = || {
        while let Some(kernel) = next() {
            let suite = one(kernel, matrix, payload);
            if let Ok(mut suites) = suites.lock() {
                suites.push((kernel.version, suite));
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..cores().saturating_sub(1).max(1) {
            scope.spawn(work);
        }
        host();
        scope.spawn(work);
    });
    let mut suites = suites.into_inner().unwrap_or_default();
    let place = |version: &str| KERNELS.iter().position(|kernel| kernel.version == version);
    suites.sort_by_key(|(version, _)| place(version));
    suites.into_iter().map(|(_, suite)| suite).collect()
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

fn one(kernel: &Kernel, matrix: Matrix, payload: &Payload) -> Suite {
    let name = format!("vm {}", kernel.version);
    let start = Instant::now();
    let mut suite = boots(kernel, matrix, payload, &name).unwrap_or_else(|error| {
        let mut suite = Suite::new(&name);
        suite.fail("the guest", &format!("{error:#}"));
        suite
    });
    suite.seconds = start.elapsed().as_secs();
    suite
}

/// Boots the guest and runs its tests. If the guest hangs or ends before its script prints anything, it is booted
/// again, in all [`BOOTS`] times at most, and the suite has a note about each such boot. If the guest hangs or ends
/// later without a result, the suite has failed, because the tests may be the cause. The suite has failed, too, if no
/// boot came as far as the tests.
fn boots(kernel: &Kernel, matrix: Matrix, payload: &Payload, name: &str) -> Result<Suite> {
    let emulator = Emulator::find()?;
    let tree = Tree::read(&fetch::kernel(kernel)?)?;
    let home = fetch::home().join("guests").join(kernel.version);
    fs::create_dir_all(&home).with_context(|| format!("cannot create {}", home.display()))?;
    let initramfs = home.join("initramfs.cpio");
    fs::write(&initramfs, guest::initramfs(kernel, kernel.depth(matrix), &tree, payload)?)?;
    let mut notes = Vec::new();
    for boot in 1..=BOOTS {
        let (console, results) =
            (home.join(format!("console-{boot}.log")), home.join(format!("results-{boot}.log")));
        let files = qemu::Files {
            vmlinuz: &tree.vmlinuz,
            initramfs: &initramfs,
            console: &console,
            results: &results,
        };
        let mut suite = Suite::new(name);
        let start = Instant::now();
        let mut began = false;
        let end = qemu::boot(&emulator, &files, |line| {
            began = true;
            println!("[{} {:>4} s] {line}", kernel.version, start.elapsed().as_secs());
            suite.line(line);
        })?;
        if let End::Exit(code) = end {
            suite.exit(code);
            suite.notes.append(&mut notes);
            return Ok(suite);
        }
        let what = if end == End::Hung { "hung and was ended" } else { "ended without a result" };
        let note =
            format!("boot {boot} {what}; see {} and {}", console.display(), results.display());
        println!("[{}] {note}", kernel.version);
        println!("{}", last_lines(&console)?);
        if began {
            suite.fail("the guest", &note);
            suite.notes.append(&mut notes);
            return Ok(suite);
        }
        notes.push(note);
    }
    let mut suite = Suite::new(name);
    suite.fail("the guest", &format!("no boot came as far as the tests; {}", notes.join("; ")));
    Ok(suite)
}

/// The last 60 lines of the kernel's messages, for a log from a machine on which nobody can read the file.
fn last_lines(console: &Path) -> Result<String> {
    const LINES: usize = 60;
    let bytes = fs::read(console).with_context(|| format!("cannot read {}", console.display()))?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| *line != ALIVE).collect();
    Ok(lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default().join("\n"))
}
