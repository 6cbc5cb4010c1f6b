//! A running tracer as a source of readings.

use std::{
    collections::{BTreeMap, HashMap, HashSet, btree_map::Entry},
    sync::Arc,
    time::{Duration, Instant},
};

use tracer_common::{Event, Filter, TupleKey, Who};

use super::own;
use crate::{
    callers::Callers,
    capacity::PortRange,
    clock,
    decode::{Typed, decode, typed},
    error::Error,
    holder,
    kernel::attach::Session,
    netns,
    process::Called,
    spread,
    trace::{Tracer, named_losses, visible, visible_to},
    view::{
        model::{Model, Wants},
        reading::{About, Blocked, Call, Failure, Holder, Look, Own, Pool, Reading},
        source::Source,
    },
};

/// How often the port ranges, and what is being spread, are read.
const SLOW: Duration = Duration::from_secs(5);
/// Failures that wait for the next reading, alike ones in a row as one; the rest is counted only.
const WAITING: usize = 4096;
/// Records taken from the ring at a time.
const BATCH: usize = 4096;

pub(super) struct Live {
    tracer: Tracer,
    filter: Filter,
    /// The same as options.
    filter_text: String,
    /// Tuples that it left out of the newest reading.
    outside: usize,
    callers: Callers,
    namespaces: netns::Names,
    delay: Duration,
    next: Instant,
    slow: Option<Instant>,
    pools: Vec<Pool>,
    failures: Vec<Failure>,
    /// Failures of which the view was not told the detail.
    untold: u64,
    undecodable: u64,
}

impl Live {
    /// `filter`: with its text.
    pub(super) fn new(
        tracer: Tracer,
        (filter, text): (&Filter, String),
        callers: Callers,
        delay: Duration,
    ) -> Self {
        Self {
            tracer,
            filter: *filter,
            filter_text: text,
            outside: 0,
            callers,
            namespaces: netns::Names::default(),
            delay,
            next: Instant::now(),
            slow: None,
            pools: Vec::new(),
            failures: Vec::new(),
            untold: 0,
            undecodable: 0,
        }
    }

    pub(super) fn about(&self) -> About {
        let range = PortRange::read().map(|range| (range.low, range.high));
        About {
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            kernel: self.tracer.release.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            backend: self.tracer.session.backend.name().to_owned(),
            degraded: self.tracer.degraded(),
            range: range.ok(),
            filter: self.filter_text.clone(),
        }
    }

    /// Takes the failures out of the ring.
    fn drain(&mut self) {
        let now = Instant::now();
        let offset = clock::wall_offset_ns();
        let Self { tracer, callers, failures, untold, undecodable, .. } = self;
        let (Session { events, maps, .. }, capacities, worker, holders) = tracer.split();
        loop {
            let taken = events.drain(BATCH, |record| {
                let Ok(event) = decode(record) else {
                    *undecodable += 1;
                    return;
                };
                let Some(mut failure) = failure(&event, offset, callers, now) else { return };
                if holder::is_asked_for(&event) {
                    let place = capacities.place(event.tuple.netns);
                    failure.holder = holders.of(&event, place, worker, || maps.all_binds());
                }
                if let Some(last) = failures.last_mut().filter(|last| last.is_like(&failure)) {
                    *last = Failure { count: last.count + 1, ..failure };
                } else if failures.len() < WAITING {
                    failures.push(failure);
                } else {
                    *untold += 1;
                }
            });
            if taken < BATCH {
                return;
            }
        }
    }

    /// Ports, ranges and pools: they change seldom, and cost more than the rest.
    fn look_slowly(&mut self) -> Result<(), Error> {
        let due = self.slow.is_none_or(|at| at.elapsed() >= SLOW);
        if due {
            self.slow = Some(Instant::now());
            self.pools = spread::pools();
            self.tracer.session.flush_log();
        }
        if due || self.tracer.lacks_limits() {
            self.tracer.refresh_ranges();
        }
        self.tracer.refresh_ports()?;
        self.tracer.reconcile_if_due()
    }

