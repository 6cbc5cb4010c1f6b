//! A reading for tests, in which every metric has a value.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tracer_common::{Addr, Cause, Loss, TupleCount, TupleKey, tuple::search_bucket};

use super::{
    ConfigReading, MapReading, Metrics, NetnsReading, OutputReading, Process, ProgramReading,
    Reading, Snapshot, TupleReading,
};
use crate::kernel::maps::Totals;

/// Inode number of the network namespace of [`key`].
pub(super) const NETNS: u32 = 4_026_531_840;

/// The tuple from 10.0.0.8 to this port of 10.0.1.7.
pub(super) fn key(port: u16) -> TupleKey {
    TupleKey {
        source: Addr::v4([10, 0, 0, 8]),
        destination: Addr::v4([10, 0, 1, 7]),
        netns: NETNS,
        destination_port: port,
        zero: 0,
    }
}

/// The counters of a tuple with so many ports in use, of which 2 are in TIME_WAIT, after as many searches as it opened ports.
pub(super) fn count(in_use: u64) -> TupleCount {
    let opened = in_use + 10;
    let mut count = TupleCount {
        opened,
        released: 10,
        time_wait_begun: 12,
        time_wait_ended: 10,
        ..TupleCount::default()
    };
    count.failed[Cause::PortsExhausted as usize] = 3;
    count.search[search_bucket(12_000)] = u32::try_from(opened).unwrap();
    count
}

/// A tuple that is filling, with 1,000 ports.
pub(super) fn tuple(port: u16, count: &TupleCount) -> TupleReading<'_> {
    TupleReading {
        key: key(port),
        netns_name: None,
        count,
        capacity: Some(1000),
        eta_s: Some(62.5),
    }
}

/// A reading of these tuples, in which every metric has a value.
pub(super) fn reading(tuples: Vec<TupleReading<'_>>) -> Reading<'_> {
    let mut totals = Totals { seen: 70, emitted: 69, search_ns: 1_500_000, ..Totals::default() };
    totals.failed[Cause::PortsExhausted as usize] = 3;
    Reading {
        at_ns: 1_764_500_000_250_000_000,
        took: Duration::from_micros(1500),
        backend: "fexit",
        kernel: "6.18.5",
        degraded: 1,
        config: ConfigReading { is_newest: true, since_s: 1_764_400_001.5 },
        tuples,
        totals,
        losses: vec![(Loss::EventRingFull.name(), 1)],
        drift: 4,
        outputs: vec![OutputReading { name: "events", lines: 60, dropped: 2, bytes: 9000 }],
        maps: vec![
            MapReading { name: "TUPLES", entries: Some(3), max_entries: 65_536 },
            MapReading { name: "ATTEMPTS", entries: None, max_entries: 16_384 },
        ],
        programs: vec![ProgramReading { name: "tcp_connect", run: Duration::from_millis(250) }],
        namespaces: vec![
            NetnsReading { inum: NETNS, range: 28_232, bound: 7 },
            NetnsReading { inum: 1, range: 100, bound: 0 },
        ],
        http_refused: 5,
        process: Some(Process {
            cpu_ns: 3_250_000_000,
            resident_bytes: 12_582_912,
            open_fds: 40,
            max_fds: Some(4096),
            started_s: 1_764_400_000.25,
        }),
    }
}

/// The snapshot of a reading of three tuples, of which two are shown.
pub(super) fn snapshot() -> Arc<Snapshot> {
    let counts = [count(20), count(500), count(1000)];
    let tuples = counts.iter().zip([80, 443, 8080]).map(|(count, port)| tuple(port, count));
    Metrics::new(2, &[0.45, 0.8, 0.95]).update(&reading(tuples.collect()), Instant::now())
}
