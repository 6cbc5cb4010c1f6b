//! Watches a window with an attached tracer: how connections came and went, which calls failed, how long port searches took.

mod ports;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

pub use ports::Ports;
use tracer_common::{Addr, Cause, Event, Filter, Kind, Loss, TupleCount, TupleKey};

use super::{
    activity::{Activity, open},
    arrivals::{self, Arrivals},
    finding::Process,
    judge::BoundAddress,
    open_ports::OpenPorts,
    scope::{Caller, Members, Owned},
    tuples::{self, Ends},
};
use crate::{
    config::KernelConfig,
    error::Error,
    format::text::until_nul,
    host::{
        callers::Callers,
        process::{Called, ListsFiles, in_first_pids},
    },
    ledger::{
        decode::{Typed, decode, typed},
        stats::Earlier,
        trace::{self, Tracer},
    },
    runtime::sandbox::User,
};

/// Losses after which the counters of some tuple lack ports: a table, or a user's share of it, had no room.
pub(super) const NO_ROOM: [Loss; 4] =
    [Loss::ConnsFull, Loss::TuplesFull, Loss::ConnsShare, Loss::TuplesShare];

/// Size of the buffer for events, in bytes: room for 15,000, which are read every 20 ms, and are of failed calls only. All of it
/// is in this process's memory, twice.
const RING_SIZE: u32 = 2 << 20;
/// How many records of the buffer for events are read at once.
const BATCH: usize = 4_096;
/// The most addresses whose failed bind() calls are counted.
const MOST_ADDRESSES: usize = 4_096;
/// Of how many failed calls it is known who called, each caller and tuple once.
const MOST_CALLS: usize = 16_384;

/// An attached tracer, by which `tracer doctor` watches one window after the other.
pub struct Window {
    tracer: Tracer,
    callers: Callers,
    before: Earlier,
    /// bind() calls without a port that failed, by network namespace and address; at most [`MOST_ADDRESSES`].
    failed: BTreeMap<(u32, Addr), Failed>,
    /// When connections were opened.
    arrivals: Arrivals<TupleKey>,
    /// How many ports were held outside of TIME_WAIT.
    open: OpenPorts<TupleKey>,
    /// Who called connect() or bind() that found no port, or bind() of an address that is not local; `None`: nobody asks.
    calls: Option<BTreeSet<(u32, Call, Caller)>>,
    lost_before: u64,
    began: Instant,
}

/// A call that found no port, or a bind() whose address is not local.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Call {
    Connect(Ends),
    Bind(Addr),
}

/// What was seen during the window.
#[derive(Clone, Debug, Default)]
pub struct Watched {
    /// How long it was, in seconds; at least 0.001.
    pub seconds: f64,
    /// By inode number of the network namespace; without those in which nothing was seen.
    pub namespaces: BTreeMap<u32, Activities>,
    /// Name of the kernel backend that was attached.
    pub backend: &'static str,
    /// What does not work as well as it could on this host, and why, as texts for people; empty: nothing.
    pub degraded: Vec<String>,
    /// How many ports were not counted in the window because a table, or a user's share of it, was full.
    pub lost: u64,
}

/// What was seen during the window in one network namespace.
#[derive(Clone, Debug, Default)]
pub struct Activities {
    /// The tuples with a port that was taken, or with a call that failed.
    pub tuples: BTreeMap<Ends, Activity>,
    /// The addresses at which bind(address, 0) or listen() takes ports, and those at which bind() failed.
    pub bound: Vec<BoundAddress>,
    /// Id of the cgroup of the process that connected last, by tuple; without those that are not known.
    pub cgroups: BTreeMap<Ends, u64>,
}

impl Watched {
    /// The activity of a tuple of which the window has none: nothing happened to it.
    pub fn nothing(&self) -> Activity {
        Activity { seconds: self.seconds, ..Activity::default() }
    }
}

impl Window {
    /// The kernel's list of open files, which the tracer uses; `None`: it has none.
    pub fn list(&self) -> Option<Arc<dyn ListsFiles>> {
        self.tracer.list()
    }

    /// Attaches the tracer. The calling thread, and those that it starts later, can only read maps from then on. `callers`:
    /// whether [`Self::owned`] will be called.
    ///
    /// # Errors
    /// Missing privileges (exit code 77), no backend that can run (69), any other failure (1). Nothing stays attached.
    pub fn open(kernel: &KernelConfig, callers: bool) -> Result<Self, Error> {
        let names = trace::cgroup_names(kernel)?;
        let failed_connects = if callers { Kind::ConnectFailed.bit() } else { 0 };
        let events = Kind::BindFailed.bit() | failed_connects;
        let kernel = KernelConfig { ring_size: RING_SIZE, ..*kernel };
        let tracer = trace::start(&kernel, events, &Filter::default(), User::nobody())?;
        Ok(Self {
            tracer,
            callers: Callers::new(names),
            before: Earlier::default(),
            failed: BTreeMap::new(),
            arrivals: Arrivals::new(),
            open: OpenPorts::default(),
            calls: callers.then(BTreeSet::new),
            lost_before: 0,
            began: Instant::now(),
        })
    }

