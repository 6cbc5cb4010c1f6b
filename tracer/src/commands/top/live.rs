//! [`Live`]: the ledger of a running tracer as the [`Source`] of readings of `tracer top`.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tracer_common::{Filter, TupleKey};

use super::{
    failure,
    groups::{Group, Groups},
    holders::{self, Part},
    holding::Holding,
    self_stats,
};
use crate::{
    config::RowFilter,
    doctor::snapshot,
    error::Error,
    host::{
        callers::Callers,
        capacity::{PortRange, Reuse},
        holder, netns,
        process::Called,
    },
    kernel::attach::Session,
    ledger::{
        decode::decode,
        trace::{Tracer, named_losses, visible, visible_to},
    },
    runtime::clock,
    spread,
    view::{
        model::{Model, Wants},
        reading::{About, Blocked, Failure, Holder, Pool, SelfStats, Snapshot, TupleSample},
        source::Source,
    },
};

/// How often the port ranges and the rules of `tracer spread` are read, and messages of the BPF programs are logged.
const SLOW_INTERVAL: Duration = Duration::from_secs(5);
/// The most failures that wait for the next reading, where equal failures in a row are one. Failures that find no room are
/// only counted.
const FAILURES_MAX: usize = 4096;
/// Records that are read from the ring buffer at a time.
const BATCH: usize = 4096;

/// A running tracer, and what is kept from one reading to the next.
pub(super) struct Live {
    tracer: Tracer,
    filter: Filter,
    /// The filter as command-line options; empty: there is none.
    filter_text: String,
    /// How many tuples of the newest reading the filter hides.
    outside: usize,
    callers: Callers,
    /// Who has which sockets open.
    holding: Holding,
    namespaces: netns::Names,
    /// Time between two readings.
    delay: Duration,
    /// When the next reading is due.
    next: Instant,
    /// When port ranges and rules were last read; `None`: not yet.
    slow: Option<Instant>,
    /// The rules of `tracer spread`.
    pools: Vec<Pool>,
    /// Failures since the last reading.
    failures: Vec<Failure>,
    /// Failures that no reading lists, because there were more than `FAILURES_MAX`.
    unlisted: u64,
    /// Records that this program could not decode.
    undecodable: u64,
}

