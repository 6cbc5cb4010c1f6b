//! Fetches kernels, a static busybox and QEMU from Debian's archive, by apt with its own folder: apt verifies the signatures by
//! the archive's keyring, and the machine's package lists stay as they are. Packages are unpacked, never installed, so that they
//! cannot conflict with those of the machine.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use super::{kernels::Kernel, sources::Archives};
use crate::{exec, workspace};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The folder with everything that the VM tests keep between runs: `vm` in [`workspace::target`]. It may not exist yet.
pub(crate) fn home() -> PathBuf {
    workspace::target().join("vm")
}

/// The folder with the unpacked packages of this kernel, which are fetched if it does not exist yet. Fails if no suite has the
/// packages, if this machine's apt sources name no Debian archive, if its keyring is missing, or if apt or dpkg fails.
pub(crate) fn kernel(kernel: &Kernel) -> Result<PathBuf> {
    unpacked(&format!("kernels/{}", kernel.version), kernel.suites, kernel.packages)
        .with_context(|| format!("kernel {} cannot be fetched", kernel.version))
}

/// The path of a statically linked busybox, which is fetched if it is not there yet. Fails if the package has no busybox; other
/// errors as of [`kernel()`].
pub(crate) fn busybox() -> Result<PathBuf> {
    let dir = unpacked("busybox", &["bookworm", "trixie"], &["busybox-static"])
        .context("busybox cannot be fetched")?;
    ["bin/busybox", "usr/bin/busybox"]
        .iter()
        .map(|path| dir.join(path))
        .find(|path| path.exists())
        .context("busybox-static has no busybox in it")
}

/// The folder with an unpacked QEMU and the packages that it needs and this machine does not have, which are fetched if it does
/// not exist yet. They are not installed, because that could remove other packages, such as a QEMU tool of another version. Fails
/// if /etc/os-release does not name a Debian release; other errors as of [`kernel()`].
pub(crate) fn qemu() -> Result<PathBuf> {
    unpacked_by("qemu", &[&release()?], |apt| {
        let mut plan = apt.command("apt-get");
        plan.args(["-o", "Dir::State::status=/var/lib/dpkg/status", "--simulate"]);
        plan.args(["--no-install-recommends", "install", "qemu-system-x86"]);
        Ok(new_packages(&exec::output(&mut plan)?))
    })
    .context("QEMU cannot be fetched")
}

/// The codename of this machine's Debian release: packages of another release may need another libc.
fn release() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(name.context("/etc/os-release has no VERSION_CODENAME")?.trim_matches('"').to_owned())
}

/// The packages that apt's simulation would add, as `NAME=VERSION`: lines `Inst NAME (VERSION …)`; a line with `[VERSION]` before
/// the parenthesis is left out, because it would replace an installed package.
fn new_packages(simulation: &str) -> Vec<String> {
    let package = |line: &str| {
        let (name, rest) = line.strip_prefix("Inst ")?.split_once(' ')?;
        let version = rest.strip_prefix('(')?.split_whitespace().next()?;
        Some(format!("{name}={version}"))
    };
    simulation.lines().filter_map(package).collect()
}

/// Unpacks the newest packages that match the patterns, from the first suite that has them all.
fn unpacked(name: &str, suites: &[&str], patterns: &[&str]) -> Result<PathBuf> {
    unpacked_by(name, suites, |apt| {
        let names = exec::output(apt.command("apt-cache").args(["pkgnames"]))?;
        patterns
            .iter()
            .map(|pattern| {
                newest(pattern, names.lines())
                    .map(str::to_owned)
                    .with_context(|| format!("the archive has no package {pattern} (any more)"))
            })
            .collect()
    })
}

/// Unpacks the packages that `choose` returns into the folder `name` of [`home`], from the first suite with which that succeeds;
/// does nothing if the folder exists. Returns its path.
fn unpacked_by(
    name: &str,
    suites: &[&str],
    choose: impl Fn(&Apt) -> Result<Vec<String>>,
) -> Result<PathBuf> {
    let dir = home().join(name);
    if dir.exists() {
        return Ok(dir);
    }
    let mut refusals = Vec::new();
    for suite in suites {
        let apt = Apt::of(suite);
        match apt.and_then(|apt| unpack(&dir, &apt, &choose(&apt)?)) {
            Ok(()) => return Ok(dir),
            Err(error) => refusals.push(format!("{suite}: {error:#}")),
        }
    }
    bail!("{}", refusals.join("; "))
}

fn unpack(dir: &Path, apt: &Apt, packages: &[String]) -> Result<()> {
    // Unpacked under another name and then renamed, so that a folder with the final name is complete.
    let mut draft = dir.as_os_str().to_owned();
    draft.push(".part");
    let draft = PathBuf::from(draft);
    if draft.exists() {
        fs::remove_dir_all(&draft)?;
    }
    let downloads = draft.join("downloads");
    fs::create_dir_all(&downloads)?;
    exec::run(apt.command("apt-get").arg("download").args(packages).current_dir(&downloads))?;
    for file in fs::read_dir(&downloads)? {
        exec::run(Command::new("dpkg").arg("-x").arg(file?.path()).arg(&draft))?;
    }
    fs::remove_dir_all(&downloads)?;
    fs::rename(&draft, dir)?;
    Ok(())
}

