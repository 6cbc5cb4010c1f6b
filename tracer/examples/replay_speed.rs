//! How fast a recording is read: lines that a view does not need, and those that it does.
//!
//! `cargo run --release -p tracer --example replay_speed`

use std::{
    fs,
    io::{self, Write},
    path::Path,
    time::Instant,
};

use tracer::{
    export::{Context, LineWriter, Lines, Moment},
    format::tuple::Tuple,
    host::capacity::Limits,
    ledger::stats::Row,
    recording::{Player, Reader},
};
use tracer_common::{Addr, Event, Kind, TupleCount, TupleKey};

const BYTES: usize = 256 << 20;

fn key(number: u32) -> TupleKey {
    let [_, a, b, c] = number.to_be_bytes();
    TupleKey {
        source: Addr::v4([10, 0, 0, 14]),
        destination: Addr::v4([10, a, b, c]),
        netns: 4_026_531_840,
        destination_port: 8080,
        zero: 0,
    }
}

/// Lines of socket events (`port.released`), at least [`BYTES`] bytes of them. A view of port use skips these lines.
fn events() -> io::Result<Lines> {
    let (mut writer, mut lines) = (LineWriter::default(), Lines::default());
    let mut seq = 0;
    while lines.len() < BYTES {
        let event = Event {
            mono_ns: seq * 10_000,
            cookie: 1_000_000 + seq,
            tuple: key((seq % 200) as u32),
            pid: 81_234,
            comm: *b"nginx\0\0\0\0\0\0\0\0\0\0\0",
            local_port: 32_768,
            kind: Kind::PortReleased as u8,
            ..Event::default()
        };
        let context = Context { seq, ..Context::default() };
        writer.event(&mut lines, &event, &context, || None).map_err(io::Error::other)?;
        seq += 1;
    }
    Ok(lines)
}

/// Readings of 10,000 tuples.
fn readings() -> io::Result<Lines> {
    let (mut writer, mut lines) = (LineWriter::default(), Lines::default());
    let mut seq = 0;
    while lines.len() < BYTES {
        let count = TupleCount {
            opened: seq,
            released: seq / 2,
            time_wait_begun: seq / 2,
            pid: 81_234,
            comm: *b"nginx\0\0\0\0\0\0\0\0\0\0\0",
            search: [7; tracer_common::tuple::SEARCH_BUCKETS],
            ..TupleCount::default()
        };
        let limits = Limits { low: 32_768, high: 60_999, ..Limits::default() };
        let row = Row::new(key((seq % 10_000) as u32), &count, None, Some(limits));
        let moment = Moment { seq, mono_ns: seq / 10_000 * 1_000_000_000, wall_offset_ns: 0 };
        writer.tuple_stats(&mut lines, moment, &Tuple::recorded(&row, &count, None))?;
        seq += 1;
    }
    Ok(lines)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::temp_dir().join(format!("replay-speed-{}", std::process::id()));
    let result = measure(&path);
    fs::remove_file(&path)?;
    result
}

fn measure(path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    for (name, lines) in [("port.released", events()?), ("tuple.stats", readings()?)] {
        fs::write(path, lines.as_bytes())?;
        let bytes = lines.len();
        drop(lines);
        let files = [path.to_owned()];
        let mut reader = Reader::open(&files)?;
        let began = Instant::now();
        while reader.next(&mut |_, _| ())? {}
        tell(&format!("{name}: read"), bytes, began)?;
        let mut player = Player::open(&files)?;
        let began = Instant::now();
        while player.next(&mut |_| ())?.is_some() {}
        tell(&format!("{name}: played"), bytes, began)?;
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
fn tell(what: &str, bytes: usize, began: Instant) -> io::Result<()> {
    let rate = bytes as f64 / began.elapsed().as_secs_f64() / 1e6;
    writeln!(io::stdout(), "{what:<24}{rate:>8.0} MB/s")
}
