//! The command line as it was typed: each word is parsed by itself, and nothing is looked up on the host.
//!
//! [`crate::config`] turns it into checked, typed configuration.

mod advise;
mod agent;
mod args;
mod config;
mod doctor;
mod kernel;
mod output;
mod report;
mod spread;
pub(crate) mod value;
mod view;

use std::path::PathBuf;

use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand, ValueEnum};

pub use advise::{AdviseArgs, Advised};
pub use agent::AgentArgs;
pub use args::{
    Compression, EventKind, FilterArgs, RecordArgs, TableArgs, TableFormat, TuplesArgs,
};
pub use config::ConfigCommand;
pub use doctor::{DoctorArgs, DoctorFormat};
pub use kernel::{Backend, KernelArgs, RingArgs};
pub use output::{JsonArgs, StreamArgs, StreamFormat, TextFormat};
pub use report::ReportArgs;
pub use spread::{DEFAULT_RULE, Decisions, OnExit, PortChoice, SpreadArgs, StatusArgs};
pub use value::NetnsRef;
pub(crate) use value::{network, ports};
pub use view::{ReplayArgs, ShowArgs, TopArgs};

const LONG_ABOUT: &str = "\
Traces every TCP connect() and every source port of this host, exactly.

A connection is (source, source port, destination, destination port). Towards one destination only \
the source port varies, and there are about 28,000 of them: a proxy that opens connections faster \
than ports come back from TIME_WAIT gets \"Cannot assign requested address\". tracer shows which \
source and destination fill up, how fast, who does it, and which connect() failed, and why.";

const EXAMPLES: &str = "\
Examples:
  tracer top                             what fills up, how fast, by whom, what fails; ?: keys
  tracer record                          failures, totals and losses as JSON Lines on stdout
  tracer record --events all --output ev.jsonl --rotate 100M --keep 5
  tracer record --comm nginx --dport 8080 | jq .
  tracer tuples --sort ports             who holds how many source ports, now
  tracer tuples -i 2 --dst 10.0.0.0/8    the same every two seconds
  tracer report ev.jsonl*                what ran out, when, who failed and why
  tracer doctor                          is this port exhaustion? what to do, with numbers
  tracer spread --pool 10.0.0.5-10.0.0.8 --cgroup system.slice/nginx.service
  tracer agent --config tracer.toml      a service: several outputs, metrics for Prometheus
  tracer status                          which rules spread, how full their pools are
  tracer advise nginx --to 10.0.1.7:8080 --rate 1000

The options of the kernel side are for top, record, tuples, doctor, spread and advise; they may also \
follow the command.

Exit codes:
  0   success, or stdout was closed by its reader
  1   failure
  2   wrong usage
  69  no backend can run here (each one's reason is printed)
  75  already running
  77  privileges are missing (they are named)
  78  bad configuration
tracer doctor has others: see its help.";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "tracer",
    version,
    about = "Traces every TCP connect() and every source port of this host, exactly",
    long_about = LONG_ABOUT,
    after_help = EXAMPLES,
    max_term_width = 100
)]
pub struct Cli {
    #[command(flatten)]
    pub global: GlobalArgs,
    #[command(flatten)]
    pub kernel: KernelArgs,
    #[command(flatten)]
    pub ring: RingArgs,
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Args, Clone, Debug)]
pub struct GlobalArgs {
    /// Log more on stderr: -v what is attached, -vv tracer's decisions, -vvv library messages
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = "Log")]
    pub verbose: u8,

    /// Format of the log on stderr
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t = LogFormat::Text,
        value_name = "FORMAT",
        help_heading = "Log"
    )]
    pub log_format: LogFormat,
}

/// Form of the program's own log.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show live which tuples run out of ports: saturation, time left, failures
    Top(Box<TopArgs>),
    /// Write failures and port use to a file or pipe, as JSON Lines
    Record(RecordArgs),
    /// Show how many source ports each (source, destination, port) holds
    Tuples(TuplesArgs),
    /// Play a recording on the screens of `top`
    Replay(ReplayArgs),
    /// Summarise a recording: what ran out of ports, when, which calls failed and why
    Report(ReportArgs),
    /// Name the cause of failing or slow connections, and what to do
    Doctor(DoctorArgs),
    /// Spread outgoing connections over a pool of source addresses
    Spread(Box<SpreadArgs>),
    /// Show the rules of `spread`, and how full their pools are
    Status(StatusArgs),
    /// Print configuration that gives a load enough ports: of nginx, HAProxy, Envoy, Squid, the host
    Advise(Box<AdviseArgs>),
    /// Run as a service: several outputs, and metrics for Prometheus, by one configuration file
    Agent(AgentArgs),
    /// Check the configuration file of the agent, or print one with every setting
    #[command(subcommand, disable_help_subcommand = true)]
    Config(ConfigCommand),
    /// Print a completion script for a shell
    Completions {
        #[arg(value_enum, value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
    /// Write all man pages to a folder, or that of tracer to stdout
    Man {
        #[arg(value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

impl Command {
    /// The command's options for hooks and tables; `None`: it attaches no hooks.
    pub fn kernel(&self) -> Option<&KernelArgs> {
        match self {
            Self::Top(args) => Some(&args.kernel),
            Self::Record(args) => Some(&args.kernel),
            Self::Tuples(args) => Some(&args.kernel),
            Self::Doctor(args) => Some(&args.kernel),
            Self::Spread(args) => Some(&args.kernel),
            Self::Advise(args) => Some(&args.kernel),
            _ => None,
        }
    }

    /// Whether the command has the options for hooks, tables and the buffer for events in a file.
    pub fn has_file(&self) -> bool {
        matches!(self, Self::Agent(_))
    }

    /// The command's options for the buffer for events; `None`: it reads no events.
    pub fn ring(&self) -> Option<&RingArgs> {
        match self {
            Self::Top(args) => Some(&args.ring),
            Self::Record(args) => Some(&args.ring),
            Self::Tuples(args) => Some(&args.ring),
            _ => None,
        }
    }
}

/// The completion script for `shell`, of the whole command line.
pub fn completions(shell: clap_complete::Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tracer", &mut script);
    script
}

/// The man page of each command: file name (`tracer-record.1`) and contents, the page of `tracer` itself first.
///
/// # Errors
/// A page cannot be written into memory, which does not occur.
pub fn man_pages() -> std::io::Result<Vec<(String, Vec<u8>)>> {
    let mut root = Cli::command();
    root.build();
    let mut commands = vec![root];
    let mut pages = Vec::new();
    while let Some(command) = commands.pop() {
        let named = command.get_subcommands().filter(|command| command.get_name() != "help");
        let mut named: Vec<_> = named.cloned().collect();
        // The first one is the next page.
        named.reverse();
        commands.extend(named);
        let name = command.get_display_name().unwrap_or_else(|| command.get_name());
        let file = format!("{name}.1");
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page)?;
        pages.push((file, page));
    }
    Ok(pages)
}

#[cfg(test)]
mod tests;
