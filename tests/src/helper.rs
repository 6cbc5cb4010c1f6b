//! `kernel-tests helper ...`: the helper processes that workloads start.
//!
//! A helper prints `ready` after each step, does the next step when a line comes on stdin, and ends when stdin is closed. Three
//! differ: `make` and `outsider` have protocols of their own, and `bequeath` ends by itself.

use std::{
    ffi::CString,
    io::{self, BufRead, Read, Write},
    net::SocketAddr,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result, anyhow, bail};
use rustix::thread::set_name;

use crate::{
    harness::{maker, outsider, sock::Sock, stage::Outcome},
    workloads::random::Driver,
};

/// Runs the helper that the arguments name:
///
/// - `keep`: does nothing but wait for the end of stdin.
/// - `hold PEER COUNT`: keeps COUNT connections to PEER open.
/// - `try PEER COUNT`: calls connect() to PEER COUNT times after each line, and ignores the results.
/// - `threads PEER COUNT`: at the start and after each line, COUNT threads named `who-thread-N` (N from 0 on) call connect() to
///   PEER once each; the process is named `who-leader`, and the sockets stay open.
/// - `bequeath PEER COUNT`: as `who-leader`, makes COUNT connections to PEER, starts a child that inherits them (`heir`, named
///   `who-heir`, which lives until stdin is closed), and ends.
/// - `make`: see [`crate::harness::maker`]. `outsider NAMESPACES`: see [`crate::harness::outsider`].
/// - `random SEED STEPS PORT`: does STEPS random operations after each line, with servers on PORT; prints, for these operations,
///   how many connect() calls took a port, how many of these were refused, and how many calls failed with EADDRNOTAVAIL.
///
/// # Errors
/// No such helper, an argument that cannot be parsed, a connection of `hold` or `bequeath` that fails, or stdout that is closed.
pub fn main(arguments: &[String]) -> Result<()> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["keep"] => serve(|| Ok(Vec::new())),
        ["hold", peer, count] => {
            let peer = peer.parse()?;
            let count = count.parse::<usize>()?;
            let held = (0..count).map(|_| Sock::connected(peer));
            let _held = held.collect::<rustix::io::Result<Vec<_>>>()?;
            serve(|| Ok(Vec::new()))
        }
        ["try", peer, count] => {
            let peer = peer.parse()?;
            let count = count.parse::<usize>()?;
            serve(|| {
                for _ in 0..count {
                    Sock::tcp(peer)?.connect(peer).ok();
                }
                Ok(Vec::new())
            })
        }
        ["threads", peer, count] => {
            set_name(c"who-leader")?;
            let (peer, count) = (peer.parse()?, count.parse()?);
            let mut held = by_threads(peer, count)?;
            serve(|| {
                held.extend(by_threads(peer, count)?);
                Ok(Vec::new())
            })
        }
        ["bequeath", peer, count] => bequeath(peer.parse()?, count.parse()?),
        ["heir"] => {
            set_name(c"who-heir")?;
            serve(|| Ok(Vec::new()))
        }
        ["make"] => maker::serve(),
        ["outsider", spaces] => outsider::serve(spaces),
        ["random", seed, steps, port] => {
            let steps: u64 = steps.parse()?;
            let mut driver = Driver::new(seed.parse()?, port.parse()?)?;
            serve(|| {
                (0..steps).try_for_each(|_| driver.operate())?;
                let Outcome { opened, refused, not_available } = driver.outcome();
                Ok(vec![opened.unwrap_or(0), refused, not_available])
            })
        }
        _ => bail!("no such helper: {arguments:?}"),
    }
}

/// One connect() by each of `count` threads, each with its own name. Returns the sockets, those whose call failed included. The
/// threads call one after the other: the kernel skips a BPF program that is already running on the same CPU, and a test about
/// names must not depend on that.
fn by_threads(peer: SocketAddr, count: usize) -> Result<Vec<Sock>> {
    let connect = move |number: usize| -> Result<Sock> {
        set_name(&CString::new(format!("who-thread-{number}"))?)?;
        let sock = Sock::tcp(peer)?;
        sock.connect(peer).ok();
        Ok(sock)
    };
    let call = |number: usize| {
        let ended = thread::spawn(move || connect(number)).join();
        ended.map_err(|_| anyhow!("a thread panicked"))?
    };
    (0..count).map(call).collect()
}

fn bequeath(peer: SocketAddr, count: usize) -> Result<()> {
    set_name(c"who-leader")?;
    let held = (0..count).map(|_| Sock::connected(peer));
    let held = held.collect::<rustix::io::Result<Vec<_>>>()?;
    for sock in &held {
        sock.set_inheritable()?;
    }
    let mut heir = Command::new(std::env::current_exe()?);
    // Not a `Process`, which would kill it on drop: the child must outlive this process.
    let mut heir = heir.args(["helper", "heir"]).stdout(Stdio::piped()).spawn()?;
    let mut ready_line = [0; 6];
    heir.stdout.take().context("no stdout")?.read_exact(&mut ready_line)?;
    writeln!(io::stdout(), "ready")?;
    Ok(())
}

/// Prints `ready`, then runs `step` for each line on stdin and prints `ready` with the numbers that it returns.
fn serve(mut step: impl FnMut() -> Result<Vec<u64>>) -> Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(b"ready\n").context("stdout")?;
    stdout.flush()?;
    for line in io::stdin().lock().lines() {
        line?;
        let counts = step()?;
        stdout.write_all(b"ready")?;
        for count in counts {
            write!(stdout, " {count}")?;
        }
        stdout.write_all(b"\n")?;
        stdout.flush()?;
    }
    Ok(())
}
