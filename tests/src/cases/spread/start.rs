//! `spread::start`: `tracer spread` gets signals at any time, hangs, or runs with other mounts than the host's: an interrupted
//! start leaves nothing, an active rule spreads, and its release leaves nothing.

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::{Case, Host, POOL, Plan, full_pipe::FullPipe, source};
use crate::harness::{
    held::Held,
    lie,
    mounts::{SecondBpffs, with_bare_sys},
    probe::Place,
    process::Process,
    tracer::{START_LIMIT, run, wait_for},
};

pub(super) fn cases(plan: &Plan) -> Vec<Case> {
    plan.group("spread::start")
        .once(&[
            ("signals_at_any_moment", signals_at_any_moment),
            ("signals_while_it_takes_over", signals_while_it_takes_over),
            ("signals_while_it_waits_for_its_output", signals_while_it_waits),
            ("forced_undo_of_a_start_that_hangs", start_that_hangs),
            ("forced_undo_of_an_agent_that_hangs", agent_that_hangs),
            ("by_a_command_with_mounts_of_its_own", by_a_command_with_mounts_of_its_own),
            ("another_bpffs_over_the_first_one", another_bpffs),
            ("pins_gone_under_a_stopped_agent", pins_gone),
        ])
        .cases()
}

/// How long the end may take: 1 s, and 50 ms for the test itself.
const SOON: Duration = Duration::from_millis(1050);
/// Into how many parts a start is divided; a signal is sent at the beginning of each, and at the end of the last.
const MOMENTS: u32 = 4;
const SIGNALS: [Signal; 3] = [Signal::INT, Signal::TERM, Signal::HUP];

fn arguments<'a>(cgroup: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec!["--cgroup", cgroup];
    all.extend(POOL.iter().flat_map(|address| ["--pool", address]));
    all.extend(more);
    all
}

/// Starts `tracer spread`, sends it a signal after this time, and waits for its end. Returns whether the rule was active by then.
/// An agent that has started goes on after SIGHUP, and is then ended by SIGTERM.
///
/// # Errors
/// The end takes longer than [`SOON`], or stderr has an error.
fn interrupted(host: &Host, more: &[&str], signal: Signal, after: Duration) -> Result<bool> {
    let cgroup = host.cgroup.path().to_string_lossy();
    let folder = tempfile::tempdir()?;
    let log = folder.path().join("stderr");
    let mut command = host.rule.command(&arguments(&cgroup, more))?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log)?);
    let mut process = host.stage.netns.run(|| Process::spawn(&mut command))?;
    let begun = Instant::now();
    std::thread::sleep(after.saturating_sub(begun.elapsed()));
    process.signal(signal)?;
    let asked = Instant::now();
    let limit = Place::get().limit(SOON);
    let begun = || -> Result<bool> {
        Ok(fs::read_to_string(&log)?.contains(&format!("rule {}: ", host.rule.name())))
    };
    if signal == Signal::HUP && process.wait(SOON).is_err() {
        // An agent that has started reopens its output on SIGHUP.
        ensure!(begun()?, "SIGHUP after {after:?}: it has not ended");
        process.signal(Signal::TERM)?;
        process.wait(START_LIMIT)?;
        return Ok(true);
    }
    let status = process.wait(Duration::from_secs(10))?;
    let took = asked.elapsed();
    let text = lie::log(&log)?;
    ensure!(took <= limit, "{signal:?} after {after:?}: it took {took:?}, {status}: {text}");
    ensure!(!text.contains("error:"), "{signal:?} after {after:?}: {text}");
    begun()
}

fn nothing_left(host: &Host, when: &str) -> Result<()> {
    host.rule.check_nothing_left().with_context(|| when.to_owned())?;
    // The kernel frees a link some time after its last reference is gone.
    wait_for("the programs to go", Duration::from_secs(2), || {
        Ok((host.cgroup.attached()? == 0).then_some(()))
    })
    .with_context(|| when.to_owned())
}

