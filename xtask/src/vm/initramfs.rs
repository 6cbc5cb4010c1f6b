//! Writes the guest's root file system, a cpio archive in the newc format.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use cpio::newc;

use crate::exec;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const DEVICE: u32 = 0o020_600;

/// An archive under construction. Paths are from its root, without a `/` at the beginning. A path that was added before is not
/// added again, whatever it is. A function fails if the content has 4 GiB or more.
#[derive(Default)]
pub(crate) struct Initramfs {
    bytes: Vec<u8>,
    present: BTreeSet<PathBuf>,
}

impl Initramfs {
    /// Adds an empty directory with mode 0755, and the directories above it.
    pub(crate) fn directory(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            self.directory(parent)?;
        }
        self.entry(path, DIRECTORY, &[], (0, 0))
    }

    /// Adds a file with mode 0755, and the directories above it.
    pub(crate) fn file(&mut self, path: impl AsRef<Path>, content: &[u8]) -> Result<()> {
        let path = path.as_ref();
        if let Some(parent) = path.parent() {
            self.directory(parent)?;
        }
        self.entry(path, PROGRAM, content, (0, 0))
    }

    /// Adds a character device with mode 0600. Its directory must have been added before (not checked).
    pub(crate) fn device(&mut self, path: impl AsRef<Path>, major: u32, minor: u32) -> Result<()> {
        self.entry(path.as_ref(), DEVICE, &[], (major, minor))
    }

    /// Adds the program `from` of this machine at `path`, and the shared libraries that it needs (by ldd(1); none if that fails,
    /// as for a static program), at the paths where it looks for them. Fails if one of them cannot be read.
    pub(crate) fn program(&mut self, path: impl AsRef<Path>, from: &Path) -> Result<()> {
        let read =
            |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        self.file(path, &read(from)?)?;
        let listed = exec::probe(Command::new("ldd").arg(from)).unwrap_or_default();
        for library in libraries(&listed) {
            self.file(library.trim_start_matches('/'), &read(Path::new(library))?)?;
        }
        Ok(())
    }

    /// The finished archive, uncompressed. An error if its last entry cannot be written.
    pub(crate) fn finish(self) -> Result<Vec<u8>> {
        Ok(newc::trailer(self.bytes)?)
    }

    fn entry(&mut self, path: &Path, mode: u32, content: &[u8], device: (u32, u32)) -> Result<()> {
        if path.as_os_str().is_empty() || !self.present.insert(path.to_owned()) {
            return Ok(());
        }
        let size = u32::try_from(content.len())
            .with_context(|| format!("{} is too large", path.display()))?;
        let builder = newc::Builder::new(&path.to_string_lossy())
            .ino(u32::try_from(self.present.len())?)
            .mode(mode)
            .nlink(1)
            .rdev_major(device.0)
            .rdev_minor(device.1);
        let mut writer = builder.write(&mut self.bytes, size);
        std::io::Write::write_all(&mut writer, content)?;
        writer.finish()?;
        Ok(())
    }
}

/// The paths in the output of `ldd`: `libc.so.6 => /lib/libc.so.6 (0x…)`, `/lib64/ld.so (0x…)`.
fn libraries(listed: &str) -> impl Iterator<Item = &str> {
    listed.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_lists_each_directory_before_its_files_and_once() {
        let mut archive = Initramfs::default();
        archive.file("usr/bin/a", b"one").unwrap();
        archive.file("usr/bin/b", b"two").unwrap();
        let bytes = archive.finish().unwrap();
        let mut names = Vec::new();
        let mut rest = bytes.as_slice();
        loop {
            let reader = newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            names.push(reader.entry().name().to_owned());
            rest = reader.finish().unwrap();
        }
        assert_eq!(names, ["usr", "usr/bin", "usr/bin/a", "usr/bin/b"]);
    }

    #[test]
    fn libraries_are_read_from_ldd() {
        let listed =
            "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/libc.so.6 (0x2)\n\t/lib64/ld.so (0x3)\n";
        assert_eq!(libraries(listed).collect::<Vec<_>>(), ["/lib/libc.so.6", "/lib64/ld.so"]);
    }
}
