//! Writes recordings for tests, line by line, as `tracer record` does.

use std::collections::HashMap;

use tracer_common::{Addr, Cause, Event, Kind, TupleCount, TupleKey};

use crate::{
    export::{
        Context, LineWriter, Lines, Moment,
        port_settings::PortSettings,
        record::{Degraded, Lost, NetnsSettings, Start, Stats, Stop},
    },
    format::tuple::Tuple,
    host::{
        capacity::{Limits, Reuse},
        cgroups::Name,
    },
    ledger::stats::Row,
};

/// A second, in ns.
pub(crate) const S: u64 = 1_000_000_000;
/// Wall clock minus CLOCK_MONOTONIC, ns.
pub(crate) const OFFSET: u64 = 1_795_229_000_000_000_000;

/// A recording that is being written.
#[derive(Default)]
pub(crate) struct Recorder {
    writer: LineWriter,
    lines: Lines,
    seq: u64,
    /// Seconds between two readings, as `tracer.start` says it.
    interval_s: u64,
    /// The namespace in which tracer was started, and with it the other fields of `tracer.start` that older versions do not
    /// write; `None`: without these.
    pub(crate) own: Option<u32>,
    /// Names of network namespaces by their numbers, for the lines from now on.
    pub(crate) namespaces: HashMap<u32, &'static str>,
}

impl Recorder {
    /// An empty recording; its `tracer.start` will say that there is a reading each `interval_s` seconds.
    pub(crate) fn every(interval_s: u64) -> Self {
        Self { interval_s, ..Self::default() }
    }

    /// An empty recording of a tracer that was started in the namespace with this inode number, with an interval of 0 s.
    pub(crate) fn in_namespace(netns: u32) -> Self {
        Self { own: Some(netns), ..Self::default() }
    }

    fn moment(&mut self, mono_ns: u64) -> Moment {
        self.seq += 1;
        Moment { seq: self.seq - 1, mono_ns, wall_offset_ns: OFFSET }
    }

    /// Writes `tracer.start`. `mono_ns` here and below: the line's time by CLOCK_MONOTONIC, ns. `stats`: whether it says that
    /// readings follow.
    pub(crate) fn start(&mut self, mono_ns: u64, stats: bool) {
        let moment = self.moment(mono_ns);
        let start = Start {
            version: "0.1.0",
            kernel: "6.18.5".into(),
            backend: "tracepoint",
            host: "proxy-7".into(),
            range: Some("32768-60999".to_owned()),
            netns: self.own,
            ports: PortSettings::default(),
            hz: self.own.map(|_| 250),
            degraded: vec!["less".to_owned()],
            settings: [
                ("stats".into(), stats.into()),
                ("stats_interval_s".into(), self.interval_s.into()),
                ("event_mask".into(), Kind::ConnectFailed.bit().into()),
            ]
            .into(),
        };
        self.writer.start(&mut self.lines, moment, &start).unwrap();
    }

    /// Writes `netns.settings` of the namespace with inode number `netns`: which TIME_WAITs connect() may take over, the range
    /// 32768-33767, and 40001 as its only reserved port.
    pub(crate) fn settings(&mut self, mono_ns: u64, netns: u32, reuse: Reuse) {
        let moment = self.moment(mono_ns);
        let name = self.namespaces.get(&netns).copied();
        let ports = PortSettings::new(Some(vec![40_001..=40_001]), Some(reuse));
        let line = NetnsSettings { netns, name, range: "32768-33767".to_owned(), ports };
        self.writer.settings(&mut self.lines, moment, &line).unwrap();
    }

    /// Writes `tuple.stats` of a tuple with these counters, all of whose ports in use take room of its 1,000. `name`: of the
    /// cgroup of the process that connected last; `None`: not known.
    pub(crate) fn tuple(
        &mut self,
        mono_ns: u64,
        key: TupleKey,
        count: &TupleCount,
        name: Option<&Name>,
    ) {
        self.tuple_with_ends(mono_ns, key, count, name, &[]);
    }