/// How long a start takes without a signal.
fn of_a_start(host: &Host, more: &[&str]) -> Result<Duration> {
    let begun = Instant::now();
    let spread = host.spread(&POOL, more)?;
    let took = begun.elapsed();
    spread.stop()?;
    Ok(took)
}

/// A signal comes at one of several moments between the start of the process and the active rule: the process ends within a
/// second ([`SOON`]) without an error, and nothing is left of the rule. Each of the three signals is tried at five moments, which
/// differ from those of the other two.
fn signals_at_any_moment() -> Result<()> {
    let host = Host::new()?;
    let step = of_a_start(&host, &[])? / MOMENTS;
    for (number, signal) in (0_u32..).zip(SIGNALS) {
        for turn in 0..=MOMENTS {
            let after = step * turn + step / 3 * number;
            interrupted(&host, &["--on-exit", "release"], signal, after)?;
            nothing_left(&host, &format!("{signal:?} after {after:?}"))?;
        }
    }
    Ok(())
}

/// Names of the pins in this folder, sorted; an error if there is no such folder.
fn pinned(folder: &Path) -> Result<Vec<String>> {
    let names =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// SIGTERM comes at one of several moments while a new agent takes over a rule: the same links are pinned and as many programs
/// attached as the earlier agent left, and connections are still spread.
fn signals_while_it_takes_over() -> Result<()> {
    const KEEP: [&str; 2] = ["--on-exit", "keep"];
    let mut host = Host::new()?;
    let server = host.server("10.1.0.1:7000")?;
    of_a_start(&host, &KEEP)?;
    let step = of_a_start(&host, &KEEP)? / MOMENTS;
    let links = host.rule.pins().join("links");
    let (before, attached) = (pinned(&links)?, host.cgroup.attached()?);
    for turn in 0..=MOMENTS {
        let after = step * turn;
        interrupted(&host, &KEEP, Signal::TERM, after)?;
        let now = pinned(&links)?;
        ensure!(now == before, "after {after:?}: {before:?}, then {now:?}");
        wait_for("as many programs as before", Duration::from_secs(2), || {
            Ok((host.cgroup.attached()? == attached).then_some(()))
        })?;
        let from = source(&host.connect(server.address)?)?.to_string();
        ensure!(POOL.contains(&&*from), "after {after:?} nothing is spread: {from}");
    }
    let released = host.rule.release()?;
    ensure!(released.code() == 0, "{released:?}");
    nothing_left(&host, "released")
}

/// The output is a FIFO: without a reader it does not delay the start, and when it is full the agent ends within a second of a
/// signal all the same, with exit code 1, and reports that lines are lost.
fn signals_while_it_waits() -> Result<()> {
    let host = Host::new()?;
    let folder = tempfile::tempdir()?;
    let fifo = folder.path().join("fifo");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0)?;
    host.spread(&POOL, &["--output", &fifo.to_string_lossy()])?.stop()?;
    nothing_left(&host, "a FIFO without a reader")?;

    let pipe = FullPipe::new()?;
    pipe.fill();
    let output = pipe.path();
    for signal in [Signal::INT, Signal::TERM] {
        let spread = host.spread(&POOL, &["--output", &output.to_string_lossy()])?;
        // After this time the agent waits in a write, which it gives up 0.5 s after the signal, however long it has waited
        // before.
        std::thread::sleep(Duration::from_millis(500));
        let asked = Instant::now();
        spread.process.signal(signal)?;
        let ended = spread.wait()?;
        let took = asked.elapsed();
        ensure!(took <= SOON, "{signal:?}: it took {took:?}: {ended:?}");
        let words = ["the output is blocked", "unwritten lines are lost", "the rule has ended"];
        let reported = words.iter().all(|word| ended.stderr.contains(word));
        ensure!(ended.code() == 1 && reported, "{signal:?}: {ended:?}");
        nothing_left(&host, &format!("{signal:?}"))?;
    }
    Ok(())
}