/// The name with the highest version of those that match the pattern; `None` if none does.
fn newest<'a>(pattern: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let (prefix, suffix) = pattern.split_once('*').unwrap_or((pattern, ""));
    let version = |name: &'a str| {
        let middle = name.strip_prefix(prefix)?.strip_suffix(suffix)?;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '+';
        if middle.is_empty() == pattern.contains('*') || !middle.chars().all(plain) {
            return None;
        }
        let numbers = middle.split(|c: char| !c.is_ascii_digit()).flat_map(str::parse);
        Some((numbers.collect::<Vec<u32>>(), name))
    };
    names.filter_map(version).max().map(|(_, name)| name)
}

/// apt for one suite, with lists and caches under `target/vm/apt`.
struct Apt {
    dir: PathBuf,
}

impl Apt {
    /// Reads the package lists of this suite, from the first address that has it. Fails if this machine's apt sources
    /// have no such address, or the archive's keyring is missing.
    fn of(suite: &str) -> Result<Self> {
        if !Path::new(KEYRING).exists() {
            bail!(
                "{KEYRING} is missing (package debian-archive-keyring): packages cannot be verified"
            );
        }
        let archives = Archives::read(&sources()?);
        let addresses = archives.of(suite);
        if addresses.is_empty() {
            bail!(
                "no Debian archive for {suite} in /etc/apt/sources.list or /etc/apt/sources.list.d"
            );
        }
        let apt = Self { dir: home().join("apt").join(suite) };
        fs::create_dir_all(apt.dir.join("lists/partial"))?;
        fs::create_dir_all(apt.dir.join("archives/partial"))?;
        fs::write(apt.dir.join("status"), "")?;
        let mut refusals = Vec::new();
        for address in addresses {
            let line =
                format!("deb [signed-by={KEYRING} target=Packages] {address} {suite} main\n");
            fs::write(apt.dir.join("sources.list"), line)?;
            match exec::run(apt.command("apt-get").args(["update", "--error-on=any"])) {
                Ok(()) => return Ok(apt),
                Err(error) => refusals.push(format!("{error:#}")),
            }
        }
        bail!("{}", refusals.join("; "))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        for (name, path) in [
            ("Dir::Etc::sourcelist", self.dir.join("sources.list")),
            ("Dir::Etc::sourceparts", PathBuf::from("/dev/null")),
            ("Dir::Etc::preferencesparts", PathBuf::from("/dev/null")),
            ("Dir::State", self.dir.clone()),
            ("Dir::State::status", self.dir.join("status")),
            ("Dir::Cache", self.dir.clone()),
        ] {
            command.arg("-o").arg(format!("{name}={}", path.display()));
        }
        for option in [
            "APT::Architecture=amd64",
            "APT::Architectures=amd64",
            // apt's user may not be able to enter this folder.
            "APT::Sandbox::User=root",
            "Acquire::Languages=none",
            "Acquire::Retries=3",
            // Old kernels are in suites that are not updated any more.
            "Acquire::Check-Valid-Until=false",
        ] {
            command.args(["-o", option]);
        }
        command
    }
}

/// The files with the machine's apt sources: (name, content).
fn sources() -> Result<Vec<(String, String)>> {
    let mut paths = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
        paths.extend(entries.flatten().map(|entry| entry.path()));
    }
    paths.sort();
    paths
        .into_iter()
        .filter(|path| {
            path.is_file() && path.extension().is_some_and(|end| end == "list" || end == "sources")
        })
        .map(|path| {
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            Ok((path.display().to_string(), text))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_package_is_taken_by_number_not_by_letter() {
        let names = [
            "linux-image-6.12.9+deb12-cloud-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64",
            "linux-image-6.12.118+deb12-cloud-amd64-unsigned",
            "linux-image-6.12-cloud-amd64",
            "linux-image-6.1.0-50-cloud-amd64",
        ];
        let found = newest("linux-image-6.12.*-cloud-amd64", names.into_iter());
        assert_eq!(found, Some("linux-image-6.12.117+deb12-cloud-amd64"));
        assert_eq!(newest("linux-image-5.10.0-*-cloud-amd64", names.into_iter()), None);
    }

    #[test]
    fn only_packages_that_a_simulation_would_add_are_fetched() {
        let simulation = "Remv qemu-utils [1:10.0]\n\
            Inst libslirp0 (4.7.0-1 Debian:12.15/oldstable [amd64])\n\
            Inst libc6 [2.36-8] (2.36-9 Debian:12.15/oldstable [amd64])\n\
            Inst qemu-system-x86 (1:7.2+dfsg-7 Debian:12.15/oldstable [amd64])\n\
            Conf libslirp0 (4.7.0-1 Debian:12.15/oldstable [amd64])\n";
        assert_eq!(new_packages(simulation), ["libslirp0=4.7.0-1", "qemu-system-x86=1:7.2+dfsg-7"]);
    }

    #[test]
    fn a_pattern_without_a_star_is_a_name() {
        assert_eq!(
            newest("busybox-static", ["busybox", "busybox-static"].into_iter()),
            Some("busybox-static")
        );
    }
}
