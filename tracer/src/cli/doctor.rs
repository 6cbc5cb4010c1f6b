//! The options of `tracer doctor`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::{
    kernel::KernelArgs,
    value::{self, NetnsRef},
};

const DOCTOR_HELP: &str = "\
Examples:
  tracer doctor                          is this port exhaustion? where, why, what to do
  tracer doctor --netns blue             only this network namespace
  tracer doctor --pid $(pgrep -o nginx)  only what this process and its workers do
  tracer doctor --watch 60               again every 60 s: what is new, worse or solved
  tracer doctor --window 0               no hooks: what the kernel's own lists show (no root needed)
  tracer doctor --from ports.jsonl*.zst  what a recording shows of an incident, each finding with its time
  tracer doctor -o json | jq '.findings[].id'
  tracer doctor -o plugin                for monitoring systems

Nothing is changed, and no other program is run. Each finding has an id that never changes, how sure it \
is (measured, inferred, possible), numbers, a command to run and a command that shows whether it helped.

--pid and --cgroup narrow what is judged, never what is counted: how full a tuple is counts the ports of all processes. With both, what \
belongs to either is judged.

--watch compares each round with the one before. What is missing for two rounds is solved. SIGINT, SIGTERM and a closed stdout end it with \
the exit code of the last round that was printed.

Exit codes:
  0  nothing is wrong
  1  warning
  2  critical
  3  unknown: a check was not made without which nothing can be called healthy, or tracer failed, or \
wrong usage";

/// `tracer doctor`
#[derive(Args, Clone, Debug)]
#[command(after_help = DOCTOR_HELP)]
pub struct DoctorArgs {
    /// Network namespace to judge: a name under /run/netns, a path, or an inode number [default: all]
    #[arg(long, value_name = "NETNS", value_parser = value::netns)]
    pub netns: Vec<NetnsRef>,

    /// Judge only this process and those that it has started, in its network namespace (repeatable)
    #[arg(long, value_name = "PID", value_parser = value::process_id)]
    pub pid: Vec<u32>,

    /// Judge only the processes in this cgroup v2 folder and below it, in their network namespaces (repeatable)
    #[arg(long, value_name = "PATH")]
    pub cgroup: Vec<PathBuf>,

    /// How long to watch calls with hooks in the kernel: seconds, or with a unit (500ms, 1m); 0: no hooks
    #[arg(short, long, default_value = "5", value_name = "DURATION", value_parser = window)]
    pub(crate) window: Window,

    /// Diagnose again and again, one round every so often (at once if one took longer); not with -o plugin
    #[arg(long, value_name = "DURATION", value_parser = value::interval)]
    pub watch: Option<Duration>,

    /// Also read this error log of nginx, HAProxy or Squid; -: standard input (repeatable)
    #[arg(long, value_name = "FILE")]
    pub log: Vec<PathBuf>,

    /// Judge recordings of `tracer record` in place of this host, as far as they know: all parts of one, in any order; -: standard input
    #[arg(long, value_name = "RECORDING", num_args = 1.., conflicts_with_all = ["window", "log", "watch", "pid", "cgroup"])]
    pub from: Vec<PathBuf>,

    /// Output format
    #[arg(
        short = 'o',
        long,
        value_enum,
        default_value_t = DoctorFormat::Text,
        value_name = "FORMAT"
    )]
    format: DoctorFormat,

    /// The same as -o json
    #[arg(long, hide = true, conflicts_with = "format")]
    json: bool,

    /// The same as -o plugin
    #[arg(long, hide = true, conflicts_with_all = ["format", "json"])]
    plugin: bool,

    #[command(flatten)]
    pub kernel: KernelArgs,
}

impl DoctorArgs {
    /// The output format: that of `--json` or `--plugin` if one is given, else that of `-o`.
    pub fn format(&self) -> DoctorFormat {
        match (self.json, self.plugin) {
            (true, _) => DoctorFormat::Json,
            (_, true) => DoctorFormat::Plugin,
            _ => self.format,
        }
    }
}

/// Form of a diagnosis.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum DoctorFormat {
    /// For people
    Text,
    /// One line of JSON
    Json,
    /// For monitoring systems: a first line with numbers, and the text
    Plugin,
}

/// A value of `--window`; `None`: 0.
pub(crate) type Window = Option<Duration>;

/// The time to watch, as [`value::interval`] reads it: 0.1 s to an hour; `None`: 0 or 0s, no hooks.
pub(super) fn window(text: &str) -> Result<Window, String> {
    if text == "0" || text == "0s" {
        return Ok(None);
    }
    value::interval(text).map(Some).map_err(|_| "expected 0, or 0.1 to 3600 seconds".to_owned())
}