/// Stops the thread that does the start once `at` returns true for the names of the pinned links, sends SIGTERM, and waits for
/// the end: within [`SOON`], by SIGTERM, and without a text on stderr. Tries up to ten times to stop the thread at that moment.
fn hung(host: &Host, more: &[&str], at: impl Fn(&[String]) -> bool) -> Result<()> {
    let cgroup = host.cgroup.path().to_string_lossy();
    let links = host.rule.pins().join("links");
    let mut tries = 0;
    loop {
        let folder = tempfile::tempdir()?;
        let log = folder.path().join("stderr");
        let mut command = host.rule.command(&arguments(&cgroup, more))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log)?);
        let mut process = host.stage.netns.run(|| Process::spawn(&mut command))?;
        // A busy loop, because the moment to wait for can be shorter than a sleep.
        let end = Instant::now() + START_LIMIT;
        let begun = || Ok::<_, anyhow::Error>(fs::read_to_string(&log)?.contains("rule "));
        while !pinned(&links).is_ok_and(|links| at(&links)) && !begun()? {
            ensure!(Instant::now() < end, "it pins nothing: {}", fs::read_to_string(&log)?);
        }
        let held = Held::threads(process.id(), "tracer")?;
        let begun = begun()? || !at(&pinned(&links)?);
        let asked = Instant::now();
        process.signal(Signal::TERM)?;
        if begun {
            // The start went on before the thread was stopped: try again.
            drop(held);
            process.wait(START_LIMIT)?;
            tries += 1;
            ensure!(tries < 10, "no start could be held in time");
            continue;
        }
        let status = held.wait(&mut process, Duration::from_secs(10))?;
        let took = asked.elapsed();
        let text = lie::log(&log)?;
        let right = status.signal() == Some(Signal::TERM.as_raw()) && text.is_empty();
        ensure!(took <= SOON && right, "it took {took:?}, {status}: {text}");
        return Ok(());
    }
}

/// The thread that does the start is stopped and cannot see the signal: another thread undoes what the start has made, within a
/// second. Of a new rule nothing is left; a rule that was being taken over is as before.
fn start_that_hangs() -> Result<()> {
    const KEEP: [&str; 2] = ["--on-exit", "keep"];
    let host = Host::new()?;
    hung(&host, &["--on-exit", "release"], |links| !links.is_empty())?;
    nothing_left(&host, "a start that hung")?;
    of_a_start(&host, &KEEP)?;
    let links = host.rule.pins().join("links");
    let (before, attached) = (pinned(&links)?, host.cgroup.attached()?);
    hung(&host, &KEEP, |links| links.iter().any(|name| name.ends_with("_new")))?;
    let now = pinned(&links)?;
    ensure!(now == before, "{before:?}, then {now:?}");
    wait_for("as many programs as before", Duration::from_secs(2), || {
        Ok((host.cgroup.attached()? == attached).then_some(()))
    })?;
    let released = host.rule.release()?;
    ensure!(released.code() == 0, "{released:?}");
    nothing_left(&host, "released")
}

/// One of the agent's threads is stopped: after SIGTERM the rule ends within a second all the same. If the thread is `netns`, the
/// exit code is 0; otherwise the exit code is 1, and stderr says what did not end.
fn agent_that_hangs() -> Result<()> {
    let host = Host::new()?;
    for (thread, code) in [("tracer-work", 1), ("keeper", 1), ("netns", 0)] {
        let mut spread = host.spread(&POOL, &[])?;
        let id = spread.process.id();
        let held = wait_for("its thread", START_LIMIT, || Ok(Held::threads(id, thread).ok()))?;
        let asked = Instant::now();
        spread.process.signal(Signal::TERM)?;
        let status = held.wait(&mut spread.process, Duration::from_secs(10));
        let status = status.with_context(|| format!("{thread}: {}", spread.stderr()))?;
        let took = asked.elapsed();
        let stderr = spread.stderr();
        ensure!(took <= SOON, "{thread}: it took {took:?}, {status}: {stderr}");
        ensure!(status.code() == Some(code), "{thread}: {status}: {stderr}");
        let reported = stderr.contains("does not end") && stderr.contains("the rule has ended");
        ensure!(reported == (code == 1), "{thread}: {stderr}");
        nothing_left(&host, thread)?;
    }
    Ok(())
}

