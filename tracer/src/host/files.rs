//! A trait that reads the files of a process as its own root folder shows them: configurations and logs. Also files in memory.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// What was read of a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Contents {
    /// The part that was asked for.
    pub bytes: Vec<u8>,
    /// Whether these are all bytes of the file; false: the file is longer than what was asked for.
    pub whole: bool,
    /// When it was last written.
    pub modified: SystemTime,
}

/// Reads files of a process. Paths are absolute in the root folder of that process, and no link leads out of it. Only regular
/// files and folders are opened, and none of file systems whose files are no data, such as /proc.
pub trait Files {
    /// The first `most` bytes of a file; fewer if it has no more.
    ///
    /// # Errors
    /// It cannot be opened or read, or is no regular file.
    fn head(&self, path: &Path, most: usize) -> io::Result<Contents>;

    /// The last `most` bytes of a file; fewer if it has no more.
    ///
    /// # Errors
    /// It cannot be opened or read, or is no regular file.
    fn tail(&self, path: &Path, most: usize) -> io::Result<Contents>;

    /// The names in a folder, sorted, and whether there are more. If there are more than `most`, any `most` of them. Bytes that
    /// are not UTF-8 are replaced.
    ///
    /// # Errors
    /// It cannot be opened or read, or is no folder.
    fn names(&self, folder: &Path, most: usize) -> io::Result<(Vec<String>, bool)>;
}

/// Files in memory, by their absolute paths; each was last written at the UNIX epoch.
#[derive(Clone, Debug, Default)]
pub struct Memory(pub BTreeMap<PathBuf, Vec<u8>>);

impl Memory {
    /// Files with these paths and texts.
    pub fn of(files: &[(&str, &str)]) -> Self {
        Self(files.iter().map(|(path, text)| (path.into(), text.as_bytes().into())).collect())
    }

    fn bytes(&self, path: &Path) -> io::Result<&[u8]> {
        self.0.get(path).map(Vec::as_slice).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Files for Memory {
    fn head(&self, path: &Path, most: usize) -> io::Result<Contents> {
        let all = self.bytes(path)?;
        let bytes = all.get(..most).unwrap_or(all).to_vec();
        Ok(Contents { whole: bytes.len() == all.len(), bytes, modified: SystemTime::UNIX_EPOCH })
    }

    fn tail(&self, path: &Path, most: usize) -> io::Result<Contents> {
        let all = self.bytes(path)?;
        let bytes = all.get(all.len().saturating_sub(most)..).unwrap_or_default().to_vec();
        Ok(Contents { whole: bytes.len() == all.len(), bytes, modified: SystemTime::UNIX_EPOCH })
    }

    fn names(&self, folder: &Path, most: usize) -> io::Result<(Vec<String>, bool)> {
        let inside = self.0.keys().filter_map(|path| path.strip_prefix(folder).ok()?.iter().next());
        let mut names: Vec<String> =
            inside.map(|name| name.to_string_lossy().into_owned()).collect();
        names.dedup();
        if names.is_empty() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let more = names.len() > most;
        names.truncate(most);
        Ok((names, more))
    }
}
