//! Operations on files, links and pipes.

use std::{fs, io::Write, os::unix::fs::symlink, path::Path, thread};

use anyhow::{Context, Result};
use rustix::{
    fs::{FileType, Mode, OFlags, mkdir, mknodat, open},
    io::{DupFlags, dup3, fcntl_dupfd_cloexec},
};

use super::{Belongings, Table, argument};

/// The operations of this file, by name.
pub(super) const OPERATIONS: Table = &[
    ("file", file),
    ("mkdir", make_directory),
    ("symlink", link),
    ("rename", rename),
    ("remove", remove),
    ("read", read),
    ("write", write),
    ("list", list),
    ("open", open_and_hold),
    ("fifo", fifo),
    ("swap-with-fifo", swap_with_fifo),
];

/// `file PATH`: makes an empty file, which must not exist yet.
fn file(_: &mut Belongings, words: &[&str]) -> Result<Vec<u64>> {
    fs::File::create_new(argument::<String>(words, 0)?)?;
    Ok(Vec::new())
}

/// `mkdir PATH MODE`: makes a directory; MODE is octal, and the umask is not applied.
fn make_directory(_: &mut Belongings, words: &[&str]) -> Result<Vec<u64>> {
    let path: String = argument(words, 0)?;
    let mode = Mode::from_raw_mode(u32::from_str_radix(&argument::<String>(words, 1)?, 8)?);
    mkdir(&path, Mode::RWXU)?;
    rustix::fs::chmod(&path, mode)?;
    Ok(Vec::new())
}

/// `symlink TARGET PATH`: makes a symbolic link at PATH.
fn link(_: &mut Belongings, words: &[&str]) -> Result<Vec<u64>> {
    symlink(argument::<String>(words, 0)?, argument::<String>(words, 1)?)?;
    Ok(Vec::new())
}

/// `rename FROM TO`: renames a file or directory.
fn rename(_: &mut Belongings, words: &[&str]) -> Result<Vec<u64>> {
    fs::rename(argument::<String>(words, 0)?, argument::<String>(words, 1)?)?;
    Ok(Vec::new())
}

/// `remove PATH`: removes a file or an empty directory.
fn remove(_: &mut Belongings, words: &[&str]) -> Result<Vec<u64>> {
    let path: String = argument(words, 0)?;
    if Path::new(&path).symlink_metadata()?.is_dir() {
        fs::remove_dir(path)?;
    } else {
        fs::remove_file(path)?;
    }
    Ok(Vec::new())
}

/// `read PATH`: opens a file and reads it to its end. Counts the bytes.
fn read(_: &mut Belongings, words: &[&str]) -> Result<Vec<u64>> {
    Ok(vec![u64::try_from(fs::read(argument::<String>(words, 0)?)?.len())?])
}

/// `write PATH TEXT`: opens an existing file for writing, and writes TEXT to it.
fn write(_: &mut Belongings, words: &[&str]) -> Result<Vec<u64>> {
    let mut file = fs::OpenOptions::new().write(true).open(argument::<String>(words, 0)?)?;
    file.write_all(argument::<String>(words, 1)?.as_bytes())?;
    Ok(Vec::new())
}

/// `list PATH`: reads a directory. Counts its entries.
fn list(_: &mut Belongings, words: &[&str]) -> Result<Vec<u64>> {
    Ok(vec![u64::try_from(fs::read_dir(argument::<String>(words, 0)?)?.count())?])
}

/// `open PATH COUNT`: opens a file for reading COUNT times; the descriptors stay open.
fn open_and_hold(belongings: &mut Belongings, words: &[&str]) -> Result<Vec<u64>> {
    let path: String = argument(words, 0)?;
    for _ in 0..argument::<u32>(words, 1)? {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        belongings.fds.push(open(&path, flags, Mode::empty())?);
    }
    Ok(Vec::new())
}

/// `fifo PATH`: makes a FIFO and keeps it open for reading only: another open for reading without O_NONBLOCK waits forever for
/// a writer.
fn fifo(belongings: &mut Belongings, words: &[&str]) -> Result<Vec<u64>> {
    let path: String = argument(words, 0)?;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
    mknodat(rustix::fs::CWD, &path, FileType::Fifo, mode, 0).context("mkfifo")?;
    // While this is open, the open for reading below does not wait.
    let _writer = open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    belongings.fds.push(open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?);
    Ok(Vec::new())
}

/// `swap-with-fifo FIFO`: makes this FIFO, as `fifo` does. Then moves each descriptor that the outsider holds (of a network
/// namespace, say) to a number from 500 on, and duplicates it to a number from 20 on. A thread switches the duplicates between
/// their files and the FIFO without end; they have the lower numbers, so that a reader of /proc/PID/fd finds them first. Counts
/// the duplicates.
fn swap_with_fifo(belongings: &mut Belongings, words: &[&str]) -> Result<Vec<u64>> {
    const HELD_FROM: i32 = 500;
    const SWAPPED_FROM: i32 = 20;
    let low = std::mem::take(&mut belongings.fds);
    fifo(belongings, words)?;
    let fifo = belongings.fds.pop().context("no FIFO")?;
    let high = |fd| fcntl_dupfd_cloexec(fd, HELD_FROM);
    let held = low.iter().map(high).collect::<Result<Vec<_>, _>>()?;
    let fifo = high(&fifo)?;
    drop(low);
    let swapped = held.iter().map(|fd| fcntl_dupfd_cloexec(fd, SWAPPED_FROM));
    let mut swapped = swapped.collect::<Result<Vec<_>, _>>()?;
    let count = swapped.len();
    thread::spawn(move || -> rustix::io::Result<()> {
        loop {
            for number in &mut swapped {
                dup3(&fifo, number, DupFlags::CLOEXEC)?;
            }
            for (number, fd) in swapped.iter_mut().zip(&held) {
                dup3(fd, number, DupFlags::CLOEXEC)?;
            }
        }
    });
    Ok(vec![u64::try_from(count)?])
}
