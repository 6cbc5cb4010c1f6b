//! `cargo xtask dist`: makes the packages of a release in `target/dist`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use crate::{exec, workspace};
use archive::File;
use deb::{Release, Script};
use layout::Parts;

mod archive;
mod deb;
mod layout;
mod program;

pub(crate) use program::program;

const PACKAGING: &str = "tracer/packaging";
/// The drop-ins for the unit, in its folder.
const DROP_INS: [&str; 2] = ["host-only.conf", "memory.conf"];
const LICENCES: [&str; 3] = ["LICENSE-APACHE", "LICENSE-GPL-2.0", "LICENSE-MIT"];
const SCRIPTS: [&str; 3] = ["postinst", "postrm", "prerm"];

/// Makes the folder `target/dist` anew, with the .deb, the tarball and their checksums. Returns the path of the .deb. Two runs from
/// one commit make the same bytes, if the compilers and the C library are the same.
///
/// # Errors
/// A build fails, a file cannot be read or made, or the time of the commit is not known.
pub(crate) fn dist() -> Result<PathBuf> {
    let release = Release { version: env!("CARGO_PKG_VERSION"), time: time()? };
    let files = layout::files(parts(&program()?)?)?;
    let deb = debian(&files, release)?;
    let tarball = tarball(files, release)?;
    let folder = workspace::target().join("dist");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let made = [&deb, &tarball];
    for (name, bytes) in made {
        write(&folder.join(name), bytes)?;
    }
    let sum = |(name, bytes): &(String, Vec<u8>)| {
        format!("{}  {name}\n", deb::hex(&Sha256::digest(bytes)))
    };
    write(&folder.join("SHA256SUMS"), made.map(sum).concat().as_bytes())?;
    Ok(folder.join(deb.0))
}

/// The name and the bytes of the .deb.
fn debian(files: &[File], release: Release<'_>) -> Result<(String, Vec<u8>)> {
    let mut files = files.to_vec();
    let changelog = deb::changelog(release, &date(release.time)?);
    files.push(layout::document("changelog.Debian.gz", archive::gzip(changelog.as_bytes())?));
    let folder = Path::new(PACKAGING).join("deb");
    let overrides = read(&folder.join("lintian-overrides"))?;
    files.push(File::new("usr/share/lintian/overrides/tracer", overrides));
    let script = |name| Ok((name, read(&folder.join(name))?));
    let scripts: Vec<Script> = SCRIPTS.into_iter().map(script).collect::<Result<_>>()?;
    Ok((deb::name(release), deb::package(&files, &scripts, release)?))
}

/// The name and the bytes of the tarball: the same files in a folder, with the licences' texts, which a Debian has anyway.
fn tarball(mut files: Vec<File>, release: Release<'_>) -> Result<(String, Vec<u8>)> {
    for licence in LICENCES {
        files.push(layout::document(licence, read(Path::new(licence))?));
    }
    let folder = format!("tracer-{}-x86_64-linux", release.version);
    let bytes = archive::gzip(&archive::tar(&files, &format!("{folder}/"), release.time)?)?;
    Ok((format!("{folder}.tar.gz"), bytes))
}

/// Reads the sources of the package's files, and has `program`, the path of the static binary, write those that it makes.
fn parts(program: &Path) -> Result<Parts> {
    let run = |args: &[&str]| exec::output(Command::new(program).args(args));
    let packaging = Path::new(PACKAGING);
    Ok(Parts {
        program: stripped(program)?,
        man: man(program)?,
        completions: [
            run(&["completions", "bash"])?,
            run(&["completions", "fish"])?,
            run(&["completions", "zsh"])?,
        ],
        example: run(&["config", "example"])?,
        unit: read(&packaging.join("systemd/tracer.service"))?,
        drop_ins: DROP_INS
            .into_iter()
            .map(|name| Ok((name, read(&packaging.join("systemd").join(name))?)))
            .collect::<Result<_>>()?,
        rules: read(&packaging.join("prometheus/tracer.rules.yml"))?,
        dashboard: read(&packaging.join("grafana/tracer.json"))?,
        changelog: read(Path::new("CHANGELOG.md"))?,
        copyright: read(&packaging.join("deb/copyright"))?,
    })
}

/// The bytes of the binary without its symbols, and without the linker's sum of them: the names of some symbols change from one
/// build to the next.
fn stripped(program: &Path) -> Result<Vec<u8>> {
    let file = workspace::target().join("dist-tracer");
    let mut strip = Command::new("strip");
    strip.args(["--strip-all", "--remove-section=.note.gnu.build-id", "-o"]);
    exec::run(strip.arg(&file).arg(program))?;
    let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    fs::remove_file(&file)?;
    Ok(bytes)
}

/// The names and the texts of all man pages.
fn man(program: &Path) -> Result<Vec<(String, String)>> {
    let folder = workspace::target().join("dist-man");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    exec::output(Command::new(program).arg("man").arg(&folder))?;
    let mut pages = Vec::new();
    for entry in fs::read_dir(&folder)? {
        let entry = entry?;
        let text = fs::read_to_string(entry.path())?;
        pages.push((entry.file_name().to_string_lossy().into_owned(), text));
    }
    fs::remove_dir_all(&folder)?;
    Ok(pages)
}

/// When the release was made, in seconds since 1970: `SOURCE_DATE_EPOCH`, or the time of the newest commit.
fn time() -> Result<u64> {
    let text = match env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text,
        Err(_) => exec::output(
            Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(workspace::root()),
        )
        .context("SOURCE_DATE_EPOCH is not set, and the commit's time is not known")?,
    };
    let text = text.trim();
    text.parse().with_context(|| format!("{text:?} is not a number of seconds since 1970"))
}

/// A time in seconds since 1970, as a Debian changelog has it: `Tue, 01 Dec 2026 00:00:00 +0000`.
fn date(time: u64) -> Result<String> {
    let mut command = Command::new("date");
    command.env("LC_ALL", "C").args(["--utc", "--rfc-email", "--date", &format!("@{time}")]);
    Ok(exec::output(&mut command)?.trim().to_owned())
}

/// Reads a file of the workspace.
fn read(path: &Path) -> Result<String> {
    fs::read_to_string(workspace::root().join(path))
        .with_context(|| format!("cannot read {}", path.display()))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}
