use std::{
    fs,
    io::Write,
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    path::Path,
};

use super::*;
use crate::cli::Compression;

fn config(path: &Path) -> OutputConfig {
    OutputConfig { target: Target::File(path.to_owned()), rotation: None, compression: None }
}

fn compressed(path: &Path) -> OutputConfig {
    OutputConfig { compression: Some(Compression::Zstd), ..config(path) }
}

fn line(number: u64) -> String {
    format!("{{\"seq\":{number}}}\n")
}

fn unzip(path: &Path) -> String {
    let bytes = fs::read(path).unwrap();
    // An empty file has no lines; the decoder would refuse it as an incomplete frame.
    let text = if bytes.is_empty() { bytes } else { zstd::decode_all(&bytes[..]).unwrap() };
    String::from_utf8(text).unwrap()
}

#[test]
fn a_new_file_is_private_and_an_old_one_is_appended_to() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ev.jsonl");
    for number in 0..2 {
        let mut sink = Sink::open(&config(&path)).unwrap();
        let account = sink.write_chunk(line(number).as_bytes(), 1).unwrap();
        assert_eq!(account, Account { written: 1, dropped: 0 });
        assert_eq!(sink.close(), Ok(Account::default()));
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), line(0) + &line(1));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_line_that_a_crash_left_torn_does_not_spoil_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ev.jsonl");
    fs::write(&path, "{\"seq\":0}\n{\"se").unwrap();
    let mut sink = Sink::open(&config(&path)).unwrap();
    sink.write_chunk(line(1).as_bytes(), 1).unwrap();
    sink.close().unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "{\"seq\":0}\n{\"se\n{\"seq\":1}\n");
}

#[test]
fn what_cannot_be_opened_is_an_error_with_advice_and_exit_code_1() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    for (path, advice) in [
        (dir.path().join("missing/ev.jsonl"), "make its folder first"),
        (dir.path().to_owned(), "give the name of a file in it"),
        (link, "give the file behind it"),
        ("/proc/ev.jsonl".into(), ""),
    ] {
        let error = Sink::open(&config(&path)).unwrap_err();
        assert_eq!(error.exit() as u8, 1);
        assert!(error.to_string().ends_with(advice), "{error}");
    }
}

#[test]
fn files_are_rotated_by_size_and_the_oldest_goes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ev.jsonl");
    let rotation = Some(Rotation { size: 25, keep: 2 });
    let mut sink = Sink::open(&OutputConfig { rotation, ..config(&path) }).unwrap();
    let mut written = 0;
    for number in 0..8 {
        written += sink.write_chunk(line(number).as_bytes(), 1).unwrap().written;
    }
    written += sink.close().unwrap().written;
    assert_eq!(written, 8);
    let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    assert_eq!(read("ev.jsonl"), line(6) + &line(7));
    assert_eq!(read("ev.jsonl.1"), line(3) + &line(4) + &line(5));
    assert_eq!(read("ev.jsonl.2"), line(0) + &line(1) + &line(2));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
}

#[test]
fn every_rotated_zstd_file_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ev.jsonl.zst");
    let rotation = Some(Rotation { size: 60, keep: 100 });
    let mut sink = Sink::open(&OutputConfig { rotation, ..compressed(&path) }).unwrap();
    let mut written = 0;
    for number in 0..30 {
        written += sink.write_chunk(line(number).as_bytes(), 1).unwrap().written;
        written += sink.flush().unwrap().written;
    }
    written += sink.close().unwrap().written;
    assert_eq!(written, 30);
    let mut numbers: Vec<_> = (1..100)
        .map(|number| dir.path().join(format!("ev.jsonl.{number}.zst")))
        .take_while(|path| path.exists())
        .collect();
    assert!(numbers.len() > 2, "{numbers:?}");
    numbers.reverse();
    numbers.push(path);
    let all: String = numbers.iter().map(|path| unzip(path)).collect();
    assert_eq!(all, (0..30).map(line).collect::<String>());
}

#[test]
fn lines_are_readable_after_a_flush_and_a_killed_writer_can_be_followed_by_another() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ev.jsonl.zst");
    for number in 0..3 {
        let mut sink = Sink::open(&compressed(&path)).unwrap();
        assert_eq!(sink.write_chunk(line(number).as_bytes(), 1), Ok(Account::default()));
        assert_eq!(sink.flush(), Ok(Account { written: 1, dropped: 0 }));
        // As SIGKILL leaves it: the frame has no end, and a block is cut in two.
        drop(sink);
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(&[0x40, 1]).unwrap();
    }
    let mut sink = Sink::open(&compressed(&path)).unwrap();
    assert_eq!(sink.close(), Ok(Account::default()));
    assert_eq!(unzip(&path), (0..3).map(line).collect::<String>());
}

#[test]
fn compressing_into_a_file_of_plain_lines_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ev.jsonl");
    fs::write(&path, line(0)).unwrap();
    let error = Sink::open(&compressed(&path)).unwrap_err().to_string();
    assert!(error.contains("it is not a zstd file"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), line(0));
}

#[test]
fn reopening_follows_the_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ev.jsonl");
    let moved = dir.path().join("moved");
    let mut sink = Sink::open(&config(&path)).unwrap();
    sink.write_chunk(line(0).as_bytes(), 1).unwrap();
    fs::rename(&path, &moved).unwrap();
    sink.write_chunk(line(1).as_bytes(), 1).unwrap();
    sink.reopen().unwrap();
    sink.write_chunk(line(2).as_bytes(), 1).unwrap();
    assert_eq!(fs::read_to_string(&moved).unwrap(), line(0) + &line(1));
    assert_eq!(fs::read_to_string(&path).unwrap(), line(2));
    fs::remove_dir_all(dir.path()).unwrap();
    assert!(matches!(sink.reopen(), Err(ReopenError::Open(_))));
    assert_eq!(sink.write_chunk(line(3).as_bytes(), 1).unwrap().written, 1);
}

#[test]
fn a_full_device_drops_every_line_and_counts_it() {
    for compression in [None, Some(Compression::Zstd)] {
        let full = OutputConfig { compression, ..config(Path::new("/dev/full")) };
        let mut sink = Sink::open(&full).unwrap();
        let mut total = Account::default();
        for number in 0..10 {
            total = sum(total, sink.write_chunk(line(number).as_bytes(), 1).unwrap());
            total = sum(total, sink.flush().unwrap());
        }
        total = sum(total, sink.close().unwrap());
        assert_eq!(total, Account { written: 0, dropped: 10 }, "{compression:?}");
    }
}

#[test]
fn a_device_is_never_rotated() {
    let rotation = Some(Rotation { size: 10, keep: 1 });
    let config = OutputConfig { rotation, ..config(Path::new("/dev/full")) };
    assert_eq!(Sink::open(&config).unwrap_err().exit() as u8, 78);
}

#[test]
fn a_reader_that_went_away_closes_the_output() {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let mut sink = over(writer);
    assert_eq!(sink.write_chunk(b"a\n", 1), Ok(Account { written: 1, dropped: 0 }));
    drop(reader);
    assert_eq!(sink.write_chunk(b"b\n", 1), Err(Closed));
}

/// A sink over an open descriptor, which is treated as stdout is.
fn over(fd: OwnedFd) -> Sink {
    Sink {
        output: Output::new(Medium::over(fd.into()), Vec::new()),
        place: None,
        rotation: None,
        rotate_at: u64::MAX,
        frame: None,
        compressing: 0,
        owed: 0,
    }
}