    /// Begins a window: what happened before is left out, and what an unfinished window has seen is forgotten.
    ///
    /// # Errors
    /// A map cannot be read, or a command to the ledger fails.
    pub fn begin(&mut self) -> Result<(), Error> {
        self.tracer.reconcile_if_due()?;
        self.tracer.read(true)?;
        self.lost_before = self.lost()?;
        self.open = OpenPorts::default();
        self.open.add(0.0, open_ports(&self.tracer));
        self.tracer.keep_tuples(&mut self.before);
        self.drain_events();
        self.failed.clear();
        self.arrivals = Arrivals::new();
        self.calls.iter_mut().for_each(BTreeSet::clear);
        self.began = Instant::now();
        Ok(())
    }

    /// Reads the calls that failed since the last time, and how many connections were opened and are open if
    /// [`Arrivals::is_due`]; if the latter cannot be read, that is logged, and counts as no connection. To be called often enough
    /// that the buffer for events does not fill up, such as each 20 ms.
    pub fn drain(&mut self) {
        self.drain_events();
        let at_s = self.began.elapsed().as_secs_f64();
        if !self.arrivals.is_due(at_s) {
            return;
        }
        // Reading more of them so often would cost too much.
        if self.tracer.tuples().len() > arrivals::MOST_TUPLES {
            return self.arrivals.add(at_s, []);
        }
        if let Err(error) = self.tracer.read(false) {
            tracing::debug!("cannot read how many connections were opened: {error}");
            return self.arrivals.add(at_s, []);
        }
        let before = &mut self.before;
        let opened = self.tracer.tuples().iter().map(|(key, count)| {
            let before = before.get(key).map_or(0, |it| it.opened);
            (*key, count.opened.saturating_sub(before))
        });
        let at_s = self.began.elapsed().as_secs_f64();
        self.arrivals.add(at_s, opened);
        self.open.add(at_s, open_ports(&self.tracer));
    }

    /// Reads the calls that failed since the last time.
    fn drain_events(&mut self) {
        let Self { tracer, callers, failed, calls, .. } = self;
        loop {
            let taken = tracer.session.events.drain(BATCH, |record| {
                let Ok(event) = decode(record) else { return };
                let Some((call, cause)) = call(&event) else { return };
                if let Some(calls) = calls.as_mut().filter(|all| all.len() < MOST_CALLS) {
                    let caller = Caller { pid: event.pid, cgroup: event.cgroup };
                    calls.insert((event.tuple.netns, call, caller));
                }
                if matches!(call, Call::Connect(_)) {
                    return;
                }
                let place = (event.tuple.netns, event.tuple.source);
                if failed.len() >= MOST_ADDRESSES && !failed.contains_key(&place) {
                    return;
                }
                let called = callers.of(&event);
                let known = failed.entry(place).or_default();
                if cause == Cause::BindExhausted {
                    known.exhausted += 1;
                } else {
                    known.not_local += 1;
                }
                known.caller = Some(process(callers, event.pid, event.cgroup, &called));
            });
            if taken < BATCH {
                return;
            }
        }
    }

    /// Ends the window, and returns what was seen since it began. Tuples without a new port or a failed call are left out, but
    /// addresses at which bind(address, 0) or listen() took ports are there in any case. [`Self::begin`] must have been called
    /// before.
    ///
    /// # Errors
    /// A map cannot be read, or a command to the ledger fails.
    pub fn end(&mut self) -> Result<Watched, Error> {
        self.drain_events();
        self.tracer.read(true)?;
        let seconds = self.began.elapsed().as_secs_f64().max(1e-3);
        self.open.add(seconds, open_ports(&self.tracer));
        let mut namespaces: BTreeMap<u32, Activities> = BTreeMap::new();
        for (key, count) in self.tracer.tuples() {
            let mut activity = Activity::between(self.before.get(key), count, seconds);
            if let Some(open) = self.open.of(key) {
                activity.open = open;
            }
            if activity.opened == 0 && activity.failed.iter().all(|count| *count == 0) {
                continue;
            }
            let (caller, cgroup) = caller(&mut self.callers, count);
            let ends = ends(key);
            let here = namespaces.entry(key.netns).or_default();
            if count.cgroup != 0 {
                here.cgroups.insert(ends, count.cgroup);
            }
            let constant = self.arrivals.is_constant(key);
            here.tuples.insert(ends, Activity { constant, caller, cgroup, ..activity });
        }
        let mut failed = std::mem::take(&mut self.failed);
        for (key, count, of) in self.tracer.bind_rows() {
            let failed = failed.remove(&(of.netns, of.address)).unwrap_or_default();
            let ports = Some((count.in_use(), of.limits.unreserved()));
            let bound = failed.bound(of.address, ports, seconds);
            namespaces.entry(key.netns).or_default().bound.push(bound);
        }
        for ((netns, address), failed) in failed {
            let bound = failed.bound(address, None, seconds);
            namespaces.entry(netns).or_default().bound.push(bound);
        }
        let lost = self.lost()?.saturating_sub(self.lost_before);
        let backend = self.tracer.session.backend.name();
        Ok(Watched { seconds, namespaces, backend, degraded: self.tracer.degraded(), lost })
    }

