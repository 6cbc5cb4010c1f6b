//! Operations that make many socket calls.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    panic::resume_unwind,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use super::{Belongings, Table, argument, loopback};
use crate::harness::sock::Sock;

/// The operations of this file, by name.
pub(super) const OPERATIONS: Table = &[
    ("connect", connect),
    ("hold", hold),
    ("refuse", refuse),
    ("refuse-for", refuse_for),
    ("refuse-until-next", refuse_until_next),
    ("threads", threads),
    ("begin-connects", begin_connects),
    ("cross", cross),
    ("bind", bind),
    ("bind-and-close", bind_and_close),
    ("bind-addresses", bind_addresses),
    ("bind-everywhere", bind_everywhere),
    ("close", close),
];

/// `connect PEER COUNT`: calls connect() COUNT times, and closes each socket immediately. Counts the calls that
/// succeeded, that were refused, and that failed otherwise.
fn connect(_: &mut Belongings, words: &[&str]) -> Result<Vec<u64>> {
    let peer = argument(words, 0)?;
    let mut counts = [0; 3];
    for _ in 0..argument::<u64>(words, 1)? {
        counts[match Sock::tcp(peer)?.connect(peer) {
            Ok(()) => 0,
            Err(Errno::CONNREFUSED) => 1,
            Err(_) => 2,
        }] += 1;
    }
    Ok(counts.to_vec())
}

/// `hold PEER COUNT`: opens COUNT connections, which stay open. Counts those that succeeded.
fn hold(belongings: &mut Belongings, words: &[&str]) -> Result<Vec<u64>> {
    let peer = argument(words, 0)?;
    let before = belongings.fds.len();
    for _ in 0..argument::<u64>(words, 1)? {
        let sock = Sock::tcp(peer)?;
        if sock.connect(peer).is_ok() {
            belongings.fds.push(sock.into());
        }
    }
    Ok(vec![u64::try_from(belongings.fds.len() - before)?])
}

/// `refuse FIRST COUNT PORT`: calls connect() to PORT at COUNT addresses of 127.0.0.0/8, from number FIRST on (see [`loopback`]):
/// each is another destination. Counts the calls that were refused, and the milliseconds that all calls took.
fn refuse(_: &mut Belongings, words: &[&str]) -> Result<Vec<u64>> {
    let (first, count): (u32, u32) = (argument(words, 0)?, argument(words, 1)?);
    let begin = Instant::now();
    let refused = refused(first, count, argument(words, 2)?)?;
    Ok(vec![refused, u64::try_from(begin.elapsed().as_millis())?])
}

/// `refuse-for SECONDS COUNT PORT`: repeats `refuse 1 COUNT PORT` for SECONDS. Counts as `refuse` does, over all calls.
fn refuse_for(_: &mut Belongings, words: &[&str]) -> Result<Vec<u64>> {
    let begin = Instant::now();
    let length = Duration::try_from_secs_f64(argument(words, 0)?)?;
    refuse_while(argument(words, 1)?, argument(words, 2)?, || Ok(begin.elapsed() < length))
}

/// `refuse-until-next COUNT PORT`: repeats `refuse 1 COUNT PORT` until the outsider gets its next operation. Counts as `refuse`
/// does, over all calls.
fn refuse_until_next(_: &mut Belongings, words: &[&str]) -> Result<Vec<u64>> {
    refuse_while(argument(words, 0)?, argument(words, 1)?, has_no_next)
}

/// Whether the outsider has not got its next operation yet.
fn has_no_next() -> Result<bool> {
    let stdin = io::stdin();
    let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
    Ok(poll(&mut fds, Some(&Timespec::default()))? == 0)
}

/// Repeats `refuse 1 COUNT PORT` in parts of 256 calls, as long as `again` returns true before each part. Returns how many calls
/// were refused, and the milliseconds that all calls took.
fn refuse_while(count: u32, port: u16, again: impl Fn() -> Result<bool>) -> Result<Vec<u64>> {
    let begin = Instant::now();
    let mut total = 0;
    for first in (1..=count).step_by(256).cycle() {
        if !again()? {
            break;
        }
        total += refused(first, 256.min(count - first + 1), port)?;
    }
    Ok(vec![total, u64::try_from(begin.elapsed().as_millis())?])
}

