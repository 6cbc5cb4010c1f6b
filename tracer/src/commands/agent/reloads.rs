//! [`Reloads`]: reads the configuration file again while the agent runs.

use std::{
    io,
    path::Path,
    sync::mpsc::{self, Receiver, SyncSender, TrySendError},
    thread,
};

use rustix::thread::CapabilitySet;

use crate::{
    config::{AgentConfig, file},
    error::Error,
    runtime::sandbox::{self, Role, User},
};

/// Reads and checks the configuration file when it is asked to, on a thread of its own (`config`): the loop is another user by then,
/// and must not wait for a file system. The thread ends when this is dropped, if no file system keeps it.
pub(super) struct Reloads {
    ask: SyncSender<()>,
    answers: Receiver<Result<AgentConfig, Error>>,
}

impl Reloads {
    /// Starts the thread for this file. It stays the user who started the program, and keeps no capability: a file that this user
    /// could only read with one cannot be read again.
    ///
    /// # Errors
    /// The thread cannot be started, or cannot give up its rights.
    pub(super) fn start(file: &Path) -> Result<Self, Error> {
        // One request can wait: it is for what is in the file when it is read.
        let (ask, asked) = mpsc::sync_channel(1);
        let (answer, answers) = mpsc::channel();
        let (started, start) = mpsc::channel();
        let file = file.to_owned();
        let run = move || {
            let ready = sandbox::enter(Role::Serves, User::own(), CapabilitySet::empty());
            let may_run = ready.is_ok();
            _ = started.send(ready);
            while may_run && asked.recv().is_ok() {
                if answer.send(read(&file)).is_err() {
                    break;
                }
            }
        };
        let gone = |_| Err(io::Error::other("its thread ended"));
        let thread = thread::Builder::new().name("config".into()).spawn(run);
        thread.and_then(|_| start.recv().unwrap_or_else(gone)).map_err(|error| {
            Error::Failure(format!("cannot start the thread that reads the configuration: {error}"))
        })?;
        Ok(Self { ask, answers })
    }

    /// Has the file read. Does not wait for that.
    pub(super) fn ask(&self) {
        if let Err(TrySendError::Disconnected(())) = self.ask.try_send(()) {
            tracing::error!("the thread that reads the configuration has ended");
        }
    }

    /// What is in the file now, or what is wrong with it, if it was read since the last call; the newest, if it was read several
    /// times.
    pub(super) fn answer(&self) -> Option<Result<AgentConfig, Error>> {
        self.answers.try_iter().last()
    }
}

fn read(file: &Path) -> Result<AgentConfig, Error> {
    Ok(AgentConfig::parse(&file::read(file)?, file)?)
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;

    #[test]
    fn the_file_is_read_each_time_it_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tracer.toml");
        let listen = "[metrics]\nlisten = \"127.0.0.1:20000\"\n";
        fs::write(&file, listen).unwrap();
        let reloads = Reloads::start(&file).unwrap();
        assert!(reloads.answer().is_none());
        let asked = |text: &str| {
            fs::write(&file, format!("{listen}{text}")).unwrap();
            reloads.ask();
            reloads.answers.recv_timeout(Duration::from_secs(10)).unwrap()
        };
        assert_eq!(asked("top = 7\n").unwrap().metrics.top, 7);
        let error = asked("tops = 7\n").unwrap_err();
        assert!(error.to_string().contains("tracer.toml:3:1: "), "{error}");
        assert_eq!(asked("top = 8\n").unwrap().metrics.top, 8);
    }
}
