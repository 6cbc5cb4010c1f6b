//! A local user without privileges, who means no good: a child process as uid and gid 65534, without
//! supplementary groups and without capabilities, in the cgroup of the tests (so outside of any rule's),
//! by default with a user namespace of its own.
//!
//! The test asks for one operation at a time, by a line of words; [`operations`] has them all. What an
//! operation opens stays open until `close`, or until the outsider ends.

pub mod operations;
mod serve;

use anyhow::{Context, Result, bail};
use rustix::io::Errno;
pub use serve::serve;

use crate::harness::{lie, process::Helper};

/// The outsider's user and group: `nobody`.
pub const ID: u32 = 65534;

/// Which namespaces of its own an outsider has. All others are those of the thread that started it: its
/// network namespace is that of `NetNs::run`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Spaces {
    /// No namespace of its own, so no capability anywhere.
    None,
    /// A user namespace, in which it is root. The network namespace stays the caller's, which belongs to
    /// another user namespace: it may not change anything in it.
    User,
    /// A user namespace and, owned by it, a network namespace with `lo` up: there it may do everything.
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

/// What came of an operation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// It was done; what was counted, as the operation's documentation says.
    Done(Vec<u64>),
    /// The kernel refused it with this errno; the text says what was tried.
    Refused(Errno, String),
}

/// A running outsider; killed on drop.
pub struct Outsider {
    helper: Helper,
}

impl Outsider {
    /// One with a user namespace of its own, in the caller's network namespace.
    pub fn spawn() -> Result<Self> {
        Self::spawn_with(Spaces::User)
    }

    /// One with these namespaces of its own.
    pub fn spawn_with(spaces: Spaces) -> Result<Self> {
        let mut helper = Helper::spawn(&["outsider", spaces.word()])?;
        helper.ready().context("the outsider did not start")?;
        Ok(Self { helper })
    }

    pub fn id(&self) -> u32 {
        self.helper.id()
    }

    /// Runs an operation to its end; a refusal by the kernel is an error here.
    pub fn run(&mut self, operation: &str) -> Result<Vec<u64>> {
        self.begin(operation)?;
        self.end().with_context(|| format!("the outsider's `{operation}`"))
    }

    /// Runs an operation that must be refused, and says with which errno it was.
    pub fn refused(&mut self, operation: &str) -> Result<Errno> {
        self.begin(operation)?;
        match lie::refused(self.answer()?) {
            Answer::Refused(errno, _) => Ok(errno),
            Answer::Done(counts) => bail!("the outsider's `{operation}` was done: {counts:?}"),
        }
    }

    /// Lets it begin with an operation, and does not wait for its end, which [`Self::end`] does.
    pub fn begin(&mut self, operation: &str) -> Result<()> {
        self.helper.tell(operation)
    }

    /// Waits for the end of what [`Self::begin`] began.
    pub fn end(&mut self) -> Result<Vec<u64>> {
        match self.answer()? {
            Answer::Done(counts) => Ok(counts),
            Answer::Refused(errno, text) => bail!("{text} ({errno:?})"),
        }
    }

    /// The same, whatever came of it.
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

    /// SIGKILL, in the middle of whatever it does.
    pub fn kill(self) -> Result<()> {
        self.helper.kill()
    }
}
