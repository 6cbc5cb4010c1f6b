//! Makes a .deb.

use std::{fmt::Write as _, io};

use md5::{Digest as _, Md5};

use super::archive::{File, ar, gzip, tar};

/// What a package is called, and when it was made.
#[derive(Clone, Copy)]
pub(crate) struct Release<'a> {
    /// Such as `0.1.0`.
    pub(crate) version: &'a str,
    /// The time of the commit, in seconds since 1970.
    pub(crate) time: u64,
}

/// A script that dpkg runs: its name, such as `postinst`, and its text.
pub(crate) type Script = (&'static str, String);

/// The package's own version, after the program's: the first package of a version of the program.
const REVISION: u32 = 1;

/// Whom Debian's tools name as the one who made the package.
const MAINTAINER: &str = "tracer contributors <tracer@localhost.localdomain>";

const DESCRIPTION: &str = "source ports of outgoing TCP connections: who runs out, when, why
 tracer counts every TCP source port of this host, TIME_WAIT included. It tells
 towards which destination a source address runs out of ports, how fast, by
 whom, and why each connect() failed.
 .
 The service writes these events as JSON Lines and serves metrics for
 Prometheus. It needs Linux 5.10 or later with BTF, and cgroup v2.
";

/// The package's full version: `0.1.0-1`.
fn version(release: Release<'_>) -> String {
    format!("{}-{REVISION}", release.version)
}

/// The name that Debian gives to the file: `tracer_0.1.0-1_amd64.deb`.
pub(crate) fn name(release: Release<'_>) -> String {
    format!("tracer_{}_amd64.deb", version(release))
}

/// Debian's changelog of the package, not compressed. `date` is the release's time as Debian writes it.
pub(crate) fn changelog(release: Release<'_>, date: &str) -> String {
    format!(
        "tracer ({}) stable; urgency=medium\n\n  * Version {} of tracer: see changelog.gz.\n\n -- {MAINTAINER}  {date}\n",
        version(release),
        release.version
    )
}

/// The bytes of a .deb with these files and scripts. Files below `etc/` are configurations: an upgrade keeps those that were
/// edited. Fails if a path is too long.
pub(crate) fn package(
    files: &[File],
    scripts: &[Script],
    release: Release<'_>,
) -> io::Result<Vec<u8>> {
    let mut about = vec![
        File::new("control", control(files, release)),
        File::new("conffiles", conffiles(files)),
        File::new("md5sums", md5sums(files)),
    ];
    about.extend(scripts.iter().map(|(name, text)| File::program(*name, text.as_bytes())));
    let about = gzip(&tar(&about, "./", release.time)?)?;
    let data = gzip(&tar(files, "./", release.time)?)?;
    let members: [(&str, &[u8]); 3] =
        [("debian-binary", b"2.0\n"), ("control.tar.gz", &about), ("data.tar.gz", &data)];
    Ok(ar(&members, release.time))
}

/// The control file. `Installed-Size` is in KiB, each file rounded up.
fn control(files: &[File], release: Release<'_>) -> String {
    let size: usize = files.iter().map(|file| file.bytes.len().div_ceil(1024)).sum();
    format!(
        "Package: tracer\nVersion: {}\nArchitecture: amd64\nMaintainer: {MAINTAINER}\nInstalled-Size: {size}\n\
         Section: net\nPriority: optional\nDescription: {DESCRIPTION}",
        version(release)
    )
}

fn is_configuration(file: &File) -> bool {
    file.path.starts_with("etc/")
}

fn conffiles(files: &[File]) -> String {
    let paths = files.iter().filter(|file| is_configuration(file));
    let mut paths: Vec<_> = paths.map(|file| format!("/{}\n", file.path)).collect();
    paths.sort();
    paths.concat()
}

fn md5sums(files: &[File]) -> String {
    let mut files: Vec<_> = files.iter().filter(|file| !is_configuration(file)).collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let line = |file: &&File| format!("{}  {}\n", hex(&Md5::digest(&file.bytes)), file.path);
    files.iter().map(line).collect::<Vec<_>>().concat()
}

/// The bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::{super::layout, *};

    const RELEASE: Release<'_> = Release { version: "1.2.3", time: 1_700_000_000 };

    fn files() -> Vec<File> {
        layout::files(layout::sample()).unwrap()
    }

    #[test]
    fn the_control_file_says_what_dpkg_needs() {
        let control = control(&files(), RELEASE);
        let fields: Vec<_> = control.lines().filter(|line| !line.starts_with(' ')).collect();
        assert_eq!(
            fields,
            [
                "Package: tracer",
                "Version: 1.2.3-1",
                "Architecture: amd64",
                "Maintainer: tracer contributors <tracer@localhost.localdomain>",
                "Installed-Size: 13",
                "Section: net",
                "Priority: optional",
                "Description: source ports of outgoing TCP connections: who runs out, when, why",
            ]
        );
        assert!(control.ends_with("v2.\n"), "{control}");
        assert_eq!(name(RELEASE), "tracer_1.2.3-1_amd64.deb");
    }

    #[test]
    fn configurations_are_conffiles_and_have_no_sum() {
        assert_eq!(conffiles(&files()), "/etc/tracer/tracer.toml\n");
        let sums = md5sums(&files());
        assert!(!sums.contains("tracer.toml\n"), "{sums}");
        assert!(sums.starts_with("a9c449d4fa44e9e5a41c574ae55ce4d9  usr/bin/tracer\n"), "{sums}");
    }

    #[test]
    fn two_packages_of_the_same_files_have_the_same_bytes() {
        let scripts = [("postinst", "#!/bin/sh\n".to_owned())];
        let one = package(&files(), &scripts, RELEASE).unwrap();
        let mut files = files();
        files.reverse();
        assert_eq!(one, package(&files, &scripts, RELEASE).unwrap());
        let later = Release { time: RELEASE.time + 1, ..RELEASE };
        assert_ne!(one, package(&files, &scripts, later).unwrap());
    }

    #[test]
    fn a_package_has_its_three_members_and_scripts_that_can_be_run() {
        let bytes = package(&files(), &[("prerm", "x".to_owned())], RELEASE).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let members = ["debian-binary", "control.tar.gz", "data.tar.gz"];
        let at = members.map(|member| text.find(member).unwrap());
        assert!(at.is_sorted(), "{at:?}");
        let start = bytes.windows(2).position(|two| two == [0x1f, 0x8b]).unwrap();
        let control = flate2::read::GzDecoder::new(&bytes[start..]);
        let mut archive = ::tar::Archive::new(control);
        let entries = archive.entries().unwrap().map(Result::unwrap);
        let found: Vec<_> = entries
            .map(|it| {
                let path = String::from_utf8(it.path_bytes().into_owned()).unwrap();
                (path, it.header().mode().unwrap())
            })
            .collect();
        let expected = [
            ("./", 0o755),
            ("./conffiles", 0o644),
            ("./control", 0o644),
            ("./md5sums", 0o644),
            ("./prerm", 0o755),
        ];
        assert_eq!(found, expected.map(|(path, mode)| (path.to_owned(), mode)));
    }
}
