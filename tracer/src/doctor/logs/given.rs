//! `--log FILE`: a log that the user names, opened as given.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd as _},
        unix::fs::FileExt as _,
    },
    path::Path,
    time::{Duration, Instant, UNIX_EPOCH},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{CWD, FileType, Mode, OFlags, fstat, openat},
};

use super::{Asked, Contents, Files, MOST, Reader, Report, read_one};

/// How many bytes of standard input are read at a time.
const CHUNK: usize = 64 << 10;

/// Reads the log at this path, at most the last 64 MiB of a file; `-` is standard input, which is read to its end if it is no
/// file. Files that a rotation renamed are not read. Local times count as `asked.offset_s` ahead of UTC. `patience`: how long a
/// standard input that is no file may take; what came until then counts, and [`Report::unfinished`] says that it is not all.
///
/// # Errors
/// It cannot be opened or read, or is neither a regular file nor standard input.
pub fn given(path: &Path, asked: &Asked, patience: Duration) -> io::Result<Report> {
    if path == Path::new("-") {
        let input = io::stdin();
        let is_file = FileType::from_raw_mode(fstat(&input)?.st_mode) == FileType::RegularFile;
        if !is_file {
            return stream(input.as_fd(), io::stdin().lock(), asked, patience);
        }
        let file = File::from(input.as_fd().try_clone_to_owned()?);
        return Ok(read_one(&Opened(file), path, asked, MOST)?.report);
    }
    Ok(read_one(&Opened(open(path)?), path, asked, MOST)?.report)
}

/// Opens a regular file. Nothing else is opened: a FIFO or a device could wait, or do something.
fn open(path: &Path) -> io::Result<File> {
    let end = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&end)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("not a regular file; `--log -` reads standard input"));
    }
    let again = format!("/proc/self/fd/{}", end.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    Ok(openat(CWD, again, flags, Mode::empty())?.into())
}

/// A file that is open already.
struct Opened(File);

impl Opened {
    fn read(&self, from: u64, most: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; most];
        let mut read = 0_usize;
        while let Some(room) = bytes.get_mut(read..).filter(|room| !room.is_empty()) {
            let at = from.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
            match self.0.read_at(room, at) {
                Ok(0) => break,
                Ok(more) => read = read.saturating_add(more),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(read);
        Ok(bytes)
    }

    fn contents(&self, at: impl Fn(u64) -> u64, most: usize) -> io::Result<Contents> {
        let size = self.0.metadata()?.len();
        let from = at(size);
        let left = usize::try_from(size.saturating_sub(from)).unwrap_or(usize::MAX);
        let bytes = self.read(from, left.min(most))?;
        let whole = from == 0 && left <= most;
        // When a copy was written says nothing about the times in it.
        Ok(Contents { bytes, whole, modified: UNIX_EPOCH })
    }
}

impl Files for Opened {
    fn head(&self, _path: &Path, most: usize) -> io::Result<Contents> {
        self.contents(|_| 0, most)
    }

    fn tail(&self, _path: &Path, most: usize) -> io::Result<Contents> {
        let length = u64::try_from(most).unwrap_or(u64::MAX);
        self.contents(|size| size.saturating_sub(length), most)
    }

    fn names(&self, _folder: &Path, _most: usize) -> io::Result<(Vec<String>, bool)> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Reads a pipe or a terminal until it ends, `patience` at most.
fn stream(
    ready: impl AsFd,
    mut input: impl io::Read,
    asked: &Asked,
    patience: Duration,
) -> io::Result<Report> {
    let end = Instant::now() + patience;
    let mut reader = Reader::new(*asked, true);
    let mut chunk = vec![0; CHUNK];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let limit = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut fds = [PollFd::new(&ready, PollFlags::IN)];
        let waited = match poll(&mut fds, Some(&limit)) {
            Ok(count) => count > 0 && !left.is_zero(),
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        if !waited {
            let mut report = reader.finish();
            report.unfinished = true;
            return Ok(report);
        }
        match input.read(&mut chunk) {
            Ok(0) => return Ok(reader.finish()),
            Ok(read) => reader.feed(chunk.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _, process::Command, thread};

    use super::*;
    use crate::doctor::logs::Kind;

    /// 2026-11-29 19:15:15 UTC.
    const AT: i64 = 1_795_979_715;
    const ASKED: Asked = Asked { from_s: AT - 5, to_s: AT, offset_s: 0 };
    const LINE: &str =
        "2026/11/29 19:15:15 [crit] 1#1: *1 connect() to 10.0.0.1:80 failed (99: x) while\n";
    const OLD: &str = "2026/11/29 18:15:15 [notice] 1#1: signal process started\n";

    #[test]
    fn the_end_of_a_long_file_is_enough() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("error.log");
        let mut file = File::create(&path).unwrap();
        for _ in 0..40_000 {
            file.write_all(OLD.as_bytes()).unwrap();
        }
        file.write_all(LINE.as_bytes()).unwrap();
        assert!(file.metadata().unwrap().len() > 2 << 20);
        let report = given(&path, &ASKED, Duration::ZERO).unwrap();
        assert_eq!((report.count(Kind::NoPort), report.cut), (1, true));
        assert!(report.lines < 20_000, "{report:?}");
        assert_eq!(report.shortcoming(ASKED.from_s), None);
        // All lines are of the window: the file is read whole.
        let all = Asked { from_s: AT - 7_200, ..ASKED };
        let report = given(&path, &all, Duration::ZERO).unwrap();
        assert_eq!((report.lines, report.cut), (40_001, false));
    }

    #[test]
    fn only_regular_files_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        for path in [&fifo, folder.path(), Path::new("/dev/zero"), Path::new("/nonexistent")] {
            assert!(given(path, &ASKED, Duration::ZERO).is_err(), "{path:?}");
        }
        let link = folder.path().join("link");
        fs::write(folder.path().join("log"), LINE).unwrap();
        std::os::unix::fs::symlink("log", &link).unwrap();
        assert_eq!(given(&link, &ASKED, Duration::ZERO).unwrap().count(Kind::NoPort), 1);
    }

    #[test]
    fn a_pipe_is_read_until_it_ends_or_patience_does() {
        let of = |ends: bool| {
            let (from, mut to) = io::pipe().unwrap();
            let writer = thread::spawn(move || {
                to.write_all(LINE.repeat(3).as_bytes()).unwrap();
                thread::sleep(Duration::from_millis(if ends { 0 } else { 600 }));
            });
            let input = from.try_clone().unwrap();
            let patience = Duration::from_millis(if ends { 10_000 } else { 200 });
            let report = stream(&from, input, &ASKED, patience).unwrap();
            writer.join().unwrap();
            (report.count(Kind::NoPort), report.unfinished)
        };
        assert_eq!(of(true), (3, false));
        assert_eq!(of(false), (3, true));
    }
}
