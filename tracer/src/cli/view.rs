//! The options of `tracer top` and `tracer replay`.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{FilterArgs, KernelArgs, RingArgs, TableArgs, value};
use crate::view::filter::Filter;

const TOP_HELP: &str = "\
Examples:
  tracer top                                 fullest first, once a second; ? shows the keys
  tracer top --filter 'nginx sat>45'         what is typed after /
  tracer top --dst 10.0.0.0/8 --dport 8080 --sort eta
  tracer top -b -n 1 -o json | jq '.tuples[0]'

%SAT is marked: ~ from 45 % (connect() is slow: the kernel tries all even or all odd ports first, and \
few of these are free), ! from 80 %, !! from 95 %. ETA is the time until no port is left; ports that \
TIME_WAITs give back by then are taken into account. No ETA if usage is flat or noisy. Without a \
terminal, readings are printed as with -b.";

/// How readings are shown.
#[derive(Args, Clone, Debug)]
pub struct ShowArgs {
    /// Print one reading after another, as without a terminal
    #[arg(short, long)]
    pub batch: bool,

    /// Exit after N readings
    #[arg(short = 'n', long, value_name = "N", value_parser = value::whole::<u64>("a number of readings", 1..=u64::MAX))]
    pub count: Option<u64>,

    #[command(flatten)]
    pub table: TableArgs,

    /// Show only rows that match all of these words: nginx, dst:10.0.0.0/8, sat>45, !word
    #[arg(long, default_value = "", hide_default_value = true, value_name = "WORDS", value_parser = Filter::parse)]
    pub filter: Filter,
}

/// `tracer top`
#[derive(Args, Clone, Debug)]
#[command(after_help = TOP_HELP)]
pub struct TopArgs {
    /// Time between readings: seconds, or with a unit (500ms, 5m)
    #[arg(
        short,
        long,
        alias = "delay",
        short_alias = 'd',
        default_value = "1",
        value_name = "DURATION",
        value_parser = value::interval
    )]
    pub interval: Duration,

    #[command(flatten)]
    pub show: ShowArgs,

    #[command(flatten)]
    pub rows: FilterArgs,

    #[command(flatten)]
    pub kernel: KernelArgs,

    #[command(flatten)]
    pub ring: RingArgs,
}

const REPLAY_HELP: &str = "\
Examples:
  tracer record -i 1 --output ports.jsonl              what to replay later
  tracer replay ports.jsonl.1 ports.jsonl              a rotated set, in any order
  tracer replay ports.jsonl.zst --at 03:34:48 --speed 10
  tracer replay ports.jsonl -b -o json | jq .

Space plays and pauses, t and T step one reading forward and back, j and J jump to a time, + and - \
change the speed; ? shows all keys.";

/// `tracer replay`
#[derive(Args, Clone, Debug)]
#[command(after_help = REPLAY_HELP)]
pub struct ReplayArgs {
    /// Files that `tracer record` wrote, plain or zstd; several for a rotated set; - is stdin
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// Speed: 1 is as fast as recorded, 10 ten times as fast
    #[arg(long, default_value = "1", value_name = "N", value_parser = value::speed)]
    pub speed: f64,

    /// Start at a time of day (03:34:48), a date and time (2026-11-21T03:34:48Z), or a time after
    /// the beginning (5m)
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub at: Option<String>,

    #[command(flatten)]
    pub show: ShowArgs,
}
