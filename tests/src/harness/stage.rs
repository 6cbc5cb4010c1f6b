//! Where a workload runs: a new network namespace, its servers, and the tracers that watch it (or none).

mod compare;
mod outcome;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    panic,
    thread::{self, ScopedJoinHandle},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};
use compare::{against_kernel, against_tracer, calls};
pub use outcome::Outcome;

use crate::harness::{
    lie,
    netns::NetNs,
    oracle::{self, Table},
    probe::{self, Place},
    process::Helper,
    sock::Sock,
    tracer::{
        shared,
        watch::{Reading, Uses, Watch},
    },
    tuple::Tuple,
};

/// The address of `lo`, on every stage, for servers. It is not in 127.0.0.0/8: between such addresses, connect() may reuse ports
/// in TIME_WAIT by default (`tcp_tw_reuse` is 2).
pub const SERVER: &str = "10.1.0.1";
/// A second address of `lo`, on every stage, for clients.
pub const CLIENT: &str = "10.1.0.2";

/// What the kernel and the tracers must have for one tuple. The default: no port, no failed call, any number of opened ports.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// Ports in use, those in TIME_WAIT included.
    pub in_use: u64,
    /// How many of `in_use` are in TIME_WAIT.
    pub time_wait: u64,
    /// Ports that were taken since the tracer started; `None` if the workload cannot know it: any number is then right.
    pub opened: Option<u64>,
    /// Failed connect() calls by the name of the cause; a cause that is absent must not occur.
    pub failures: BTreeMap<String, u64>,
    /// How the tuple's connections ended, and its SYNs without an answer; `None` if the workload does not check it.
    pub uses: Option<Uses>,
}

impl Expected {
    /// `in_use` ports, `time_wait` of them in TIME_WAIT; otherwise the default.
    pub fn ports(in_use: u64, time_wait: u64) -> Self {
        Self { in_use, time_wait, ..Self::default() }
    }

    /// The same, with this number of ports taken since the tracer started.
    #[must_use]
    pub fn opened(self, opened: u64) -> Self {
        Self { opened: Some(opened), ..self }
    }

    /// The same, with connections that ended like this.
    #[must_use]
    pub fn used(self, uses: Uses) -> Self {
        Self { uses: Some(uses), ..self }
    }

    /// The same, with this number of failed calls of this cause (a key of tracer's `connect.failures`, such as `refused`).
    /// Replaces a number that was set for the same cause.
    #[must_use]
    pub fn failed(mut self, cause: &str, count: u64) -> Self {
        self.failures.insert(cause.to_owned(), count);
        self
    }
}

/// One namespace, and the tracers that watch it.
pub struct Stage {
    pub netns: NetNs,
    servers: BTreeSet<u16>,
    backends: Vec<String>,
    /// Backend, its tracer, and how many hooks the kernel had skipped in that tracer before it watched this stage.
    watches: Vec<(String, shared::Shared, u64)>,
    /// See [`Self::expect_drift`].
    drifts: bool,
    /// A process in the namespace, by which the tracer finds it.
    _inhabitant: Helper,
}

impl Stage {
    /// Makes a namespace with the addresses [`SERVER`] and [`CLIENT`] on `lo`. [`Self::watch`] or [`Self::watch_shared`] then has
    /// it watched by a tracer of each of these backends. The backend `none` is no tracer: the workload is then compared with the
    /// kernel only. An error if the namespace cannot be made.
    pub fn new(backends: &[String]) -> Result<Self> {
        let netns = NetNs::new()?;
        for address in [SERVER, CLIENT] {
            netns.ip(&format!("addr add {address}/32 dev lo"))?;
        }
        let backends = backends.iter().filter(|backend| *backend != "none").cloned().collect();
        let mut inhabitant = netns.run(|| Helper::spawn(&["keep"]))?;
        inhabitant.ready()?;
        let (servers, watches, drifts) = (BTreeSet::new(), Vec::new(), false);
        Ok(Self { netns, servers, backends, watches, drifts, _inhabitant: inhabitant })
    }

    /// Starts the tracers, and waits until they have attached. An error, which names the backend, if one does not start.
    pub fn watch(&mut self) -> Result<()> {
        let watches = self.start_watches()?;
        self.add_watches(watches);
        Ok(())
    }

