//! Has the errors that end the program: what was tried, on what, why it failed, what to do; and the exit code of each.

use std::{fmt, io, path::PathBuf, process::ExitCode};

/// All capabilities that tracer uses, for setcap(8): it replaces those that the file has, so a list of only the
/// missing ones would remove the others.
const ALL_CAPABILITIES: &str = "cap_bpf,cap_perfmon,cap_net_admin,cap_sys_admin,cap_syslog,cap_sys_ptrace,\
cap_dac_read_search,cap_setuid,cap_setgid,cap_setpcap";

/// Exit codes of the program, except the verdicts of `tracer doctor` ([`crate::doctor::verdict::Verdict`]) and ends by a signal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Exit {
    Ok = 0,
    /// Anything that has no exit code of its own.
    Failure = 1,
    /// The command line is wrong.
    Usage = 2,
    /// No backend can run here (`EX_UNAVAILABLE`).
    NoBackend = 69,
    /// Another process is doing what only one may do, such as being the agent of a rule (`EX_TEMPFAIL`).
    AlreadyRunning = 75,
    /// Privileges are missing, or the kernel refuses something in spite of them (`EX_NOPERM`).
    NoPrivilege = 77,
    /// The configuration is wrong (`EX_CONFIG`).
    BadConfig = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error that ends the program: what was tried, on what, why it failed, what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something went wrong that no other variant names.
    #[error("{0}")]
    Failure(String),

    /// A file cannot be opened, read, written and so on.
    #[error("cannot {tried} {}: {}{}", path.display(), reason(source), advice(do_this))]
    File {
        /// A verb that fits between `cannot` and the path: `open`, `append to`, `rename`.
        tried: &'static str,
        path: PathBuf,
        source: io::Error,
        /// What to do; empty if the reason makes that clear.
        do_this: &'static str,
    },

    /// The command line asks for something impossible.
    #[error("{0}")]
    Usage(String),

    /// No backend works on this kernel.
    #[error("no backend can run here:{}", Reasons(reasons))]
    NoBackend {
        /// Name of each backend, and why it cannot run.
        reasons: Vec<(String, String)>,
    },

    /// Another process is doing what only one may do. `what`: the thing, as the subject of a sentence. `pid`: the other process's
    /// id; `None`: not known.
    #[error("{what} is already running{}; stop it first", pid_text(*pid))]
    AlreadyRunning { what: &'static str, pid: Option<u32> },

    /// A signal (its number in signal(7)) asked the program to stop during the start.
    #[error("stopped by signal {signal} during the start")]
    Interrupted { signal: i32 },

    /// The process lacks capabilities.
    #[error(
        "privileges are missing: {}; run it as root, or give the program file all that it uses: \
         `setcap {ALL_CAPABILITIES}+ep FILE`", missing.join(", ")
    )]
    NoPrivilege {
        /// Names as in capabilities(7): `CAP_BPF`.
        missing: Vec<&'static str>,
    },

    /// The process has the capabilities, but in a user namespace of its own: the kernel asks for those of the host.
    #[error(
        "privileges are missing: {} of a user namespace are none on the host; run tracer on the host, or in a container \
         without a user namespace", missing.join(", ")
    )]
    InUserNamespace {
        /// Names as in capabilities(7): `CAP_BPF`.
        missing: Vec<&'static str>,
    },

    /// The kernel refuses something although this process has the capabilities for it.
    #[error("{0}")]
    Denied(String),

    /// A setting is wrong, or cannot be used on this host. The text says which setting and why, and where that helps, what is
    /// expected.
    #[error("{0}")]
    BadConfig(String),

    /// A configuration file has faults, at least one: a line for each, which begins with the file's name and the place.
    #[error("{}", .0.join("\n"))]
    Faults(Vec<String>),
}

impl Error {
    /// The exit code for this error, in any command but `tracer doctor` ([`crate::app::exit`]).
    pub const fn exit(&self) -> Exit {
        match self {
            Self::Failure(_) | Self::File { .. } | Self::Interrupted { .. } => Exit::Failure,
            Self::Usage(_) => Exit::Usage,
            Self::NoBackend { .. } => Exit::NoBackend,
            Self::AlreadyRunning { .. } => Exit::AlreadyRunning,
            Self::NoPrivilege { .. } | Self::InUserNamespace { .. } | Self::Denied(_) => {
                Exit::NoPrivilege
            }
            Self::BadConfig(_) | Self::Faults(_) => Exit::BadConfig,
        }
    }

    /// The text for stderr, with a newline at its end and control characters replaced. After [`Self::Usage`], a further line
    /// names `--help`. Lines of [`Self::Faults`] are as they are: editors and other programs read them.
    pub fn report(&self) -> String {
        if matches!(self, Self::Faults(_)) {
            return format!("{}\n", crate::format::text::lines(&self.to_string()));
        }
        let hint = if matches!(self, Self::Usage(_)) {
            "\nFor more information, try '--help'.\n"
        } else {
            ""
        };
        format!("error: {}\n{hint}", crate::format::text::lines(&self.to_string()))
    }
}

/// The text of the error with a small first letter, and without the "(os error 2)" that `io::Error` appends, which helps
/// nobody.
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_lowercase().collect::<String>() + letters.as_str()
    })
}

fn advice(do_this: &str) -> String {
    if do_this.is_empty() { String::new() } else { format!("; {do_this}") }
}

fn pid_text(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

struct Reasons<'a>(&'a [(String, String)]);

impl fmt::Display for Reasons<'_> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (backend, reason) in self.0 {
            write!(to, "\n  {backend}: {reason}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples() -> Vec<Error> {
        vec![
            Error::Failure("cannot read the tuple table: no such map".into()),
            Error::File {
                tried: "create",
                path: "/no/such/ports.jsonl".into(),
                source: io::Error::from_raw_os_error(2),
                do_this: "make the folder first",
            },
            Error::Usage("--rotate needs a file to rotate; give one with --output FILE".into()),
            Error::NoBackend {
                reasons: vec![
                    ("fexit".into(), "the kernel refuses fexit programs (EPERM)".into()),
                    ("kprobe".into(), "the kernel is built without kprobes".into()),
                ],
            },
            Error::AlreadyRunning { what: "tracer agent", pid: Some(17) },
            Error::NoPrivilege { missing: vec!["CAP_BPF", "CAP_PERFMON"] },
            Error::InUserNamespace { missing: vec!["CAP_BPF", "CAP_PERFMON"] },
            Error::BadConfig(
                "there is no network namespace blue: give a name in /run/netns, a path or an inode \
                 number"
                    .into(),
            ),
        ]
    }

    #[test]
    fn every_error_says_what_where_why_and_what_to_do() {
        let reports: Vec<_> = examples()
            .iter()
            .map(|error| format!("exit {}\n{}", error.exit() as u8, error.report()))
            .collect();
        insta::assert_snapshot!(reports.join("\n"));
    }

    #[test]
    fn names_from_outside_cannot_reach_the_terminal_as_control_characters() {
        let report = Error::Usage("--cgroup a\u{1b}[2Jb".into()).report();
        assert!(!report.contains('\u{1b}'), "{report:?}");
    }
}
