//! The command `tracer doctor` itself: its exit codes, what a user without privileges gets, and that it pins nothing.

use std::{fs, net::TcpListener, path::Path, process::Command, time::Duration};

use anyhow::{Result, ensure};

use super::{edge::Edge, together::essence};
use crate::harness::{
    netns::NetNs,
    probe::Place,
    process::Process,
    tracer::{
        command,
        doctor::{doctor, doctor_of_nobody},
        run,
        watch::Watch,
    },
};

const LIMIT: Duration = Duration::from_secs(30);

/// Whatever goes wrong in doctor has exit code 3, because a monitoring system takes 1 and 2 for verdicts; `--help` has 0. Wrong
/// usage of another command has 2.
pub(super) fn exit_codes() -> Result<()> {
    let mut ended = Process::spawn(&mut Command::new("true"))?;
    ended.wait(LIMIT)?;
    let ended = format!("--pid={}", ended.id());
    let own = format!("--pid={}", std::process::id());
    let odd = NetNs::new()?;
    odd.sysctl("ipv4/ip_local_reserved_ports", "1-65535")?;
    for (arguments, expected) in [
        (&["doctor", "--help"][..], 0),
        (&["doctor", "--bogus"], 3),
        (&["--bogus", "doctor"], 3),
        (&["doctor", "--window=x"], 3),
        (&["doctor", "--netns=/no/such/file"], 3),
        (&["doctor", "--ring-size=1M"], 3),
        (&["doctor", "--watch=0"], 3),
        (&["doctor", "--watch=1", "-o", "plugin"], 3),
        (&["doctor", "--window=0", &ended], 3),
        (&["doctor", "--window=0", "--cgroup=/no/such/cgroup"], 3),
        (&["doctor", "--window=0", &own, &format!("--netns={}", odd.path())], 3),
        (&["doctor", "--from=/no/such/file"], 3),
        (&["tuples", "--bogus"], 2),
        (&["tuples", "--netns=doctor", "--bogus"], 2),
    ] {
        let code = odd.run(|| -> Result<i32> {
            Ok(run(&mut command(arguments)?, Place::get().limit(LIMIT))?.code())
        })?;
        ensure!(code == expected, "{arguments:?} ended with {code}");
    }
    Ok(())
}

/// A user without privileges sees that their own namespace is full (exit code 2, `ports_exhausted`). If it is not full, and the
/// window cannot be made, because CAP_BPF is missing, the verdict is `unknown` (exit code 3), never `healthy`; with `--window 0`
/// the exit code is 0 (3 before Linux 6.2, where nobody sees how many descriptors other users' processes have), and the check
/// `namespaces` is not made.
pub(super) fn without_privileges() -> Result<()> {
    let edge = Edge::new(20)?;
    let found = doctor_of_nobody(&edge.here, &["--window", "0"])?;
    // Since Linux 6.2, the size of a process's folder says how many descriptors it has, to other users, too.
    let counted = fs::metadata("/proc/self/fd")?.len() > 0;
    let (exit, descriptors) = if counted { (0, "ok") } else { (3, "not_made") };
    ensure!(found.exit == exit && found.check("descriptors")?.status == descriptors, "{found:?}");
    ensure!(found.check("namespaces")?.status == "not_made", "{found:?}");
    let found = doctor_of_nobody(&edge.here, &["--window", "0.2"])?;
    let window = found.check("window")?;
    ensure!(
        found.exit == 3 && found.verdict == "unknown" && window.status == "not_made",
        "{found:?}"
    );
    ensure!(window.needs.as_deref().is_some_and(|it| it.contains("CAP_BPF")), "{found:?}");
    edge.leave_time_waits(20)?;
    let found = doctor_of_nobody(&edge.here, &["--window", "0.2"])?;
    ensure!(found.exit == 2 && found.causes() == ["ports_exhausted"], "{found:?}");
    Ok(())
}

/// The kernel lists the open files in which doctor looks for the processes of sockets and, with a window, for namespaces: no link in
/// /proc is read for each of them, also while another tracer runs. (A list that lacks a socket of tracer's own is not used;
/// findings name processes by it.)
pub(super) fn open_files_are_listed() -> Result<()> {
    let netns = NetNs::new()?;
    let _listener = netns.run(|| TcpListener::bind("127.0.0.1:0"))?;
    // Up to Linux 5.10, its tables count against the limit of locked memory that doctor's program needs.
    let other = Watch::start("auto", &[])?;
    let here = format!("--netns={}", netns.path());
    for window in ["--window=0", "--window=0.2"] {
        let mut doctor = command(&["doctor", window, &here])?;
        doctor.env("TRACER_LOG", "tracer=debug");
        let ended = netns.run(|| run(&mut doctor, Place::get().limit(LIMIT)))?;
        let has = |text: &str| ended.stderr.contains(text);
        let listed =
            has(" open sockets and namespaces are listed") && !has("list of open files is late");
        ensure!(listed, "{window}: {}", ended.stderr);
    }
    other.stop()
}

/// Two runs at the same time have the same diagnosis (exit code 1, `ports_exhausted`: 41 of 50 ports are in use), and nothing is
/// pinned after them (in a guest; on the host, other rules may have pins).
pub(super) fn leaves_nothing_behind() -> Result<()> {
    let edge = Edge::new(50)?;
    let _held = edge.open(41)?;
    let window = ["--window", "1"];
    let (one, other) = std::thread::scope(|scope| {
        let other = scope.spawn(|| doctor(&edge.here, &window));
        let one = doctor(&edge.here, &window);
        (one, other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let (one, other) = (one?, other?);
    ensure!(one.exit == 1 && one.causes() == ["ports_exhausted"], "{one:?}");
    ensure!(essence(&one) == essence(&other), "{one:?} {other:?}");
    let pins = Path::new("/sys/fs/bpf/tracer");
    let pinned = fs::read_dir(pins).map_or(0, Iterator::count);
    ensure!(pinned == 0 || Place::get() == Place::Host, "{pinned} folders in {}", pins.display());
    Ok(())
}
