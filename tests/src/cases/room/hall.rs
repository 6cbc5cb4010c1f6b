//! A namespace with a narrow port range and several addresses, watched by a tracer from the start.

use std::{
    net::SocketAddr,
    ops::RangeInclusive,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::io::Errno;

use super::calls::{bound, churn, connected, fill, fill_bound, granted, reset};
use crate::{
    harness::{
        probe::Place,
        sock::Sock,
        stage::{Server, Stage},
        tracer::watch::{Counts, Reading, Watch},
        tuple::Tuple,
    },
    workloads::random::Random,
};

/// The port range of the namespace.
pub(super) const RANGE: RangeInclusive<u16> = 40_000..=40_199;
/// The addresses for clients and bound sockets.
pub(super) const ADDRESSES: [&str; 3] = ["10.1.0.2", "10.1.0.3", "10.1.0.4"];
/// After this time the tracer has read a change of the port range, which it does once a second, and counts all ports by the new
/// range. An earlier comparison could succeed by chance, with numbers from before the change.
const SETTLED: Duration = Duration::from_millis(1500);
/// How long the tracer's room may differ from what the kernel grants, until a comparison fails; longer in a guest
/// ([`Place::limit`]).
const LIMIT: Duration = Duration::from_secs(8);

/// The namespace with two servers (0 and 1; any other number panics), its tracer, and the sockets that the test has opened. A
/// failed call is an error, unless a function says something else.
pub(super) struct Hall {
    stage: Stage,
    watch: Watch,
    servers: Vec<Server>,
    /// Clients and their accepted ends.
    pairs: Vec<(Sock, Sock)>,
    /// Bound or listening sockets, and whether the kernel chose the port.
    bound: Vec<(Sock, bool)>,
}

impl Hall {
    /// Makes the namespace, with the port range [`RANGE`], [`ADDRESSES`] and tcp_tw_reuse off, and starts the tracer with this
    /// backend. Errors as of [`Stage::new`] and [`Watch::start`].
    pub(super) fn new(backend: &str) -> Result<Self> {
        let mut stage = Stage::new(&[])?;
        for address in &ADDRESSES[1..] {
            stage.netns.ip(&format!("addr add {address}/32 dev lo"))?;
        }
        let first_and_last = format!("{} {}", RANGE.start(), RANGE.end());
        stage.netns.sysctl("ipv4/ip_local_port_range", &first_and_last)?;
        stage.netns.sysctl("ipv4/tcp_tw_reuse", "0")?;
        let servers = ["10.1.0.1:7000", "10.1.0.1:7001"];
        let servers = servers.map(|at| stage.server(at)).into_iter().collect::<Result<_>>()?;
        let watch = Watch::start(backend, &[])?;
        Ok(Self { stage, watch, servers, pairs: Vec::new(), bound: Vec::new() })
    }

    fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.stage.netns.run(work)
    }

    /// Opens a connection from the address `from` to a server (0 or 1), whose port connect() chooses; nothing happens if no port
    /// is left.
    pub(super) fn connect(&mut self, from: &str, server: usize) -> Result<()> {
        let pair = self.run(|| connected(from, &self.servers[server]))?;
        self.pairs.extend(pair);
        Ok(())
    }

    /// Opens a connection from the address `from` and this port, or for port 0 from a port that bind() chooses; nothing happens
    /// if bind() or connect() finds the port taken, or no port.
    pub(super) fn connect_bound(&mut self, from: &str, port: u16, server: usize) -> Result<()> {
        let from = SocketAddr::new(from.parse()?, port);
        let server = &self.servers[server];
        let pair = self.run(|| -> Result<_> {
            let Some(sock) = bound(from)? else { return Ok(None) };
            if !granted(sock.connect(server.address), Errno::ADDRNOTAVAIL)? {
                return Ok(None);
            }
            Ok(Some((sock, server.listener.accept()?)))
        })?;
        self.pairs.extend(pair);
        Ok(())
    }

    /// Binds a TCP socket, which then stays idle, to the address `at` and this port, or for port 0 to a port that the kernel
    /// chooses; nothing happens if the port is taken, or none is left.
    pub(super) fn bind(&mut self, at: &str, port: u16) -> Result<()> {
        let at = SocketAddr::new(at.parse()?, port);
        let sock = self.run(|| bound(at))?;
        self.bound.extend(sock.map(|sock| (sock, port == 0)));
        Ok(())
    }

    /// Binds an MPTCP socket as [`Self::bind`] does a TCP socket; an error if the kernel makes no MPTCP socket.
    pub(super) fn bind_mptcp(&mut self, at: &str, port: u16) -> Result<()> {
        let at = SocketAddr::new(at.parse()?, port);
        let sock = self.run(|| -> Result<_> {
            let sock = Sock::mptcp(at)?;
            Ok(granted(sock.bind(at), Errno::ADDRINUSE)?.then_some(sock))
        })?;
        self.bound.extend(sock.map(|sock| (sock, port == 0)));
        Ok(())
    }

    /// Binds a TCP socket as [`Self::bind`] does, and listens; nothing happens either if listen() finds the port taken. For port
    /// 0, [`Self::compare`] does not require a row of the address.
    pub(super) fn listen(&mut self, at: &str, port: u16) -> Result<()> {
        let at = SocketAddr::new(at.parse()?, port);
        let sock = self.run(|| -> Result<_> {
            let Some(sock) = bound(at)? else { return Ok(None) };
            Ok(granted(sock.listen(1), Errno::ADDRINUSE)?.then_some(sock))
        })?;
        self.bound.extend(sock.map(|sock| (sock, false)));
        Ok(())
    }

    /// Calls connect() from the address `from` to a server, which must fail because there is no port; an error if it succeeds.
    pub(super) fn refuse(&mut self, from: &str, server: usize) -> Result<()> {
        let pair = self.run(|| connected(from, &self.servers[server]))?;
        ensure!(pair.is_none(), "a connect() got a port where there is none");
        Ok(())
    }

    fn take_pair(&mut self, random: &mut Random) -> Option<(Sock, Sock)> {
        let at = random.below(self.pairs.len().max(1) as u64);
        (!self.pairs.is_empty()).then(|| self.pairs.swap_remove(usize::try_from(at).unwrap_or(0)))
    }

    /// Closes a random connection, the client's end first, so that its port is in TIME_WAIT; nothing without a connection.
    #[expect(clippy::unnecessary_wraps, reason = "as every other operation")]
    pub(super) fn close_into_time_wait(&mut self, random: &mut Random) -> Result<()> {
        if let Some((client, accepted)) = self.take_pair(random) {
            drop(client);
            drop(accepted);
        }
        Ok(())
    }

    /// Resets a random connection: its port is free without TIME_WAIT. Nothing without a connection.
    pub(super) fn close_one(&mut self, random: &mut Random) -> Result<()> {
        let Some((client, accepted)) = self.take_pair(random) else { return Ok(()) };
        reset(client)?;
        drop(accepted);
        Ok(())
    }

    /// Closes a random bound or listening socket; nothing without one.
    #[expect(clippy::unnecessary_wraps, reason = "as every other operation")]
    pub(super) fn unbind_one(&mut self, random: &mut Random) -> Result<()> {
        if !self.bound.is_empty() {
            let at = random.below(self.bound.len() as u64);
            self.bound.swap_remove(usize::try_from(at).unwrap_or(0));
        }
        Ok(())
    }

    /// Closes all bound and listening sockets.
    pub(super) fn unbind_all(&mut self) {
        self.bound.clear();
    }

    /// Resets all connections: their ports are free without TIME_WAIT.
    pub(super) fn close_all(&mut self) {
        for (client, accepted) in self.pairs.drain(..) {
            reset(client).ok();
            drop(accepted);
        }
    }

    /// The local ports of the open connections' clients, in no certain order; empty if none is open.
    pub(super) fn connected_ports(&self) -> Vec<u16> {
        self.pairs.iter().filter_map(|(client, _)| Some(client.local().ok()?.port())).collect()
    }

    /// One of [`Self::connected_ports`], at random; `None` if there is none.
    pub(super) fn a_connected_port(&self, random: &mut Random) -> Option<u16> {
        let at = random.below(self.pairs.len().max(1) as u64);
        let (client, _) = self.pairs.get(usize::try_from(at).ok()?)?;
        Some(client.local().ok()?.port())
    }

    /// Sets net.ipv4.ip_local_reserved_ports, such as `40010-40013,40020`; empty: none are reserved.
    pub(super) fn reserve(&mut self, ports: &str) -> Result<()> {
        self.stage.netns.sysctl("ipv4/ip_local_reserved_ports", &format!("{ports}\n"))
    }

    /// Sets net.ipv4.ip_local_port_range: `FIRST LAST`, both inclusive, such as `40000 40099`. An error if the kernel refuses it.
    pub(super) fn set_range(&mut self, range: &str) -> Result<()> {
        self.stage.netns.sysctl("ipv4/ip_local_port_range", range)
    }

    /// Sets tcp_fin_timeout: a closed connection whose other end stays open is a time-wait socket in FIN_WAIT2 for 2 s.
    pub(super) fn shorten_time_waits(&self) -> Result<()> {
        self.stage.netns.sysctl("ipv4/tcp_fin_timeout", "2")
    }

    /// Makes `count` connections to the first server as fast as ports become free, and closes the client's end of each
    /// immediately ([`churn`]). Returns the most ports that a reading had in use meanwhile (0 if none had the tuple), and how
    /// many hooks the kernel has skipped since tracer started.
    pub(super) fn most_in_use(&mut self, from: &str, count: u64) -> Result<(u64, u64)> {
        let tuple = self.tuple(from, 0)?;
        let Self { stage, watch, servers, .. } = self;
        let server = &servers[0];
        thread::scope(|scope| {
            let load = scope.spawn(|| stage.netns.run(|| churn(from, server, count)));
            let mut most = 0;
            while !load.is_finished() {
                let here = watch.after(SystemTime::now(), LIMIT)?.of(stage.netns.inum());
                most = most.max(here.get(&tuple).map_or(0, |counts| counts.in_use));
            }
            load.join().map_err(|_| anyhow!("the load panicked"))??;
            Ok((most, watch.missed()))
        })
    }

    fn reading(&mut self) -> Result<Reading> {
        self.watch.after(SystemTime::now(), Duration::from_secs(10))
    }

    fn tuple(&self, from: &str, server: usize) -> Result<Tuple> {
        self.servers[server].tuple_from(from)
    }

    /// Waits until the tracer's room (capacity minus ports in use) of every tuple and address in a reading is what the kernel
    /// grants. Takes 1.5 s ([`SETTLED`]) at least.
    ///
    /// # Errors
    /// A number still differs after 8 s (longer in a guest: [`LIMIT`]), or a call failed.
    pub(super) fn compare(&mut self) -> Result<()> {
        let granted = self.granted()?;
        let changed = Instant::now();
        let end = changed + Place::get().limit(LIMIT);
        loop {
            let reading = self.reading()?;
            let wrong = self.wrong(&reading, &granted)?;
            if wrong.is_empty() && changed.elapsed() >= SETTLED {
                return Ok(());
            }
            ensure!(Instant::now() < end, "{}", wrong.join("; "));
        }
    }

    /// How many more connect() calls of each tuple, and bind(address, 0) calls at each address, the kernel grants.
    fn granted(&self) -> Result<Granted> {
        // bind() is tried before connect(): up to Linux 6.17, connect() does not get a port that bind() took while a connection
        // had it, as long as that connection has it. In the other order, connect() could get ports that it does not get any more
        // once these bind() calls have been made.
        let any = ["0.0.0.0"];
        let addresses: Vec<(String, u64)> = ADDRESSES
            .iter()
            .chain(&any)
            .map(|at| Ok(((*at).to_owned(), self.run(|| fill_bound(at))?)))
            .collect::<Result<_>>()?;
        let mut tuples = Vec::new();
        for from in ADDRESSES {
            for (number, server) in self.servers.iter().enumerate() {
                tuples.push((self.tuple(from, number)?, self.run(|| fill(from, server))?));
            }
        }
        Ok(Granted { tuples, addresses })
    }

    /// The differences between a reading and what the kernel grants, as texts; empty if there are none. A tuple without a row is
    /// not compared.
    fn wrong(&self, reading: &Reading, granted: &Granted) -> Result<Vec<String>> {
        let here = reading.of(self.stage.netns.inum());
        let mut wrong = Vec::new();
        for (tuple, more) in &granted.tuples {
            let Some(counts) = here.get(tuple) else { continue };
            let Counts { in_use, capacity, .. } = counts;
            let Some(capacity) = capacity else {
                // The tracer has not read the range of a new namespace yet.
                wrong.push(format!("{tuple} has no capacity"));
                continue;
            };
            if capacity.checked_sub(*in_use) != Some(*more) {
                wrong
                    .push(format!("{tuple}: {in_use} of {capacity}, and {more} more were granted"));
            }
        }
        let known = reading.addresses_of(self.stage.netns.inum());
        for (address, in_use, capacity) in &known {
            let found = granted.addresses.iter().find(|(at, _)| at == address);
            let (_, more) = found.with_context(|| format!("ports are bound at {address}"))?;
            if capacity.checked_sub(*in_use) != Some(*more) {
                let what = format!("bind({address}, 0): {in_use} of {capacity}");
                wrong.push(format!("{what}, and {more} more were granted"));
            }
        }
        // Every address at which the kernel chose a port for bind() must have a row.
        for (sock, chosen) in &self.bound {
            let at = sock.local()?.ip().to_string();
            if *chosen && !known.iter().any(|(address, ..)| *address == at) {
                wrong.push(format!("bind({at}, 0) has no row"));
            }
        }
        Ok(wrong)
    }

    /// Checks that the tuple from the address `from` to a server (0 or 1) has these ports in use and this capacity in the next
    /// reading, and the saturation that follows from them (1 for a capacity of 0); else an error.
    pub(super) fn expect(
        &mut self,
        from: &str,
        server: usize,
        in_use: u64,
        capacity: u64,
    ) -> Result<()> {
        let tuple = self.tuple(from, server)?;
        let here = self.reading()?.of(self.stage.netns.inum());
        let counts = here.get(&tuple).with_context(|| format!("{tuple} has no row"))?;
        let found = (counts.in_use, counts.capacity);
        ensure!(
            found == (in_use, Some(capacity)),
            "{tuple}: {found:?}, not {in_use} of {capacity}"
        );
        let share = counts.saturation.with_context(|| format!("{tuple} has no saturation"))?;
        let expected = match capacity {
            0 => 1.0,
            _ => f64::from(u32::try_from(in_use)?) / f64::from(u32::try_from(capacity)?),
        };
        ensure!((share - expected).abs() < 1e-5, "{tuple}: {share}, not {expected}");
        Ok(())
    }

    /// Checks that the tuple's row in the next reading has these numbers of ports of the range that are (reserved, bound); else
    /// an error.
    pub(super) fn expect_taken(
        &mut self,
        from: &str,
        server: usize,
        taken: (u64, u64),
    ) -> Result<()> {
        let tuple = self.tuple(from, server)?;
        let here = self.reading()?.of(self.stage.netns.inum());
        let counts = here.get(&tuple).with_context(|| format!("{tuple} has no row"))?;
        let found = (counts.reserved, counts.bound);
        ensure!(found == (Some(taken.0), Some(taken.1)), "{tuple}: {found:?}, not {taken:?}");
        Ok(())
    }
}

/// How many more calls the kernel grants: of connect() by tuple, of bind(address, 0) by address.
struct Granted {
    tuples: Vec<(Tuple, u64)>,
    addresses: Vec<(String, u64)>,
}