/// `threads COUNT SECONDS PEER`: COUNT threads call connect() to PEER over and over for SECONDS, each with a pause of 10 ms after
/// each call: all of them exist at the same time, but few of them run. Counts the calls of all threads.
fn threads(_: &mut Belongings, words: &[&str]) -> Result<Vec<u64>> {
    const PAUSE: Duration = Duration::from_millis(10);
    let end = Instant::now() + Duration::try_from_secs_f64(argument(words, 1)?)?;
    let peer: SocketAddr = argument(words, 2)?;
    let call = move || -> Result<u64> {
        let mut calls = 0;
        while Instant::now() < end {
            _ = Sock::tcp(peer)?.connect(peer);
            calls += 1;
            thread::sleep(PAUSE);
        }
        Ok(calls)
    };
    let one = |_| Ok(thread::Builder::new().stack_size(64 << 10).spawn(call)?);
    let threads = (0..argument::<u32>(words, 0)?).map(one).collect::<Result<Vec<_>>>()?;
    let ended = threads.into_iter().map(|it| it.join().unwrap_or_else(|it| resume_unwind(it)));
    Ok(vec![ended.sum::<Result<u64>>()?])
}

fn refused(first: u32, count: u32, port: u16) -> Result<u64> {
    let mut refused = 0;
    for number in first..first.saturating_add(count) {
        let peer = SocketAddr::from((loopback(number), port));
        refused += u64::from(Sock::tcp(peer)?.connect(peer) == Err(Errno::CONNREFUSED));
    }
    Ok(refused)
}

/// `begin-connects SOURCE PEER COUNT`: calls connect() from SOURCE (`-`: the kernel chooses) to COUNT ports from PEER's port
/// on, without waiting for an answer; the sockets stay open. Counts calls that succeeded or are in progress, and calls that
/// failed.
fn begin_connects(belongings: &mut Belongings, words: &[&str]) -> Result<Vec<u64>> {
    let source: Option<IpAddr> = match words.first() {
        Some(&"-") => None,
        _ => Some(argument(words, 0)?),
    };
    let first: SocketAddr = argument(words, 1)?;
    let mut counts = [0; 2];
    for number in 0..argument::<u16>(words, 2)? {
        let peer = SocketAddr::new(first.ip(), first.port().wrapping_add(number));
        let sock = Sock::tcp(peer)?;
        sock.set_nonblocking()?;
        if let Some(source) = source {
            sock.set_bind_address_no_port()?;
            sock.bind(SocketAddr::new(source, 0))?;
        }
        let begun = matches!(sock.connect(peer), Ok(()) | Err(Errno::INPROGRESS));
        counts[usize::from(!begun)] += 1;
        belongings.fds.push(sock.into());
    }
    Ok(counts.to_vec())
}

