//! Models for tests, made reading by reading, as a source makes them.

mod failed;

use std::sync::Arc;

use ratatui::{Terminal, backend::TestBackend};
use tracer_common::{
    Addr, Cause, Loss, PortState, States, TupleCount, TupleKey, tuple::search_bucket,
};

use crate::{
    format::table::Top,
    host::capacity::{Limits, Reuse},
    view::{
        group::{GroupBy, grouped},
        layout,
        model::{Mode, Model, Replay, Size, View},
        reading::{
            About, Blocked, Holder, HolderKind, Opener, Pool, SelfStats, Snapshot, TupleSample,
        },
    },
};

/// 2026-03-14 03:34:56 UTC.
pub(super) const WALL_NS: u64 = 1_773_459_296_000_000_000;
const NETNS: u32 = 4_026_531_840;
const SECOND: u64 = 1_000_000_000;

pub(super) fn comm(name: &str) -> [u8; 16] {
    let mut comm = [0; 16];
    for (byte, letter) in comm.iter_mut().zip(name.bytes()) {
        *byte = letter;
    }
    comm
}

fn v6(last: u16) -> Addr {
    let [high, low] = last.to_be_bytes();
    Addr([0x20, 1, 0xd, 0xb8, 0, 0x10, 0x40, 2, 0, 0, 0, 1, 0xfe, 0xed, high, low])
}

/// The key of tuple `number`: each number has another destination.
fn key(number: usize) -> TupleKey {
    let [.., high, low] = number.to_be_bytes();
    TupleKey {
        source: Addr::v4([10, 0, 0, 8 + low % 3]),
        destination: Addr::v4([10, 0, 1 + high, low]),
        netns: NETNS,
        destination_port: 8080,
        zero: 0,
    }
}

/// What a tuple does over time in a fixture.
#[derive(Clone, Debug)]
pub(super) struct Life {
    pub(super) key: TupleKey,
    /// Ports held at the start.
    pub(super) held: u64,
    /// Ports taken per second at the start; the rate has doubled after two minutes.
    pub(super) growth: u64,
    /// How many of 10 held ports are in TIME_WAIT.
    pub(super) waiting: u64,
    pub(super) capacity: Option<u32>,
    /// Failed calls per second in the 120th second, by cause; there are none in the first 20 s.
    pub(super) failed: Vec<(Cause, u64)>,
    pub(super) comm: &'static str,
    pub(super) pid: u32,
    pub(super) container: Option<&'static str>,
}

impl Life {
    pub(super) fn new(number: usize, held: u64) -> Self {
        Self {
            key: key(number),
            held,
            growth: 0,
            waiting: 0,
            capacity: Some(28_232),
            failed: Vec::new(),
            comm: "nginx",
            pid: 812,
            container: None,
        }
    }

    fn count(&self, second: u64) -> TupleCount {
        let opened = self.held + self.growth * (second + second * second / 240);
        let mut count = TupleCount {
            opened,
            time_wait_begun: opened * self.waiting / 10,
            pid: self.pid,
            comm: comm(self.comm),
            ..TupleCount::default()
        };
        if let Some(capacity) = self.capacity {
            count.opened = opened.min(capacity.into());
        }
        // All that are in TIME_WAIT, or were; each carried one request, but for some of the older ones.
        count.ends.closed_here = count.time_wait_begun;
        count.ends.aborted = count.time_wait_begun / 50;
        count.ends.segments = count.ends.all() + count.time_wait_begun.min(5000);
        count.ends.lifetimes[0] = u32::try_from(count.time_wait_begun).unwrap();
        count.ends.lifetimes[5] = u32::try_from(count.ends.aborted).unwrap();
        let others = count.in_use().saturating_sub(count.time_wait());
        count.states = States::one(PortState::Established.flags()).wrapping_mul(others);
        for (cause, number) in &self.failed {
            // The rate grows from the 20th second on; it reaches `number` in the 120th.
            let late = second.saturating_sub(20);
            count.failed[*cause as usize] = number * late * (late + 1) / 200;
            count.last_errno = if *cause == Cause::Refused { 111 } else { 99 };
        }
        for (ns, share) in [(9_000, 2), (14_000, 70), (20_000, 11), (740_000, 90), (1_100_000, 5)] {
            let slow = ns > 100_000;
            let part = if slow { opened.saturating_sub(12_700) } else { opened.min(12_700) };
            count.search[search_bucket(ns)] = u32::try_from(part * share / 100).unwrap();
        }
        count
    }
}

