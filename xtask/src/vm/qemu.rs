//! Boots a guest once: the command line, and the watchdog that ends a guest that hangs.

use std::{
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{fetch, guest::MARK};
use crate::exec;

const PROGRAM: &str = "qemu-system-x86_64";

/// What is added to the nice value of a guest, so that the host's tests, of which some have to end within a second, run first.
const NICE: &str = "5";

/// The QEMU to boot with.
pub(crate) enum Emulator {
    /// The QEMU of this machine, at this path.
    Installed(PathBuf),
    /// A QEMU that was unpacked into this folder, with the libraries that the machine does not have.
    Unpacked(PathBuf),
}

impl Emulator {
    /// The QEMU that is installed, or else the one in `target/vm`, which is fetched if it is not there yet. Errors as of
    /// [`fetch::qemu`].
    pub(crate) fn find() -> Result<Self> {
        match exec::which(PROGRAM) {
            Some(path) => Ok(Self::Installed(path)),
            None => fetch::qemu().map(Self::Unpacked),
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new("nice");
        command.args(["-n", NICE]);
        let root = match self {
            Self::Installed(path) => {
                command.arg(path);
                return command;
            }
            Self::Unpacked(root) => root,
        };
        command.arg(root.join("usr/bin").join(PROGRAM));
        let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
        let libraries = libraries.map(|path| root.join(path).display().to_string());
        command.env("LD_LIBRARY_PATH", libraries.join(":"));
        for firmware in ["usr/share/qemu", "usr/share/seabios"] {
            command.arg("-L").arg(root.join(firmware));
        }
        command
    }
}

/// If a guest prints nothing on its console for this long, it hangs: it prints a line every 20 s.
const KERNEL_SILENCE: Duration = Duration::from_mins(3);
/// If the tests print nothing for this long, they hang: the runner gives up on a test that takes longer than 8 minutes.
const TESTS_SILENCE: Duration = Duration::from_mins(9);
/// The longest time that a guest may run.
const LIMIT: Duration = Duration::from_hours(1);
/// All features that can be emulated, without `rep movsb` and `rep stosb` as the fast way to copy and to clear memory: emulation
/// does them byte by byte, and the kernel uses them for each page and structure that it clears or copies.
const CPU: &str = "max,erms=off,fsrm=off";
/// The kernel's command line. On a busy machine, its check of the timer sees no interrupt in its ten ticks, and the kernel panics
/// (`check_timer` in arch/x86/kernel/apic/io_apic.c). `no_timer_check` omits this check, as the kernel does on hypervisors that it
/// knows. 112 is `X86_FEATURE_REP_GOOD` (5.10 takes no names): without it, the kernel copies and clears by plain
/// loops, which are emulated faster than `rep movsq`.
const KERNEL_LINE: &str = "console=ttyS0 panic=-1 mitigations=off no_timer_check clearcpuid=112";
const POLL: Duration = Duration::from_millis(200);

/// The end of a boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The guest's script reported this exit code: the test runner's, or 99 if it could not prepare the guest for the tests.
    Exit(i32),
    /// The guest ended by itself without reporting an exit code that is a number.
    NoResult,
    /// The guest was ended before it reported an exit code, because it hung or ran for too long.
    Hung,
}

/// Files of one boot.
pub(crate) struct Files<'a> {
    pub(crate) vmlinuz: &'a Path,
    pub(crate) initramfs: &'a Path,
    /// Written by QEMU: the kernel's messages (first serial port).
    pub(crate) console: &'a Path,
    /// Written by QEMU: the output of the guest's script and of the test runner (second serial port).
    pub(crate) results: &'a Path,
}