    /// Has this stage watched by the tracers that the whole run shares, and starts those that do not run. To be called before
    /// anything is done in the namespace: it may be replaced by another one. The kernel gives a new namespace the inode number of
    /// one that has ended, and a tracer keeps the tuples of that one for minutes (`trace/idle.rs`).
    ///
    /// # Errors
    /// A tracer does not start, or gives no reading within 10 s; or another namespace cannot be made.
    pub fn watch_shared(&mut self) -> Result<()> {
        for backend in &self.backends {
            let watch = shared::watch(backend).with_context(|| format!("backend {backend}"))?;
            self.watches.push((backend.clone(), watch, 0));
        }
        loop {
            self.netns.keep()?;
            let readings = self.readings()?;
            let inum = self.netns.inum();
            if readings.iter().all(|(_, reading)| reading.of(inum).is_empty()) {
                for ((.., missed), (_, reading)) in self.watches.iter_mut().zip(&readings) {
                    *missed = reading.missed();
                }
                return Ok(());
            }
            let watches = std::mem::take(&mut self.watches);
            *self = Self { watches, ..Self::new(&self.backends)? };
        }
    }

    /// Starts the tracers and waits until they have attached, but the stage compares them with the kernel only after
    /// [`Self::add_watches`]. Returns each with its backend. Errors as of [`Self::watch`].
    pub fn start_watches(&self) -> Result<Vec<(String, Watch)>> {
        let start = |backend: &String| -> Result<_> {
            let watch = Watch::start(backend, &[]).with_context(|| format!("backend {backend}"))?;
            Ok((backend.clone(), watch))
        };
        // The tracers start at the same time, because most of a start is waiting for the kernel.
        thread::scope(|scope| {
            let started: Vec<_> =
                self.backends.iter().map(|it| scope.spawn(move || start(it))).collect();
            let join = |it: ScopedJoinHandle<'_, Result<(String, Watch)>>| {
                it.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
            };
            started.into_iter().map(join).collect()
        })
    }

    /// Has the stage compare these tracers, each with its backend, with the kernel from now on; [`Self::stop`] ends them.
    pub fn add_watches(&mut self, watches: Vec<(String, Watch)>) {
        let own = |(backend, watch)| (backend, shared::Shared::from(watch), 0);
        self.watches.extend(watches.into_iter().map(own));
    }

    /// Takes a last reading, then sends SIGINT to each tracer that only this stage uses, which must end with exit code 0.
    ///
    /// # Errors
    /// Drift that no skipped hook explains, unless [`Self::expect_drift`] allows it; no reading within 10 s; a tracer with
    /// another exit code, or that does not end within [`STOP_LIMIT`](super::tracer::STOP_LIMIT).
    pub fn stop(self) -> Result<()> {
        self.assert_no_drift(&self.readings()?)?;
        self.watches.into_iter().try_for_each(|(_, watch, _)| watch.stop())
    }

    /// Has [`Self::oracle`] leave out sockets with this local port: they belong to a server, and are not outgoing.
    pub fn add_server(&mut self, port: u16) {
        self.servers.insert(port);
    }

    /// A new listener on this address, `IP:PORT`, with SO_REUSEADDR and a queue of 4,096 connections (or `net.core.somaxconn`, if
    /// that is less). [`Self::oracle`] leaves its port out. An error if the text is no such address, or the address is not in the
    /// namespace, or taken.
    pub fn server(&mut self, address: &str) -> Result<Server> {
        let address: SocketAddr = address.parse()?;
        self.add_server(address.port());
        let listener = self.netns.run(|| -> Result<Sock> {
            let sock = Sock::tcp(address)?;
            sock.set_reuse_address()?;
            sock.bind(address)?;
            sock.listen(4096)?;
            Ok(sock)
        })?;
        Ok(Server { listener, address })
    }

    /// A server on this address, `IP:PORT`, whose queue is full: SYNs to it are dropped, so that connect() stays in SYN_SENT.
    /// Returned with the connection that fills the queue, which must stay open. [`Self::oracle`] leaves the server's port out.
    ///
    /// That connection comes from 127.0.0.1, which is another tuple. Errors as of [`Self::server`], or if that connection fails.
    pub fn black_hole(&mut self, address: &str) -> Result<(Server, Sock)> {
        let address: SocketAddr = address.parse()?;
        self.add_server(address.port());
        self.netns.run(|| {
            let listener = Sock::tcp(address)?;
            listener.bind(address)?;
            // The queue holds one more than its length (include/net/sock.h, sk_acceptq_is_full).
            listener.listen(0)?;
            let filler = Sock::tcp(address)?;
            filler.bind("127.0.0.1:0".parse()?)?;
            filler.connect(address)?;
            Ok((Server { listener, address }, filler))
        })
    }

    /// Waits until the kernel has exactly these tuples with these counts (at most 10 s), and then until every tracer has them,
    /// too (at most 8 s; 45 s in a guest). A tuple that is not named must have no port. If a tuple is named twice, the last one
    /// counts.
    ///
    /// # Errors
    /// The kernel or a tracer still differs when its time has passed; or the ledger drifted without a skipped hook, unless
    /// [`Self::expect_drift`] allows it.
    pub fn check(&mut self, expected: &[(Tuple, Expected)]) -> Result<()> {
        let expected: BTreeMap<_, _> = expected.iter().cloned().collect();
        let table = self.quiet_table(&expected)?;
        self.settle_on(table, &expected, None).map(drop)
    }

    /// Waits until every tracer has exactly the tuples that the kernel has, and the tracer's sums over all of these (opened
    /// ports, failed calls) are those of `outcome`. Returns the kernel's table with which they agreed: another one could lack
    /// sockets, because the kernel may leave some out of its files while others end.
    ///
    /// # Errors
    /// The kernel's table still changes after 10 s, a tracer still differs 8 s (in a guest 45 s) after it came to rest, or the
    /// ledger drifted without a skipped hook, unless [`Self::expect_drift`] allows it.
    pub fn settle(&mut self, outcome: &Outcome) -> Result<Table> {
        self.settle_on(self.oracle()?, &BTreeMap::new(), Some(outcome))
    }

    /// The kernel's own table of outgoing sockets now. Errors as of [`oracle::read`].
    pub fn oracle(&self) -> Result<Table> {
        oracle::read(&self.netns, &self.servers)
    }

    /// The kernel's own table of outgoing sockets now, without those with these local ports; the ports of [`Self::add_server`]
    /// count. Errors as of [`oracle::read`].
    pub fn oracle_with(&self, servers: &[u16]) -> Result<Table> {
        oracle::read(&self.netns, &servers.iter().copied().collect())
    }

    /// A reading of each tracer, with the name of its backend; empty without tracers. Each reading began after this call; an
    /// error if one does not come within 10 s (see [`Place::limit`]).
    pub fn readings(&self) -> Result<Vec<(String, Reading)>> {
        let now = SystemTime::now();
        let read = |(backend, watch, _): &(String, shared::Shared, u64)| {
            let reading = watch.after(now, READING_LIMIT).with_context(|| backend.clone())?;
            Ok((backend.clone(), reading))
        };
        self.watches.iter().map(read).collect()
    }

    /// Allows drift: the workload is about ports that only tracer's comparison with the kernel can find.
    pub fn expect_drift(&mut self) {
        self.drifts = true;
    }

    fn assert_no_drift(&self, readings: &[(String, Reading)]) -> Result<()> {
        if self.drifts {
            return Ok(());
        }
        readings.iter().try_for_each(|(backend, it)| it.assert_no_drift().context(backend.clone()))
    }

    /// How many hooks of this backend the kernel has skipped since its tracer began to watch this stage.
    fn missed(&self, backend: &str, reading: &Reading) -> u64 {
        let before = self.watches.iter().find(|(name, ..)| name == backend).map(|it| it.2);
        reading.missed().saturating_sub(before.unwrap_or(0))
    }

    /// Waits until the kernel has what the workload expects, and returns its table: FINs are still under way when close()
    /// returns. An error if the kernel does not have it within [`QUIET_LIMIT`].
    fn quiet_table(&self, expected: &BTreeMap<Tuple, Expected>) -> Result<Table> {
        let end = Instant::now() + Place::get().limit(QUIET_LIMIT);
        loop {
            let table = self.oracle()?;
            let difference = against_kernel(&table, expected);
            if difference.is_empty() {
                return Ok(table);
            }
            if Instant::now() >= end {
                let counters = oracle::counters(&self.netns)?;
                bail!(
                    "the kernel does not have what the workload expects:\n{difference}  its counters: {counters}"
                );
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Compares each tracer with the kernel, whenever the kernel's table was the same before and after a reading, until all
    /// agree with the table that it returns. An error if the table still changes after [`QUIET_LIMIT`], if a tracer still differs
    /// after [`PATIENCE`] (in a guest [`PATIENCE_IN_A_GUEST`]), or if there is drift that [`Self::expect_drift`] does not allow.
    fn settle_on(
        &mut self,
        mut table: Table,
        expected: &BTreeMap<Tuple, Expected>,
        outcome: Option<&Outcome>,
    ) -> Result<Table> {
        let moving_end = Instant::now() + Place::get().limit(QUIET_LIMIT);
        let mut patience_end = None;
        loop {
            let readings = self.readings()?;
            let again = self.oracle()?;
            if again != table {
                ensure!(Instant::now() < moving_end, "the kernel's table never came to rest");
                table = again;
                continue;
            }
            self.assert_no_drift(&readings)?;
            let inum = self.netns.inum();
            let compare = |(backend, reading): (String, Reading)| {
                let tuples = reading.of(inum);
                let missed = self.missed(&backend, &reading);
                let unseen = probe::unseen(missed, calls(expected, outcome));
                let sums = outcome.map(|it| it.against(&tuples, unseen)).unwrap_or_default();
                let difference = against_tracer(&table, expected, &tuples, unseen) + &sums;
                (!difference.is_empty()).then(|| {
                    format!(
                        "{backend}, {missed} hooks missed, {unseen} may not have been seen; \
                         since its start drift {}, lost {:?}:\n{difference}",
                        reading.drift,
                        reading.losses(),
                    )
                })
            };
            let differences: Vec<_> = readings.into_iter().filter_map(compare).collect();
            if differences.is_empty() {
                return Ok(table);
            }
            let patience = match Place::get() {
                Place::Host => PATIENCE,
                Place::Vm => PATIENCE_IN_A_GUEST,
            };
            let patience = lie::limit(patience);
            let end = *patience_end.get_or_insert_with(|| Instant::now() + patience);
            if Instant::now() > end {
                bail!("the ledger is not what the kernel says:\n{}", differences.join("\n"));
            }
        }
    }
}

/// Longest time to wait for a reading, of which each tracer makes one every 0.1 s (0.3 s in a guest).
const READING_LIMIT: Duration = Duration::from_secs(10);
/// Longest time to wait until the kernel's table is what the workload expects, or stops changing.
const QUIET_LIMIT: Duration = Duration::from_secs(10);
/// How long a tracer may differ from the kernel once the kernel's table does not change any more. Tracer's own comparison with
/// sock_diag, every 5 to 30 s, may correct the ledger within this time; that counts as drift, which is an error, so it cannot
/// hide a hook that reported nothing.
const PATIENCE: Duration = Duration::from_secs(8);
/// As [`PATIENCE`], but in a guest, where the kernel skips hooks, and tracer's next comparison with sock_diag corrects the
/// ledger. That comparison comes within 8 s of a skipped hook; if the socket did not exist then, the comparison that finds it
/// comes up to 30 s later.
const PATIENCE_IN_A_GUEST: Duration = Duration::from_secs(45);

/// A listening socket, and the address to which clients connect.
#[derive(Debug)]
pub struct Server {
    pub listener: Sock,
    pub address: SocketAddr,
}

impl Server {
    /// The tuple of connections from `source` to this server; an error if `source` is no IP address.
    pub fn tuple_from(&self, source: &str) -> Result<Tuple> {
        let source: IpAddr = source.parse()?;
        Ok(Tuple::new(source, self.address))
    }

    /// The tuple of connections from sockets that were not bound: because the destination is local, the kernel takes its
    /// address as the source, too.
    pub fn tuple(&self) -> Tuple {
        Tuple::new(self.address.ip(), self.address)
    }

    /// A connected pair: (client, accepted). Must be called in the server's namespace. Waits for the connection; an error if
    /// connect() or accept() fails.
    pub fn pair(&self) -> Result<(Sock, Sock)> {
        let client = Sock::connected(self.address)?;
        let accepted = self.listener.accept()?;
        Ok((client, accepted))
    }

    /// `count` connected pairs: (clients, accepted), as of [`Self::pair`].
    pub fn pairs(&self, count: usize) -> Result<(Vec<Sock>, Vec<Sock>)> {
        (0..count).map(|_| self.pair()).collect()
    }
}