pub(super) fn about() -> About {
    About {
        host: "edge-1".into(),
        kernel: "6.12.48".into(),
        version: "0.1.0".into(),
        backend: "fexit".into(),
        degraded: Vec::new(),
        range: Some((32_768, 60_999)),
        filter: String::new(),
        netns: Some(NETNS),
        hz: Some(250),
    }
}

pub(super) fn empty() -> Model {
    let mut model = Model::new(about());
    model.reading.wall_ns = WALL_NS;
    model
}

/// A model after one reading of these tuples a second for `seconds` seconds; `more` changes the last reading.
pub(super) fn lived(lives: &[Life], seconds: u64, more: impl FnOnce(&mut Snapshot)) -> Model {
    let mut model = empty();
    let mut more = Some(more);
    for second in 0..=seconds {
        let at = WALL_NS - (seconds - second) * SECOND;
        let mut reading = Snapshot {
            wall_ns: at,
            mono_ns: 500 * SECOND + second * SECOND,
            self_stats: SelfStats {
                cpu_ns: 40_000_000 + second * 3_000_000,
                rss_kib: 20_480,
                ring_kib: 8192,
                programs_ns: None,
                seen: 84_000 + second,
                emitted: 84_000 + second,
                drift: 0,
            },
            reuses: [(NETNS, Reuse { setting: 2, delay_ms: None, timestamps: true })].into(),
            ..Snapshot::default()
        };
        model.history.begin(reading.mono_ns);
        for life in lives {
            let container = life.container.map(Arc::from);
            let cgroup = Some("/system.slice/nginx.service".into());
            let count = life.count(second);
            for (sum, number) in reading.failed.iter_mut().zip(count.failed) {
                *sum += number;
            }
            let capacity = life.capacity;
            let key = life.key;
            model.history.add(&TupleSample {
                key,
                count: &count,
                has_states: true,
                has_uses: true,
                capacity,
                limits: capacity.map(|_| Limits { low: 32_768, high: 60_999, ..Limits::default() }),
                reuse: None,
                older: None,
                search_p99: None,
                called: crate::host::process::Called::of(count.pid, 0, count.comm),
                cgroup,
                container,
                netns_name: None,
            });
        }
        if second == seconds
            && let Some(more) = more.take()
        {
            more(&mut reading);
        }
        if second == 0 {
            for life in lives.iter().take(8) {
                model.history.watch(&life.key);
            }
        }
        model.history.end(&reading);
        model.reading = reading;
    }
    model
}

/// A proxy that runs out of ports.
pub(super) fn incident() -> Model {
    let filling = Life {
        growth: 60,
        waiting: 7,
        failed: vec![(Cause::Refused, 2)],
        container: Some("3f1c8a90b7d2e45f0123"),
        ..Life::new(7, 12_000)
    };
    let full = Life {
        waiting: 9,
        failed: vec![(Cause::PortsExhausted, 31), (Cause::TimedOut, 1)],
        ..Life::new(9, 28_232)
    };
    let half = Life { comm: "haproxy", pid: 4711, ..Life::new(21, 14_200) };
    let high = Life { comm: "envoy", pid: 92_001, waiting: 3, ..Life::new(35, 23_900) };
    let calm: Vec<_> = (40..60).map(|number| Life::new(number, 30 + number as u64 * 7)).collect();
    let lives = [vec![filling, full, half, high], calm].concat();
    let mut model = lived(&lives, 120, |reading| {
        reading.pools = vec![Pool {
            rule: "upstreams".into(),
            agent: Some(900),
            addresses: vec![
                ("10.0.0.8".parse().unwrap(), None),
                ("10.0.0.9".parse().unwrap(), Some("crowded".into())),
            ],
        }];
        let holder = |pid, name: &str, ports, time_wait| Holder {
            pid,
            comm: comm(name),
            opener: Opener { pid: 812, comm: comm("nginx"), ended: false },
            container: Some("3f1c8a90b7d2e45f0123".into()),
            ports,
            time_wait,
            tuples: 1,
            kind: HolderKind::Process,
        };
        let gone = Opener { pid: 790, comm: comm("spawner"), ended: true };
        reading.holders = Some(vec![
            holder(812, "nginx", 2_000, 0),
            Holder { kind: HolderKind::TimeWait, ..holder(0, "", 16_380, 16_380) },
            Holder { opener: gone, container: None, ..holder(813, "sleep", 4_990, 0) },
            Holder {
                kind: HolderKind::NoProcess,
                opener: Opener::default(),
                ..holder(0, "", 30, 0)
            },
        ]);
        let blocked = |port, pid, name: &str| Blocked {
            netns: NETNS,
            port,
            sockets: 1,
            pid,
            comm: comm(name),
        };
        reading.blocked = Some(vec![
            blocked(443, 1, "nginx"),
            blocked(40_000, 71, "game-server"),
            blocked(40_001, 71, "game-server"),
        ]);
    });
    failed::add(&mut model);
    model
}

