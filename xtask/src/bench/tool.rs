//! The tools that are compared: how each is started, when it is ready, what it lost.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{Programs, process};
use crate::exec;

/// Longest time from the start of a tool until it is attached.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Longest time from SIGINT to the end of a tool.
const STOP_LIMIT: Duration = Duration::from_secs(15);
/// Longest time to wait until a tool is idle.
const REST_LIMIT: Duration = Duration::from_secs(10);
/// A tool is idle if it uses less than 2 % of a CPU for this long.
const REST: Duration = Duration::from_millis(200);
const REST_CPU_NS: u64 = 4_000_000;

/// A script for bpftrace that prints a line for each connect() that sends a SYN (state 2 is SYN_SENT).
const EACH_CONNECT: &str = r#"tracepoint:sock:inet_sock_set_state /args->newstate == 2/
{ printf("%d %s %s %d\n", pid, comm, ntop(args->family, args->daddr), args->dport); }"#;
const NOTHING: &str = "tracepoint:sock:inet_sock_set_state { }";

/// A shell script that runs the tool. Before that, it mounts tracefs in the tool's own mount namespace, if the machine has not
/// mounted it: older tools look for tracepoints only in `/sys/kernel/tracing`.
const WITH_TRACEFS: &str = "[ -e /sys/kernel/tracing/events ] \
    || mount -t tracefs tracefs /sys/kernel/tracing; \
    exec \"$@\"";

/// What runs during a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tool {
    /// No tool.
    None,
    /// `tracer record` with its default options.
    Default,
    /// `tracer record --events all`.
    All,
    /// `tcplife` of bcc's libbpf-tools, which prints a line for each connection that ended.
    Tcplife,
    /// `tcpstates` of bcc's libbpf-tools, which prints a line for each change of a TCP state.
    Tcpstates,
    /// bpftrace with [`EACH_CONNECT`].
    Bpftrace,
    /// A BPF program that does nothing, loaded by bpftrace. What `kernel.bpf_stats_enabled` counts for a run of it is the cost of
    /// measuring, which is subtracted from the times of the other tools.
    Empty,
}

impl Tool {
    /// The tools of the table, in its order.
    pub(crate) const ALL: [Self; 6] =
        [Self::None, Self::Default, Self::All, Self::Tcplife, Self::Tcpstates, Self::Bpftrace];

    /// The tool's name in the tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Default => "tracer record",
            Self::All => "tracer record --events all",
            Self::Tcplife => "tcplife",
            Self::Tcpstates => "tcpstates",
            Self::Bpftrace => "bpftrace",
            Self::Empty => "empty program",
        }
    }

    /// The Debian package that has the tool; `tracer` for tracer itself and for [`Tool::None`], which need no package.
    pub(crate) fn package(self) -> &'static str {
        match self {
            Self::None | Self::Default | Self::All => "tracer",
            Self::Tcplife | Self::Tcpstates => "libbpf-tools",
            Self::Bpftrace | Self::Empty => "bpftrace",
        }
    }

    fn path(self) -> Option<PathBuf> {
        match self {
            Self::Tcplife => exec::which("tcplife"),
            Self::Tcpstates => exec::which("tcpstates"),
            Self::Bpftrace | Self::Empty => exec::which("bpftrace"),
            Self::None | Self::Default | Self::All => None,
        }
    }

    /// Whether the tool is in PATH or a system directory; true also for tracer and for no tool.
    pub(crate) fn is_installed(self) -> bool {
        matches!(self, Self::None | Self::Default | Self::All) || self.path().is_some()
    }

    pub(crate) fn is_tracer(self) -> bool {
        matches!(self, Self::Default | Self::All)
    }

    /// Whether the tool prints something for each connection.
    fn prints_each(self) -> bool {
        !matches!(self, Self::None | Self::Default | Self::Empty)
    }

    fn command(self, programs: &Programs) -> Result<Command> {
        let output = programs.scratch.join("events.jsonl");
        let tracer = |arguments: &[&str]| {
            let mut command = Command::new(&programs.tracer);
            command.arg("record").args(arguments).arg("--output").arg(&output);
            command
        };
        Ok(match self {
            Self::None => bail!("nothing is started for `{}`", self.name()),
            Self::Default => tracer(&[]),
            Self::All => tracer(&["--events", "all"]),
            Self::Tcplife | Self::Tcpstates => self.installed(&[])?,
            Self::Bpftrace => self.installed(&["-f", "json", "-e", EACH_CONNECT])?,
            Self::Empty => self.installed(&["-e", NOTHING])?,
        })
    }

    /// The command of a tool other than tracer.
    fn installed(self, arguments: &[&str]) -> Result<Command> {
        let path = self.path().with_context(|| format!("{} is not installed", self.name()))?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", WITH_TRACEFS, "sh"]).arg(path).args(arguments);
        Ok(command)
    }
}

/// A tool that is attached; killed on drop.
pub(crate) struct Running {
    tool: Tool,
    process: Child,
    output: PathBuf,
    errors: PathBuf,
}

/// What a tool wrote: how many complete lines (of tracer's recording, or of stdout), and how many events it reported as lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) lines: u64,
    pub(crate) lost: u64,
}