    /// Compares the ledger with the kernel if that is due, and empties the buffer for events, between two windows; calls that
    /// failed are forgotten, those of the last window included. To be called often, such as each 20 ms.
    ///
    /// # Errors
    /// A map cannot be read, or a command to the ledger fails.
    pub fn rest(&mut self) -> Result<(), Error> {
        self.tracer.reconcile_if_due()?;
        self.drain_events();
        self.failed.clear();
        self.calls.iter_mut().for_each(BTreeSet::clear);
        Ok(())
    }

    /// Whose the tuples and addresses are, by inode number of the network namespace: by the calls that opened connections, and by
    /// those that failed for lack of a port or of their address in the window that ended last (of these, at most 16,384 are kept,
    /// and none unless [`Self::open`] was called with `callers`).
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn owned(&mut self, members: &Members) -> Result<BTreeMap<u32, Owned>, Error> {
        let pids = in_first_pids();
        let mut all: BTreeMap<u32, Owned> = BTreeMap::new();
        self.tracer.session.maps.conns(|_, conn| {
            let caller = Caller { pid: conn.who.pid, cgroup: conn.who.cgroup };
            let owned = all.entry(conn.tuple.netns).or_default();
            owned.connected(&ends(&conn.tuple), caller, members, pids);
        })?;
        // The newest caller is known also if no call of it has got a port.
        for (key, count) in self.tracer.tuples() {
            let caller = Caller { pid: count.pid, cgroup: count.cgroup };
            let owned = all.entry(key.netns).or_default();
            owned.connected(&ends(key), caller, members, pids);
        }
        for (netns, call, caller) in self.calls.iter().flatten() {
            let owned = all.entry(*netns).or_default();
            match call {
                Call::Connect(ends) => owned.connected(ends, *caller, members, pids),
                Call::Bind(address) => {
                    owned.refused(tuples::ip(*address), *caller, members, pids);
                }
            }
        }
        Ok(all)
    }

    /// How many ports were not counted so far because a table, or a user's share of it, was full.
    fn lost(&self) -> Result<u64, Error> {
        let totals = self.tracer.totals()?;
        let lost =
            Loss::ALL.into_iter().zip(totals.lost).filter(|(loss, _)| NO_ROOM.contains(loss));
        Ok(lost.map(|(_, count)| count).sum())
    }
}

/// The tuple of a call that failed for lack of a port, or the address of a bind() without a port that failed, with its cause; `None`:
/// the event is about another call.
fn call(event: &Event) -> Option<(Call, Cause)> {
    match typed(event) {
        Ok(Typed::BindFailed(cause)) => {
            // An address that is not here matters for connections: with a port, it is that of a listener.
            let counts = cause == Cause::BindExhausted
                || cause == Cause::AddressNotLocal && event.local_port == 0;
            counts.then_some((Call::Bind(event.tuple.source), cause))
        }
        Ok(Typed::ConnectFailed(cause @ (Cause::PortsExhausted | Cause::BindExhausted))) => {
            Some((Call::Connect(ends(&event.tuple)), cause))
        }
        _ => None,
    }
}

/// The tuples of the newest reading, each with how many ports it holds outside of TIME_WAIT.
fn open_ports(tracer: &Tracer) -> impl Iterator<Item = (TupleKey, u64)> {
    tracer.tuples().iter().map(|(key, count)| (*key, open(count)))
}

fn ends(key: &TupleKey) -> Ends {
    Ends { source: key.source, destination: key.destination, port: key.destination_port }
}

/// bind() calls at an address that failed.
#[derive(Clone, Debug, Default)]
struct Failed {
    /// Because no port was free.
    exhausted: u64,
    /// Because the namespace does not have the address.
    not_local: u64,
    /// The process of the newest one.
    caller: Option<Process>,
}

impl Failed {
    fn bound(self, address: Addr, ports: Option<(u64, u32)>, seconds: f64) -> BoundAddress {
        let Self { exhausted, not_local, caller } = self;
        BoundAddress { address, ports, failed: exhausted, not_local, seconds, caller }
    }
}

/// The process that connected last, and the path of its cgroup; `None`: not known.
fn caller(callers: &mut Callers, count: &TupleCount) -> (Option<Process>, Option<Arc<str>>) {
    if count.pid == 0 {
        return (None, None);
    }
    let called = callers.last(count);
    let process = process(callers, count.pid, count.cgroup, &called);
    let cgroup = callers.cgroups.get(count.cgroup, Instant::now()).map(|name| name.path.clone());
    (Some(process), cgroup)
}

fn process(callers: &mut Callers, pid: u32, cgroup: u64, called: &Called) -> Process {
    let place = callers.cgroups.get(cgroup, Instant::now()).and_then(|name| name.place().cloned());
    Process {
        pid,
        name: String::from_utf8_lossy(until_nul(&called.name)).into_owned(),
        container: place.map(|it| it.to_string()),
    }
}
