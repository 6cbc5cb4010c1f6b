//! Thousands of random operations by several processes, reproducible by a seed.

use std::{env, net::SocketAddr};

use anyhow::{Context, Result};
use rustix::io::Errno;

use crate::harness::{
    probe::Place,
    process::Helper,
    sock::Sock,
    stage::{Outcome, Server, Stage},
};

const PROCESSES: u64 = 4;
/// How many times all helper processes pause, so that the ledger can be compared with the kernel.
const PAUSES: u64 = 5;

/// Does 10,000 random operations in all (600 in a guest), in four processes. Five times, while these pause, and after they were
/// killed, the ledger must be what the kernel has, and the sums of the calls must be what the processes saw. The seed is the
/// time, unless `TRACER_TEST_SEED` has the seed of an earlier run (an error of that run names it).
pub fn mixed(stage: &mut Stage) -> Result<()> {
    let seed = match env::var("TRACER_TEST_SEED") {
        Ok(seed) => seed.parse().context("TRACER_TEST_SEED is not a number")?,
        Err(_) => crate::harness::tracer::mono_ns(),
    };
    let total = if Place::get() == Place::Vm { 600 } else { 10_000 };
    // Both limits are so small that the range is exhausted, and tcp_max_tw_buckets exceeded, from time to time.
    stage.netns.sysctl("ipv4/ip_local_port_range", "40000 40149")?;
    stage.netns.sysctl("ipv4/tcp_max_tw_buckets", "400")?;
    stage.netns.ip("addr add fd00:1::1/128 dev lo nodad")?;
    let steps = (total / PROCESSES / PAUSES).to_string();
    let mut helpers = Vec::new();
    for number in 0..PROCESSES {
        let port = 7000 + u16::try_from(number)?;
        stage.add_server(port);
        let arguments = ["random", &(seed ^ number).to_string(), &steps, &port.to_string()];
        helpers.push(stage.netns.run(|| Helper::spawn(&arguments))?);
    }
    for helper in &mut helpers {
        helper.ready()?;
    }
    let with_seed = || format!("TRACER_TEST_SEED={seed}");
    let mut outcome = Outcome::opened(0);
    for _ in 0..PAUSES {
        for helper in &mut helpers {
            helper.go()?;
        }
        for helper in &mut helpers {
            let counts = helper.ready_with_counts().with_context(with_seed)?;
            let [opened, refused, not_available] = counts[..] else {
                anyhow::bail!("the helper counted {counts:?}")
            };
            outcome += Outcome { opened: Some(opened), refused, not_available };
        }
        stage.settle(&outcome).with_context(with_seed)?;
    }
    for helper in helpers {
        helper.kill()?;
    }
    stage.settle(&outcome).with_context(with_seed)?;
    Ok(())
}

/// The random operations of one helper process, and the sockets that it has open.
pub struct Driver {
    random: Random,
    servers: [Server; 2],
    closed: SocketAddr,
    pairs: Vec<(Sock, Option<Sock>)>,
    /// Results of the calls since the last [`Self::outcome`].
    outcome: Outcome,
}

impl Driver {
    /// Makes two non-blocking servers on `port`, at 10.1.0.1 and fd00:1::1. `port` must be at most 64,535; on `port` + 1000
    /// nobody may listen (not checked). An error if a server cannot be made.
    pub fn new(seed: u64, port: u16) -> Result<Self> {
        let serve = |ip: &str| -> Result<Server> {
            let address = SocketAddr::new(ip.parse()?, port);
            let listener = Sock::tcp(address)?;
            listener.set_reuse_address()?;
            listener.bind(address)?;
            listener.listen(1024)?;
            listener.set_nonblocking()?;
            Ok(Server { listener, address })
        };
        let servers = [serve("10.1.0.1")?, serve("fd00:1::1")?];
        let closed = SocketAddr::new(servers[0].address.ip(), port + 1000);
        let (pairs, outcome) = (Vec::new(), Outcome::opened(0));
        Ok(Self { random: Random(seed), servers, closed, pairs, outcome })
    }

    /// The results of the calls since the last call of this function, or since the start; the count begins again at 0.
    pub fn outcome(&mut self) -> Outcome {
        std::mem::replace(&mut self.outcome, Outcome::opened(0))
    }

