//! A hostile local user without privileges: a child process as uid and gid 65534, without supplementary groups and
//! capabilities, in the cgroup of the tests (so in no cgroup that a rule names), by default with its own user namespace.
//!
//! The test sends one operation at a time, as a line of words; [`operations`] has them all. What an operation opens stays open
//! until the operation `close`, or until the outsider ends.

pub mod operations;
mod serve;

use anyhow::{Context, Result, bail};
use rustix::io::Errno;
pub use serve::serve;

use crate::harness::{lie, process::Helper};

/// The outsider's user and group: `nobody`.
pub const ID: u32 = 65534;

/// Which new namespaces an outsider gets. All other namespaces are those of the thread that starts it: inside of `NetNs::run`,
/// that network namespace.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Spaces {
    /// No new namespace: the outsider has no capability anywhere.
    None,
    /// A user namespace, in which the outsider is root. The network namespace stays the caller's, which belongs to another user
    /// namespace: the outsider may not change anything there.
    User,
    /// A user namespace and, owned by it, a network namespace with `lo` up, in which the outsider may do everything.
    UserAndNet,
}

impl Spaces {
    fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::User => "user",
            Self::UserAndNet => "user-and-net",
        }
    }
}

/// The result of an operation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// The operation was done, with the numbers that its documentation names.
    Done(Vec<u64>),
    /// The kernel refused the operation with this errno; the text says which call failed.
    Refused(Errno, String),
}

/// A running outsider; killed on drop.
pub struct Outsider {
    helper: Helper,
}

impl Outsider {
    /// Starts an outsider with its own user namespace, in the caller's network namespace. Errors as of [`Self::spawn_with`].
    pub fn spawn() -> Result<Self> {
        Self::spawn_with(Spaces::User)
    }

    /// Starts an outsider with these new namespaces. An error if it cannot give up root or make them.
    pub fn spawn_with(spaces: Spaces) -> Result<Self> {
        let mut helper = Helper::spawn(&["outsider", spaces.word()])?;
        helper.ready().context("the outsider did not start")?;
        Ok(Self { helper })
    }

    /// The outsider's process id.
    pub fn id(&self) -> u32 {
        self.helper.id()
    }

    /// Runs an operation, a line of words, to its end and returns the numbers that the operation's documentation names.
    ///
    /// # Errors
    /// The kernel refused it, or the outsider ended, which it also does if there is no such operation or an argument is wrong.
    pub fn run(&mut self, operation: &str) -> Result<Vec<u64>> {
        self.begin(operation)?;
        self.end().with_context(|| format!("the outsider's `{operation}`"))
    }

    /// Runs an operation that the kernel must refuse, and returns the errno.
    ///
    /// # Errors
    /// The operation succeeded (or seems to, under the lie `granted` of `TRACER_TEST_LIE`), or the outsider ended.
    pub fn refused(&mut self, operation: &str) -> Result<Errno> {
        self.begin(operation)?;
        let answer = match self.answer()? {
            Answer::Refused(..) if lie::may(false) => Answer::Done(Vec::new()),
            answer => answer,
        };
        match answer {
            Answer::Refused(errno, _) => Ok(errno),
            Answer::Done(counts) => bail!("the outsider's `{operation}` was done: {counts:?}"),
        }
    }

    /// Starts an operation without waiting for its end: [`Self::end`] or [`Self::answer`] waits for it. An error if the outsider
    /// has ended.
    pub fn begin(&mut self, operation: &str) -> Result<()> {
        self.helper.send(operation)
    }

    /// Waits for the end of the operation that [`Self::begin`] started, and returns its numbers. Errors as of [`Self::run`].
    pub fn end(&mut self) -> Result<Vec<u64>> {
        match self.answer()? {
            Answer::Done(counts) => Ok(counts),
            Answer::Refused(errno, text) => bail!("{text} ({errno:?})"),
        }
    }

    /// Waits for the end of the operation that [`Self::begin`] started, and returns its result, a refusal included. An error only
    /// if the outsider ended or its answer is not understood.
    pub fn answer(&mut self) -> Result<Answer> {
        let line = self.helper.line()?;
        if let Some(counts) = line.strip_prefix("ready") {
            let counts = counts.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
            return Ok(Answer::Done(counts));
        }
        let refusal = line.strip_prefix("errno ").and_then(|rest| rest.split_once(' '));
        let (errno, text) = refusal.with_context(|| format!("the outsider said {line:?}"))?;
        Ok(Answer::Refused(Errno::from_raw_os_error(errno.parse()?), text.to_owned()))
    }

    /// Kills the outsider (SIGKILL), even during an operation, and waits for its end. Errors as of [`Helper::kill`].
    pub fn kill(self) -> Result<()> {
        self.helper.kill()
    }
}