/// The pins and the lock of a rule are removed while its agent is stopped: the rule is still active by the agent's descriptors,
/// and tracer finds it by the loaded programs: the status has its counts, a new start takes it over, and `--release` detaches
/// everything.
fn pins_gone() -> Result<()> {
    let mut host = Host::new()?;
    let server = host.server("10.1.0.1:7000")?;
    let agent = host.spread(&POOL, &["--on-exit", "keep"])?;
    let attached = host.cgroup.attached()?;
    agent.process.signal(Signal::STOP)?;
    fs::remove_dir_all(host.rule.pins())?;
    fs::remove_file(format!("/run/tracer/spread-{}.lock", host.rule.name()))?;
    let _held = host.connect(server.address)?;
    let status = host.rule.status()?;
    ensure!(
        status.spread()? == 1 && status.pins == "not found in any reachable bpffs",
        "{status:?}"
    );
    // A new start takes the rule over, and does not attach its programs a second time.
    host.spread(&POOL, &["--on-exit", "keep"])?.stop()?;
    let twice = host.cgroup.attached()?;
    ensure!(twice == attached, "{attached} programs were attached, then {twice}");
    ensure!(host.rule.status()?.spread()? == 1, "{:?}", host.rule.status()?);
    let released = host.rule.release()?;
    // The stopped agent still has its descriptors, which keep nothing attached.
    ensure!(released.code() == 0, "{released:?}");
    nothing_left(&host, "released")?;
    agent.kill()
}

/// `tracer spread --detach` runs as under `ip netns exec`: the command's mounts end with the command, but the rule spreads, its
/// pins are where they always are, and its status counts. Such a command can also release it.
fn by_a_command_with_mounts_of_its_own() -> Result<()> {
    let mut host = Host::new()?;
    let server = host.server("10.1.0.1:7000")?;
    // The cgroup's path as in /proc/PID/cgroup, because the mount is hidden.
    let name = host.cgroup.path().file_name().context("a cgroup at /")?.to_string_lossy();
    let cgroup = format!("/{name}");
    let ended = host.stage.netns.run(|| {
        with_bare_sys(|| {
            let mut command = host.rule.command(&arguments(&cgroup, &["--detach"]))?;
            run(&mut command, START_LIMIT)
        })
    })?;
    ensure!(ended.code() == 0, "{ended:?}");
    let from = source(&host.connect(server.address)?)?.to_string();
    ensure!(POOL.contains(&&*from), "the rule is active, but nothing is spread: {from}");
    ensure!(host.rule.pins().exists(), "{} is not there", host.rule.pins().display());
    ensure!(host.rule.status()?.spread()? == 1, "{:?}", host.rule.status()?);
    // A command with its own mounts can also release the rule.
    let released = with_bare_sys(|| host.rule.release())?;
    ensure!(released.code() == 0, "{released:?}");
    nothing_left(&host, "released")
}

/// Another bpffs is mounted over the one with the rule's pins: the rule still spreads, its status counts that, a new agent takes
/// it over without attaching programs twice, and `--release` leaves nothing in either bpffs.
fn another_bpffs() -> Result<()> {
    let mut host = Host::new()?;
    let server = host.server("10.1.0.1:7000")?;
    host.spread(&POOL, &["--on-exit", "keep"])?.stop()?;
    let attached = host.cgroup.attached()?;
    let second = SecondBpffs::mount("0700")?;
    let _held = host.connect(server.address)?;
    ensure!(host.rule.status()?.spread()? == 1, "{:?}", host.rule.status()?);
    let again = host.spread(&POOL, &["--on-exit", "keep"])?;
    let twice = host.cgroup.attached()?;
    ensure!(twice == attached, "{attached} programs were attached, then {twice}");
    let _held = host.connect(server.address)?;
    ensure!(host.rule.status()?.spread()? == 2, "{:?}", host.rule.status()?);
    again.stop()?;
    let released = host.rule.release()?;
    ensure!(released.code() == 0, "{released:?}");
    nothing_left(&host, "released below another bpffs")?;
    drop(second);
    nothing_left(&host, "released")
}
