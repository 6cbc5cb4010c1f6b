//! An application that makes calls of every kind, in an order that depends on its seed only.

use std::{net::SocketAddr, sync::atomic::Ordering, time::Duration};

use anyhow::Result;
use rustix::io::Errno;

use super::Progress;
use crate::{
    cases::spread::Host,
    harness::{netns::NetNs, sock::Sock},
    workloads::random::Random,
};

/// An address of the host that is not in the pool.
const CHOSEN: &str = "10.1.0.2:0";
/// The servers' address in the application's own namespace, and in another one.
const NEAR_SERVERS: &str = "10.1.0.1";
/// The address of servers in another namespace, which that namespace must have.
pub(super) const FAR_SERVERS: &str = "10.7.0.9";
/// A port on which nobody listens.
const CLOSED: u16 = 7999;
/// A destination without a route.
const FAR: &str = "192.0.2.1:80";

/// The results of the system calls that one call of the application consists of, for example bind() and connect(), in their
/// order; `None` is success.
pub(super) type Ends = Vec<Option<Errno>>;

/// The application and its servers.
pub(super) struct Calls<'a> {
    host: &'a Host,
    /// Non-blocking listeners, on the ports from 7101 on.
    pub(super) servers: Vec<Sock>,
    seed: u64,
    /// The most sockets that are open at a time.
    held: u64,
}

impl<'a> Calls<'a> {
    /// Makes `servers` servers for the host's application, in the namespace `far` (at [`FAR_SERVERS`]), or for `None` in the
    /// application's own (at 10.1.0.1). With more than one server, some sockets of the application bind an address themselves.
    /// `seed` decides the order and kinds of the calls. `held`: the most sockets that are open at a time. An error if a server
    /// cannot listen.
    pub(super) fn new(
        host: &'a Host,
        far: Option<&NetNs>,
        seed: u64,
        servers: u16,
        held: u64,
    ) -> Result<Self> {
        let (netns, ip) = far.map_or((&host.stage.netns, NEAR_SERVERS), |far| (far, FAR_SERVERS));
        let listener = |port| -> Result<Sock> {
            let address: SocketAddr = format!("{ip}:{port}").parse()?;
            let listener = Sock::tcp(address)?;
            listener.bind(address)?;
            listener.listen(64)?;
            listener.set_nonblocking()?;
            Ok(listener)
        };
        let ports = 7101..7101 + servers;
        let servers = netns.run(|| ports.map(listener).collect::<Result<_>>())?;
        Ok(Self { host, servers, seed, held })
    }

    /// Makes calls until `stop` of `progress` is set, and counts them in `progress`. Returns their results, in their order. An
    /// error only if a socket cannot be made or an option not be set.
    pub(super) fn play(&self, progress: &Progress) -> Result<Vec<Ends>> {
        self.play_until(progress, |_| progress.stop.load(Ordering::Relaxed))
    }

    /// Makes this number of calls, and counts them in `progress`. Returns their results, in their order. Errors as of
    /// [`Self::play`].
    pub(super) fn play_count(&self, calls: usize, progress: &Progress) -> Result<Vec<Ends>> {
        self.play_until(progress, |played| played == calls)
    }

    fn play_until(&self, progress: &Progress, end: impl Fn(usize) -> bool) -> Result<Vec<Ends>> {
        let mut random = Random(self.seed);
        let mut held: Vec<(Sock, Vec<Sock>)> = Vec::new();
        let mut all = Vec::new();
        while !end(all.len()) {
            let server = random.below(self.servers.len() as u64);
            let listener = &self.servers[usize::try_from(server)?];
            let mut ends = Vec::new();
            let sock = self.call(random.below(16), listener.local()?, &mut ends)?;
            // Accepts all that wait: with a full queue, calls would time out.
            let accepted = std::iter::from_fn(|| listener.accept().ok()).collect();
            sock.set_reset_on_close()?;
            held.push((sock, accepted));
            if held.len() as u64 >= self.held {
                let keep = usize::try_from(random.below(self.held))?;
                held.drain(..held.len() - keep);
            }
            all.push(ends);
            progress.calls.store(all.len() as u64, Ordering::Relaxed);
        }
        Ok(all)
    }

    fn call(&self, kind: u64, peer: SocketAddr, ends: &mut Ends) -> Result<Sock> {
        let sock = self.host.app.tcp(peer)?;
        // With this, a call without an answer fails within 7 s.
        sock.set_syn_count(2)?;
        let mut end = |result: rustix::io::Result<()>| ends.push(result.err());
        match kind {
            0 => {
                end(sock.connect(SocketAddr::new(peer.ip(), CLOSED)));
                // The same descriptor connects again after it was refused.
                end(sock.connect(peer));
            }
            1 => {
                sock.set_nonblocking()?;
                end(sock.connect(peer));
                end(sock.wait_connected(Duration::from_secs(5)));
            }
            2 if self.servers.len() > 1 => {
                sock.set_bind_address_no_port()?;
                end(sock.bind(CHOSEN.parse()?));
                end(sock.connect(peer));
            }
            3 if self.servers.len() > 1 => {
                end(sock.bind(CHOSEN.parse()?));
                end(sock.connect(peer));
            }
            4 => {
                end(sock.connect(peer));
                end(sock.connect(peer));
            }
            5 => end(sock.connect(FAR.parse()?)),
            6 => {
                end(sock.connect(peer));
                end(sock.disconnect());
                end(sock.connect(peer));
            }
            _ => end(sock.connect(peer)),
        }
        Ok(sock)
    }
}