impl Live {
    /// A source of readings, `delay` apart, the first one due at once. `filter`: which tuples are shown; `text`: the same as
    /// command-line options, empty: there is no filter.
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
            holding: Holding::default(),
            namespaces: netns::Names::default(),
            delay,
            next: Instant::now(),
            slow: None,
            pools: Vec::new(),
            failures: Vec::new(),
            unlisted: 0,
            undecodable: 0,
        }
    }

    /// What is the same for all readings, and the degradations now. Port range and namespace: of this process, `None` if unreadable.
    pub(super) fn about(&self) -> About {
        let range = PortRange::read().map(|range| (range.low, range.high));
        About {
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            kernel: self.tracer.release.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            backend: self.tracer.session.backend.name().to_owned(),
            degraded: self.degraded(),
            range: range.ok(),
            filter: self.filter_text.clone(),
            netns: netns::own().map(|own| own.inum).ok(),
            hz: snapshot::hz(),
        }
    }

    /// What does not work as well as it could on this host, one text each.
    fn degraded(&self) -> Vec<String> {
        self.tracer.degraded().into_iter().chain(self.holding.reason()).collect()
    }

    /// Reads all records that wait in the ring buffer, and keeps the failed calls among them for the next reading; equal ones
    /// in a row become one with a count.
    fn drain(&mut self) {
        let now = Instant::now();
        let offset = clock::wall_offset_ns();
        let Self { tracer, callers, failures, unlisted, undecodable, .. } = self;
        let (Session { events, maps, .. }, capacities, worker, holders) = tracer.split();
        loop {
            let taken = events.drain(BATCH, |record| {
                let Ok(event) = decode(record) else {
                    *undecodable += 1;
                    return;
                };
                let Some(mut failure) = failure::of(&event, offset, callers, now) else { return };
                if holder::has_holder(&event) {
                    let place = capacities.place(event.tuple.netns);
                    failure.holder = holders.of(&event, place, worker, || maps.all_binds());
                }
                if let Some(last) = failures.last_mut().filter(|last| last.is_like(&failure)) {
                    *last = Failure { count: last.count + 1, ..failure };
                } else if failures.len() < FAILURES_MAX {
                    failures.push(failure);
                } else {
                    *unlisted += 1;
                }
            });
            if taken < BATCH {
                return;
            }
        }
    }

    /// Work that a reading needs, but not all of it each time: port ranges and rules are read every [`SLOW_INTERVAL`],
    /// because they change seldom (port ranges each time while those of a namespace are not known); bound ports are refreshed
    /// each time; the ledger is compared with the kernel when that is due.
    fn refresh_slowly(&mut self) -> Result<(), Error> {
        let due = self.slow.is_none_or(|at| at.elapsed() >= SLOW_INTERVAL);
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

    fn add_tuples(
        &mut self,
        model: &mut Model,
        mono_ns: u64,
        reuses: &BTreeMap<u32, Reuse>,
    ) -> Result<(), Error> {
        let now = Instant::now();
        let Self { tracer, filter, callers, namespaces, outside, .. } = self;
        namespaces.refresh(now);
        *outside = 0;
        let mut newest = (0, None, None);
        let older = tracer.take_older();
        model.history.begin(mono_ns);
        tracer.each_tuple(|key, count, limits| {
            if !visible(filter, key, count, callers, now) {
                *outside += 1;
                return;
            }
            // Neighbouring tuples mostly have the same cgroup.
            if newest.0 != count.cgroup {
                let name = callers.cgroups.get(count.cgroup, now);
                newest = (
                    count.cgroup,
                    name.map(|name| name.path.clone()),
                    name.and_then(|name| name.place().cloned()),
                );
            }
            model.history.add(&TupleSample {
                key: *key,
                count,
                has_states: true,
                has_uses: true,
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
                model.history.add(&TupleSample {
                    key,
                    count: &count,
                    has_states: false,
                    has_uses: false,
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

    /// The reading, without what its namespaces allow for TIME_WAITs.
    fn reading(&mut self, wants: Wants, mono_ns: u64) -> Result<Snapshot, Error> {
        let totals = self.tracer.totals()?;
        let own = [("undecodable", self.undecodable), ("failures_untold", self.unlisted)];
        let lost = named_losses(&totals).chain(own);
        let lost = lost.filter(|(_, count)| *count > 0);
        Ok(Snapshot {
            wall_ns: clock::wall_ns(),
            mono_ns,
            outside: self.outside,
            failures: std::mem::take(&mut self.failures),
            failed: totals.failed,
            lost: lost.map(|(reason, count)| (reason.to_owned(), count)).collect(),
            blocked: if wants.blocked { Some(self.blocked()?) } else { None },
            holders: wants.holders.map(|of| self.holders(of)).transpose()?,
            reuses: BTreeMap::new(),
            reserved: BTreeMap::new(),
            pools: self.pools.clone(),
            self_stats: SelfStats {
                seen: totals.seen,
                emitted: totals.emitted,
                drift: self.tracer.drift,
                programs_ns: if wants.self_stats {
                    self.tracer.session.run_time_ns()
                } else {
                    None
                },
                ..self_stats::read(wants.self_stats)
            },
        })
    }

    fn holders(&mut self, of: Option<TupleKey>) -> Result<Vec<Holder>, Error> {
        let now = Instant::now();
        let Self { tracer, filter, callers, holding, .. } = self;
        let mut netns: HashSet<u32> = of.iter().map(|of| of.netns).collect();
        if of.is_none() && holding.is_due() {
            let rows = RowFilter(filter);
            tracer.session.maps.conns(|_, conn| {
                if !netns.contains(&conn.tuple.netns) && rows.matches(&conn.tuple) {
                    netns.insert(conn.tuple.netns);
                }
            })?;
        }
        let (_, capacities, worker, _) = tracer.split();
        holding.refresh(&netns, |netns| capacities.places(netns).0, worker);
        let mut groups = Groups::new();
        // When the process that has this id now began, by CLOCK_MONOTONIC, ns; `None`: there is none, or that is not known.
        let mut began: HashMap<u32, Option<u64>> = HashMap::new();
        loop {
            tracer.session.maps.conns(|key, conn| {
                let wanted = of.is_none_or(|of| of == conn.tuple);
                let caller = (&conn.who, conn.begun_ns);
                if !wanted || !visible_to(filter, &conn.tuple, caller, callers, now) {
                    return;
                }
                // The opener of a socket that is older than the tracer is not known.
                let opener = if conn.begun_ns == 0 { 0 } else { conn.who.pid };
                let mut began =
                    || *began.entry(opener).or_insert_with(|| callers.processes.began(&conn.who));
                let of_earlier =
                    opener != 0 && began().is_some_and(|began_ns| conn.begun_ns < began_ns);
                groups.add(Group { held_by: holding.of(&key, &conn), opener, of_earlier }, &conn);
            })?;
            if !groups.next_pass() {
                break;
            }
        }
        let parts = groups.end().map(|(group, ports)| {
            let who = ports.who;
            let opener = (group.opener != 0)
                .then(|| (who.pid, callers.processes.called(&who, ports.begun_ns)));
            let name = callers.cgroups.get(who.cgroup, now);
            Part {
                held_by: group.held_by,
                opener,
                ended: opener.is_some() && callers.processes.has_ended(&who, ports.begun_ns),
                place: name.and_then(|name| name.place().cloned()),
                ports: ports.all,
                time_wait: ports.time_wait,
                tuples: ports.tuples,
            }
        });
        let mut holders = holders::merged(parts, of.is_some());
        holders.sort_by_key(|holder| (std::cmp::Reverse(holder.ports), holder.pid));
        Ok(holders)
    }

    /// Ports that bind() and listen() took, each with the number of its sockets and one process that took it (0: not known).
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

impl Source for Live {
    fn next(&mut self, model: &mut Model) -> Result<Option<Snapshot>, Error> {
        // Readings whose time passed while the process was stopped are left out.
        self.next = (self.next + self.delay).max(Instant::now());
        self.drain();
        if model.paused {
            return Ok(None);
        }
        self.refresh_slowly()?;
        let mono_ns = clock::monotonic_ns();
        let reuses = self.tracer.reuses().clone();
        self.add_tuples(model, mono_ns, &reuses)?;
        let reading = Snapshot { reuses, ..self.reading(model.wants(), mono_ns)? };
        let degraded = self.degraded();
        if model.about.degraded != degraded {
            model.about = Arc::new(About { degraded, ..(*model.about).clone() });
        }
        model.history.end(&reading);
        Ok(Some(reading))
    }

    fn due(&self, _: &Model) -> Option<Duration> {
        Some(self.next.saturating_duration_since(Instant::now()))
    }

    fn idle(&mut self) {
        self.drain();
    }
}
