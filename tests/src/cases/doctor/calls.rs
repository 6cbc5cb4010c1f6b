//! The system calls of `tracer doctor`, as strace shows them: it writes no file, runs no program, and talks to the kernel and to
//! the statistics sockets of HAProxy only.

use std::{
    fs::{self, File},
    os::unix::fs::FileTypeExt,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    cases::proxies::{PROXY, Scene, UPSTREAM, UPSTREAM_PORT},
    harness::{
        process::Process,
        tracer::{self, doctor::diagnosis, run, wait_for},
    },
};

const LIMIT: Duration = Duration::from_mins(1);

/// The calls that can change a file or reach another process. `openat` and `open` can, too, by their flags.
const CALLS: &str = "open,openat,openat2,creat,execve,execveat,connect,sendto,sendmsg,sendmmsg,unlink,unlinkat,rename,renameat,\
    renameat2,mkdir,mkdirat,rmdir,mknod,mknodat,symlink,symlinkat,link,linkat,chmod,fchmod,fchmodat,chown,fchown,lchown,fchownat,\
    truncate,ftruncate,setxattr,fsetxattr,mount,umount2,kill,tkill,tgkill,pidfd_send_signal,ptrace";

/// Runs doctor under strace where a HAProxy with a statistics socket runs, whose source address is not on the host: doctor finds
/// that (`bad_source`), and makes its window. It must run no other program, and each of its calls must be one of those that read
/// only ([`is_allowed`]).
pub(super) fn reads_only() -> Result<()> {
    let scene = Scene::new(1_000, "location / { return 200 'ok'; }")?;
    let folder = scene.folder.path();
    let socket = folder.join("stats.sock");
    let config = folder.join("haproxy.cfg");
    let text = format!(
        "global\n nbthread 1\n stats socket {} level user\n\
         defaults\n mode http\n timeout connect 5s\n timeout client 10s\n timeout server 10s\n\
         frontend f\n bind {PROXY}:8080\n default_backend b\n\
         backend b\n source 10.2.0.77\n server s {UPSTREAM}:{UPSTREAM_PORT}\n",
        socket.display()
    );
    fs::write(&config, text)?;
    let mut haproxy = Command::new("haproxy");
    haproxy.arg("-db").arg("-f").arg(&config).stdin(Stdio::null());
    haproxy.stdout(File::create(folder.join("haproxy.log"))?).stderr(Stdio::null());
    let _haproxy = scene.proxy.run(|| Process::spawn(&mut haproxy))?;
    wait_for("the statistics socket", Duration::from_secs(10), || {
        Ok(fs::metadata(&socket).ok().filter(|it| it.file_type().is_socket()).map(drop))
    })?;
    let trace = folder.join("strace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-e", "signal=none", "-e", &format!("trace={CALLS}"), "-o"]);
    strace.arg(&trace).arg(tracer::program()?);
    let netns = scene.proxy.path();
    strace.args(["doctor", "-o", "json", "--window", "0.5", "--netns", &netns]);
    let found = diagnosis(&run(&mut strace, LIMIT)?)?;
    // What it did to say this is in the trace.
    found.finding("bad_source")?;
    ensure!(found.check("window")?.status != "not_made", "{found:?}");
    let trace = fs::read_to_string(&trace).context("no trace")?;
    let calls: Vec<&str> = trace.lines().filter_map(call).collect();
    let socket = socket.to_str().context("path is not UTF-8")?;
    let opened = calls.iter().any(|it| it.starts_with("openat2(") && it.contains(socket));
    let asked = calls.iter().any(|it| it.starts_with("connect(") && it.contains("AF_UNIX"));
    ensure!(opened && asked && calls.len() > 100, "{} calls: {opened} {asked}", calls.len());
    let mut programs = 0;
    for call in calls {
        programs += usize::from(call.starts_with("execve"));
        ensure!(is_allowed(call), "{call}");
    }
    ensure!(programs == 1, "{programs} programs");
    Ok(())
}

/// The call in a line of strace, `PID CALL(…) = …`; `None`: the line is not the beginning of a call.
fn call(line: &str) -> Option<&str> {
    let call = line.trim_start_matches(|it: char| it.is_ascii_digit()).trim_start();
    call.starts_with(|it: char| it.is_ascii_lowercase()).then_some(call)
}

fn is_allowed(call: &str) -> bool {
    let (name, arguments) = call.split_once('(').unwrap_or((call, ""));
    match name {
        "open" | "openat" | "openat2" => {
            let writes = ["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "O_APPEND"];
            !writes.iter().any(|it| arguments.contains(it))
        }
        "execve" => arguments.contains("\"doctor\""),
        // A stats socket is connected to by the descriptor of its file.
        "connect" => {
            let file = "{sa_family=AF_UNIX, sun_path=\"/proc/self/fd/";
            arguments.contains(file) || arguments.contains("AF_NETLINK")
        }
        // What is sent goes where connect() led, or to the kernel's netlink.
        "sendto" | "sendmsg" => arguments.contains("AF_NETLINK") || arguments.contains("NULL, 0)"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_change_something_are_not_allowed() {
        for allowed in [
            r#"openat(AT_FDCWD, "/proc/1/stat", O_RDONLY|O_CLOEXEC) = 3"#,
            r#"execve("/x/tracer", ["/x/tracer", "doctor"], 0x1 /* 2 vars */) = 0"#,
            "connect(5, {sa_family=AF_NETLINK, nl_pid=0}, 12) = 0",
            r#"connect(5, {sa_family=AF_UNIX, sun_path="/proc/self/fd/7"}, 18) = 0"#,
        ] {
            assert!(is_allowed(allowed), "{allowed}");
        }
        for refused in [
            r#"openat(AT_FDCWD, "/tmp/x", O_WRONLY|O_CREAT, 0644) = 3"#,
            r#"openat2(3, "x", {flags=O_RDWR}, 24) = 3"#,
            r#"execve("/bin/sh", ["sh"], 0x1 /* 2 vars */) = 0"#,
            "connect(5, {sa_family=AF_INET, sin_port=htons(80)}, 16) = 0",
            r#"connect(5, {sa_family=AF_UNIX, sun_path="/other"}, 9) = 0"#,
            r#"unlink("/tmp/x") = 0"#,
            "kill(5, SIGTERM) = 0",
        ] {
            assert!(!is_allowed(refused), "{refused}");
        }
        assert_eq!(call("12 unlink(\"x\") = 0"), Some("unlink(\"x\") = 0"));
        assert_eq!(call("12 <... unlink resumed>) = 0"), None);
    }
}
