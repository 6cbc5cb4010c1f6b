//! The options of `tracer spread` and `tracer status`.
//!
//! `--pool` and `--to` stay text here: what is wrong with them is a matter of configuration (exit
//! 78), not of usage.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::{
    kernel::KernelArgs,
    output::{JsonArgs, StreamArgs},
    value::{self, NetnsRef},
};
use crate::spread::LEASE_RENEWED;

const SPREAD_HELP: &str = "\
Examples:
  tracer spread --pool auto --to 10.9.0.0/16 --cgroup /sys/fs/cgroup/system.slice/nginx.service
  tracer spread --pool 10.0.0.5-10.0.0.8 --cgroup /sys/fs/cgroup/haproxy --rebind
  tracer spread --pool 10.0.0.5=3 --pool 10.0.0.6 --all --to 10.9.0.0/16:443
  tracer spread --pool eth1 --all --dry-run     how full it would be; nothing is changed
  tracer spread --pool 10.0.0.5-10.0.0.8 --dry-run --from ports.jsonl.zst
  tracer spread --pool 10.0.0.0/28 --all --detach --rule edge
  tracer spread --release --rule edge           undo it, whoever started it

tracer sets the source address of TCP sockets that are bound to no port, and to no address either \
unless --rebind is given. A connect() that succeeds without tracer succeeds with it: if no address of \
the pool has a free port, or the kernel refuses the chosen address, the kernel chooses as usual.

Every address must be on this host already: `ip addr add 10.0.0.5/32 dev eth0`. The destinations must \
be able to answer to it.";

/// `tracer spread`
#[derive(Args, Clone, Debug)]
#[command(after_help = SPREAD_HELP)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct SpreadArgs {
    /// Source addresses to spread over: an address, FIRST-LAST, a network, the name of an
    /// interface (all its addresses), or auto (the addresses of the interfaces that routes to --to
    /// use; without --to, of the default route's, and connections that leave by another interface are
    /// not spread). =WEIGHT (1 to 100, default 1) is the share of connections of each address
    #[arg(
        long,
        value_name = "SPEC[=WEIGHT]",
        num_args = 1..,
        value_delimiter = ',',
        required_unless_present = "release",
        help_heading = "What to spread over"
    )]
    pub pool: Vec<String>,

    /// Network namespace of the pool: a name under /run/netns, a path, or an inode number
    /// [default: the one that tracer is started in]
    #[arg(
        long,
        value_name = "NETNS",
        value_parser = value::netns,
        help_heading = "What to spread over"
    )]
    pub netns: Option<NetnsRef>,

    /// Spread the processes of this cgroup v2 folder and of everything below it
    #[arg(
        long,
        value_name = "PATH",
        num_args = 1..,
        conflicts_with = "all",
        help_heading = "What is spread"
    )]
    pub cgroup: Vec<PathBuf>,

    /// Spread every process of this host
    #[arg(long, help_heading = "What is spread")]
    pub all: bool,

    /// Spread only connections to these destinations: 10.0.0.0/8, 10.1.2.3:80-90,
    /// [fd00::/64]:443 or *:443, at most 16 [default: all]
    #[arg(
        long,
        value_name = "CIDR[:PORTS]",
        num_args = 1..,
        value_delimiter = ',',
        help_heading = "What is spread"
    )]
    pub to: Vec<String>,

    /// Also replace a source address that the program set (nginx proxy_bind, HAProxy source);
    /// without --to also one that it set by bind(address, 0)
    #[arg(long, help_heading = "What is spread")]
    pub rebind: bool,

    /// Who chooses the source port
    #[arg(
        long,
        value_enum,
        default_value_t = PortChoice::Auto,
        value_name = "WHO",
        help_heading = "How"
    )]
    pub ports: PortChoice,

    /// When the whole pool is full, fail connect() at once, without the kernel's long search
    #[arg(long, help_heading = "How")]
    pub fail_fast: bool,

    /// Print how full the addresses are and how full they would be; change nothing
    #[arg(long, help_heading = "How")]
    pub dry_run: bool,

    /// With --dry-run: use the peaks of a recording (`tracer record`; files oldest first, plain or
    /// zstd) instead of this host's connections. The host need not have the pool's addresses then
    #[arg(
        long,
        value_name = "FILE",
        num_args = 1..,
        requires = "dry_run",
        conflicts_with_all = ["cgroup", "all", "netns"],
        help_heading = "How"
    )]
    pub from: Vec<PathBuf>,

    /// Name of the rule; several can run at a time. 1 to 32 of a-z, 0-9, - and _
    #[arg(
        long,
        default_value = DEFAULT_RULE,
        value_name = "NAME",
        value_parser = rule_name,
        help_heading = "Start and end"
    )]
    pub rule: String,

    /// What Ctrl-C or SIGTERM does to the rule [default: release]
    #[arg(long, value_enum, value_name = "WHAT", help_heading = "Start and end")]
    pub on_exit: Option<OnExit>,

    /// Stop spreading when this process, the rule's agent, has been gone for so long (if it was
    /// killed): seconds, or with a unit (10s), at least 0.5 [default: the rule stays active]
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = lease,
        help_heading = "Start and end"
    )]
    pub lease: Option<Duration>,

    /// Leave the rule active in the kernel and exit; it does not follow address changes then
    #[arg(
        long,
        conflicts_with_all = ["lease", "dry_run", "decisions", "output", "format"],
        help_heading = "Start and end"
    )]
    pub detach: bool,

    /// Remove the rule named by --rule, and all of it that is in the kernel, and exit
    #[arg(
        long,
        conflicts_with_all = [
            "pool", "netns", "cgroup", "all", "to", "rebind", "ports", "fail_fast", "dry_run",
            "from", "on_exit", "lease", "detach", "decisions", "output",
            "format",
        ],
        help_heading = "Start and end"
    )]
    pub release: bool,

    /// Which decisions to write as spread.decision lines
    #[arg(
        long,
        value_enum,
        default_value_t = Decisions::None,
        value_name = "WHICH",
        help_heading = "Output"
    )]
    pub decisions: Decisions,

    #[command(flatten)]
    pub stream: StreamArgs,

    #[command(flatten)]
    pub kernel: KernelArgs,
}

