//! The options of `tracer advise`.
//!
//! `--pool` and `--to` stay text here: what is wrong with them is a matter of configuration (exit 78), not of usage.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{
    doctor::{Window, window},
    kernel::KernelArgs,
    value::{self, NetnsRef},
};

const ADVISE_HELP: &str = "\
Examples:
  tracer advise nginx                    for the load of the next 5 seconds
  tracer advise nginx --netns blue --to 10.0.1.0/24 --window 1m
  tracer advise nginx --to 10.0.1.7:8080 --rate 1000
  tracer advise nginx --to 10.0.1.7:8080 --pool 10.0.0.5-10.0.0.8 --from ports.jsonl.zst
  tracer advise haproxy --to 10.0.1.7:8080,10.0.1.8:8080 --pool eth0
  tracer advise squid --pool eth0 --to 10.9.0.0/16
  tracer advise ip --pool 10.0.0.5-10.0.0.8 --to 10.0.1.7:8080 --rate 1000 > add; ip -batch add
  tracer advise sysctl > /etc/sysctl.d/60-tracer.conf; sysctl -p /etc/sysctl.d/60-tracer.conf

Prints lines to paste; changes nothing. The comments above each block say what it gains in connections \
per second, what to mind, and how to take it back. The load, the port range and the addresses are those \
of the network namespace in which it runs (of a container: --netns /proc/PID/ns/net). Measuring needs \
the privileges of tracer tuples; without them, and without --rate and --from, no load is known.";

/// `tracer advise`
#[derive(Args, Clone, Debug)]
#[command(after_help = ADVISE_HELP)]
pub struct AdviseArgs {
    /// What to configure
    #[arg(value_enum, value_name = "PROGRAM")]
    pub program: Advised,

    /// Source addresses to use, on this host or to be added: an address, FIRST-LAST, a network, the
    /// name of an interface (all its addresses), or auto (the addresses of the interfaces that
    /// routes to --to use) [default: none, and connections are only reused]
    #[arg(long, value_name = "SPEC", num_args = 1.., value_delimiter = ',')]
    pub pool: Vec<String>,

    /// Destinations: 10.0.1.7:8080, [fd00::/64]:443, 10.0.0.0/8 or *:443, at most 16. nginx, haproxy
    /// and envoy need each server's address and port if no load is known [default: all]
    #[arg(long, value_name = "CIDR[:PORTS]", num_args = 1.., value_delimiter = ',')]
    pub to: Vec<String>,

    /// Connections per second to each destination; it is assumed that each is open for 0.1 s and
    /// that this host closes it first [default: the load is measured]
    #[arg(long, value_name = "N", value_parser = rate, conflicts_with = "from")]
    pub rate: Option<f64>,

    /// Take destinations, rates, and who closes first from a recording (`tracer record`), at its
    /// peak; plain or zstd, several files for a rotated set; - is stdin
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub from: Vec<PathBuf>,

    /// How long to measure the load with hooks in the kernel: seconds, or with a unit (500ms, 1m); 0: no hooks
    #[arg(
        short,
        long,
        default_value = "5",
        value_name = "DURATION",
        value_parser = window,
        conflicts_with_all = ["rate", "from"]
    )]
    pub(crate) window: Window,

    /// Network namespace of the program: a name under /run/netns, a path, or an inode number [default: the own one]
    #[arg(long, value_name = "NETNS", value_parser = value::netns, conflicts_with = "from")]
    pub netns: Option<NetnsRef>,

    #[command(flatten)]
    pub kernel: KernelArgs,
}

/// What is configured.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Advised {
    /// upstream with keepalive, split_clients with proxy_bind
    Nginx,
    /// server lines with source, http-reuse
    Haproxy,
    /// clusters with upstream_bind_config
    Envoy,
    /// tcp_outgoing_address
    Squid,
    /// a file for /etc/sysctl.d
    Sysctl,
    /// more addresses, for ip -batch
    Ip,
}

/// Parses connections per second.
fn rate(text: &str) -> Result<f64, String> {
    let rate: Option<f64> = text.parse().ok();
    let rate = rate.filter(|rate| (0.01..=10_000_000.0).contains(rate));
    rate.ok_or_else(|| "expected connections per second, from 0.01 to 10000000".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_positive_number() {
        assert_eq!([rate("1000"), rate("0.5")], [Ok(1_000.0), Ok(0.5)]);
        for bad in ["", "0", "-1", "nan", "inf", "1e9", "1k", "10/s"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }
}
