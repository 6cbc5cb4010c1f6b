//! The options of `tracer spread` and `tracer status`.
//!
//! `--pool` and `--to` stay text here: what is wrong with them is a matter of configuration (exit
//! 78), not of usage.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::value::{self, NetnsRef};
use crate::spread::LEASE_RENEWED;

const SPREAD_HELP: &str = "\
Examples:
  tracer spread --pool auto --to 10.9.0.0/16 --cgroup /sys/fs/cgroup/system.slice/nginx.service
  tracer spread --pool 10.0.0.5-10.0.0.8 --cgroup /sys/fs/cgroup/haproxy --rebind
  tracer spread --pool 10.0.0.5=3 --pool 10.0.0.6 --all --to 10.9.0.0/16:443
  tracer spread --pool eth1 --all --dry-run     what would be chosen; nothing is changed
  tracer spread --pool 10.0.0.5-10.0.0.8 --dry-run --from ports.jsonl.zst
  tracer spread --pool 10.0.0.0/28 --all --detach --rule edge
  tracer spread --release --rule edge           takes it back, whoever started it

Only TCP sockets are touched that have bound no port, and no address unless --rebind is given. A \
connect() that succeeds without tracer succeeds with it: where no address of the pool has a port \
left, or the kernel refuses the chosen one, the kernel chooses as always.

Every address must be on this host already: `ip addr add 10.0.0.5/32 dev eth0`. The other side must \
be able to answer to it.";

/// `tracer spread`
#[derive(Args, Clone, Debug)]
#[command(after_help = SPREAD_HELP)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct SpreadArgs {
    /// Source addresses to spread over: an address, FIRST-LAST, a network, the name of an
    /// interface (all its addresses), or auto (those of the interfaces that routes to the destinations
    /// of --to use; without --to, of the default route's, and what is reached over another interface
    /// is not spread). =WEIGHT (1 to 100) gives each of them so many shares instead of one
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

    /// Spread every process of this machine
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

    /// Replace also an address that the application has chosen (nginx proxy_bind, HAProxy source);
    /// without --to also one of bind(address, 0)
    #[arg(long, help_heading = "What is spread")]
    pub rebind: bool,

    /// Who finds the source port
    #[arg(
        long,
        value_enum,
        default_value_t = PortChoice::Auto,
        value_name = "WHO",
        help_heading = "How"
    )]
    pub ports: PortChoice,

    /// Where the whole pool is full, fail connect() at once instead of after a search in vain
    #[arg(long, help_heading = "How")]
    pub fail_fast: bool,

    /// Say what would be chosen, and leave every connection as it is
    #[arg(long, help_heading = "How")]
    pub dry_run: bool,

    /// With --dry-run: the peaks of a recording (`tracer record`, files in the order of time, plain or
    /// zstd) instead of the connections of this host. The pool's addresses need not be here then
    #[arg(
        long,
        value_name = "FILE",
        num_args = 1..,
        requires = "dry_run",
        conflicts_with_all = ["cgroup", "all", "netns"],
        help_heading = "How"
    )]
    pub from: Vec<PathBuf>,

    /// Name of the rule, of several that run at a time: 1 to 32 of a-z, 0-9, - and _
    #[arg(
        long,
        default_value = DEFAULT_RULE,
        value_name = "NAME",
        value_parser = rule_name,
        help_heading = "Start and end"
    )]
    pub rule: String,

    /// What becomes of the rule when this program ends at Ctrl-C or SIGTERM [default: release]
    #[arg(long, value_enum, value_name = "WHAT", help_heading = "Start and end")]
    pub on_exit: Option<OnExit>,

    /// Stop spreading when this program has not been seen for SECS seconds (if it was killed), at
    /// least 0.5 [default: go on]
    #[arg(
        long,
        value_name = "SECS",
        value_parser = lease,
        help_heading = "Start and end"
    )]
    pub lease: Option<Duration>,

    /// Leave the rule in the kernel and end; nobody follows changes of the pool's addresses then
    #[arg(
        long,
        conflicts_with_all = ["lease", "dry_run", "decisions", "output"],
        help_heading = "Start and end"
    )]
    pub detach: bool,

    /// Take back the rule named by --rule and all that it left in the kernel, and end
    #[arg(
        long,
        conflicts_with_all = [
            "pool", "netns", "cgroup", "all", "to", "rebind", "ports", "fail_fast", "dry_run",
            "from", "on_exit", "lease", "detach", "decisions", "output",
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

    /// Where the lines go; - is stdout. A new file has mode 0600, an old one is appended to
    #[arg(short, long, default_value = "-", value_name = "FILE", help_heading = "Output")]
    pub output: PathBuf,
}

/// The rule that is meant where none is named.
pub const DEFAULT_RULE: &str = "default";

/// Who finds the source port.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum PortChoice {
    /// the kernel; tracer where the kernel would search long, if it can do so here
    Auto,
    /// always the kernel
    Kernel,
}

/// What becomes of the rule when the program is told to end.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum OnExit {
    /// the kernel goes on spreading; the next start takes it over
    Keep,
    /// nothing is left behind
    Release,
}

/// A word of `--decisions`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Decisions {
    None,
    /// one in many
    Sampled,
    All,
}

const STATUS_HELP: &str = "\
Examples:
  tracer status
  tracer status --rule edge
  tracer status --json | jq '.rules[].pool'

Reads what is pinned below /sys/fs/bpf and changes nothing.";

/// `tracer status`
#[derive(Args, Clone, Debug)]
#[command(after_help = STATUS_HELP)]
pub struct StatusArgs {
    /// One line of JSON
    #[arg(long)]
    pub json: bool,

    /// Only this rule [default: all]
    #[arg(long, value_name = "NAME", value_parser = rule_name)]
    pub rule: Option<String>,
}

/// The name becomes a folder in bpffs, where a dot is refused (`bpf_lookup` in
/// kernel/bpf/inode.c).
/// At least ten times the interval of renewal, so that one late renewal, or nine, end nothing.
fn lease(text: &str) -> Result<Duration, String> {
    let shortest = LEASE_RENEWED * 10;
    let lease = value::seconds(text)?;
    if lease >= shortest {
        return Ok(lease);
    }
    Err(format!(
        "expected {} seconds at least: it is renewed every {} seconds",
        shortest.as_secs_f64(),
        LEASE_RENEWED.as_secs_f64(),
    ))
}

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