    /// Writes what [`Self::tuple`] writes, with `ends` as the value of `ports.time_wait_ends`; empty: without that key.
    pub(crate) fn tuple_with_ends(
        &mut self,
        mono_ns: u64,
        key: TupleKey,
        count: &TupleCount,
        name: Option<&Name>,
        ends: &[u32],
    ) {
        let moment = self.moment(mono_ns);
        // All ports that the tuple holds take room: none is bound by the application (LISTED), none is apart (APART).
        let held = TupleCount { held: count.in_use(), ..*count };
        let mut row = Row::new(key, &held, None, Some(Limits::of(1000)));
        row.netns_name = self.namespaces.get(&key.netns).map(|&name| name.into());
        let mut line = Tuple::recorded(&row, count, name);
        line.ends = ends.to_vec();
        self.writer.tuple_stats(&mut self.lines, moment, &line).unwrap();
    }

    /// Writes `tracer.stats` with this many refused connect() calls so far, and 3 losses `map_busy`.
    pub(crate) fn stats(&mut self, mono_ns: u64, refused: u64) {
        self.totals(mono_ns, refused, 0);
    }

    /// Writes what [`Self::stats`] writes, and that `exhausted` calls so far found no port.
    pub(crate) fn totals(&mut self, mono_ns: u64, refused: u64, exhausted: u64) {
        let moment = self.moment(mono_ns);
        let stats = Stats {
            failed: [("refused", refused), ("ports_exhausted", exhausted)].into(),
            lost: [("map_busy", 3)].into(),
            seen: 7,
            cpu_ns: 8,
            ..Stats::default()
        };
        self.writer.stats(&mut self.lines, moment, &stats).unwrap();
    }

    /// Writes `connect.failed` of tuple [`key`]`(1)` with this cause: by nginx (812), EADDRNOTAVAIL, 1,000 ports in use of 1,000,
    /// 900 of them in TIME_WAIT.
    pub(crate) fn failure(&mut self, mono_ns: u64, cause: Cause) {
        let event = Event {
            mono_ns,
            tuple: key(1),
            pid: 812,
            comm: *b"nginx\0\0\0\0\0\0\0\0\0\0\0",
            errno: 99,
            local_port: 4711,
            in_use: 1000,
            time_wait: 900,
            flags: tracer_common::event_flag::PORTS,
            kind: Kind::ConnectFailed as u8,
            detail: cause as u8,
            ..Event::default()
        };
        let (seq, capacity) = (self.seq, Some(1000));
        let context = Context { seq, wall_offset_ns: OFFSET, capacity, ..Context::default() };
        self.seq += 1;
        let name = Name { path: "/a".into(), container: Some("c1".into()), unit: None };
        self.writer.event(&mut self.lines, &event, &context, || Some(&name)).unwrap();
    }

    /// Writes `tracer.degraded` with these lists, and nothing that has ended.
    pub(crate) fn degraded(&mut self, mono_ns: u64, now: &[&str], added: &[&str]) {
        let moment = self.moment(mono_ns);
        let list = |these: &[&str]| these.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
        let (degraded, added) = (&list(now)[..], &list(added)[..]);
        let line = Degraded { degraded, added, ended: &[] };
        self.writer.degraded(&mut self.lines, moment, &line).unwrap();
    }

    /// Writes `lost`: 2 of `map_busy`.
    pub(crate) fn lost(&mut self, mono_ns: u64) {
        let moment = self.moment(mono_ns);
        let lost = Lost { reason: "map_busy", count: 2 };
        self.writer.lost(&mut self.lines, moment, &lost).unwrap();
    }

    /// Writes `tracer.stop` with these counts of failed calls.
    pub(crate) fn stop(&mut self, mono_ns: u64, refused: u64, exhausted: u64) {
        let moment = self.moment(mono_ns);
        let failed = [("refused", refused), ("ports_exhausted", exhausted)].into();
        self.writer.stop(&mut self.lines, moment, &Stop { failed, ..Stop::default() }).unwrap();
    }

    /// All lines so far.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.lines.as_bytes()
    }
}

/// The key of a tuple from 10.0.0.`number` to 10.0.1.7, port 8080.
pub(crate) fn key(number: u8) -> TupleKey {
    TupleKey {
        source: Addr::v4([10, 0, 0, number]),
        destination: Addr::v4([10, 0, 1, 7]),
        netns: 1,
        destination_port: 8080,
        zero: 0,
    }
}