pub(super) fn saturated() -> Model {
    let full = |number| Life {
        waiting: 9,
        failed: vec![(Cause::PortsExhausted, 1000)],
        ..Life::new(number, 28_232)
    };
    lived(&(0..40).map(full).collect::<Vec<_>>(), 30, |_| {})
}

pub(super) fn many() -> Model {
    let life = |number| Life { growth: number as u64 % 3, ..Life::new(number, number as u64 * 2) };
    lived(&(0..10_000).map(life).collect::<Vec<_>>(), 3, |_| {})
}

pub(super) fn only_v6() -> Model {
    let life = |number: u16| {
        let mut life = Life::new(number.into(), u64::from(number) * 900);
        life.key.source = v6(number % 2);
        life.key.destination = v6(0x100 + number * 16);
        life.key.destination_port = 8443;
        life
    };
    lived(&(1..30).map(life).collect::<Vec<_>>(), 3, |_| {})
}

pub(super) fn degraded() -> Model {
    let mut model = lived(&[Life { capacity: None, ..Life::new(1, 40) }], 3, |reading| {
        reading.lost = vec![
            (Loss::EventRingFull.name().into(), 1200),
            (Loss::ConnsFull.name().into(), 34),
            ("hook_missed".into(), 3),
        ];
        reading.pools = vec![Pool { rule: "old".into(), ..Pool::default() }];
        reading.self_stats.drift = 5;
        reading.self_stats.programs_ns = Some(12_000_000_000);
    });
    model.about = Arc::new(About {
        backend: "tracepoint".into(),
        degraded: vec![
            "fexit: the kernel refuses trampolines (EPERM), so port searches are not measured"
                .into(),
            "kprobe: this kernel has none".into(),
        ],
        ..about()
    });
    model
}

pub(super) fn replay(mut model: Model) -> Model {
    model.replay = Some(Replay {
        begin_ns: WALL_NS - 296 * SECOND,
        end_ns: WALL_NS + 304 * SECOND,
        speed: 4.0,
        at_end: false,
        missing: 12,
        unreadable: 1,
        limits: Vec::new(),
        name: "incident.jsonl.zst".into(),
    });
    model.reading.holders = None;
    model.reading.blocked = None;
    model.reading.reuses.clear();
    model.about = Arc::new(About { netns: None, hz: None, ..(*model.about).clone() });
    model
}

/// Sets the size of the screen, and makes the list for the model's view, from its first row on.
pub(super) fn sized(model: &mut Model, width: u16, height: u16) {
    model.size = Size { width, height };
    let mut top = Top::new(model.sort().by, None).reversed(model.sort().reverse);
    let by = match model.view {
        View::Processes => GroupBy::Process,
        View::Sources => GroupBy::Source,
        _ => model.by,
    };
    let rows = model.history.rows(model.window).filter(|row| model.filter.matches(row));
    let rows: Vec<_> = if by == GroupBy::Tuple { rows.collect() } else { grouped(rows, by) };
    let total =
        if by == GroupBy::Tuple { model.history.rows(model.window).count() } else { rows.len() };
    for row in rows {
        top.add(row);
    }
    let mut shown = match model.view {
        View::Failures | View::SelfStats | View::Doctor => Vec::new(),
        _ => top.sorted(),
    };
    model.worst = crate::view::update::worst(model);
    crate::view::update::judge(model);
    crate::view::failures::answer(&mut model.failures, &model.answers, &model.about);
    model.list.unfiltered = total;
    model.list.total = shown.len();
    shown.truncate(layout::areas(model).rows());
    model.list.rows = shown;
}

/// The model with the details of tuple `number` open.
pub(super) fn in_detail(mut model: Model, number: usize) -> Model {
    model.mode = Mode::Detail(key(number));
    model
}

pub(super) fn drawn(model: &mut Model, width: u16, height: u16) -> Terminal<TestBackend> {
    sized(model, width, height);
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| super::draw(model, frame)).unwrap();
    terminal
}
