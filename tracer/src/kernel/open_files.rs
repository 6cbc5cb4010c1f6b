//! Lists what all processes have open, by an iterator over open files (`bpf_iter_task_file`, Linux 5.8).

mod program;

use std::{
    fs::File,
    io::{self, Read},
    ops::ControlFlow,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{fs::MetadataExt, net::UnixDatagram},
    },
    process,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    btf::{Btf, BtfError},
    sys,
};
use crate::{
    host::process::{FileKind, ListsFiles, OpenFile},
    runtime::beat::beat,
};
use program::{NAMESPACE, Offsets, RECORD, SOCKET, program};

/// The function by which the kernel describes the iterator.
const ITERATOR: &str = "bpf_iter_task_file";
/// How much is read at once; the kernel gives 32 KiB at most (kernel/bpf/bpf_iter.c, `bpf_seq_read`).
const AT_ONCE: usize = 32 * 1024;
/// How long the first list may take, in which this process is looked for.
const TRIAL: Duration = Duration::from_secs(1);

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// BTF cannot be read, or lacks a field.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// The kernel has no such iterator.
    #[error("the kernel does not list open files (CONFIG_BPF_SYSCALL and Linux 5.8)")]
    NoIterator,
    /// The kernel refuses the program, or this thread may not load it.
    #[error("the kernel refuses the program that lists open files: {0}")]
    Refused(#[source] io::Error),
    /// A socket of this process is not in the list as /proc shows it: this program runs in a process namespace of its own, for
    /// example.
    #[error("the kernel's list of open files does not have this process as /proc shows it")]
    Unlike,
}

/// [`OpenFiles::load`], to share between threads; `None`: it fails, so that /proc has to be read, which takes longer.
pub fn shared(btf: &Btf) -> Option<Arc<dyn ListsFiles>> {
    match OpenFiles::load(btf) {
        Ok(files) => {
            tracing::debug!("open files are listed by the kernel");
            Some(Arc::new(files))
        }
        Err(error) => {
            tracing::debug!("open files are read from /proc: {error}");
            None
        }
    }
}

/// The kernel's list of open files. The kernel keeps the program until this is dropped.
#[derive(Debug)]
pub struct OpenFiles {
    link: OwnedFd,
}

impl OpenFiles {
    /// Loads the program, and looks whether its list has a socket of this process as /proc shows it. `btf`: the kernel's. Takes
    /// CAP_BPF and CAP_PERFMON; to list the files later takes none from Linux 5.19 on, and CAP_BPF before.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn load(btf: &Btf) -> Result<Self, Error> {
        let function = btf.function_id(ITERATOR).ok_or(Error::NoIterator)?;
        let program = program(Offsets::find(btf)?);
        let link = sys::link_iterator(&program, function).map_err(Error::Refused)?;
        let files = Self { link };
        if files.has_this_process().map_err(Error::Refused)? {
            Ok(files)
        } else {
            Err(Error::Unlike)
        }
    }

    fn has_this_process(&self) -> io::Result<bool> {
        let socket = UnixDatagram::unbound()?;
        let fd = socket.as_raw_fd().cast_unsigned();
        let inode = File::from(OwnedFd::from(socket.try_clone()?)).metadata()?.ino();
        let own = OpenFile {
            pid: process::id(),
            fd,
            inode: u32::try_from(inode).map_err(io::Error::other)?,
            kind: FileKind::Socket,
        };
        let mut found = false;
        self.list(Instant::now() + TRIAL, &mut |file| {
            found = file == own;
            if found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(found)
    }
}

impl ListsFiles for OpenFiles {
    fn list(
        &self,
        until: Instant,
        each: &mut dyn FnMut(OpenFile) -> ControlFlow<()>,
    ) -> io::Result<bool> {
        let mut output = sys::open_iterator(self.link.as_fd())?;
        let mut buffer = vec![0; AT_ONCE];
        let mut part = 0;
        while Instant::now() < until {
            beat();
            let Some(rest) = buffer.get_mut(part..) else { return Ok(false) };
            let length = match output.read(rest) {
                Ok(0) => return Ok(true),
                Ok(length) => part + length,
                // A million files were none of those that the program writes.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let whole = length - length % RECORD;
            for record in buffer.get(..whole).unwrap_or_default().chunks_exact(RECORD) {
                if let Some(file) = parse(record)
                    && each(file).is_break()
                {
                    return Ok(true);
                }
            }
            buffer.copy_within(whole..length, 0);
            part = length - whole;
        }
        Ok(false)
    }
}

/// One record of the program; `None`: it is none.
fn parse(record: &[u8]) -> Option<OpenFile> {
    let number = |index: usize| {
        let bytes = record.get(index * 4..)?.first_chunk::<4>()?;
        Some(u32::from_ne_bytes(*bytes))
    };
    let kind = match number(3)? {
        SOCKET => FileKind::Socket,
        NAMESPACE => FileKind::Namespace,
        _ => return None,
    };
    Some(OpenFile { pid: number(0)?, fd: number(1)?, inode: number(2)?, kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_four_numbers() {
        let record = |numbers: [u32; 4]| numbers.map(u32::to_ne_bytes).concat();
        let file = OpenFile { pid: 7, fd: 3, inode: 99, kind: FileKind::Namespace };
        assert_eq!(parse(&record([7, 3, 99, 2])), Some(file));
        assert_eq!(parse(&record([7, 3, 99, 1])).map(|it| it.kind), Some(FileKind::Socket));
        assert_eq!(parse(&record([7, 3, 99, 3])), None);
        assert_eq!(parse(&[0; 15]), None);
    }
}
