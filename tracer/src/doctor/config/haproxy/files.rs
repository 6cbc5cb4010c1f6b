//! Which files a HAProxy reads, by its command line, and reading them.

use std::path::{Path, PathBuf};

use super::{Config, facts::combine_connections, reader::Reader};
use crate::doctor::config::{At, files::Files};

/// Bytes that are read of all files together.
const MOST_BYTES: usize = 4 << 20;
/// Files and folders that are read at most.
const MOST_FILES: usize = 1_000;
/// Names of a folder that are looked at, and of all folders together.
const MOST_NAMES: usize = 10_000;
const MOST_NAMES_OF_ALL: usize = 65_536;

/// The files and folders that a command line names by `-f` or after `--`, in their order, at most 1,000; empty: none.
/// `arguments`: of /proc/PID/cmdline, the program's name first. `folder`: where HAProxy was started; relative paths begin there,
/// or in the folder of `-C`, wherever that stands on the command line.
pub fn paths(arguments: &[String], folder: &Path) -> Vec<PathBuf> {
    let mut folder = folder.to_owned();
    let mut found = Vec::new();
    let mut arguments = arguments.iter().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "-f" => found.extend(arguments.next()),
            "--" => found.extend(arguments.by_ref()),
            "-C" => folder.extend(arguments.next()),
            // Its value can look like an option.
            "-L" | "-p" | "-S" | "-x" => drop(arguments.next()),
            _ => {}
        }
    }
    found.into_iter().take(MOST_FILES).map(|path| folder.join(path)).collect()
}

/// Reads these files, and of folders those whose names end with `.cfg` and do not begin with a point: at most 1,000 files, 4 MiB
/// in all, 10,000 names of a folder and 65,536 of all folders. What is not read is in [`Config::unread`]. Without a file that can
/// be read, there is no section, and [`Config::modified`] is `None`.
pub fn read(files: &dyn Files, paths: &[PathBuf]) -> Config {
    let mut reader = Reader::default();
    let mut all = Vec::new();
    let mut names = MOST_NAMES_OF_ALL;
    for path in paths {
        match folder(files, path, &mut names, &mut reader) {
            Some(inside) => all.extend(inside),
            None => all.push(path.clone()),
        }
        if all.len() > MOST_FILES {
            all.truncate(MOST_FILES);
            reader.config.unread.add(whole(path), "there are too many files");
            break;
        }
    }
    let mut left = MOST_BYTES;
    for path in &all {
        read_one(files, path, &mut left, &mut reader);
    }
    combine_connections(&mut reader.config.proxies);
    reader.config
}

/// The configurations in a folder, in their order; `None`: it is no folder. `left`: how many names may still be looked at.
fn folder(
    files: &dyn Files,
    path: &Path,
    left: &mut usize,
    reader: &mut Reader,
) -> Option<Vec<PathBuf>> {
    let (names, more) = files.names(path, MOST_NAMES.min(*left)).ok()?;
    *left = left.saturating_sub(names.len());
    if more {
        reader.config.unread.add(whole(path), "the folder has too many files");
    }
    let names =
        names.iter().filter(|name| !name.starts_with('.') && name.strip_suffix(".cfg").is_some());
    Some(names.map(|name| path.join(name)).collect())
}

fn read_one(files: &dyn Files, path: &Path, left: &mut usize, reader: &mut Reader) {
    let Ok(contents) = files.head(path, *left) else {
        return reader.config.unread.add(whole(path), "the file cannot be read");
    };
    *left = left.saturating_sub(contents.bytes.len());
    let newest = reader.config.modified;
    reader.config.modified = newest.max(Some(contents.modified));
    reader.file(path, &contents.bytes);
    if !contents.whole {
        reader.config.unread.add(whole(path), "the files are too long");
    }
}

/// A file as a whole: line 0.
fn whole(path: &Path) -> At {
    At { file: path.into(), line: 0 }
}
