//! The options of each command.

use std::{path::PathBuf, time::Duration};

use clap::{
    ArgAction, Args, ValueEnum,
    builder::{PossibleValuesParser, TypedValueParser},
};
use ipnet::IpNet;
use tracer_common::filter::Ports;

use super::{
    kernel::{KernelArgs, RingArgs},
    output::StreamArgs,
    value::{self, NetnsRef},
};
use crate::format::table::Column;

const RECORD_HELP: &str = "\
Examples:
  tracer record                                    to stdout, until Ctrl-C
  tracer record --events failed,lost --duration 1m
  tracer record --events all --output /var/log/ports.jsonl --rotate 100M --keep 5
  tracer record --output ports.jsonl.zst --compress zstd
  tracer record --cgroup /sys/fs/cgroup/system.slice/nginx.service

Every line is one JSON object with `v`, `seq` (gap-free), `ts`, `mono_ns` and `event.name`. The \
first line is `tracer.start`, the last one `tracer.stop` with the totals: seen = emitted + each \
named loss. SIGHUP reopens the file (logrotate). When the disk is full, new lines are dropped and \
counted.";

/// `tracer record`
#[derive(Args, Clone, Debug)]
#[command(after_help = RECORD_HELP)]
pub struct RecordArgs {
    /// Kinds of events, comma-separated
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "failed,stats,lost",
        value_name = "KINDS"
    )]
    pub events: Vec<EventKind>,

    /// Rotate the file at SIZE (100M, 2G): FILE becomes FILE.1, FILE.1 becomes FILE.2, and so on
    #[arg(long, value_name = "SIZE", value_parser = value::rotate_size)]
    pub rotate: Option<u64>,

    /// Number of rotated files to keep; the oldest is removed
    #[arg(
        long,
        default_value_t = 5,
        requires = "rotate",
        value_name = "N",
        value_parser = value::files_kept
    )]
    pub keep: u32,

    /// Compress the output
    #[arg(long, value_enum, value_name = "METHOD")]
    pub compress: Option<Compression>,

    /// Time between readings of port use: seconds, or with a unit (500ms, 5m)
    #[arg(
        short,
        long,
        alias = "stats-interval",
        default_value = "10",
        value_name = "DURATION",
        value_parser = value::seconds
    )]
    pub interval: Duration,

    /// Stop after this time: seconds, or with a unit (30s, 1h) [default: at Ctrl-C or SIGTERM]
    #[arg(long, value_name = "DURATION", value_parser = value::seconds)]
    pub duration: Option<Duration>,

    #[command(flatten)]
    pub stream: StreamArgs,

    #[command(flatten)]
    pub filter: FilterArgs,

    #[command(flatten)]
    pub kernel: KernelArgs,

    #[command(flatten)]
    pub ring: RingArgs,
}

/// A word of `--events`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum EventKind {
    /// connect.failed and bind.failed
    Failed,
    /// tuple.stats, address.stats and tracer.stats, at every --interval
    Stats,
    /// how many events were not recorded, and why
    Lost,
    /// port.allocated
    Allocated,
    /// port.released
    Released,
    /// connect.established
    Established,
    /// tcp.state
    State,
    /// everything
    All,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Compression {
    /// Zstandard, level 1; flushed every second
    Zstd,
}

const TUPLES_HELP: &str = "\
Examples:
  tracer tuples                              once, fullest first
  tracer tuples -i 2 --limit 20
  tracer tuples -o json | jq '.tuples[0]'
  tracer tuples --sort fail --dst 10.0.0.7

%SAT is marked: ~ from 45 % (connect() is slow: the kernel tries all even or all odd ports first, and \
few of these are free), ! from 80 %, !! from 95 %.";

/// `tracer tuples`
#[derive(Args, Clone, Debug)]
#[command(after_help = TUPLES_HELP)]
pub struct TuplesArgs {
    /// Print one reading and exit (the default)
    #[arg(long, conflicts_with = "interval")]
    pub once: bool,

    /// Print a reading at this interval, seconds or with a unit (500ms, 5m), until Ctrl-C
    #[arg(short, long, alias = "watch", value_name = "DURATION", value_parser = value::seconds)]
    pub interval: Option<Duration>,

    #[command(flatten)]
    pub table: TableArgs,

    #[command(flatten)]
    pub filter: FilterArgs,

    #[command(flatten)]
    pub kernel: KernelArgs,

    #[command(flatten)]
    pub ring: RingArgs,
}

/// How the tuples of a reading are printed.
#[derive(Args, Clone, Debug)]
pub struct TableArgs {
    /// Output format
    #[arg(
        short = 'o',
        long,
        value_enum,
        default_value_t = TableFormat::Columns,
        value_name = "FORMAT"
    )]
    pub format: TableFormat,

    /// Column to sort by
    #[arg(
        long,
        default_value = Column::Saturation.id(),
        value_name = "FIELD",
        value_parser = PossibleValuesParser::new(Column::TUPLE.map(Column::id))
            .try_map(|id| Column::from_id(&id).ok_or("not a column"))
    )]
    pub sort: Column,

    /// Print at most N tuples per reading [default: all]
    #[arg(long, value_name = "N", value_parser = value::whole::<u32>("a number of rows", 1..=u32::MAX))]
    pub limit: Option<u32>,
}

/// Form of the table.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum TableFormat {
    /// Aligned, with a header
    Columns,
    /// One line of JSON per reading
    Json,
    /// RFC 4180, with a header
    Csv,
}

/// What to look at. Values of one option are alternatives; different options must all match.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Filters (each up to 4 times)")]
pub struct FilterArgs {
    /// Process that called connect() or bind()
    #[arg(long, value_name = "PID", value_parser = value::process_id)]
    pub pid: Vec<u32>,

    /// Name of that process (/proc/PID/comm) or of its calling thread, at most 15 bytes
    #[arg(long, value_name = "NAME", value_parser = value::comm)]
    pub comm: Vec<String>,

    /// Processes in this cgroup v2 folder and below it
    #[arg(long, value_name = "PATH")]
    pub cgroup: Vec<PathBuf>,

    /// Network namespace: a name under /run/netns, a path, or an inode number
    #[arg(long, value_name = "NETNS", value_parser = value::netns)]
    pub netns: Vec<NetnsRef>,

    /// Source address or network
    #[arg(long, value_name = "ADDR[/LEN]", value_parser = value::network)]
    pub src: Vec<IpNet>,

    /// Destination address or network
    #[arg(long, value_name = "ADDR[/LEN]", value_parser = value::network)]
    pub dst: Vec<IpNet>,

    /// Destination port or range of ports
    #[arg(long, value_name = "PORT[-HIGH]", value_parser = value::ports)]
    pub dport: Vec<Ports>,

    /// IPv4 only (v4-mapped IPv6 sockets included)
    #[arg(short = '4', long = "ipv4", action = ArgAction::SetTrue, conflicts_with = "ipv6")]
    pub ipv4: bool,

    /// IPv6 only
    #[arg(short = '6', long = "ipv6", action = ArgAction::SetTrue)]
    pub ipv6: bool,
}