    fn feed(&mut self, model: &mut Model, mono_ns: u64) -> Result<(), Error> {
        let now = Instant::now();
        let Self { tracer, filter, callers, namespaces, outside, .. } = self;
        namespaces.refresh(now);
        *outside = 0;
        let mut newest = (0, None, None);
        let reuses = tracer.reuses().clone();
        let older = tracer.take_older();
        model.book.begin(mono_ns);
        tracer.each_tuple(|key, count, limits| {
            if !visible(filter, key, count, callers, now) {
                *outside += 1;
                return;
            }
            // Mostly the same few, over and over.
            if newest.0 != count.cgroup {
                let name = callers.cgroups.get(count.cgroup, now);
                newest = (
                    count.cgroup,
                    name.map(|name| name.path.clone()),
                    name.and_then(|name| name.place().cloned()),
                );
            }
            model.book.look(&Look {
                key: *key,
                count,
                has_states: true,
                capacity: limits.map(|limits| limits.capacity_of(key, count)),
                limits,
                reuse: reuses.get(&key.netns).and_then(|reuse| reuse.of(key, count)),
                older: older.get(key),
                search_p99: None,
                called: callers.last(count),
                cgroup: newest.1.clone(),
                container: newest.2.clone(),
                netns_name: namespaces.get(key.netns).cloned(),
            });
        })?;
        for (key, count, of) in tracer.bind_rows() {
            if visible(filter, &key, &count, callers, now) {
                model.book.look(&Look {
                    key,
                    count: &count,
                    has_states: false,
                    capacity: Some(of.limits.unreserved()),
                    limits: Some(of.limits),
                    reuse: None,
                    older: None,
                    search_p99: None,
                    called: Called::default(),
                    cgroup: None,
                    container: None,
                    netns_name: namespaces.get(key.netns).cloned(),
                });
            }
        }
        Ok(())
    }

    fn reading(&mut self, wants: Wants, mono_ns: u64) -> Result<Reading, Error> {
        let totals = self.tracer.totals()?;
        let own = [("undecodable", self.undecodable), ("failures_untold", self.untold)];
        let lost = named_losses(&totals).chain(own);
        let lost = lost.filter(|(_, count)| *count > 0);
        Ok(Reading {
            wall_ns: clock::wall_ns(),
            mono_ns,
            outside: self.outside,
            failures: std::mem::take(&mut self.failures),
            failed: totals.failed,
            lost: lost.map(|(reason, count)| (reason.to_owned(), count)).collect(),
            blocked: if wants.blocked { Some(self.blocked()?) } else { None },
            holders: wants.holders.map(|of| self.holders(of)).transpose()?,
            pools: self.pools.clone(),
            own: Own {
                seen: totals.seen,
                emitted: totals.emitted,
                drift: self.tracer.drift,
                programs_ns: if wants.own { self.tracer.session.run_time_ns() } else { None },
                ..own::read(wants.own)
            },
        })
    }

    fn holders(&mut self, of: Option<TupleKey>) -> Result<Vec<Holder>, Error> {
        let now = Instant::now();
        let mut by: HashMap<_, (Held, HashSet<TupleKey>)> = HashMap::new();
        let Self { tracer, filter, callers, .. } = self;
        tracer.session.maps.conns(|_, conn| {
            let wanted = of.is_none_or(|of| of == conn.tuple);
            let caller = (&conn.who, conn.begun_ns);
            if !wanted || !visible_to(filter, &conn.tuple, caller, callers, now) {
                return;
            }
            let who = (conn.who.pid, conn.who.tid, conn.who.comm, conn.who.cgroup);
            let (held, tuples) = by.entry(who).or_default();
            held.ports += 1;
            held.time_wait += u32::from(conn.is_time_wait());
            held.begun_ns = held.begun_ns.max(conn.begun_ns);
            tuples.insert(conn.tuple);
        })?;
        let by_caller = by.into_iter().map(|((pid, tid, comm, cgroup), (held, tuples))| {
            let who = Who { cgroup, pid, tid, comm };
            let called = callers.processes.called(&who, held.begun_ns);
            let container = callers.cgroups.get(cgroup, now).and_then(|name| name.place().cloned());
            (called, Holder { pid, container, ..held.into() }, tuples)
        });
        let mut holders = by_process(by_caller);
        holders.sort_by_key(|holder| (std::cmp::Reverse(holder.ports), holder.pid));
        Ok(holders)
    }

    /// Ports that bind() and listen() took, with one of those that hold each.
    fn blocked(&mut self) -> Result<Vec<Blocked>, Error> {
        let mut by: BTreeMap<(u32, u16), Blocked> = BTreeMap::new();
        let Self { tracer, callers, .. } = self;
        tracer.session.maps.binds(|key, bound| {
            let (netns, port) = (bound.place.netns, key.port);
            let blocked = by.entry((netns, port)).or_insert(Blocked {
                netns,
                port,
                sockets: 0,
                pid: 0,
                comm: [0; 16],
            });
            blocked.sockets += 1;
            if bound.who.pid != 0 {
                let called = callers.processes.called(&bound.who, bound.acquired_ns);
                (blocked.pid, blocked.comm) = (bound.who.pid, called.shown());
            }
        })?;
        Ok(by.into_values().collect())
    }
}

