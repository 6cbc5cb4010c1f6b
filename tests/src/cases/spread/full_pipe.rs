//! A pipe that is the output of a command, and that nobody reads.

use std::{
    fs::File,
    io::{Read, Write},
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::Result;
use rustix::{
    fs::{CWD, FileType, Mode, OFlags},
    io::ioctl_fionread,
};
use tempfile::TempDir;

/// A FIFO that is open for reading, but not read.
pub(in crate::cases) struct FullPipe {
    folder: TempDir,
    reader: File,
}

impl FullPipe {
    /// Makes the FIFO, empty, in a new folder. An error if the folder or the FIFO cannot be made, or the FIFO cannot be opened.
    pub(in crate::cases) fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("lines");
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, mode, 0)?;
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let reader = rustix::fs::open(path, flags, Mode::empty())?.into();
        Ok(Self { folder, reader })
    }

    /// The FIFO's path.
    pub(in crate::cases) fn path(&self) -> PathBuf {
        self.folder.path().join("lines")
    }

    /// Fills the pipe with empty lines, until a write of 4,096 bytes finds no room.
    pub(in crate::cases) fn fill(&self) {
        let mut writer = &self.reader;
        while writer.write(&[b'\n'; 4096]).is_ok() {}
    }

    /// Arguments of `tracer spread` that send every decision to the pipe: `--decisions all --output PATH`.
    pub(in crate::cases) fn arguments(&self) -> Vec<String> {
        let path = self.path().to_string_lossy().into_owned();
        ["--decisions", "all", "--output", &path].map(str::to_owned).into()
    }

    /// Whether the pipe, which has room for 64 KiB, has more than 60,000 bytes: the next line may not fit. An error if the kernel
    /// does not say how many it has (FIONREAD).
    pub(in crate::cases) fn is_full(&self) -> Result<bool> {
        Ok(ioctl_fionread(&self.reader)? > 60_000)
    }

    /// Reads the pipe, and drops what it reads, while `work` runs; what is written last may stay in the pipe. Returns what `work`
    /// returns.
    pub(in crate::cases) fn read_while<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| drain(&self.reader, &stop));
            let done = work();
            stop.store(true, Ordering::Relaxed);
            done
        })
    }
}

fn drain(mut reader: &File, stop: &AtomicBool) {
    let mut piece = vec![0; 1 << 16];
    while !stop.load(Ordering::Relaxed) {
        if reader.read(&mut piece).is_err() {
            thread::sleep(Duration::from_millis(5));
        }
    }
}
