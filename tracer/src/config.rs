//! Turns the command line into checked, typed configuration. Nothing is looked up on the host.

mod advise;
mod doctor;
pub mod file;
mod filter;
mod kernel;
mod spread;
mod unfit;
mod view;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

pub use advise::{AdviseConfig, NOT_MEASURED};
pub use doctor::DoctorConfig;
pub use file::AgentConfig;
pub use filter::{FilterSpec, RowFilter};
pub use kernel::KernelConfig;
pub use spread::SpreadConfig;
use tracer_common::Kind;
use unfit::{COMMAND_LINE, Spelling, Unfit};
pub use view::{ReplayConfig, ShowConfig, TopConfig};

use crate::{
    cli::{
        Command, Compression, ConfigCommand, EventKind, RecordArgs, ReportArgs, StreamArgs,
        StreamFormat, TableArgs, TableFormat, TuplesArgs,
    },
    error::Error,
    format::table::Column,
};

/// The configuration of `tracer record`.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordConfig {
    pub output: OutputConfig,
    pub events: Events,
    /// Time between readings of port use.
    pub interval: Duration,
    /// How long to record; `None`: until a signal.
    pub duration: Option<Duration>,
    pub filter: FilterSpec,
}

/// Where whole lines go. `None` of a field: the file is not rotated, or the lines are not compressed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OutputConfig {
    pub target: Target,
    pub rotation: Option<Rotation>,
    pub compression: Option<Compression>,
}

/// Where lines are written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Target {
    Stdout,
    File(PathBuf),
}

impl Target {
    /// Its name: the path, or `-` for stdout.
    pub fn name(&self) -> String {
        match self {
            Self::Stdout => "-".to_owned(),
            Self::File(path) => path.to_string_lossy().into_owned(),
        }
    }
}

impl TryFrom<&StreamArgs> for Target {
    type Error = Error;

    /// The file of `--output`, or of `-o FILE` (as earlier versions wrote it); stdout if there is neither, or the file is `-`.
    ///
    /// # Errors
    /// [`Error::Usage`]: `-o` and `--output` both name a file.
    fn try_from(args: &StreamArgs) -> Result<Self, Error> {
        let path = match (&args.output, &args.format) {
            (Some(path), StreamFormat::Json) | (None, StreamFormat::File(path)) => path,
            (None, StreamFormat::Json) => return Ok(Self::Stdout),
            (Some(_), StreamFormat::File(path)) => {
                return Err(Error::Usage(format!(
                    "-o {} is no format, and --output names another file: write -o json, or leave it out",
                    path.display()
                )));
            }
        };
        Ok(if path == Path::new("-") { Self::Stdout } else { Self::File(path.clone()) })
    }
}

/// When a file is rotated, and how many are kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rotation {
    /// Size in bytes (of a compressed file, its compressed bytes) from which on a new file is begun.
    pub size: u64,
    /// How many older files are kept; at least 1.
    pub keep: u32,
}

/// Which kinds of lines `--events` asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Events {
    /// The kinds of socket events, as [`Kind::bit`]s.
    pub mask: u32,
    /// Whether readings are written: `tuple.stats`, `address.stats` and `tracer.stats`.
    pub stats: bool,
    /// Whether `lost` lines are written.
    pub lost: bool,
}

impl Events {
    fn new(kinds: &[EventKind]) -> Self {
        let mut events = Self { mask: 0, stats: false, lost: false };
        for kind in kinds {
            match kind {
                EventKind::Failed => {
                    events.mask |= Kind::ConnectFailed.bit() | Kind::BindFailed.bit();
                }
                EventKind::Stats => events.stats = true,
                EventKind::Lost => events.lost = true,
                EventKind::Allocated => events.mask |= Kind::PortAllocated.bit(),
                EventKind::Released => events.mask |= Kind::PortReleased.bit(),
                EventKind::Established => events.mask |= Kind::ConnectEstablished.bit(),
                EventKind::State => events.mask |= Kind::TcpState.bit(),
                EventKind::All => {
                    let mask = Kind::ALL.iter().fold(0, |mask, kind| mask | kind.bit());
                    events = Self { mask, stats: true, lost: true };
                }
            }
        }
        events
    }
}

