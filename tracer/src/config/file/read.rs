//! Reads the file.

use std::{
    fs::OpenOptions,
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use crate::error::{Error, reason};

/// The largest file in bytes.
pub(super) const LARGEST: usize = 1 << 20;

/// The bytes of a configuration file, of which there are at most 1 MiB. A symbolic link is followed.
///
/// # Errors
/// [`Error::BadConfig`]: it cannot be opened or read, is no regular file, or is larger than 1 MiB.
pub fn read(path: &Path) -> Result<Vec<u8>, Error> {
    bytes(path).map_err(|error| {
        Error::BadConfig(format!(
            "cannot read the configuration file {}: {}",
            path.display(),
            reason(&error)
        ))
    })
}

fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    // NONBLOCK: opening a FIFO would wait for a writer. The standard library adds CLOEXEC.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    let limit = u64::try_from(LARGEST).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes)?;
    if bytes.len() > LARGEST {
        return Err(io::Error::other("it is larger than 1 MiB, and no configuration needs that"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_regular_files_of_at_most_1_mib_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tracer.toml");
        fs::write(&file, vec![b'#'; LARGEST]).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(read(&link).unwrap().len(), LARGEST);
        fs::write(&file, vec![b'#'; LARGEST + 1]).unwrap();
        let fifo = folder.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        for (path, why) in [
            (file.as_path(), "larger than 1 MiB"),
            (&fifo, "no regular file"),
            (folder.path(), "no regular file"),
            (&folder.path().join("none"), "no such file"),
        ] {
            let error = read(path).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
            assert_eq!(error.exit() as u8, 78, "{error}");
        }
    }
}
