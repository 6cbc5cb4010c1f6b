//! The configuration of `tracer spread`, checked as far as that is possible without looking at the host.

use std::{path::PathBuf, time::Duration};

use tracer_common::spread::{Destination, rule_flag};

use super::{OutputConfig, Target as Output};
use crate::{
    cli::{Decisions, NetnsRef, OnExit, PortChoice, SpreadArgs},
    error::Error,
    spread::{
        destinations::{self, Target},
        pool::Spec,
    },
};

/// With `--decisions sampled`, 1 in this number of decisions is written as a line.
const SAMPLE: u32 = 64;

/// `tracer spread --pool …`
#[derive(Clone, Debug, PartialEq)]
pub struct SpreadConfig {
    /// Name of the rule.
    pub rule: String,
    pub pool: Vec<Spec>,
    /// Values of `--cgroup`; `/` for the whole machine. Empty only if `from` is not.
    pub cgroups: Vec<PathBuf>,
    /// The destinations; empty: all.
    pub targets: Vec<Target>,
    /// The network namespace of the pool; `None`: that of tracer itself.
    pub netns: Option<NetnsRef>,
    /// Bits of [`rule_flag`].
    pub flags: u32,
    /// What becomes of the rule when the agent ends.
    pub on_exit: OnExit,
    /// Spreading ends when the agent has been gone for this time; `None`: spreading goes on.
    pub lease: Option<Duration>,
    /// Of the decisions that chose an address, 1 in this number is written as a line, and each whose address the kernel refused;
    /// 0: none of these. Of the calls for which no address could be chosen, at most one a second is written, whatever this number
    /// is; but if it is 1, each, and each exempt call, too.
    pub sample: u32,
    pub output: OutputConfig,
    /// Whether the rule is left active in the kernel without an agent.
    pub detach: bool,
    /// Whether nothing is changed, and it is only printed what the pool would bring.
    pub dry_run: bool,
    /// Recordings that `--dry-run` uses in place of this host's connections; empty: `--dry-run` uses the host's.
    pub from: Vec<PathBuf>,
}

impl SpreadConfig {
    /// Network and ports of each destination, in the order of the command line; empty: all destinations.
    pub fn destinations(&self) -> Vec<Destination> {
        self.targets.iter().map(|target| target.destination).collect()
    }
}

impl TryFrom<&SpreadArgs> for SpreadConfig {
    type Error = Error;

    /// # Errors
    /// [`Error::BadConfig`]: neither `--cgroup` nor `--all` nor `--from`; `--detach` with `--on-exit release`; a `--pool` or
    /// `--to` value that cannot be used. [`Error::Usage`]: `-o` and `--output` both name a file.
    fn try_from(args: &SpreadArgs) -> Result<Self, Error> {
        if args.cgroup.is_empty() && !args.all && args.from.is_empty() {
            return Err(Error::BadConfig(
                "no programs to spread: name them with --cgroup PATH, or give --all for every process".into(),
            ));
        }
        if args.detach && args.on_exit == Some(OnExit::Release) {
            return Err(Error::BadConfig(
                "--detach leaves the rule in the kernel, and --on-exit release removes it: leave one of \
                 them out"
                    .into(),
            ));
        }
        let wrong = |error: &dyn std::error::Error| Error::BadConfig(error.to_string());
        let pool = args.pool.iter().map(|text| text.parse());
        let pool = pool.collect::<Result<Vec<Spec>, _>>().map_err(|error| wrong(&error))?;
        let targets = destinations::parse(&args.to).map_err(|error| wrong(&error))?;
        let flags = [
            (args.rebind, rule_flag::REBIND),
            (args.ports == PortChoice::Auto, rule_flag::FAST_PORTS),
            (args.fail_fast, rule_flag::FAIL_FAST),
            (args.lease.is_some(), rule_flag::LEASED),
        ];
        let target = Output::try_from(&args.stream)?;
        Ok(Self {
            rule: args.rule.clone(),
            pool,
            cgroups: if args.all { vec![PathBuf::from("/")] } else { args.cgroup.clone() },
            targets,
            netns: args.netns.clone(),
            flags: flags.iter().filter(|(on, _)| *on).fold(0, |bits, (_, bit)| bits | bit),
            // --detach means that the rule stays when the program ends.
            on_exit: match args.on_exit {
                None if args.detach => OnExit::Keep,
                on_exit => on_exit.unwrap_or(OnExit::Release),
            },
            lease: args.lease,
            sample: match args.decisions {
                Decisions::None => 0,
                Decisions::Sampled => SAMPLE,
                Decisions::All => 1,
            },
            output: OutputConfig { target, rotation: None, compression: None },
            detach: args.detach,
            dry_run: args.dry_run,
            from: args.from.clone(),
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
        let line = "tracer spread --pool 10.0.0.1 --pool 10.0.0.2=2 --all --fail-fast";
        let config = config(line).unwrap();
        assert_eq!(config.cgroups, [PathBuf::from("/")]);
        assert_eq!(config.pool.len(), 2);
        assert_eq!(config.flags, rule_flag::FAST_PORTS | rule_flag::FAIL_FAST);
        assert_eq!(config.on_exit, OnExit::Release);
    }

    #[test]
    fn what_is_wrong_with_a_pool_or_a_destination_is_wrong_configuration() {
        for end in ["--pool 10.0.0.2-10.0.0.1", "--pool auto --to 10.0.0.1:90-80"] {
            let error = config(&format!("tracer spread --all {end}")).unwrap_err();
            assert_eq!(error.exit() as u8, 78, "{error}");
        }
    }

    #[test]
    fn a_recording_needs_no_cgroup_and_only_a_dry_run_takes_one() {
        let line = "tracer spread --pool 10.0.0.1 --dry-run --from a b";
        assert_eq!(config(line).unwrap().from, [PathBuf::from("a"), PathBuf::from("b")]);
        for line in [
            "tracer spread --pool 10.0.0.1 --all --from a",
            "tracer spread --pool 10.0.0.1 --dry-run --all --from a",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }

    #[test]
    fn what_is_left_to_itself_is_kept() {
        let with = |end| config(&format!("tracer spread --pool auto --all {end}"));
        assert_eq!(with("--detach").unwrap().on_exit, OnExit::Keep);
        assert_eq!(with("--detach --on-exit keep").unwrap().on_exit, OnExit::Keep);
        assert_eq!(with("--detach --on-exit release").unwrap_err().exit() as u8, 78);
        assert_eq!(with("--on-exit keep").unwrap().on_exit, OnExit::Keep);
    }

    #[test]
    fn several_values_follow_one_flag_or_stand_in_one_list() {
        for pool in ["--pool 10.0.0.1 10.0.0.2=2", "--pool 10.0.0.1,10.0.0.2=2"] {
            let config =
                config(&format!("tracer spread {pool} --cgroup a b --to 10.1.0.0/16,*:443"));
            let config = config.unwrap();
            assert_eq!((config.pool.len(), config.cgroups.len(), config.targets.len()), (2, 2, 2));
        }
    }
}