/// Boots the guest, and waits for its end; kills it if its console prints nothing for 3 minutes or its tests for 9, or if it runs
/// for more than an hour. Calls `line` with each line that the guest's script or the test runner prints, without the blanks at
/// its end. Fails if QEMU cannot be run, or one of the files cannot be read or written.
pub(crate) fn boot(
    emulator: &Emulator,
    files: &Files<'_>,
    mut line: impl FnMut(&str),
) -> Result<End> {
    for log in [files.console, files.results] {
        fs::write(log, "").with_context(|| format!("cannot write {}", log.display()))?;
    }
    let mut command = command(emulator, files);
    eprintln!("$ {}", exec::show(&command));
    let mut guest = Guest(command.spawn().with_context(|| format!("cannot run {PROGRAM}"))?);
    let mut results = Lines::open(files.results)?;
    let start = Instant::now();
    let mut kernel = Silence::of(files.console, KERNEL_SILENCE);
    let mut tests = Silence::of(files.results, TESTS_SILENCE);
    let mut end = End::NoResult;
    loop {
        let over = guest.0.try_wait()?.is_some();
        results.read(|text| {
            if let Some(code) =
                text.strip_prefix(MARK).and_then(|rest| rest.trim().strip_prefix("exit "))
            {
                end = code.parse().map_or(End::NoResult, End::Exit);
            }
            line(text);
        })?;
        if over {
            return Ok(end);
        }
        if kernel.is_over()? || tests.is_over()? || start.elapsed() > LIMIT {
            return Ok(if end == End::NoResult { End::Hung } else { end });
        }
        thread::sleep(POLL);
    }
}

/// The command of QEMU with emulation, not KVM, so that it works on every machine, in virtual machines and without privileges.
fn command(emulator: &Emulator, files: &Files<'_>) -> Command {
    let mut command = emulator.command();
    // The CPUs take turns on one thread. With a thread for each, one may run code that the kernel is changing (int3 of text_poke,
    // at each attach and detach), which sometimes hangs a guest or makes it panic ("Oops: int3"). And it would not be faster
    // where there are as many guests as CPUs.
    command.args(["-accel", "tcg,thread=single", "-cpu", CPU, "-m", "4096", "-smp", "2"]);
    command.args(["-display", "none", "-monitor", "none", "-nic", "none", "-no-reboot"]);
    command.arg("-serial").arg(format!("file:{}", files.console.display()));
    command.arg("-serial").arg(format!("file:{}", files.results.display()));
    command.arg("-kernel").arg(files.vmlinuz).arg("-initrd").arg(files.initramfs);
    command.args(["-append", KERNEL_LINE]);
    command.stdin(Stdio::null());
    command
}

/// Watches a file, to see whether it has not grown for longer than `limit`.
struct Silence<'a> {
    file: &'a Path,
    limit: Duration,
    size: u64,
    since: Instant,
}

impl<'a> Silence<'a> {
    fn of(file: &'a Path, limit: Duration) -> Self {
        Self { file, limit, size: 0, since: Instant::now() }
    }

    fn is_over(&mut self) -> Result<bool> {
        let size = fs::metadata(self.file)?.len();
        if size != self.size {
            (self.size, self.since) = (size, Instant::now());
        }
        Ok(self.since.elapsed() > self.limit)
    }
}

/// A running guest; killed on drop.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        if let (Err(error), _) | (_, Err(error)) = (self.0.kill(), self.0.wait()) {
            eprintln!("a guest could not be ended: {error}");
        }
    }
}

/// Reads complete lines of a file that grows.
struct Lines {
    file: File,
    rest: Vec<u8>,
}

impl Lines {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { file, rest: Vec::new() })
    }

    fn read(&mut self, mut line: impl FnMut(&str)) -> Result<()> {
        self.file.read_to_end(&mut self.rest)?;
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let whole: Vec<u8> = self.rest.drain(..=end).collect();
            line(String::from_utf8_lossy(&whole).trim_end());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_growing_file_gives_whole_lines_only() {
        let path = std::env::temp_dir().join(format!("tracer-lines-{}", std::process::id()));
        fs::write(&path, "one\r\ntw").unwrap();
        let mut lines = Lines::open(&path).unwrap();
        let mut seen = Vec::new();
        lines.read(|line| seen.push(line.to_owned())).unwrap();
        assert_eq!(seen, ["one"]);
        fs::write(&path, "one\r\ntwo\n").unwrap();
        lines.read(|line| seen.push(line.to_owned())).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(seen, ["one", "two"]);
    }
}
