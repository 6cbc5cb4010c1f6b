//! What has a deadline does not wait: the lease is renewed and a removed address leaves the rule while the
//! agent's other work stands still.
#![expect(unsafe_code, reason = "ptrace(2)")]

use std::{
    ffi::c_void,
    fs::{self, File},
    io::{self, Read},
    net::IpAddr,
    path::Path,
    ptr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::{fs::OFlags, io::ioctl_fionread};

use super::{begin, none_spread};
use crate::{
    cases::{
        Case,
        errors::{USAGE, says},
        spread::{Host, POOL, Test, load::Load, named},
    },
    probe::Place,
    tracer::{START_LIMIT, run, wait_for},
};

pub(super) fn cases() -> Vec<Case> {
    let tests: &[Test] = &[
        ("deadlines_with_an_output_that_nobody_reads", unread_output),
        ("deadlines_with_a_comparison_that_does_not_end", endless_comparison),
        ("lease_shorter_than_its_renewals", short_lease),
    ];
    named("spread::fail_open", tests)
}

/// The shortest lease that a busy machine keeps.
const LEASE: Duration = Duration::from_secs(1);
/// How soon a removed address must be out of the rule.
const OUT_LIMIT: Duration = Duration::from_millis(100);

/// Over more than two leases every connection is spread; a removed address is out of the rule in time.
fn deadlines_hold(host: &Host, load: &Load) -> Result<()> {
    let lease = Place::get().limit(LEASE);
    let unspread = load.unspread();
    thread::sleep(lease * 5 / 2);
    ensure!(load.unspread() == unspread, "a living agent's lease was over");
    let gone: IpAddr = POOL[1].parse()?;
    load.forgive_one();
    host.stage.netns.ip(&format!("addr del {gone}/32 dev lo"))?;
    thread::sleep(Place::get().limit(OUT_LIMIT));
    let refused = host.rule.status()?.decided("refused")?;
    let unspread = load.unspread();
    let made = load.go_on(200)?;
    ensure!(made.len() == 3 && !made.contains_key(&gone), "without {gone}: {made:?}");
    ensure!(load.unspread() == unspread, "{} went unspread", load.unspread() - unspread);
    let still = host.rule.status()?.decided("refused")?;
    ensure!(still == refused, "the rule has {gone} still: refused {refused}, then {still} times");
    Ok(())
}

fn arguments(lease: Duration) -> Vec<String> {
    ["--lease", &lease.as_secs().to_string()].map(str::to_owned).into()
}

/// A FIFO that is full.
fn unread_output() -> Result<()> {
    let host = Host::new()?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("lines");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )?;
    let reader = open_fifo(&path)?;
    let output = path.to_string_lossy().into_owned();
    let mut arguments = arguments(Place::get().limit(LEASE));
    arguments.extend(["--decisions".into(), "all".into(), "-o".into(), output]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Load::start(&host)?.around(|load| {
        let spread = begin(&host, load, &arguments)?;
        wait_for("the FIFO to be full", START_LIMIT, || {
            Ok((ioctl_fionread(&reader)? > 60_000).then_some(()))
        })?;
        deadlines_hold(&host, load)?;
        // Read again, it goes on and ends well.
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| drain(&reader, &stop));
            let ended = spread.stop();
            stop.store(true, Ordering::Relaxed);
            ended
        })?;
        none_spread(load)?;
        host.rule.check_nothing_left()
    })
}

fn open_fifo(path: &Path) -> Result<File> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, rustix::fs::Mode::empty())?.into())
}

fn drain(mut reader: &File, stop: &AtomicBool) {
    let mut piece = vec![0; 1 << 16];
    while !stop.load(Ordering::Relaxed) {
        if reader.read(&mut piece).is_err() {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The thread that reads the sockets of namespaces stands still in the middle of it.
fn endless_comparison() -> Result<()> {
    let host = Host::new()?;
    let arguments = arguments(Place::get().limit(LEASE));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Load::start(&host)?.around(|load| {
        let spread = begin(&host, load, &arguments)?;
        let held = Held::threads(spread.process.id(), "netns")?;
        deadlines_hold(&host, load)?;
        drop(held);
        spread.stop()?;
        none_spread(load)?;
        host.rule.check_nothing_left()
    })
}

/// Threads that are stopped, as by a debugger; they go on when this is dropped.
struct Held(Vec<libc::pid_t>);

impl Held {
    /// Those of a process that have this name.
    fn threads(process: u32, name: &str) -> Result<Self> {
        let mut held = Self(Vec::new());
        for thread in fs::read_dir(format!("/proc/{process}/task"))? {
            let thread = thread?;
            if fs::read_to_string(thread.path().join("comm"))?.trim_end() == name {
                let id = thread.file_name().to_string_lossy().parse()?;
                held.hold(id).with_context(|| format!("cannot stop thread {id}"))?;
            }
        }
        if held.0.is_empty() {
            bail!("no thread of {process} is called {name}");
        }
        Ok(held)
    }

    fn hold(&mut self, id: libc::pid_t) -> io::Result<()> {
        trace(libc::PTRACE_SEIZE, id)?;
        self.0.push(id);
        trace(libc::PTRACE_INTERRUPT, id)?;
        // SAFETY: no status is wanted.
        let waited = unsafe { libc::waitpid(id, ptr::null_mut(), libc::__WALL) };
        if waited == id { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for id in &self.0 {
            // One that has ended need not go on.
            trace(libc::PTRACE_DETACH, *id).ok();
        }
    }
}

fn trace(request: libc::c_uint, id: libc::pid_t) -> io::Result<()> {
    let none = ptr::null_mut::<c_void>();
    // SAFETY: none of these requests writes to memory of this process.
    let result = unsafe { libc::ptrace(request, id, none, none) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// It would be over again and again under a living agent.
fn short_lease() -> Result<()> {
    let host = Host::new()?;
    let cgroup = host.cgroup.path().to_string_lossy().into_owned();
    for lease in ["0.1", "0.499"] {
        let arguments = ["--pool", POOL[0], "--cgroup", &cgroup, "--lease", lease];
        let ended = run(&mut host.rule.command(&arguments)?, START_LIMIT)?;
        says(&ended, &[USAGE], &[lease, "0.5 seconds at least"])?;
    }
    host.rule.check_nothing_left()
}
