//! The configuration of `tracer advise`, checked as far as that is possible without looking at the host.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;
use tracer_common::spread::Destination;

use crate::{
    advise::Program,
    cli::{AdviseArgs, Advised, NetnsRef},
    error::Error,
    spread::{
        destinations::{self, Target},
        pool::Spec,
    },
};

/// Ports of one `--to` value that are taken for servers at most.
const SERVERS_MAX: usize = 16;

/// Why no load is known with `--window 0`, for an error's text.
pub const NOT_MEASURED: &str = "none is measured with --window 0";

/// `tracer advise`
#[derive(Clone, Debug, PartialEq)]
pub struct AdviseConfig {
    pub program: Program,
    /// Empty: no source addresses are named.
    pub pool: Vec<Spec>,
    /// Empty: every destination.
    pub targets: Vec<Target>,
    /// Connections per second to each destination; `None`: not given.
    pub rate: Option<f64>,
    /// Recordings; empty: none.
    pub from: Vec<PathBuf>,
    /// How long the load is measured, if there is neither a rate nor a recording; `None`: it is not.
    pub window: Option<Duration>,
    /// The network namespace of the program; `None`: that of tracer itself.
    pub netns: Option<NetnsRef>,
}

impl AdviseConfig {
    /// How long the load is to be measured; `None`: it is not, because a rate or recordings are given, or `window` is `None`.
    pub fn measured(&self) -> Option<Duration> {
        self.window.filter(|_| self.rate.is_none() && self.from.is_empty())
    }

    /// The error for a program whose configuration lists its servers ([`Program::names_servers`]), if neither `--to` nor a load
    /// names one. `why`: why there is no such load, as a part of the error's text.
    pub fn no_servers(&self, why: &str) -> Error {
        Error::BadConfig(format!(
            "{} is configured by server, and no load says which ones there are ({why}): name each with its port \
             (--to 10.0.1.7:8080), or a recording that has them (--from)",
            self.program.name()
        ))
    }

    /// Network and ports of each destination, in the order of the command line; empty: all destinations.
    pub fn destinations(&self) -> Vec<Destination> {
        self.targets.iter().map(|target| target.destination).collect()
    }

    /// The networks of the destinations; empty: all, also if one of them is a whole address family (0.0.0.0/0 or ::/0).
    pub fn networks(&self) -> Vec<IpNet> {
        let networks = destinations::networks(&self.targets).into_iter().map(|it| it.network);
        let all: Vec<IpNet> = networks.collect();
        if all.iter().any(|it| it.prefix_len() == 0) { Vec::new() } else { all }
    }

    /// The servers that the destinations name, each an address with a port (host byte order), sorted, each once. A destination
    /// that is a network of several addresses, or has more than 16 ports, names none.
    pub fn servers(&self) -> Vec<(IpAddr, u16)> {
        let mut servers: Vec<_> = self.targets.iter().flat_map(servers_of).collect();
        servers.sort_unstable();
        servers.dedup();
        servers
    }
}

fn servers_of(target: &Target) -> Vec<(IpAddr, u16)> {
    let networks = destinations::networks(std::slice::from_ref(target));
    let [one] = &networks[..] else { return Vec::new() };
    let network = one.network;
    let ports = target.destination.ports.low..=target.destination.ports.high;
    if network.prefix_len() != network.max_prefix_len() || ports.len() > SERVERS_MAX {
        return Vec::new();
    }
    ports.map(|port| (network.addr(), port)).collect()
}

impl TryFrom<&AdviseArgs> for AdviseConfig {
    type Error = Error;

    /// # Errors
    /// [`Error::BadConfig`]: a `--pool` or `--to` value that cannot be used; a program that needs the servers, without a value
    /// that names one, a recording and a window.
    fn try_from(args: &AdviseArgs) -> Result<Self, Error> {
        let wrong = |error: &dyn std::error::Error| Error::BadConfig(error.to_string());
        let pool = args.pool.iter().map(|text| text.parse());
        let pool = pool.collect::<Result<Vec<Spec>, _>>().map_err(|error| wrong(&error))?;
        let targets = destinations::parse(&args.to).map_err(|error| wrong(&error))?;
        let config = Self {
            program: program(args.program),
            pool,
            targets,
            rate: args.rate,
            from: args.from.clone(),
            window: args.window,
            netns: args.netns.clone(),
        };
        let has_load = !config.from.is_empty() || config.measured().is_some();
        if config.program.names_servers() && !has_load && config.servers().is_empty() {
            let why = if config.rate.is_some() { "--rate names none" } else { NOT_MEASURED };
            return Err(config.no_servers(why));
        }
        Ok(config)
    }
}

