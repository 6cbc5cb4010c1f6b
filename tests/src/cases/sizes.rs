//! `sizes::*`: how large the tables are, the warning when one is nearly full, before anything is lost, and the error if there is
//! no memory for them.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, id},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::process::{Resource, Rlimit, setrlimit};

use super::{Case, Plan, errors::says};
use crate::harness::{
    privileges, probe,
    pty::{Pty, Size},
    sock::Sock,
    stage::{Server, Stage},
    tracer::{
        self, START_LIMIT, STOP_LIMIT,
        record::{Record, Recording, name},
        wait_for,
        watch::number,
    },
};

const SOON: Duration = Duration::from_secs(10);

pub fn cases(plan: &Plan) -> Vec<Case> {
    plan.group("sizes")
        .sampled(&[("nearly_full_is_said_before_a_loss", nearly_full)])
        .once(&[("nearly_full_on_the_screen", on_screen)])
        .needs(&["setsid"])
        .once(&[("time_waits_of_a_large_host_have_room", time_waits_have_room)])
        .kernel_independent()
        .once(&[("no_memory_for_tables", no_memory)])
        .unless(no_limit())
        .cases()
}

/// `settings.max_conns`, the size of the table of connections, and `settings.tables_why`, the reason for the tables' sizes, of a
/// recording that starts in this stage's namespace.
fn settings(stage: &Stage) -> Result<(u64, String)> {
    let mut command = tracer::command(&["record", "--events", "failed", "--duration", "0.1"])?;
    let ended = stage.netns.run(|| tracer::run(&mut command, START_LIMIT))?;
    ensure!(ended.code() == 0, "{ended:?}");
    let recording = Recording::parse(&ended.stdout)?;
    let start = recording.start()?;
    let why = start["settings.tables_why"].as_str().context("no reason")?;
    Ok((number(start, "settings.max_conns")?, why.to_owned()))
}

/// The table of connections has more entries with `tcp_max_tw_buckets` 300,000 than with 1,000: these TIME_WAITs take at most
/// four fifths of it, and the reason that is printed names the sysctl.
fn time_waits_have_room() -> Result<()> {
    const MANY: u64 = 300_000;
    let stage = Stage::new(&[])?;
    stage.netns.sysctl("ipv4/tcp_max_tw_buckets", "1000")?;
    let (few, _) = settings(&stage)?;
    stage.netns.sysctl("ipv4/tcp_max_tw_buckets", &MANY.to_string())?;
    let (many, why) = settings(&stage)?;
    ensure!(few < many, "{few} entries with few TIME_WAITs, {many} with many ({why})");
    ensure!(many * 4 / 5 >= MANY, "{many} entries for {MANY} TIME_WAITs ({why})");
    ensure!(why.contains("tcp_max_tw_buckets (300000)"), "{why}");
    Ok(())
}

/// Opens a connection from each of `2 * count` addresses, so that each is a tuple of its own. Returns the clients' ends.
fn from_many(server: &Server, count: u8) -> Result<Vec<Sock>> {
    let mut clients = Vec::new();
    for (third, last) in (1..=2).flat_map(|third| (1..=count).map(move |last| (third, last))) {
        let client = Sock::tcp(server.address)?;
        client.set_bind_address_no_port()?;
        client.bind(SocketAddr::from(([127, 0, third, last], 0)))?;
        client.connect(server.address)?;
        clients.push(client);
    }
    Ok(clients)
}

/// 430 tuples fill 84 % of a table for 512: there must be a warning, and no loss, because one user's share is 8/9 (88.9 %).
fn nearly_full(backend: &str) -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let server = stage.server("10.1.0.1:7000")?;
    let record = Record::start(backend, &["--max-tuples", "512", "--events", "lost"])?;
    let before = fs::read_to_string(record.file())?;
    ensure!(!before.contains("nearly full"), "from the start: {before}");
    let _clients = stage.netns.run(|| from_many(&server, 215))?;
    wait_for("the line", SOON, || {
        Ok(fs::read_to_string(record.file())?.contains("nearly full").then_some(()))
    })?;
    let (recording, stderr) = record.stop_with_stderr()?;
    recording.assert_valid()?;
    let added: Vec<_> =
        recording.lines.iter().filter(|line| name(line) == "tracer.degraded").collect();
    let has_advice = added.iter().any(|line| {
        let added = line["degraded.added"].to_string();
        added.contains("table of tuples") && added.contains("--max-tuples")
    });
    ensure!(has_advice, "{added:?}");
    ensure!(stderr.matches("the table of tuples is 8").count() == 1, "{stderr}");
    ensure!(stderr.contains("larger --max-tuples"), "{stderr}");
    let lost = recording.losses()?;
    ensure!(lost.iter().all(|(reason, _)| !reason.starts_with("tuples_")), "{lost:?}");
    Ok(())
}

