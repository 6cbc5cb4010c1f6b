//! Load for `cargo xtask bench`: connections over loopback, in a new network namespace.
//!
//! `serve` takes one command a line on stdin and answers each with one line on stdout:
//!
//! - `load CLIENTS CONNECTS`: CLIENTS processes make CONNECTS connections together (rounded down to a multiple of CLIENTS), after
//!   a warm-up. The answer is `MADE ELAPSED CPU P50 P99`: the number of connections, those of the warm-up included; then, without
//!   the warm-up and in ns, the elapsed time, the CPU time of all processes, and the median and 99th percentile of a connect().
//! - `refuse TUPLES`: one refused connect() to each of TUPLES addresses. The answer is `ELAPSED`, in ns.
//!
//! `foreign PER_SECOND LOOPS` is a load on the host while tests run (`cargo xtask test busy`): PER_SECOND connections a second,
//! and LOOPS threads that never wait, until stdin is closed. At its end, the command prints how many connections it made.
//!
//! A process accepts its own connections, so that connect() never waits for the scheduler, and each connection ends by RST, so
//! that there are no TIME_WAITs.

use std::{
    env,
    io::{self, BufRead, Read, Write},
    net::{Ipv4Addr, SocketAddr},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::{
    io::Errno,
    time::{ClockId, clock_gettime},
};
use tracer_tests::harness::{netns::NetNs, sock::Sock};

/// Number of connections that each client makes before the measurement: they fill caches, and tracer makes the tuple's entry.
const WARM_UP: usize = 500;
/// A closed port: only the clients listen in the new namespace, on ports that the kernel chose.
const CLOSED: u16 = 9;

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve"] => serve(),
        ["client", connects] => client(connects.parse()?),
        ["foreign", per_second, loops] => foreign(per_second.parse()?, loops.parse()?),
        _ => bail!("usage: connect-load serve|foreign PER_SECOND LOOPS"),
    }
}

fn serve() -> Result<()> {
    let netns = NetNs::new()?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let answer = match line.split(' ').collect::<Vec<_>>()[..] {
            ["load", clients, connects] => {
                let (clients, connects) = (clients.parse()?, connects.parse()?);
                netns.run(|| load(clients, connects))?
            }
            ["refuse", tuples] => {
                let tuples = tuples.parse()?;
                netns.run(|| refuse(tuples))?
            }
            _ => bail!("no such command: {line}"),
        };
        let mut stdout = io::stdout();
        writeln!(stdout, "{answer}")?;
        stdout.flush()?;
    }
    Ok(())
}

