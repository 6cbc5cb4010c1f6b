//! `tracer spread`, checked.

use std::{path::PathBuf, time::Duration};

use tracer_common::spread::{DESTINATIONS_MAX, Destination, rule_flag};

use crate::{
    cli::{NetnsRef, OnExit, Ports, SpreadArgs, Told},
    error::Error,
    spread::{pool::Spec, rule},
};

/// Decisions of which one is told where some are wanted.
const SAMPLE: u32 = 64;

/// `tracer spread --pool …`
#[derive(Clone, Debug, PartialEq)]
pub struct SpreadConfig {
    pub rule: String,
    pub pool: Vec<Spec>,
    /// Values of `--cgroup`; `/` for the whole machine.
    pub cgroups: Vec<PathBuf>,
    pub destinations: Vec<Destination>,
    pub netns: Option<NetnsRef>,
    /// [`rule_flag`] bits.
    pub flags: u32,
    pub on_exit: OnExit,
    pub lease: Option<Duration>,
    /// One decision in so many is told; 0: none.
    pub sample: u32,
    pub detach: bool,
    pub dry_run: bool,
}

impl TryFrom<&SpreadArgs> for SpreadConfig {
    type Error = Error;

    fn try_from(args: &SpreadArgs) -> Result<Self, Error> {
        if args.cgroup.is_empty() && !args.all {
            return Err(Error::BadConfig(
                "no cgroup is named, which would take every program of this machine; name \
                 --cgroup PATH, or say --all"
                    .into(),
            ));
        }
        let mut destinations = Vec::new();
        for text in &args.to {
            destinations.extend(
                rule::destination(text)
                    .map_err(|error| Error::BadConfig(format!("--to {error}")))?,
            );
        }
        let pool = args
            .pool
            .iter()
            .map(|text| {
                let spec = text.parse();
                spec.map_err(|error: String| Error::BadConfig(format!("--pool {text}: {error}")))
            })
            .collect::<Result<_, _>>()?;
        if destinations.len() > DESTINATIONS_MAX {
            return Err(Error::BadConfig(format!(
                "--to names {} networks; a rule takes {DESTINATIONS_MAX} at most: join them, or \
                 make two rules",
                destinations.len()
            )));
        }
        let flags = [
            (args.rebind, rule_flag::REBIND),
            (args.ports == Ports::Auto, rule_flag::FAST_PORTS),
            (args.fail_fast, rule_flag::FAIL_FAST),
            (args.lease.is_some(), rule_flag::LEASED),
        ];
        Ok(Self {
            rule: args.rule.clone().unwrap_or_else(|| "default".to_owned()),
            pool,
            cgroups: if args.all { vec![PathBuf::from("/")] } else { args.cgroup.clone() },
            destinations,
            netns: args.netns.clone(),
            flags: flags.iter().filter(|(on, _)| *on).fold(0, |bits, (_, bit)| bits | bit),
            on_exit: args.on_exit,
            lease: args.lease,
            sample: match args.decisions {
                Told::None => 0,
                Told::Sampled => SAMPLE,
                Told::All => 1,
            },
            detach: args.detach,
            dry_run: args.dry_run,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn config(line: &str) -> Result<SpreadConfig, Error> {
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        let Command::Spread(args) = cli.command else { panic!("{line}") };
        SpreadConfig::try_from(args.as_ref())
    }

    #[test]
    fn the_whole_machine_is_taken_only_if_asked_for() {
        let error = config("tracer spread --pool auto").unwrap_err();
        assert_eq!(error.exit() as u8, 78);
        let config = config("tracer spread --pool 10.0.0.1,10.0.0.2=2 --all --fail-fast").unwrap();
        assert_eq!(config.cgroups, [PathBuf::from("/")]);
        assert_eq!(config.pool.len(), 2);
        assert_eq!(config.flags, rule_flag::FAST_PORTS | rule_flag::FAIL_FAST);
    }

    #[test]
    fn destinations_are_counted_and_checked() {
        let many = vec!["10.0.0.1"; 17].join(",");
        for (to, expected) in [(many.as_str(), "names 17"), ("10.0.0.1:90-80", "backwards")] {
            let error = config(&format!("tracer spread --pool auto --all --to {to}")).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert_eq!(error.exit() as u8, 78);
        }
    }
}