/// `cross SECONDS PEER ADDRESS...`: makes each ADDRESS look broken towards a port of its own at PEER: the first one towards
/// PEER's port, the second one towards the port after it, and so on. The listener on that port has a short queue, which
/// connections from the other addresses fill once a second: so there must be at least two addresses. The calls from ADDRESS, ten
/// a second, then time out after 0.9 s. Ends early when the next operation arrives. Counts the connections that timed out,
/// without those that began in the last 2 s.
fn cross(_: &mut Belongings, words: &[&str]) -> Result<Vec<u64>> {
    let begin = Instant::now();
    let length = Duration::try_from_secs_f64(argument(words, 0)?)?;
    let peer: SocketAddr = argument(words, 1)?;
    let addresses =
        (2..words.len()).map(|at| argument(words, at)).collect::<Result<Vec<IpAddr>>>()?;
    let mut listeners = Vec::new();
    for place in 0..addresses.len() {
        let listener = Sock::tcp(peer)?;
        listener.set_nonblocking()?;
        listener.bind(SocketAddr::new(peer.ip(), peer.port() + u16::try_from(place)?))?;
        listener.listen(8)?;
        listeners.push(listener);
    }
    let begin_one = |from: IpAddr, to: SocketAddr| -> Result<Sock> {
        let sock = Sock::tcp(to)?;
        sock.set_nonblocking()?;
        sock.set_bind_address_no_port()?;
        sock.bind(SocketAddr::new(from, 0))?;
        sock.set_user_timeout(Duration::from_millis(900))?;
        sock.set_reset_on_close()?;
        _ = sock.connect(to);
        Ok(sock)
    };
    let (mut waiting, mut timed_out) = (VecDeque::new(), 0);
    let mut rounds = 0;
    while begin.elapsed() < length && has_no_next()? {
        for (listener, broken) in listeners.iter().zip(&addresses) {
            let to = listener.local()?;
            if rounds % 10 == 0 {
                while listener.accept().is_ok() {}
                let others: Vec<_> = addresses.iter().filter(|it| *it != broken).collect();
                for from in others.iter().cycle().take(9) {
                    waiting.push_back((Instant::now(), begin_one(**from, to)?));
                }
            }
            waiting.push_back((Instant::now(), begin_one(*broken, to)?));
        }
        rounds += 1;
        while waiting.front().is_some_and(|(since, _)| since.elapsed() > Duration::from_secs(2)) {
            let sock = waiting.pop_front().map(|(_, sock)| sock);
            timed_out += u64::from(sock.is_some_and(|sock| sock.error() == Some(Errno::TIMEDOUT)));
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(vec![timed_out])
}

/// `bind ADDRESS:FIRST COUNT`: calls bind() for COUNT ports from FIRST on (if FIRST is 0, always for port 0); the sockets stay
/// open. Counts calls that succeeded and calls that failed.
fn bind(belongings: &mut Belongings, words: &[&str]) -> Result<Vec<u64>> {
    let first = argument(words, 0)?;
    let mut counts = [0; 2];
    for number in 0..argument::<u16>(words, 1)? {
        let (sock, bound) = bound(first, number)?;
        counts[usize::from(!bound)] += 1;
        if bound {
            belongings.fds.push(sock.into());
        }
    }
    Ok(counts.to_vec())
}

/// `bind-and-close ADDRESS:FIRST COUNT`: as `bind`, but closes each socket before the next call.
fn bind_and_close(_: &mut Belongings, words: &[&str]) -> Result<Vec<u64>> {
    let first = argument(words, 0)?;
    let mut counts = [0; 2];
    for number in 0..argument::<u16>(words, 1)? {
        counts[usize::from(!bound(first, number)?.1)] += 1;
    }
    Ok(counts.to_vec())
}

/// `bind-addresses FIRST COUNT`: calls bind() for port 0 at COUNT addresses from FIRST on, and closes each socket before the
/// next call. Counts the calls that succeeded.
fn bind_addresses(_: &mut Belongings, words: &[&str]) -> Result<Vec<u64>> {
    let first = u32::from(argument::<Ipv4Addr>(words, 0)?);
    let mut count = 0;
    for number in 0..argument::<u32>(words, 1)? {
        let address = SocketAddr::from((Ipv4Addr::from(first + number), 0));
        count += u64::from(Sock::tcp(address)?.bind(address).is_ok());
    }
    Ok(vec![count])
}

/// `bind-everywhere FIRST:PORT COUNT`: calls bind() for PORT at COUNT addresses from FIRST (in 127.0.0.0/8) on; the sockets
/// stay open. Counts the calls that succeeded.
fn bind_everywhere(belongings: &mut Belongings, words: &[&str]) -> Result<Vec<u64>> {
    let first: SocketAddrV4 = argument(words, 0)?;
    let mut count = 0;
    for number in 0..argument::<u32>(words, 1)? {
        let ip = Ipv4Addr::from(u32::from(*first.ip()) + number);
        let address = SocketAddr::from((ip, first.port()));
        let sock = Sock::tcp(address)?;
        if sock.bind(address).is_ok() {
            count += 1;
            belongings.fds.push(sock.into());
        }
    }
    Ok(vec![count])
}

fn bound(first: SocketAddr, number: u16) -> Result<(Sock, bool)> {
    let port = if first.port() == 0 { 0 } else { first.port().wrapping_add(number) };
    let sock = Sock::tcp(first)?;
    let bound = sock.bind(SocketAddr::new(first.ip(), port)).is_ok();
    Ok((sock, bound))
}

/// `close`: closes all descriptors that the outsider holds. Counts them.
fn close(belongings: &mut Belongings, _: &[&str]) -> Result<Vec<u64>> {
    Ok(vec![u64::try_from(belongings.fds.drain(..).count())?])
}
