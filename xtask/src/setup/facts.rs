//! Finds out what is installed: compilers, linkers, packages. Reads only.

use std::{
    env,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{exec, workspace};

use super::Way;

/// The version of bpf-linker that the set-up builds if no installed one fits.
pub(crate) const LINKER: &str = "0.13.0";

/// LLVM versions with which this bpf-linker can be built.
pub(crate) const LLVM_MAJORS: RangeInclusive<u32> = 21..=23;

/// The package with the distribution's prebuilt core for BPF.
pub(crate) const CORE_PACKAGE: &str = "libstd-rust-web-dev-bpf";

/// Everything on which the plan depends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) installer: Installer,
    /// Whether `apt-get update` ran in this set-up.
    pub(crate) updated: bool,
    /// The Rust release (major, minor) of the distribution's package with core for BPF; `None` if there is no such package.
    pub(crate) candidate: Option<(u32, u32)>,
    /// `/usr/bin/rustc`, if there is `/usr/bin/cargo`, too; `None`: one of them is missing, or does not work.
    pub(crate) distribution: Option<Compiler>,
    /// Whether rustup is installed.
    pub(crate) rustup: bool,
    /// rustup's nightly; `None`: it is not installed, or does not work.
    pub(crate) nightly: Option<Compiler>,
    /// Each bpf-linker that was found: first those that an earlier set-up built, then those in PATH and of cargo.
    pub(crate) linkers: Vec<Linker>,
    /// The LLVM versions of [`LLVM_MAJORS`] whose development files are installed.
    pub(crate) llvm_dev: Vec<u32>,
    /// The way that the user chose by `TRACER_BPF_TOOLCHAIN`; `None` if the variable is not set, or has another value.
    pub(crate) forced: Option<Way>,
}

/// Whether packages can be installed here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Installer {
    /// There is no apt-get.
    #[default]
    None,
    /// There is apt-get, but this process is not root.
    NotRoot,
    /// There is apt-get, and this process is root.
    Apt,
}

/// A Rust compiler, and whether it can build for BPF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Compiler {
    /// Its Rust release (major, minor).
    pub(crate) release: (u32, u32),
    /// The major version of its LLVM.
    pub(crate) llvm: u32,
    /// Whether there is Rust's core library for BPF (the distribution's compiler), or its source (nightly).
    pub(crate) core: bool,
}

/// A bpf-linker that was found and answered `--version`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Linker {
    pub(crate) path: PathBuf,
    /// Its version (major, minor).
    pub(crate) version: (u32, u32),
    /// The major version of the LLVM library that it loads; `None` if LLVM is linked statically, or `ldd` fails.
    pub(crate) llvm: Option<u32>,
}

/// Reads all facts; `updated` is whether `apt-get update` ran in this set-up.
pub(crate) fn look(updated: bool) -> Facts {
    let rustup = exec::probe(Command::new("rustup").arg("--version")).is_some();
    Facts {
        installer: installer(),
        updated,
        candidate: candidate(),
        distribution: distribution(),
        rustup,
        nightly: rustup.then(nightly).flatten(),
        linkers: linkers(),
        llvm_dev: llvm_dev(),
        forced: match env::var("TRACER_BPF_TOOLCHAIN").as_deref() {
            Ok("distribution") => Some(Way::Distribution),
            Ok("nightly") => Some(Way::Nightly),
            _ => None,
        },
    }
}

fn installer() -> Installer {
    match Path::new("/usr/bin/apt-get").exists() {
        false => Installer::None,
        true if exec::is_root() => Installer::Apt,
        true => Installer::NotRoot,
    }
}

fn candidate() -> Option<(u32, u32)> {
    let policy = exec::probe(Command::new("apt-cache").args(["policy", CORE_PACKAGE]))?;
    release(policy.lines().find_map(|line| line.trim().strip_prefix("Candidate:"))?)
}

fn distribution() -> Option<Compiler> {
    if !Path::new("/usr/bin/cargo").exists() {
        return None;
    }
    let rustc = || workspace::foreign("/usr/bin/rustc");
    let verbose = exec::probe(rustc().arg("-vV"))?;
    let libraries =
        exec::probe(rustc().args(["--print", "target-libdir", "--target", "bpfel-unknown-none"]));
    let core = libraries.is_some_and(|dir| {
        names(Path::new(dir.trim())).iter().any(|name| name.starts_with("libcore-"))
    });
    compiler(&verbose, core)
}