fn load(clients: usize, connects: usize) -> Result<String> {
    ensure!(clients > 0 && connects >= clients, "a load needs clients and connections");
    let mut processes = Vec::new();
    for _ in 0..clients {
        let mut process = Command::new(env::current_exe()?)
            .args(["client", &(connects / clients).to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut ready = [0];
        process.stdout.as_mut().context("no stdout")?.read_exact(&mut ready)?;
        processes.push(process);
    }
    for process in &mut processes {
        process.stdin.take().context("no stdin")?.write_all(b"\n")?;
    }
    let mut results = processes.into_iter().map(result).collect::<Result<Vec<_>>>()?;
    let begin = results.iter().map(|one| one.begin).min().unwrap_or(0);
    let end = results.iter().map(|one| one.end).max().unwrap_or(0);
    let cpu: u64 = results.iter().map(|one| one.cpu).sum();
    let mut durations: Vec<u64> =
        results.iter_mut().flat_map(|one| one.durations.drain(..)).collect();
    durations.sort_unstable();
    let quantile = |part: usize| durations.get(durations.len() * part / 100).copied().unwrap_or(0);
    let made = durations.len() + clients * WARM_UP;
    Ok(format!("{made} {} {cpu} {} {}", end - begin, quantile(50), quantile(99)))
}

/// The command `foreign`: makes the load until stdin is closed, so that the load does not outlive the process that started it.
fn foreign(per_second: u32, loops: usize) -> Result<()> {
    ensure!(per_second > 0, "PER_SECOND is 0, expected at least 1");
    let over = Arc::new(AtomicBool::new(false));
    for _ in 0..loops {
        let over = Arc::clone(&over);
        thread::spawn(move || while !over.load(Ordering::Relaxed) {});
    }
    thread::spawn({
        let over = Arc::clone(&over);
        move || {
            io::copy(&mut io::stdin(), &mut io::sink()).ok();
            over.store(true, Ordering::Relaxed);
        }
    });
    let made = NetNs::new()?.run(|| -> Result<u32> {
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = Sock::tcp(local)?;
        listener.bind(local)?;
        listener.listen(16)?;
        let peer = listener.local()?;
        let begin = Instant::now();
        let mut made = 0;
        while !over.load(Ordering::Relaxed) {
            connection(&listener, peer)?;
            made += 1;
            thread::sleep(
                (Duration::from_secs(1) / per_second * made).saturating_sub(begin.elapsed()),
            );
        }
        Ok(made)
    })?;
    writeln!(io::stdout(), "{made}")?;
    Ok(())
}

/// What one client measured; all in ns, `begin` and `end` on CLOCK_MONOTONIC.
struct Measured {
    begin: u64,
    end: u64,
    cpu: u64,
    durations: Vec<u64>,
}

fn result(mut process: Child) -> Result<Measured> {
    let mut bytes = Vec::new();
    process.stdout.take().context("no stdout")?.read_to_end(&mut bytes)?;
    let status = process.wait()?;
    ensure!(status.success(), "a client failed: {status}");
    let mut numbers =
        bytes.chunks_exact(8).map(|chunk| u64::from_le_bytes(chunk.try_into().unwrap_or_default()));
    let mut next = || numbers.next().context("a client ended early");
    let (begin, end, cpu) = (next()?, next()?, next()?);
    Ok(Measured { begin, end, cpu, durations: numbers.collect() })
}

fn client(connects: usize) -> Result<()> {
    let listener = Sock::tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    listener.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    listener.listen(16)?;
    let peer = listener.local()?;
    let mut numbers = vec![0; 3];
    numbers.reserve(connects.max(WARM_UP));
    for _ in 0..WARM_UP {
        numbers.push(connection(&listener, peer)?);
    }
    numbers.truncate(3);

    let mut stdout = io::stdout().lock();
    stdout.write_all(b"r")?;
    stdout.flush()?;
    io::stdin().read_exact(&mut [0])?;
    let (begin, cpu) = (ns(ClockId::Monotonic), ns(ClockId::ProcessCPUTime));
    for _ in 0..connects {
        numbers.push(connection(&listener, peer)?);
    }
    numbers[2] = ns(ClockId::ProcessCPUTime) - cpu;
    numbers[1] = ns(ClockId::Monotonic);
    numbers[0] = begin;
    let bytes: Vec<u8> = numbers.into_iter().flat_map(u64::to_le_bytes).collect();
    stdout.write_all(&bytes)?;
    Ok(stdout.flush()?)
}

/// Opens and resets one connection. Returns how long connect() took, ns.
fn connection(listener: &Sock, peer: SocketAddr) -> Result<u64> {
    let sock = Sock::tcp(peer)?;
    sock.set_reset_on_close()?;
    let begin = Instant::now();
    sock.connect(peer)?;
    let duration = begin.elapsed();
    let accepted = listener.accept()?;
    drop(sock);
    drop(accepted);
    Ok(u64::try_from(duration.as_nanos())?)
}

fn refuse(tuples: u32) -> Result<String> {
    ensure!(tuples < 1 << 24, "127.0.0.0/8 has no {tuples} addresses");
    let begin = Instant::now();
    for number in 1..=tuples {
        let [_, b, c, d] = number.to_be_bytes();
        let peer = SocketAddr::from((Ipv4Addr::new(127, b, c, d), CLOSED));
        match Sock::tcp(peer)?.connect(peer) {
            Err(Errno::CONNREFUSED) => {}
            other => bail!("connect() to {peer} was not refused: {other:?}"),
        }
    }
    Ok(begin.elapsed().as_nanos().to_string())
}

fn ns(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    u64::try_from(now.tv_sec * 1_000_000_000 + now.tv_nsec).unwrap_or_default()
}