/// `tracer top` shows on its fifth screen what tracer's BPF programs cost, and, once 215 more tuples are in a table of 512, that
/// it is nearly full, with the setting `--max-tuples`; not before.
fn on_screen() -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let server = stage.server("10.1.0.1:7000")?;
    let mut top = Pty::spawn(&tracer::command(&["--max-tuples", "512", "top"])?, Size(130, 40))?;
    top.wait("the first screen", START_LIMIT, |text| text.contains("[1 tuples]"))?;
    top.press("5")?;
    top.wait("what it costs", SOON, |text| text.contains("BPF programs"))?;
    ensure!(!top.text().contains("nearly full"), "from the start: {}", top.text());
    let _clients = stage.netns.run(|| from_many(&server, 215))?;
    top.wait("the table that is nearly full", SOON, |text| {
        text.contains("the table of tuples is nearly full") && text.contains("--max-tuples")
    })?;
    top.press("q")?;
    ensure!(top.wait_for_end(STOP_LIMIT)?.success(), "q is no failure");
    Ok(())
}

/// The limit of memory that the test lowers below what the tables need.
enum Limit {
    /// A memory cgroup, made in this folder, with the limit in a file of this name.
    Cgroup(PathBuf, &'static str),
    /// RLIMIT_MEMLOCK.
    Locked,
}

fn limit() -> Result<Limit> {
    if probe::maps_are_locked_memory() {
        return Ok(Limit::Locked);
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let place = |wanted: &dyn Fn(&str) -> bool| {
        let line = mounts.lines().find(|line| wanted(line))?;
        line.split(' ').nth(4).map(PathBuf::from)
    };
    let memory = |line: &str| {
        line.contains(" - cgroup ")
            && line.rsplit(' ').next().is_some_and(|last| last.split(',').any(|it| it == "memory"))
    };
    if let Some(root) = place(&memory) {
        return Ok(Limit::Cgroup(root, "memory.limit_in_bytes"));
    }
    let root = place(&|line| line.contains(" - cgroup2 ")).context("no cgroup2")?;
    let controllers = fs::read_to_string(root.join("cgroup.controllers"))?;
    ensure!(controllers.split_whitespace().any(|it| it == "memory"), "no memory cgroup");
    fs::write(root.join("cgroup.subtree_control"), "+memory")?;
    Ok(Limit::Cgroup(root, "memory.max"))
}

fn no_limit() -> Option<String> {
    limit().err().map(|error| format!("{error:#}"))
}

/// The kernel refuses the memory for the tables, because the limit (RLIMIT_MEMLOCK, or a memory cgroup's) is 64 MiB: exit code 1,
/// and the error says how much they need, which settings make them smaller, and which limit was reached.
fn no_memory() -> Result<()> {
    const LIMIT: u64 = 64 << 20;
    let mut command = tracer::command(&["--max-conns", "4000000", "tuples", "--once"])?;
    let words =
        ["CONNS", "MiB of kernel memory", "--max-conns 4000000: ", "--ring-size", "smaller"];
    match limit()? {
        Limit::Locked => {
            let lower = || {
                let limit = Rlimit { current: Some(LIMIT), maximum: Some(LIMIT) };
                setrlimit(Resource::Memlock, limit).map_err(io::Error::from)
            };
            lowered(&mut command, lower);
            // The library that makes the maps warns first that it cannot raise the limit; this suppresses the warning.
            command.env("TRACER_LOG", "error");
            let ended =
                tracer::run(privileges::only(&mut command, privileges::NEEDED), START_LIMIT)?;
            says(&ended, &[1], &words)?;
            says(&ended, &[1], &["RLIMIT_MEMLOCK"])
        }
        Limit::Cgroup(root, name) => {
            let group = root.join(format!("no-memory-{}", id()));
            fs::create_dir(&group).with_context(|| format!("cannot make {}", group.display()))?;
            let ended = fs::write(group.join(name), LIMIT.to_string()).and_then(|()| {
                let procs = group.join("cgroup.procs");
                lowered(&mut command, move || fs::write(&procs, "0"));
                tracer::run(&mut command, START_LIMIT).map_err(io::Error::other)
            });
            // The program's process has ended, but may leave the cgroup a moment later.
            wait_for("the cgroup to be empty", Duration::from_secs(5), || {
                Ok(fs::remove_dir(&group).is_ok().then_some(()))
            })?;
            let ended = ended?;
            says(&ended, &[1], &words)?;
            says(&ended, &[1], &["cannot allocate memory", "memory.max"])
        }
    }
}

/// Runs `lower` in the child process, before the program.
#[expect(unsafe_code, reason = "between fork() and exec()")]
fn lowered(command: &mut Command, lower: impl FnMut() -> io::Result<()> + Send + Sync + 'static) {
    // SAFETY: the closures make system calls only; the path of one is copied to the stack, and nothing is allocated.
    unsafe { command.pre_exec(lower) };
}
