//! The configuration of `tracer doctor`, checked as far as that is possible without looking at the host.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    cli::{DoctorArgs, DoctorFormat, NetnsRef},
    error::Error,
};

/// How many values `--pid` and `--cgroup` take: each is a file that stays open.
const MOST: usize = 64;

/// `tracer doctor`
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DoctorConfig {
    /// The namespaces to judge; empty: all that are found, or those of the processes to judge.
    pub netns: Vec<NetnsRef>,
    /// Ids of the processes to judge, at most 64; those that they have started are judged, too. If this and `cgroups` are
    /// empty: all processes.
    pub pids: Vec<u32>,
    /// The cgroups whose processes are judged, at most 64; empty: see `pids`.
    pub cgroups: Vec<PathBuf>,
    /// How long to watch with hooks; `None`: no hooks are attached.
    pub window: Option<Duration>,
    /// The time from the beginning of a round to that of the next; `None`: there is one round.
    pub watch: Option<Duration>,
    pub format: DoctorFormat,
    /// Logs of proxies to read; `-` is standard input; empty: none is named.
    pub logs: Vec<PathBuf>,
    /// Recordings to judge; empty: this host is judged.
    pub from: Vec<PathBuf>,
}

impl TryFrom<&DoctorArgs> for DoctorConfig {
    type Error = Error;

    /// # Errors
    /// [`Error::Usage`]: `--watch` together with the plugin's format or with a log on standard input; `--pid` or `--cgroup` has
    /// more than 64 values.
    fn try_from(args: &DoctorArgs) -> Result<Self, Error> {
        let usage = |text: String| Err(Error::Usage(text));
        let format = args.format();
        if args.watch.is_some() && format == DoctorFormat::Plugin {
            return usage(
                "--watch never ends, and a monitoring system runs a plugin once: leave --watch out, or give -o text or -o json"
                    .into(),
            );
        }
        if args.watch.is_some() && args.log.iter().any(|path| path == Path::new("-")) {
            return usage(
                "--watch reads each log in every round, and standard input can be read once: name the file of the log"
                    .into(),
            );
        }
        for (option, given) in [("--pid", args.pid.len()), ("--cgroup", args.cgroup.len())] {
            if given > MOST {
                return usage(format!(
                    "{option} was given {given} times, and takes at most {MOST} values"
                ));
            }
        }
        Ok(Self {
            netns: args.netns.clone(),
            pids: args.pid.clone(),
            cgroups: args.cgroup.clone(),
            window: args.window,
            watch: args.watch,
            format,
            logs: args.log.clone(),
            from: args.from.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::{cli::Cli, config::Task};

    fn doctor(line: &str) -> Result<DoctorConfig, Error> {
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        match Task::try_from(&cli.command)? {
            Task::Doctor(config) => Ok(config),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_round_of_all_processes_unless_something_else_is_asked_for() {
        let config = doctor("tracer doctor").unwrap();
        assert_eq!((config.watch, config.pids, config.cgroups), (None, vec![], vec![]));
        let config = doctor("tracer doctor --watch 0.5 --pid 7 --pid 8 --cgroup /a").unwrap();
        assert_eq!(config.watch, Some(Duration::from_millis(500)));
        assert_eq!((config.pids, config.cgroups), (vec![7, 8], vec!["/a".into()]));
    }

    #[test]
    fn what_cannot_be_repeated_is_refused() {
        for (line, why) in [
            ("tracer doctor --watch 5 -o plugin", "a plugin once"),
            ("tracer doctor --watch 5 --plugin", "a plugin once"),
            ("tracer doctor --watch 5 --log -", "read once"),
        ] {
            let error = doctor(line).unwrap_err();
            assert!(matches!(&error, Error::Usage(text) if text.contains(why)), "{line}: {error}");
        }
        let many = format!("tracer doctor{}", " --pid 7".repeat(65));
        assert!(matches!(doctor(&many), Err(Error::Usage(_))));
    }
}
