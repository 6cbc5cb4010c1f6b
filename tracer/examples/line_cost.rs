//! What a line costs: the hand-written one against serde_json on the same event, in turns.
//!
//! `cargo run --release -p tracer --example line_cost`

#[path = "../tests/support/reference.rs"]
mod reference;

use std::{
    hint::black_box,
    io::{self, Write},
    time::Duration,
};

use tracer::{
    export::{Context, LineWriter, Lines},
    host::cgroups::Name,
};
use tracer_common::{Addr, Event, Kind, TupleKey, event_flag};

const LINES: u32 = 20_000;
const RUNS: usize = 21;
const CHUNK: usize = 64 << 10;

/// Events of a proxy: one process, a few destinations, growing times and ports.
fn events() -> Vec<Event> {
    let details = [
        (Kind::PortAllocated, 1),
        (Kind::ConnectEstablished, 0),
        (Kind::PortReleased, 1),
        (Kind::ConnectFailed, 0),
    ];
    (0..LINES)
        .zip(details.iter().cycle())
        .map(|(number, (kind, detail))| Event {
            mono_ns: 86_400_000_000_000 + u64::from(number) * 12_345,
            seq: u64::from(number),
            cookie: 1_000_000 + u64::from(number),
            duration_ns: 12_000 + u64::from(number % 977),
            cgroup: 4711,
            tuple: TupleKey {
                source: Addr::v4([10, 17, 0, 14]),
                destination: Addr::v4([10, 17, 100, (number % 200) as u8]),
                netns: 4_026_531_840,
                destination_port: 8080,
                zero: 0,
            },
            pid: 81_234,
            tid: 81_234,
            comm: *b"nginx\0\0\0\0\0\0\0\0\0\0\0",
            in_use: 28_232,
            time_wait: 28_000,
            local_port: 32_768 + (number % 28_232) as u16,
            errno: if *kind == Kind::ConnectFailed { 99 } else { 0 },
            kind: *kind as u8,
            detail: *detail,
            flags: event_flag::DURATION | event_flag::PORTS,
            ..Event::default()
        })
        .collect()
}

fn context(number: usize) -> Context {
    Context {
        seq: number as u64,
        wall_offset_ns: 1_795_000_000_000_000_000,
        capacity: Some(28_232),
        holder: None,
        called: None,
    }
}

/// CPU time of this thread, so that a busy machine disturbs less.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// Mean CPU time of one call of `work`, ns.
fn run(events: &[Event], mut work: impl FnMut(&Event, usize)) -> f64 {
    let begin = cpu_time();
    for (number, event) in events.iter().enumerate() {
        work(black_box(event), number);
    }
    let elapsed = cpu_time().saturating_sub(begin);
    elapsed.as_secs_f64() * 1e9 / f64::from(LINES)
}

fn median(mut runs: Vec<f64>) -> f64 {
    runs.sort_by(f64::total_cmp);
    runs[runs.len() / 2]
}

fn main() -> io::Result<()> {
    let events = events();
    let name = Name {
        path: "/system.slice/nginx.service".into(),
        container: None,
        unit: Some("nginx.service".into()),
    };
    let mut lines = Lines::with_capacity(2 * CHUNK);
    let mut json = Vec::with_capacity(2 * CHUNK);
    let mut writer = LineWriter::default();
    let (mut by_hand, mut by_serde, mut bytes) = (Vec::new(), Vec::new(), 0);
    for _ in 0..RUNS {
        bytes = 0;
        by_hand.push(run(&events, |event, number| {
            // As often as `record` does it.
            if lines.len() > CHUNK {
                bytes += lines.len();
                lines.clear();
            }
            let written = writer.event(&mut lines, event, &context(number), || Some(&name));
            debug_assert!(written.is_ok());
        }));
        bytes += lines.len();
        lines.clear();
        by_serde.push(run(&events, |event, number| {
            if json.len() > CHUNK {
                json.clear();
            }
            let line = reference::line(event, &context(number), Some(&name));
            let written = serde_json::to_writer(&mut json, &line);
            debug_assert!(written.is_ok());
            json.push(b'\n');
        }));
    }
    let (by_hand, by_serde) = (median(by_hand), median(by_serde));
    let mut stdout = io::stdout().lock();
    let bytes = bytes / events.len();
    writeln!(stdout, "by hand     {by_hand:6.1} ns a line of {bytes} bytes")?;
    writeln!(
        stdout,
        "serde_json  {by_serde:6.1} ns a line, {:.1} times as much",
        by_serde / by_hand
    )
}
