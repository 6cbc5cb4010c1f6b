//! `cargo xtask dist`: makes the files of a release in `target/dist`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{build, exec, workspace};

const TARGET: &str = "x86_64-unknown-linux-gnu";
const LICENCES: [&str; 2] = ["LICENSE-APACHE", "LICENSE-MIT"];
const COMPLETIONS: [(&str, &str); 3] =
    [("bash", "tracer.bash"), ("fish", "tracer.fish"), ("zsh", "_tracer")];

/// Makes the folder `target/dist` anew, with the static binary, man page, completions, licences and checksums. Prints its path.
/// Fails if the build fails, or a file cannot be made.
pub(crate) fn dist() -> Result<()> {
    let built = program()?;
    let dist = workspace::target().join("dist");
    if dist.exists() {
        fs::remove_dir_all(&dist)?;
    }
    fs::create_dir_all(&dist).with_context(|| format!("cannot create {}", dist.display()))?;
    let tracer = dist.join("tracer");
    fs::copy(&built, &tracer).with_context(|| format!("cannot copy {}", built.display()))?;
    generate(&tracer, &["man"], &dist.join("tracer.1"))?;
    for (shell, file) in COMPLETIONS {
        generate(&tracer, &["completions", shell], &dist.join(file))?;
    }
    for licence in LICENCES {
        fs::copy(workspace::root().join(licence), dist.join(licence))
            .with_context(|| format!("cannot copy {licence}"))?;
    }
    let mut names: Vec<_> =
        fs::read_dir(&dist)?.map(|file| Ok(file?.file_name())).collect::<Result<_>>()?;
    names.sort();
    let sums = exec::output(Command::new("sha256sum").args(&names).current_dir(&dist))?;
    fs::write(dist.join("SHA256SUMS"), sums)?;
    println!("{}", dist.display());
    Ok(())
}

/// Builds the static binary as it is released, and returns its path. Fails if the BPF toolchain is not complete, or a build
/// fails.
pub(crate) fn program() -> Result<PathBuf> {
    build::object()?;
    let mut command = workspace::cargo("build");
    command
        .env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .args(["--profile", "dist", "--package", "tracer", "--target", TARGET]);
    exec::run(build::embed(&mut command))?;
    Ok(workspace::target().join(TARGET).join("dist").join("tracer"))
}

fn generate(tracer: &Path, args: &[&str], file: &Path) -> Result<()> {
    let text = exec::output(Command::new(tracer).args(args))?;
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}
