//! Runs commands that change the ledger in the kernel: only BPF programs write to the ledger.
#![expect(unsafe_code, reason = "a command is passed as the words that the program reads")]

use std::os::fd::AsFd;

use aya::{
    Ebpf,
    programs::{ProgramFd, RawTracePoint},
};
use tracer_common::seed::{COMMAND_WORDS, Command};

use super::{
    programs::COMMAND,
    sys::{self, RunningPrograms},
};
use crate::error::Error;

/// Runs `ledger_command` by BPF_PROG_TEST_RUN.
#[derive(Debug)]
pub struct Commands {
    program: ProgramFd,
    running: RunningPrograms,
}

impl Commands {
    /// Loads the program.
    ///
    /// # Errors
    /// The program is not in the BPF object, or the kernel refuses it or the maps of [`RunningPrograms`].
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, Error> {
        Self::load(ebpf).map_err(|reason| {
            Error::Failure(format!("cannot load the BPF program {COMMAND}: {reason}"))
        })
    }

    fn load(ebpf: &mut Ebpf) -> Result<Self, String> {
        let program = ebpf.program_mut(COMMAND).ok_or("it is not in the BPF object")?;
        let program: &mut RawTracePoint = program.try_into().map_err(text)?;
        program.load().map_err(text)?;
        let program = program.fd().and_then(|fd| Ok(fd.try_clone()?)).map_err(text)?;
        Ok(Self { program, running: RunningPrograms::new().map_err(text)? })
    }

    /// Runs one command, and returns when the program has ended. True: the program returned 1, which for most commands means that
    /// it changed the ledger: see [`Command`].
    ///
    /// # Errors
    /// The kernel refuses to run the program.
    pub fn run(&self, command: &Command) -> Result<bool, Error> {
        // SAFETY: a `Command` is 96 bytes of integers without padding, and any words are valid.
        let words = unsafe { std::mem::transmute::<Command, [u64; COMMAND_WORDS]>(*command) };
        let result = sys::run_raw_tracepoint(self.program.as_fd(), &words).map_err(|error| {
            Error::Failure(format!("cannot change the ledger: the kernel does not run the BPF program {COMMAND}: {error}"))
        })?;
        Ok(result == 1)
    }

    /// Waits until every hook that is running now has ended.
    ///
    /// # Errors
    /// The map whose update waits for them cannot be written.
    pub fn wait_for_hooks(&self) -> Result<(), Error> {
        self.running.wait().map_err(|error| {
            Error::Failure(format!("cannot wait for the BPF programs that are running: {error}"))
        })
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