fn program(advised: Advised) -> Program {
    match advised {
        Advised::Nginx => Program::Nginx,
        Advised::Haproxy => Program::Haproxy,
        Advised::Envoy => Program::Envoy,
        Advised::Squid => Program::Squid,
        Advised::Sysctl => Program::Sysctl,
        Advised::Ip => Program::Ip,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn config(line: &str) -> Result<AdviseConfig, Error> {
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        let Command::Advise(args) = cli.command else { panic!("{line}") };
        AdviseConfig::try_from(args.as_ref())
    }

    #[test]
    fn a_server_is_an_address_with_few_ports() {
        let servers = |to: &str| {
            let config = config(&format!("tracer advise squid --to {to}")).unwrap();
            config
                .servers()
                .iter()
                .map(|(address, port)| format!("{address} {port}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(servers("10.0.1.7:8080"), ["10.0.1.7 8080"]);
        assert_eq!(
            servers("[fd00::7]:80-81,10.0.1.7:1,10.0.1.7:1"),
            ["10.0.1.7 1", "fd00::7 80", "fd00::7 81"]
        );
        for to in ["10.0.1.7", "10.0.1.0/24:80", "*:443", "10.0.1.7:1-17", "[::/0]:1"] {
            let found = config(&format!("tracer advise squid --to {to}"));
            assert!(found.map_or_else(|_| true, |it| it.servers().is_empty()), "{to}");
        }
    }

    #[test]
    fn what_needs_servers_is_refused_without() {
        for program in ["nginx", "haproxy", "envoy"] {
            for end in [" --window 0", " --to 10.0.0.0/8:80 --rate 5", " --rate 5"] {
                let error = config(&format!("tracer advise {program}{end}")).unwrap_err();
                assert_eq!(error.exit() as u8, 78, "{error}");
            }
            assert!(config(&format!("tracer advise {program} --from a b")).is_ok());
            assert!(config(&format!("tracer advise {program}")).is_ok());
            assert!(config(&format!("tracer advise {program} --to 10.0.1.7:80")).is_ok());
        }
        for program in ["squid", "sysctl", "ip"] {
            assert!(config(&format!("tracer advise {program}")).is_ok());
        }
    }

    #[test]
    fn what_is_wrong_with_a_pool_or_a_destination_is_wrong_configuration() {
        for end in ["--pool 10.0.0.2-10.0.0.1", "--to 10.0.0.1:90-80"] {
            let error = config(&format!("tracer advise ip {end}")).unwrap_err();
            assert_eq!(error.exit() as u8, 78, "{error}");
        }
    }

    #[test]
    fn a_rate_a_recording_and_a_window_exclude_each_other() {
        for options in [
            "--rate 5 --from a",
            "--rate 5 --window 5",
            "--window 0 --from a",
            "--netns a --from a",
        ] {
            let line = format!("tracer advise ip {options}");
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{options}");
        }
        let measured =
            |options: &str| config(&format!("tracer advise ip{options}")).unwrap().measured();
        assert_eq!(measured(""), Some(Duration::from_secs(5)));
        assert_eq!(measured(" --window 500ms"), Some(Duration::from_millis(500)));
        for options in [" --window 0", " --rate 5", " --from a"] {
            assert_eq!(measured(options), None, "{options}");
        }
    }

    #[test]
    fn networks_are_none_if_a_destination_is_everything() {
        let networks =
            |to: &str| config(&format!("tracer advise squid{to}")).unwrap().networks().len();
        assert_eq!(
            [networks(""), networks(" --to *:443"), networks(" --to 10.0.0.0/8,fd00::/64")],
            [0, 0, 2]
        );
    }
}
