//! A guest's files, and the script that is its process 1.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};

use super::{
    fetch,
    initramfs::Initramfs,
    kernels::{Depth, Kernel},
    modules::Tree,
};
use crate::exec;

/// The beginning of the lines that the guest's own script prints: all other lines are the test runner's.
pub(crate) const MARK: &str = "@@";
/// The line that the guest prints on the console every 20 s: it shows that the kernel runs.
pub(crate) const ALIVE: &str = "@@ alive";

/// Programs of this machine that the tests run, by their path in the guest. The shell is one of them because busybox's shell runs
/// its applets instead of programs in PATH.
const PROGRAMS: [&str; 3] = ["usr/bin/ip", "usr/bin/ss", "bin/sh"];

/// The paths of the programs that the host's and the guests' tests need, and the runner's arguments.
pub(crate) struct Payload {
    pub(crate) tracer: PathBuf,
    /// `kernel-tests`.
    pub(crate) runner: PathBuf,
    /// A program without shared libraries that connects (tests/examples/static-dialer.rs), which the tests run.
    pub(crate) dialer: PathBuf,
    /// `connect-load`, which makes a load while tests run, only on the host.
    pub(crate) load: PathBuf,
    /// More arguments for the runner.
    pub(crate) args: Vec<String>,
}

/// The guest's root file system, as a cpio archive that the kernel unpacks. Fails if a program of `payload`, one of [`PROGRAMS`],
/// busybox or a module is missing or cannot be read.
pub(crate) fn initramfs(
    kernel: &Kernel,
    depth: Depth,
    tree: &Tree,
    payload: &Payload,
) -> Result<Vec<u8>> {
    let mut archive = Initramfs::default();
    for dir in
        ["dev", "proc", "sys", "tmp", "run", "root", "etc", "var", "usr/sbin", "usr/bin", "sbin"]
    {
        archive.directory(dir)?;
    }
    archive.device("dev/console", 5, 1)?;
    archive.file("bin/busybox", &fs::read(fetch::busybox()?)?)?;
    for path in PROGRAMS {
        let program = path.rsplit('/').next().unwrap_or(path);
        let from = exec::which(program).with_context(|| format!("{program} is not installed"))?;
        archive.program(path, &from)?;
    }
    archive.program("tests/tracer", &payload.tracer)?;
    archive.program("tests/kernel-tests", &payload.runner)?;
    archive.file("tests/examples/static-dialer", &fs::read(&payload.dialer)?)?;
    let modules = tree.wanted(kernel.modules)?;
    for (name, bytes) in &modules {
        archive.file(format!("modules/{name}.ko"), bytes)?;
    }
    archive.file("etc/hosts", b"127.0.0.1 localhost\n::1 localhost\n")?;
    archive.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")?;
    archive.file("etc/group", b"root:x:0:\n")?;
    let names: Vec<&str> = modules.iter().map(|(name, _)| name.as_str()).collect();
    archive.file("init", init(kernel, depth, &names, &payload.args).as_bytes())?;
    archive.finish()
}

/// The script of process 1: the kernel's messages go to the first serial port, the results to the second.
fn init(kernel: &Kernel, depth: Depth, modules: &[&str], args: &[String]) -> String {
    let backends: Vec<&str> = kernel.backends.iter().map(|backend| backend.name()).collect();
    let modules = modules.join(" ");
    let args: Vec<String> = args.iter().map(|arg| exec::quote(arg.as_ref())).collect();
    let args = args.join(" ");
    let (chooses, backends) = (kernel.chooses.name(), backends.join(","));
    let (fast_ports, depth) = (kernel.fast_ports, depth.name());
    format!(
        r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t devtmpfs dev /dev
exec >/dev/ttyS1 2>&1
stop() {{ echo "{MARK} exit $1"; sync; sleep 1; poweroff -f; sleep 60; }}
must() {{ "$@" || {{ echo "{MARK} failed: $*"; stop 99; }}; }}
must mount -t proc proc /proc
must mount -t sysfs sys /sys
must mount -t cgroup2 cgroup2 /sys/fs/cgroup
must mount -t bpf bpf /sys/fs/bpf
must mount -t tracefs tracefs /sys/kernel/tracing
must mkdir -p /dev/shm /dev/pts
must mount -t devpts devpts /dev/pts
must mount -t tmpfs tmpfs /dev/shm
must mount -t tmpfs tmpfs /tmp
must mount -t tmpfs tmpfs /run
for module in {modules}; do must insmod /modules/$module.ko; done
must ip link set lo up
hostname guest
ulimit -n 65536
echo "{MARK} kernel $(uname -r)"
export RUST_BACKTRACE=1 TRACER_BIN=/tests/tracer TRACER_TEST_ENV=vm
export TRACER_DEFAULT_BACKEND={chooses} TRACER_BACKENDS={backends} TRACER_FAST_PORTS={fast_ports}
export TRACER_DEPTH={depth}
while sleep 20; do echo "{ALIVE}"; done >/dev/ttyS0 &
/tests/kernel-tests --test-threads=1 --color=never {args} </dev/null
stop $?
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::kernels::KERNELS;

    #[test]
    fn the_script_names_the_backends_and_loads_the_modules_in_order() {
        let script =
            init(&KERNELS[0], Depth::Part, &["inet_diag", "tcp_diag"], &["it's".to_owned()]);
        assert!(script.starts_with("#!/bin/busybox sh\n"));
        assert!(script.contains(r"--color=never 'it'\''s' </dev/null"));
        assert!(script.contains("for module in inet_diag tcp_diag; do"));
        assert!(
            script.contains("TRACER_DEFAULT_BACKEND=fexit TRACER_BACKENDS=fexit,kprobe,tracepoint")
        );
        assert!(script.contains("TRACER_FAST_PORTS=false"));
        assert!(script.contains("TRACER_DEPTH=part"));
    }
}