/// The name of the rule if `--rule` is not given.
pub const DEFAULT_RULE: &str = "default";

/// Who finds the source port.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum PortChoice {
    /// the kernel, or tracer where the kernel's search would be slow, if this kernel allows it
    Auto,
    /// always the kernel
    Kernel,
}

/// What happens to the rule when Ctrl-C or SIGTERM ends the program.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum OnExit {
    /// leave it active in the kernel; the next start takes it over
    Keep,
    /// remove it
    Release,
}

/// A word of `--decisions`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Decisions {
    None,
    /// 1 in 64
    Sampled,
    All,
}

const STATUS_HELP: &str = "\
Examples:
  tracer status
  tracer status --rule edge
  tracer status -o json | jq '.rules[].pool'

Reads what is pinned below /sys/fs/bpf and changes nothing.";

/// `tracer status`
#[derive(Args, Clone, Debug)]
#[command(after_help = STATUS_HELP)]
pub struct StatusArgs {
    #[command(flatten)]
    pub output: JsonArgs,

    /// Show only this rule [default: all]
    #[arg(long, value_name = "NAME", value_parser = rule_name)]
    pub rule: Option<String>,
}

/// Parses a lease: 0.5 s or longer. That is ten times the interval at which the agent renews it, so that it does not end when
/// the agent is late or misses a few renewals.
fn lease(text: &str) -> Result<Duration, String> {
    let shortest = LEASE_RENEWED * 10;
    let lease = value::seconds(text)?;
    if lease >= shortest {
        return Ok(lease);
    }
    Err(format!(
        "expected {} seconds at least: the agent renews it every {} seconds",
        shortest.as_secs_f64(),
        LEASE_RENEWED.as_secs_f64(),
    ))
}

/// Parses the name of a rule: 1 to 32 of a-z, 0-9, `-` and `_`. It becomes the name of a folder in bpffs, where a dot is
/// refused (`bpf_lookup` in kernel/bpf/inode.c).
fn rule_name(text: &str) -> Result<String, String> {
    let allowed = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_')
    };
    if (1..=32).contains(&text.len()) && text.bytes().all(allowed) {
        return Ok(text.to_owned());
    }
    Err("expected 1 to 32 of a-z, 0-9, - and _, such as edge-1".to_owned())
}

#[cfg(test)]
mod tests;
