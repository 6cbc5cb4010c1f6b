//! The options of `tracer spread` and `tracer status`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::value::{self, NetnsRef};

const SPREAD_HELP: &str = "\
Examples:
  tracer spread --pool 10.0.0.5-10.0.0.8 --cgroup system.slice/nginx.service
  tracer spread --pool eth1 --cgroup /sys/fs/cgroup/system.slice/haproxy.service --rebind
  tracer spread --pool auto --all --to 10.0.0.0/8:443
  tracer spread --pool 10.0.0.5-10.0.0.8 --all --dry-run
  tracer spread --release

Each connect() of these cgroups to one of the destinations gets the address of the pool that holds the \
fewest ports towards it. Past 45 % of the range, ports that the kernel would find only after a long \
search are handed out as well. Nothing of the programs is changed or restarted. Left alone are: \
sockets with a port, sockets with an address of their own (but see --rebind), loopback and link-local \
destinations, sockets bound to a device, IP_TRANSPARENT and kernel sockets, other network namespaces. \
Whatever is missing, full or gone: connect() goes on as without tracer.

Spreading goes on when this program ends (--on-exit keep), until `tracer spread --release`.";

/// `tracer spread`
#[derive(Args, Clone, Debug)]
#[command(after_help = SPREAD_HELP)]
pub struct SpreadArgs {
    /// Source addresses: ADDR, ADDR-ADDR, NETWORK/LEN, an interface (all its addresses) or auto (all
    /// of this host that others can reach); with =WEIGHT where one is to get more than others
    #[arg(
        long,
        value_name = "SPEC",
        num_args = 1..,
        value_delimiter = ',',
        required_unless_present = "release"
    )]
    pub pool: Vec<String>,

    /// Programs in this cgroup v2 folder and below it (several times for several)
    #[arg(long, value_name = "PATH", conflicts_with = "all")]
    pub cgroup: Vec<PathBuf>,

    /// All programs of this machine
    #[arg(long)]
    pub all: bool,

    /// Destinations: ADDR[/LEN][:PORT[-HIGH]], [V6ADDR/LEN]:PORT, *:PORT [default: all]
    #[arg(long, value_name = "DEST", num_args = 1.., value_delimiter = ',')]
    pub to: Vec<String>,

    /// Network namespace of the pool: a name under /run/netns, a path or an inode number [default:
    /// this program's]
    #[arg(long, value_name = "NETNS", value_parser = value::netns)]
    pub netns: Option<NetnsRef>,

    /// Also replace an address that the program chose itself, as long as it chose no port (nginx
    /// proxy_bind, HAProxy source)
    #[arg(long)]
    pub rebind: bool,

    /// Who finds the port past 45 % of the range
    #[arg(long, value_enum, default_value_t = Ports::Auto, value_name = "WHO")]
    pub ports: Ports,

    /// Where no address has a port left, fail at once: without this the kernel searches for
    /// milliseconds and then fails
    #[arg(long)]
    pub fail_fast: bool,

    /// What becomes of the rule when this program is ended
    #[arg(long, value_enum, default_value_t = OnExit::Keep, value_name = "WHAT")]
    pub on_exit: OnExit,

    /// End the rule if this program is gone for so long [default: never]
    #[arg(long, value_name = "SECS", value_parser = value::seconds)]
    pub lease: Option<Duration>,

    /// Name of the rule, for having several: a-z, 0-9, - and _ [default: default]
    #[arg(long, value_name = "NAME", value_parser = rule_name)]
    pub rule: Option<String>,

    /// Decisions to print as JSON Lines (refusals always are, but with none)
    #[arg(long, value_enum, default_value_t = Told::None, value_name = "WHICH")]
    pub decisions: Told,

    /// Set everything up and leave it to itself: addresses that come or go are not followed
    #[arg(long, conflicts_with_all = ["lease", "dry_run"])]
    pub detach: bool,

    /// Change nothing: say what the pool would do for the connections as they are
    #[arg(long)]
    pub dry_run: bool,

    /// End the rule that --rule names or, without it, every rule
    #[arg(long, conflicts_with_all = ["pool", "cgroup", "all", "to", "dry_run", "detach"])]
    pub release: bool,
}

/// Who finds the port.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Ports {
    /// tracer where the kernel has what it takes (Linux 6.1), else the kernel
    Auto,
    /// The kernel
    Kernel,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum OnExit {
    /// Spreading goes on without it
    Keep,
    /// The rule ends
    Release,
}

/// Which decisions are told.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Told {
    None,
    /// One in 64
    Sampled,
    All,
}

fn rule_name(text: &str) -> Result<String, String> {
    let fine = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
    if (1..=32).contains(&text.len()) && text.bytes().all(fine) {
        return Ok(text.to_owned());
    }
    Err("expected 1 to 32 of a-z, 0-9, - and _".to_owned())
}

/// `tracer status`
#[derive(Args, Clone, Debug)]
pub struct StatusArgs {
    /// One JSON object, for programs
    #[arg(long)]
    pub json: bool,

    /// This rule only [default: all]
    #[arg(long, value_name = "NAME", value_parser = rule_name)]
    pub rule: Option<String>,
}