impl TryFrom<&RecordArgs> for RecordConfig {
    type Error = Error;

    /// # Errors
    /// [`Error::Usage`]: `-o` and `--output` both name a file, or as `Self::checked`.
    fn try_from(args: &RecordArgs) -> Result<Self, Error> {
        let target = Target::try_from(&args.stream)?;
        Self::checked(args, target, COMMAND_LINE).map_err(unfit::usage)
    }
}

impl RecordConfig {
    /// The configuration that these options make, which are checked one by one already. Output goes to `target`, whatever
    /// `args.stream` says.
    ///
    /// # Errors
    /// Everything that is wrong, in the words of `spelling`; at least one: output to stdout cannot be rotated, or the filter's
    /// options do not fit together (see [`FilterSpec::checked`]).
    fn checked(args: &RecordArgs, target: Target, spelling: Spelling) -> Result<Self, Vec<Unfit>> {
        let filter = FilterSpec::checked(&args.filter, spelling);
        let mut unfit = filter.as_ref().err().cloned().unwrap_or_default();
        if args.rotate.is_some() && target == Target::Stdout {
            let rotate = spelling.option("rotate");
            let why = format!(
                "{rotate} was given, but stdout cannot be rotated; write to a file with {}",
                spelling.file
            );
            unfit.push(Unfit { option: "rotate", why });
        }
        match filter {
            Ok(filter) if unfit.is_empty() => Ok(Self {
                output: OutputConfig {
                    target,
                    rotation: args.rotate.map(|size| Rotation { size, keep: args.keep }),
                    compression: args.compress,
                },
                events: Events::new(&args.events),
                interval: args.interval,
                duration: args.duration,
                filter,
            }),
            _ => Err(unfit),
        }
    }
}

/// The configuration of `tracer tuples`.
#[derive(Clone, Debug, PartialEq)]
pub struct TuplesConfig {
    /// Time between readings; `None`: one reading.
    pub interval: Option<Duration>,
    pub table: TableConfig,
    pub filter: FilterSpec,
}

/// How the tuples of a reading are printed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TableConfig {
    pub format: TableFormat,
    pub sort: Column,
    /// The most rows that are printed; `None`: all.
    pub limit: Option<usize>,
}

impl From<&TableArgs> for TableConfig {
    fn from(args: &TableArgs) -> Self {
        Self {
            format: args.format,
            sort: args.sort,
            limit: args.limit.and_then(|limit| usize::try_from(limit).ok()),
        }
    }
}

impl TryFrom<&TuplesArgs> for TuplesConfig {
    type Error = Error;

    /// # Errors
    /// [`Error::Usage`]: the filter's options are wrong (see [`FilterSpec`]).
    fn try_from(args: &TuplesArgs) -> Result<Self, Error> {
        Ok(Self {
            interval: args.interval,
            table: TableConfig::from(&args.table),
            filter: FilterSpec::try_from(&args.filter)?,
        })
    }
}

/// The configuration of `tracer report`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReportConfig {
    /// Recordings; `-` is standard input.
    pub files: Vec<PathBuf>,
    /// Whether JSON is printed, and not text.
    pub json: bool,
    /// The most tuples that the report shows.
    pub limit: usize,
}

impl From<&ReportArgs> for ReportConfig {
    fn from(args: &ReportArgs) -> Self {
        let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
        Self { files: args.files.clone(), json: args.output.is_json(), limit }
    }
}

/// The configuration of `tracer status`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StatusConfig {
    /// Whether JSON is printed, and not text.
    pub json: bool,
    /// Name of the only rule to show; `None`: all rules are shown.
    pub rule: Option<String>,
}

