//! A host with few source ports and an upstream, in two network namespaces, and loads of connections between them.

use std::{
    fmt,
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use rustix::io::Errno;

use crate::harness::{netns::NetNs, sock::Sock};

const HERE: &str = "10.2.0.1/24";
const THERE: &str = "10.2.0.2/24";

/// Two namespaces that a veth pair joins; the upstream listens in the second one.
pub(in crate::cases) struct Edge {
    /// The host with few source ports.
    pub(in crate::cases) here: NetNs,
    /// The namespace of the upstream.
    pub(in crate::cases) there: NetNs,
    /// The upstream's socket.
    pub(in crate::cases) listener: Sock,
    /// The upstream's address, 10.2.0.2:8081.
    pub(in crate::cases) upstream: SocketAddr,
}

/// What a load did.
#[derive(Clone, Default)]
pub(in crate::cases) struct Load {
    /// Number of connect() calls that succeeded.
    pub(in crate::cases) opened: u64,
    /// Number of connect() calls that failed.
    pub(in crate::cases) failed: u64,
    /// How long it went on, in seconds.
    pub(in crate::cases) seconds: f64,
    /// When each call returned, in seconds since the load began, in this order.
    returned: Vec<f64>,
}

impl fmt::Debug for Load {
    /// Without the time of each call.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { opened, failed, seconds, returned: _ } = self;
        write!(f, "{opened} opened, {failed} failed in {seconds:.1} s")
    }
}

impl Load {
    /// The lowest and the highest rate of calls, in calls per second, of all intervals of this many seconds (above 0; at most the
    /// whole load) while the load ran; (0, 0) if it made no call. The rate is not even: after a pause, the load makes the calls
    /// that it has missed.
    pub(in crate::cases) fn rates(&self, seconds: f64) -> (f64, f64) {
        let length = seconds.min(self.seconds);
        // An interval with the fewest or the most calls begins at a call, or ends at one.
        let starts = self.returned.iter().flat_map(|at| [*at, at - length]);
        let starts = starts.filter(|start| (0.0..=self.seconds - length).contains(start));
        let rates = starts.chain([0.0]).flat_map(|start| {
            let before = |time: f64| self.returned.partition_point(|at| *at < time);
            let after = |time: f64| self.returned.partition_point(|at| *at <= time);
            let end = start + length;
            // With the calls at both ends of the interval, and without them.
            [after(end).saturating_sub(before(start)), before(end).saturating_sub(after(start))]
        });
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        let rates = rates.map(|calls| calls as f64 / length);
        rates.fold((f64::INFINITY, 0.0), |(lowest, highest), rate| {
            (rate.min(lowest), rate.max(highest))
        })
    }
}

impl Edge {
    /// A host with this many source ports, from 1 to 25,536 (not checked), from port 40000 on, and its upstream. An error if one
    /// of the namespaces cannot be made.
    pub(in crate::cases) fn new(ports: u16) -> Result<Self> {
        let (here, there) = (NetNs::new()?, NetNs::new()?);
        here.veth(&[HERE], &there, &[THERE])?;
        here.sysctl("ipv4/ip_local_port_range", &format!("40000 {}", 40_000 + ports - 1))?;
        let upstream: SocketAddr = "10.2.0.2:8081".parse()?;
        let listener = there.run(|| listen(upstream, 4_096))?;
        Ok(Self { here, there, listener, upstream })
    }

    /// Another upstream, at this port of the same address: its address, and its socket. An error if the port is taken.
    pub(in crate::cases) fn another(&self, port: u16) -> Result<(SocketAddr, Sock)> {
        let address = SocketAddr::new(self.upstream.ip(), port);
        let listener = self.there.run(|| listen(address, 4_096))?;
        Ok((address, listener))
    }

    /// Opens this many connections to the upstream. Returns pairs: this host's end, and the upstream's. An error if one fails.
    pub(in crate::cases) fn open(&self, count: usize) -> Result<Vec<(Sock, Sock)>> {
        self.here.run(|| {
            let pair = |_| Ok((Sock::connected(self.upstream)?, self.listener.accept()?));
            (0..count).map(pair).collect()
        })
    }

    /// Opens this many connections and closes this host's ends first, so that their ports are in TIME_WAIT. An error if one
    /// fails.
    pub(in crate::cases) fn leave_time_waits(&self, count: usize) -> Result<()> {
        for (here, there) in self.open(count)? {
            drop(here);
            drop(there);
        }
        Ok(())
    }

    /// Opens connections to `peer`, whose socket is `listener`, at this rate (at least 1 a second), one after the other, each
    /// closed at once by this host, while `work` runs. Returns the result of `work` and what the load did; an error only if
    /// `work` fails.
    pub(in crate::cases) fn under_load<T: Send>(
        &self,
        (peer, listener): (SocketAddr, &Sock),
        per_second: u32,
        work: impl FnOnce() -> Result<T> + Send,
    ) -> Result<(T, Load)> {
        let ends = AtomicBool::new(false);
        thread::scope(|scope| {
            let loader = scope.spawn(|| {
                self.here.run(|| {
                    let mut load = Load::default();
                    let began = Instant::now();
                    let pause = Duration::from_secs(1) / per_second;
                    let mut next = began;
                    while !ends.load(Relaxed) {
                        if Sock::connected(peer).is_ok() {
                            load.opened += 1;
                            drop(listener.accept());
                        } else {
                            load.failed += 1;
                        }
                        load.returned.push(began.elapsed().as_secs_f64());
                        next += pause;
                        thread::sleep(next.saturating_duration_since(Instant::now()));
                    }
                    Load { seconds: began.elapsed().as_secs_f64(), ..load }
                })
            });
            let result = work();
            ends.store(true, Relaxed);
            let load = loader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok((result?, load))
        })
    }

    /// The first upstream, as [`Self::under_load`] takes it: its address, and its socket.
    pub(in crate::cases) fn first(&self) -> (SocketAddr, &Sock) {
        (self.upstream, &self.listener)
    }
}

/// A socket of the calling thread's namespace that listens at this address, with a queue of `backlog` connections; an error if
/// the address is taken or not there.
pub(in crate::cases) fn listen(address: SocketAddr, backlog: i32) -> Result<Sock> {
    let listener = Sock::tcp(address)?;
    listener.bind(address)?;
    listener.listen(backlog)?;
    Ok(listener)
}

/// Begins to connect, from the calling thread's namespace, and does not wait for an answer. Returns the socket, which is
/// non-blocking; an error if connect() fails at once.
pub(in crate::cases) fn begin(peer: SocketAddr) -> Result<Sock> {
    let sock = Sock::tcp(peer)?;
    begin_with(&sock, peer)?;
    Ok(sock)
}

/// Makes this socket non-blocking, and begins to connect it, without waiting for an answer. An error if connect() fails at once.
pub(in crate::cases) fn begin_with(sock: &Sock, peer: SocketAddr) -> Result<()> {
    sock.set_nonblocking()?;
    match sock.connect(peer) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
