//! Archives whose bytes depend only on what they are made of: tar, gzip, and the ar of a .deb.

use std::{
    collections::BTreeSet,
    io::{self, Write as _},
};

use flate2::{Compression, GzBuilder};
use tar::{Builder, EntryType, Header};

/// A file of a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    /// Where it is installed, without the first `/`.
    pub(crate) path: String,
    /// Its permissions.
    pub(crate) mode: u32,
    pub(crate) bytes: Vec<u8>,
}

impl File {
    /// A file that everyone may read.
    pub(crate) fn new(path: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self { path: path.into(), mode: 0o644, bytes: bytes.into() }
    }

    /// A program that everyone may run.
    pub(crate) fn program(path: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self { mode: 0o755, ..Self::new(path, bytes) }
    }
}

/// A tar archive (ustar) of the files and of all folders above them, sorted by path, owned by root. `prefix` is put before each
/// path and ends with `/`; the folder that it names is the first entry. `time` is when all of them were changed, in seconds since 1970.
/// Fails if a path with the prefix has more than 100 bytes.
pub(crate) fn tar(files: &[File], prefix: &str, time: u64) -> io::Result<Vec<u8>> {
    let mut folders = BTreeSet::from([prefix.to_owned()]);
    for file in files {
        let slashes = file.path.match_indices('/');
        folders.extend(slashes.map(|(at, _)| format!("{prefix}{}/", &file.path[..at])));
    }
    let mut entries: Vec<(String, Option<&File>)> =
        folders.into_iter().map(|it| (it, None)).collect();
    entries.extend(files.iter().map(|file| (format!("{prefix}{}", file.path), Some(file))));
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    let mut archive = Builder::new(Vec::new());
    for (path, file) in entries {
        let bytes = file.map_or(&[][..], |file| &file.bytes);
        let mut header = Header::new_ustar();
        // By hand: set_path() leaves out the `./` that the paths in a .deb begin with.
        let Some(name) = header.as_mut_bytes().get_mut(..path.len()).filter(|it| it.len() <= 100)
        else {
            return Err(io::Error::other(format!("{path} is too long for a tar archive")));
        };
        name.copy_from_slice(path.as_bytes());
        header.set_entry_type(file.map_or(EntryType::Directory, |_| EntryType::Regular));
        header.set_mode(file.map_or(0o755, |file| file.mode));
        header.set_uid(0);
        header.set_gid(0);
        header.set_username("root")?;
        header.set_groupname("root")?;
        header.set_mtime(time);
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        archive.append(&header, bytes)?;
    }
    archive.into_inner()
}

/// The bytes, compressed by gzip, without a time or a name.
pub(crate) fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().write(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// An ar archive of the members, names and contents, in this order. `time` is when they were changed, in seconds since 1970. A
/// name has at most 16 bytes.
pub(crate) fn ar(members: &[(&str, &[u8])], time: u64) -> Vec<u8> {
    let mut archive = b"!<arch>\n".to_vec();
    for (name, bytes) in members {
        let size = bytes.len();
        // name, time, user, group, mode, size
        let header = format!("{name:<16}{time:<12}{:<6}{:<6}{:<8}{size:<10}`\n", 0, 0, "100644");
        archive.extend(header.as_bytes());
        archive.extend(*bytes);
        if size % 2 == 1 {
            archive.push(b'\n');
        }
    }
    archive
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> [File; 2] {
        [File::program("usr/bin/b", "run"), File::new("etc/a", "text")]
    }

    #[test]
    fn a_tar_has_folders_before_files_sorted_and_of_root() {
        let bytes = tar(&files(), "./", 1_700_000_000).unwrap();
        let mut archive = tar::Archive::new(&bytes[..]);
        let mut found = Vec::new();
        for entry in archive.entries().unwrap() {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
            assert_eq!(header.username().unwrap(), Some("root"));
            assert_eq!(header.mtime().unwrap(), 1_700_000_000);
            let path = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
            found.push((path, header.mode().unwrap(), header.size().unwrap()));
        }
        let expected = [
            ("./", 0o755, 0),
            ("./etc/", 0o755, 0),
            ("./etc/a", 0o644, 4),
            ("./usr/", 0o755, 0),
            ("./usr/bin/", 0o755, 0),
            ("./usr/bin/b", 0o755, 3),
        ];
        assert_eq!(found, expected.map(|(path, mode, size)| (path.to_owned(), mode, size)));
    }

    #[test]
    fn the_order_of_the_files_does_not_change_the_bytes() {
        let [a, b] = files();
        let one = tar(&[a.clone(), b.clone()], "./", 1).unwrap();
        assert_eq!(one, tar(&[b, a], "./", 1).unwrap());
        assert_eq!(gzip(&one).unwrap(), gzip(&one).unwrap());
        assert_eq!(gzip(&one).unwrap()[4..8], [0; 4], "there is a time");
    }

    #[test]
    fn a_path_that_is_too_long_is_an_error() {
        assert!(tar(&[File::new("x".repeat(98), "")], "./", 0).is_ok());
        assert!(tar(&[File::new("x".repeat(99), "")], "./", 0).is_err());
        assert!(tar(&[File::new("x".repeat(999), "")], "./", 0).is_err());
    }

    #[test]
    fn members_of_an_ar_begin_at_even_bytes() {
        let archive = ar(&[("one", b"1"), ("two", b"22")], 7);
        let text = String::from_utf8(archive).unwrap();
        let header =
            |name, size| format!("{name:<16}7           0     0     100644  {size:<10}`\n");
        assert_eq!(text, format!("!<arch>\n{}1\n{}22", header("one", 1), header("two", 2)));
    }
}
