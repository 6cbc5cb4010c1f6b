//! The outsider process: gives up every privilege, then does the operations that it reads from stdin.
#![expect(unsafe_code, reason = "unshare(CLONE_NEWUSER) is an unsafe call in rustix")]

use std::{
    fs,
    io::{self, BufRead, Write},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::{
    io::Errno,
    process::{DumpableBehavior, Gid, Uid, set_dumpable_behavior},
    thread::{
        UnshareFlags, set_thread_groups, set_thread_res_gid, set_thread_res_uid, unshare_unsafe,
    },
};

use super::{
    ID,
    operations::{Belongings, find},
};

/// Becomes the outsider with these new namespaces (the words of `Spaces::word`), prints `ready`, and does one operation for each
/// line on stdin, until stdin is closed.
///
/// The answer to a line is `ready COUNT...`, or `errno NUMBER TEXT` where the kernel refused.
///
/// # Errors
/// Root cannot be given up, the namespaces are refused, there is no such operation, or an operation fails without an errno: this
/// ends the outsider.
pub fn serve(spaces: &str) -> Result<()> {
    become_nobody().context("cannot give up root")?;
    let flags = match spaces {
        "none" => UnshareFlags::empty(),
        "user" => UnshareFlags::NEWUSER,
        "user-and-net" => UnshareFlags::NEWUSER | UnshareFlags::NEWNET,
        _ => bail!("no such namespaces: {spaces}"),
    };
    enter(flags)?;
    let mut belongings = Belongings::default();
    answer("ready")?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let Some((name, arguments)) = words.split_first() else { continue };
        let operation = find(name).with_context(|| format!("no such operation: {name}"))?;
        match operation(&mut belongings, arguments) {
            Ok(counts) => {
                let counts: Vec<String> = counts.iter().map(|count| format!(" {count}")).collect();
                answer(&format!("ready{}", counts.concat()))?;
            }
            Err(error) => match errno(&error) {
                Some(errno) => {
                    let text = format!("{error:#}").replace('\n', " ");
                    answer(&format!("errno {} {text}", errno.raw_os_error()))?;
                }
                None => return Err(error.context(line)),
            },
        }
    }
    Ok(())
}

/// The errno of the outermost cause of this error that has one; `None` if none has.
fn errno(error: &anyhow::Error) -> Option<Errno> {
    error.chain().find_map(|cause| {
        let of_std =
            || Some(Errno::from_raw_os_error(cause.downcast_ref::<io::Error>()?.raw_os_error()?));
        cause.downcast_ref::<Errno>().copied().or_else(of_std)
    })
}

fn answer(text: &str) -> Result<()> {
    let mut stdout = io::stdout();
    writeln!(stdout, "{text}").context("the test is gone")?;
    Ok(stdout.flush()?)
}

/// Gives up root; the kernel removes all capabilities when no uid of the thread is 0 any more. This process has one thread, so
/// what is set for the thread is set for the process.
fn become_nobody() -> Result<()> {
    let (user, group) = (Uid::from_raw(ID), Gid::from_raw(ID));
    set_thread_groups(&[]).context("setgroups")?;
    set_thread_res_gid(group, group, group).context("setresgid")?;
    set_thread_res_uid(user, user, user).context("setresuid")?;
    // A process that changes its user is not dumpable any more, and its files in /proc belong to root. After a login it would be
    // dumpable, because exec() makes it so.
    set_dumpable_behavior(DumpableBehavior::Dumpable)?;
    Ok(std::env::set_current_dir("/")?)
}

fn enter(flags: UnshareFlags) -> Result<()> {
    if flags.is_empty() {
        return Ok(());
    }
    // SAFETY: neither flag unshares the descriptor table.
    unsafe { unshare_unsafe(flags) }.context("cannot make a user namespace")?;
    fs::write("/proc/self/setgroups", "deny").context("setgroups of the user namespace")?;
    for map in ["uid_map", "gid_map"] {
        let map = format!("/proc/self/{map}");
        fs::write(&map, format!("0 {ID} 1")).with_context(|| map)?;
    }
    if flags.contains(UnshareFlags::NEWNET) {
        let status = Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
        ensure!(status.success(), "`ip link set lo up` failed: {status}");
    }
    Ok(())
}
