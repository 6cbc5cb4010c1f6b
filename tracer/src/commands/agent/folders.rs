//! Makes the folders of the outputs: a service's log folder need not exist before its first start.

use std::{fs::DirBuilder, io, os::unix::fs::DirBuilderExt, path::Path};

use crate::{config::Target, error::Error};

/// Mode of a folder that is made: its owner writes, its group reads.
const MODE: u32 = 0o750;

/// Makes the folder of a file, with mode 0750, if only this folder is missing. Nothing for stdout.
///
/// # Errors
/// The folder cannot be made; also if the folder above it is missing.
pub(super) fn make(target: &Target) -> Result<(), Error> {
    let Target::File(file) = target else { return Ok(()) };
    let Some(folder) = file.parent().filter(|folder| *folder != Path::new("")) else {
        return Ok(());
    };
    match DirBuilder::new().mode(MODE).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(Error::File {
            tried: "make the folder",
            path: folder.to_owned(),
            source: error,
            do_this: "make the folder above it first, or write to another place",
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn a_missing_folder_is_made_and_one_that_is_there_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (new, old) = (dir.path().join("new"), dir.path().join("old"));
        fs::create_dir(&old).unwrap();
        fs::set_permissions(&old, fs::Permissions::from_mode(0o755)).unwrap();
        for folder in [&new, &old] {
            make(&Target::File(folder.join("a.jsonl"))).unwrap();
        }
        let mode = |folder: &Path| fs::metadata(folder).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&new), mode(&old)), (0o750, 0o755));
        make(&Target::Stdout).unwrap();
        let error = make(&Target::File(dir.path().join("a/b/c.jsonl"))).unwrap_err();
        assert!(error.to_string().contains("make the folder above it first"), "{error}");
    }
}