fn nightly() -> Option<Compiler> {
    let toolchains = exec::probe(workspace::foreign("rustup").args(["toolchain", "list"]))?;
    // Running a toolchain that is not installed could make rustup download it.
    if !toolchains.lines().any(|line| line.starts_with("nightly-")) {
        return None;
    }
    let rustc = || {
        let mut command = workspace::foreign("rustup");
        command.args(["run", "nightly", "rustc"]);
        command
    };
    let verbose = exec::probe(rustc().arg("-vV"))?;
    let sysroot = exec::probe(rustc().args(["--print", "sysroot"]))?;
    let source = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml");
    compiler(&verbose, source.exists())
}

fn compiler(verbose: &str, core: bool) -> Option<Compiler> {
    let field = |name| verbose.lines().find_map(|line| line.strip_prefix(name));
    let llvm = release(field("LLVM version:")?)?.0;
    Some(Compiler { release: release(field("release:")?)?, llvm, core })
}

fn linkers() -> Vec<Linker> {
    let mut places: Vec<PathBuf> =
        LLVM_MAJORS.map(|llvm| workspace::root().join(linker_root(llvm)).join("bin")).collect();
    places.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    places.extend(env::var_os("CARGO_HOME").map(|home| PathBuf::from(home).join("bin")));
    places.extend(env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo/bin")));
    let mut paths: Vec<PathBuf> = Vec::new();
    for path in places.iter().map(|place| place.join("bpf-linker")).filter(|path| path.exists()) {
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    paths.into_iter().filter_map(linker).collect()
}

/// The folder in which the set-up installs the bpf-linker for the LLVM of this major version, from the root of the workspace.
pub(crate) fn linker_root(llvm: u32) -> String {
    format!("target/tools/bpf-linker-{LINKER}-llvm-{llvm}")
}

fn linker(path: PathBuf) -> Option<Linker> {
    let output = exec::probe(workspace::foreign(&path).arg("--version"))?;
    let version = release(output.trim().strip_prefix("bpf-linker ")?)?;
    let libraries = exec::probe(workspace::foreign("ldd").arg(&path)).unwrap_or_default();
    Some(Linker { version, llvm: libllvm(&libraries), path })
}

/// The major version in `libLLVM.so.22.1 => …` or `libLLVM-22.so.1 => …`; `None` if there is no such library.
fn libllvm(libraries: &str) -> Option<u32> {
    let (_, rest) = libraries.split_once("libLLVM")?;
    release(rest.trim_start_matches(|c: char| !c.is_ascii_digit())).map(|(major, _)| major)
}

fn llvm_dev() -> Vec<u32> {
    LLVM_MAJORS.filter(|llvm| llvm_config(*llvm).exists()).collect()
}

/// The path of one of LLVM's development files, which the distribution's package `llvm-*-dev` installs.
fn llvm_config(llvm: u32) -> PathBuf {
    PathBuf::from(format!("/usr/lib/llvm-{llvm}/include/llvm-c/Core.h"))
}

fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = dir.read_dir() else { return Vec::new() };
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// The first two numbers of a version: `1.96.0+dfsg1` is (1, 96), `22` is (22, 0). `None` if it does not begin with a number.
fn release(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim().split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next().and_then(Result::ok).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiler_is_read_from_its_verbose_version() {
        let verbose =
            "rustc 1.96.0 (built from a source tarball)\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        let expected = Compiler { release: (1, 96), llvm: 22, core: true };
        assert_eq!(compiler(verbose, true), Some(expected));
        assert_eq!(compiler("rustc 1.96.0", true), None);
    }

    #[test]
    fn the_llvm_of_a_linker_is_read_from_its_libraries() {
        assert_eq!(libllvm("\tlibLLVM.so.22.1 => /usr/lib/libLLVM.so.22.1 (0x0)"), Some(22));
        assert_eq!(libllvm("\tlibLLVM-19.so.1 => /usr/lib/libLLVM-19.so.1"), Some(19));
        assert_eq!(libllvm("\tlibc.so.6 => /lib/libc.so.6"), None);
    }

    #[test]
    fn versions_with_suffixes_are_read() {
        assert_eq!(release(" 1.96.0+dfsg1-1~deb12u2"), Some((1, 96)));
        assert_eq!(release("1.97.0-nightly"), Some((1, 97)));
        assert_eq!(release("(none)"), None);
    }
}