/// A command with its checked configuration.
#[derive(Clone, Debug, PartialEq)]
pub enum Task {
    Top(TopConfig),
    Replay(ReplayConfig),
    Record(RecordConfig),
    Tuples(TuplesConfig),
    Report(ReportConfig),
    Doctor(DoctorConfig),
    Spread(SpreadConfig),
    /// `tracer spread --release`: ends the rule of this name.
    Release(String),
    Status(StatusConfig),
    Advise(AdviseConfig),
    /// `tracer agent`, with the configuration in this file.
    Agent(PathBuf),
    /// `tracer config check`: of this file.
    CheckFile(PathBuf),
    /// `tracer config example`
    ExampleFile,
    Completions(clap_complete::Shell),
    /// `tracer man`: writes all pages to this folder; `None`: writes the page of `tracer` to stdout.
    Man(Option<PathBuf>),
}

impl TryFrom<&Command> for Task {
    type Error = Error;

    /// # Errors
    /// That of the command's configuration: [`Error::Usage`] or [`Error::BadConfig`].
    fn try_from(command: &Command) -> Result<Self, Error> {
        Ok(match command {
            Command::Top(args) => Self::Top(args.as_ref().try_into()?),
            Command::Replay(args) => Self::Replay(args.into()),
            Command::Record(args) => Self::Record(args.try_into()?),
            Command::Tuples(args) => Self::Tuples(args.try_into()?),
            Command::Report(args) => Self::Report(args.into()),
            Command::Doctor(args) => Self::Doctor(args.try_into()?),
            Command::Spread(args) if args.release => Self::Release(args.rule.clone()),
            Command::Spread(args) => Self::Spread(args.as_ref().try_into()?),
            Command::Status(args) => {
                Self::Status(StatusConfig { json: args.output.is_json(), rule: args.rule.clone() })
            }
            Command::Advise(args) => Self::Advise(args.as_ref().try_into()?),
            Command::Agent(args) => Self::Agent(args.config.clone()),
            Command::Config(ConfigCommand::Check { file }) => Self::CheckFile(file.clone()),
            Command::Config(ConfigCommand::Example) => Self::ExampleFile,
            Command::Completions { shell } => Self::Completions(*shell),
            Command::Man { dir } => Self::Man(dir.clone()),
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    fn task(line: &str) -> Result<Task, Error> {
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        Task::try_from(&cli.command)
    }

    fn record(line: &str) -> RecordConfig {
        match task(line).unwrap() {
            Task::Record(config) => config,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn record_without_options_sends_failures_totals_and_losses_to_stdout() {
        let config = record("tracer record");
        assert_eq!(config.output.target, Target::Stdout);
        assert_eq!(config.output.rotation, None);
        let failed = Kind::ConnectFailed.bit() | Kind::BindFailed.bit();
        assert_eq!(config.events, Events { mask: failed, stats: true, lost: true });
        assert_eq!(config.interval, Duration::from_secs(10));
        assert_eq!(config.duration, None);
        assert_eq!(config.filter, FilterSpec::default());
    }

    #[test]
    fn all_is_every_kind_wherever_it_stands_in_the_list() {
        let all = record("tracer record --events all").events;
        assert_eq!(all.mask.count_ones(), 6);
        assert_eq!(record("tracer record --events all,failed").events, all);
        assert_eq!(record("tracer record --events failed,all").events, all);
        let list = "allocated,released,established,failed,state,stats,lost";
        assert_eq!(record(&format!("tracer record --events {list}")).events, all);
    }

    #[test]
    fn rotation_needs_a_file() {
        let error = task("tracer record --rotate 100M").unwrap_err();
        assert_eq!(error.exit() as u8, 2);
        let config = record("tracer record --rotate 100M --keep 3 --output ev.jsonl");
        assert_eq!(config.output.rotation, Some(Rotation { size: 100 << 20, keep: 3 }));
    }

    #[test]
    fn tuples_reads_once_unless_an_interval_is_given() {
        for (line, interval) in [
            ("tracer tuples", None),
            ("tracer tuples --once", None),
            ("tracer tuples --interval 0.1", Some(Duration::from_millis(100))),
        ] {
            let Task::Tuples(config) = task(line).unwrap() else { panic!("{line}") };
            assert_eq!(config.interval, interval, "{line}");
            assert_eq!(config.table.sort, Column::Saturation);
        }
    }
}