/// Ports of one caller.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    ports: u32,
    time_wait: u32,
    /// When the newest connect() began: CLOCK_MONOTONIC, ns; 0: all are older than the tracer.
    begun_ns: u64,
}

impl From<Held> for Holder {
    fn from(held: Held) -> Self {
        Self { ports: held.ports, time_wait: held.time_wait, ..Self::default() }
    }
}

/// One for each process, whichever of its threads called, before the tracer started or after that. What the callers
/// hold is without name and number of tuples.
fn by_process(callers: impl Iterator<Item = (Called, Holder, HashSet<TupleKey>)>) -> Vec<Holder> {
    let mut by: BTreeMap<u32, (Called, Holder, HashSet<TupleKey>)> = BTreeMap::new();
    for (called, holder, tuples) in callers {
        match by.entry(holder.pid) {
            Entry::Vacant(new) => _ = new.insert((called, holder, tuples)),
            Entry::Occupied(mut known) => {
                let (name, sum, all) = known.get_mut();
                // A thread's name only where nothing better is known; of several, always the same.
                if (called.of_thread, called.name) < (name.of_thread, name.name) {
                    *name = called;
                }
                sum.ports += holder.ports;
                sum.time_wait += holder.time_wait;
                sum.container = sum.container.take().or(holder.container);
                all.extend(tuples);
            }
        }
    }
    let named = |(called, holder, tuples): (Called, Holder, HashSet<TupleKey>)| Holder {
        comm: called.shown(),
        tuples: u32::try_from(tuples.len()).unwrap_or(u32::MAX),
        ..holder
    };
    by.into_values().map(named).collect()
}

impl Source for Live {
    fn next(&mut self, model: &mut Model) -> Result<Option<Reading>, Error> {
        // Time that was missed (a stopped process) is not made up for.
        self.next = (self.next + self.delay).max(Instant::now());
        self.drain();
        if model.paused {
            return Ok(None);
        }
        self.look_slowly()?;
        let mono_ns = clock::monotonic_ns();
        self.feed(model, mono_ns)?;
        let reading = self.reading(model.wants(), mono_ns)?;
        let degraded = self.tracer.degraded();
        if model.about.degraded != degraded {
            model.about = Arc::new(About { degraded, ..(*model.about).clone() });
        }
        model.book.end(&reading);
        Ok(Some(reading))
    }

    fn due(&self, _: &Model) -> Option<Duration> {
        Some(self.next.saturating_duration_since(Instant::now()))
    }

    fn idle(&mut self) {
        self.drain();
    }
}

/// What a record of the ring says of a failure; `None`: it is about something else.
fn failure(event: &Event, offset: u64, callers: &mut Callers, now: Instant) -> Option<Failure> {
    let (call, cause) = match typed(event).ok()? {
        Typed::ConnectFailed(cause) => (Call::Connect, cause),
        Typed::BindFailed(cause) => (Call::Bind, cause),
        _ => return None,
    };
    let container: Option<Arc<str>> =
        callers.cgroups.get(event.cgroup, now).and_then(|name| name.place().cloned());
    Some(Failure {
        count: 1,
        wall_ns: event.mono_ns.saturating_add(offset),
        call,
        key: event.tuple,
        local_port: event.local_port,
        cause,
        errno: event.errno,
        pid: event.pid,
        comm: callers.of(event).shown(),
        container,
        holder: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_one_row_whoever_of_it_called_and_when() {
        let name = |text: &[u8]| std::array::from_fn(|at| text.get(at).copied().unwrap_or(0));
        let java = name(b"java");
        let tuple = |port| TupleKey { destination_port: port, ..TupleKey::default() };
        let container: Arc<str> = "c".into();
        let callers = [
            // A thread that was asked for too late, an older socket, another thread, another process.
            (Called::of(7, 9, name(b"pool-2")), None, 1),
            (Called::of(7, 0, java), None, 2),
            (
                Called { name: java, of_thread: false, thread: name(b"pool-1") },
                Some(container.clone()),
                2,
            ),
            (Called::of(8, 8, name(b"nginx")), None, 2),
        ];
        let pids = [7, 7, 7, 8];
        let callers = callers.into_iter().zip(pids).map(|((called, container, port), pid)| {
            let holder = Holder { pid, container, ports: 10, time_wait: 1, ..Holder::default() };
            (called, holder, HashSet::from([tuple(port)]))
        });
        let rows = by_process(callers);
        let told: Vec<_> =
            rows.iter().map(|it| (it.pid, it.comm, it.ports, it.time_wait, it.tuples)).collect();
        assert_eq!(told, [(7, java, 30, 3, 2), (8, name(b"nginx"), 10, 1, 1)]);
        assert_eq!(rows[0].container, Some(container));
    }
}
