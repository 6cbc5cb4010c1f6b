//! Finds and runs other programs; an error has the command that failed.

use std::{env, ffi::OsStr, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};

/// Prints the command, and runs it to its end.
///
/// # Errors
/// The command cannot be started, or fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = show(command);
    eprintln!("$ {line}");
    let status = command.status().with_context(|| format!("cannot run `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    Ok(())
}

/// Runs the command without printing it, and returns what it wrote to stdout; bytes that are not UTF-8 become U+FFFD.
///
/// # Errors
/// The command cannot be started, or fails; then the text has its stderr.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let line = show(command);
    let output = command.output().with_context(|| format!("cannot run `{line}`"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{line}` failed: {}: {}", output.status, stderr.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What the command wrote to stdout, as [`output`] returns it; `None` if the program is missing, or fails.
pub(crate) fn probe(command: &mut Command) -> Option<String> {
    output(command).ok()
}

/// Whether this process runs as root; false also if `id` cannot be run.
pub(crate) fn is_root() -> bool {
    probe(Command::new("id").arg("-u")).is_some_and(|id| id.trim() == "0")
}

/// The path of the first file of this name in PATH, or else in /usr/sbin or /sbin, which a user's PATH may not have. `None` if
/// there is none. Whether it can be executed is not checked.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|path| path.is_file())
}

/// The command as a line for a shell, with the environment variables that it sets; not those that it removes, nor its working
/// folder.
pub(crate) fn show(command: &Command) -> String {
    let set = command.get_envs().filter_map(|(name, value)| {
        value.map(|value| format!("{}={}", name.to_string_lossy(), quote(value)))
    });
    let words = std::iter::once(command.get_program()).chain(command.get_args()).map(quote);
    set.chain(words).collect::<Vec<_>>().join(" ")
}

/// A word, in single quotes if a shell would not take it for one plain word (`''` for the empty one); U+FFFD for bytes that are
/// not UTF-8.
pub(crate) fn quote(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_a_line_for_a_shell() {
        let mut command = Command::new("cargo");
        command.env("RUSTFLAGS", "-Ca -Cb").env_remove("RUSTC").args(["build", "it's"]);
        assert_eq!(show(&command), r"RUSTFLAGS='-Ca -Cb' cargo build 'it'\''s'");
    }

    #[test]
    fn a_failing_command_is_named_in_the_error() {
        let error = run(&mut Command::new("false")).unwrap_err();
        assert_eq!(error.to_string(), "`false` failed: exit status: 1");
    }
}