    /// Does one random operation.
    ///
    /// # Errors
    /// A call failed for another reason than a full range, a port that is taken, or a peer that does not listen; or connect() to
    /// a port on which nobody listens succeeded. Errors on sockets that had called connect() before are ignored.
    pub fn operate(&mut self) -> Result<()> {
        match self.random.below(20) {
            0..=8 => return self.open(),
            9 | 10 => self.close(|client, accepted| drop((client, accepted))),
            11 | 12 => self.close(|client, accepted| {
                drop(accepted);
                drop(client);
            }),
            13 => self.close(|client, accepted| {
                client.set_reset_on_close().ok();
                drop((client, accepted));
            }),
            14 => self.close(|client, accepted| {
                if let Some(accepted) = accepted {
                    accepted.set_reset_on_close().ok();
                }
                drop(client);
            }),
            15 => self.half_close(),
            16 => return self.refused(),
            17 => self.disconnect(),
            18 => self.close_accepted(),
            _ => return self.fail_then_open(),
        }
        Ok(())
    }

    fn open(&mut self) -> Result<()> {
        if self.pairs.len() >= 60 {
            self.close(|client, accepted| drop((client, accepted)));
            return Ok(());
        }
        let six = self.random.below(4) == 0;
        let server = &self.servers[usize::from(six)];
        let choice = if six { 0 } else { self.random.below(6) };
        let mut peer = server.address;
        let sock = if choice == 1 { Sock::tcp6()? } else { Sock::tcp(peer)? };
        let port = 41_000 + u16::try_from(self.random.below(50))?;
        let bound = match choice {
            1 => {
                peer = format!("[::ffff:{}]:{}", peer.ip(), peer.port()).parse()?;
                Ok(())
            }
            2 => sock.bind("10.1.0.2:0".parse()?),
            3 => {
                sock.set_bind_address_no_port()?;
                sock.bind("10.1.0.2:0".parse()?)
            }
            4 => {
                sock.set_reuse_address()?;
                sock.bind(SocketAddr::new("10.1.0.2".parse()?, port))
            }
            _ => Ok(()),
        };
        if let Err(Errno::ADDRINUSE) = bound {
            return Ok(());
        }
        bound?;
        match self.outcome.count(sock.connect(peer)) {
            Ok(()) => {
                let accepted = server.listener.accept().ok();
                self.pairs.push((sock, accepted));
                Ok(())
            }
            Err(Errno::ADDRNOTAVAIL) => Ok(()),
            Err(errno) => Err(errno).with_context(|| format!("connect to {peer}")),
        }
    }

    fn pick(&mut self) -> Option<(Sock, Option<Sock>)> {
        let count = u64::try_from(self.pairs.len()).ok().filter(|count| *count > 0)?;
        let index = usize::try_from(self.random.below(count)).ok()?;
        Some(self.pairs.swap_remove(index))
    }

    fn close(&mut self, how: fn(Sock, Option<Sock>)) {
        if let Some((client, accepted)) = self.pick() {
            how(client, accepted);
        }
    }

    fn half_close(&mut self) {
        if let Some((client, accepted)) = self.pick() {
            client.shutdown_write().ok();
            self.pairs.push((client, accepted));
        }
    }

    fn close_accepted(&mut self) {
        if let Some((client, _accepted)) = self.pick() {
            self.pairs.push((client, None));
        }
    }

    fn refused(&mut self) -> Result<()> {
        match self.outcome.count(Sock::tcp(self.closed)?.connect(self.closed)) {
            Err(Errno::CONNREFUSED | Errno::ADDRNOTAVAIL) => Ok(()),
            other => anyhow::bail!("connect to a closed port gave {other:?}"),
        }
    }

    fn disconnect(&mut self) {
        if let Some((client, accepted)) = self.pick() {
            client.disconnect().ok();
            let server = &self.servers[0];
            if self.outcome.count(client.connect(server.address)).is_ok() {
                self.pairs.push((client, server.listener.accept().ok()));
            }
            drop(accepted);
        }
    }

    fn fail_then_open(&mut self) -> Result<()> {
        let sock = Sock::tcp(self.closed)?;
        let failed = self.outcome.count(sock.connect(self.closed));
        failed.err().context("connect to a closed port succeeded")?;
        let server = &self.servers[0];
        if self.outcome.count(sock.connect(server.address)).is_ok() {
            self.pairs.push((sock, server.listener.accept().ok()));
        }
        Ok(())
    }
}

/// A generator of random numbers, which begins with the seed: SplitMix64 (Steele, Lea, Flood 2014). It is small, and good enough
/// to mix operations.
pub struct Random(pub u64);

impl Random {
    /// The next random number, from 0 to `limit - 1`.
    ///
    /// # Panics
    /// If `limit` is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}