impl Running {
    /// Starts the tool, and waits until it is attached and idle (at most 10 s for the latter: [`Self::rest`]). Removes the
    /// recording of an earlier run. Fails for [`Tool::None`], if the tool cannot be run or ends, or if it is not attached within
    /// 30 s ([`START_LIMIT`]).
    pub(crate) fn start(tool: Tool, programs: &Programs) -> Result<Self> {
        let recording = programs.scratch.join("events.jsonl");
        let stdout = programs.scratch.join("stdout");
        let errors = programs.scratch.join("stderr");
        if recording.exists() {
            fs::remove_file(&recording)
                .with_context(|| format!("cannot remove {}", recording.display()))?;
        }
        let mut command = tool.command(programs)?;
        let process = command
            .stdin(Stdio::null())
            .stdout(File::create(&stdout)?)
            .stderr(File::create(&errors)?)
            .spawn()
            .with_context(|| format!("cannot run `{}`", exec::show(&command)))?;
        let output = if tool.is_tracer() { recording } else { stdout };
        let mut running = Self { tool, process, output, errors };
        running.attached()?;
        running.rest()?;
        Ok(running)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    fn attached(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if let Some(status) = self.process.try_wait()? {
                let errors = fs::read_to_string(&self.errors).unwrap_or_default();
                bail!("{} ended at once: {status}: {}", self.tool.name(), errors.trim());
            }
            // tracer writes its first line once all its programs are attached.
            let ready = !self.tool.is_tracer()
                || fs::metadata(&self.output).is_ok_and(|output| output.len() > 0);
            if ready && !process::programs(self.pid())?.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{} does not attach", self.tool.name());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the tool has processed what it has seen and is idle (it used less than 2 % of a CPU for 200 ms), at most 10 s
    /// ([`REST_LIMIT`]); a tool that is still busy then is no error. Fails if the tool has ended.
    pub(crate) fn rest(&self) -> Result<()> {
        let deadline = Instant::now() + REST_LIMIT;
        let mut before = process::cpu_ns(self.pid())?;
        loop {
            thread::sleep(REST);
            let now = process::cpu_ns(self.pid())?;
            if now.saturating_sub(before) < REST_CPU_NS || Instant::now() > deadline {
                return Ok(());
            }
            before = now;
        }
    }

    /// Ends the tool as Ctrl-C would, and reads what it wrote. Fails if it does not end within 15 s ([`STOP_LIMIT`]), or if it
    /// should print each connection and wrote at most two lines; its exit code is not looked at.
    pub(crate) fn stop(mut self) -> Result<Ended> {
        exec::output(Command::new("kill").args(["-INT", &self.pid().to_string()]))?;
        let deadline = Instant::now() + STOP_LIMIT;
        while self.process.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "{} does not end", self.tool.name());
            thread::sleep(Duration::from_millis(20));
        }
        let output = fs::read(&self.output)
            .with_context(|| format!("cannot read {}", self.output.display()))?;
        let errors = fs::read(&self.errors)?;
        let ended = ended(self.tool.is_tracer(), &output, &errors);
        ensure!(!self.tool.prints_each() || ended.lines > 2, "{} saw nothing", self.tool.name());
        Ok(ended)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(None)) {
            self.process.kill().and_then(|()| self.process.wait()).map_or_else(
                |error| eprintln!("{} cannot be ended: {error}", self.tool.name()),
                drop,
            );
        }
    }
}

/// Reads the number of lines and losses. tracer has its losses in its last line; other tools write messages like
/// `lost 64 events on CPU 1`.
fn ended(is_tracer: bool, output: &[u8], errors: &[u8]) -> Ended {
    let lost = if is_tracer {
        let last = output.trim_ascii_end().rsplit(|byte| *byte == b'\n').next();
        let last = String::from_utf8_lossy(last.unwrap_or_default());
        last.split("\"lost.").skip(1).filter_map(number).sum()
    } else {
        let texts = [output, errors].map(|text| String::from_utf8_lossy(text).to_ascii_lowercase());
        texts
            .iter()
            .flat_map(|text| text.lines())
            .filter_map(|line| number(line.split_once("lost")?.1))
            .sum()
    };
    Ended { lines: lines(output), lost }
}

/// Number of complete lines: of newlines. What follows the last one does not count.
pub(crate) fn lines(text: &[u8]) -> u64 {
    text.split(|byte| *byte == b'\n').count() as u64 - 1
}

/// The first number in the text; `None` if there is none.
fn number(text: &str) -> Option<u64> {
    let digits = text.trim_start_matches(|c: char| !c.is_ascii_digit());
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_read_from_tracers_last_line_and_from_the_messages_of_others() {
        let recording = "{\"event.name\":\"lost\",\"lost.count\":9}\n\
                    {\"event.name\":\"tracer.stop\",\"lost.map_busy\":2,\"lost.conns_full\":3,\"drift\":7}\n";
        assert_eq!(ended(true, recording.as_bytes(), b""), Ended { lines: 2, lost: 5 });
        let errors = b"lost 64 events on CPU #1!\nLost 2 events\nother\n";
        let output = br#"{"type": "lost_events", "data": {"events": 4}}"#;
        assert_eq!(ended(false, output, errors), Ended { lines: 0, lost: 70 });
    }
}
