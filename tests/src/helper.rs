//! What the harness does when it is started as a helper process of a workload.
//!
//! A helper prints `ready` after each step, and goes on when a line comes on stdin; it ends when
//! stdin does.

use std::io::{self, BufRead, Write};

use anyhow::{Context, Result, bail};

use crate::{maker, sock::Sock, workloads::random::Driver};

/// `keep`: does nothing. `hold PEER COUNT`: keeps COUNT connections to PEER open.
/// `try PEER COUNT`: COUNT connects to PEER, whatever comes of them, after each line.
/// `make`: see [`crate::maker`].
/// `random SEED STEPS PORT`: STEPS random operations after each line, with servers on PORT.
pub fn main(arguments: &[String]) -> Result<()> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["keep"] => serve(|| Ok(())),
        ["hold", peer, count] => {
            let peer = peer.parse()?;
            let count = count.parse::<usize>()?;
            let held = (0..count).map(|_| Sock::connected(peer));
            let _held = held.collect::<rustix::io::Result<Vec<_>>>()?;
            serve(|| Ok(()))
        }
        ["try", peer, count] => {
            let peer = peer.parse()?;
            let count = count.parse::<usize>()?;
            serve(|| {
                for _ in 0..count {
                    Sock::tcp(peer)?.connect(peer).ok();
                }
                Ok(())
            })
        }
        ["make"] => maker::serve(),
        ["random", seed, steps, port] => {
            let steps: u64 = steps.parse()?;
            let mut driver = Driver::new(seed.parse()?, port.parse()?)?;
            serve(|| (0..steps).try_for_each(|_| driver.operate()))
        }
        _ => bail!("no such helper: {arguments:?}"),
    }
}

fn serve(mut step: impl FnMut() -> Result<()>) -> Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(b"ready\n").context("stdout")?;
    stdout.flush()?;
    for line in io::stdin().lock().lines() {
        line?;
        step()?;
        stdout.write_all(b"ready\n")?;
        stdout.flush()?;
    }
    Ok(())
}
