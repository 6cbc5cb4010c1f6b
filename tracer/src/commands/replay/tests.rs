//! Recordings that no tracer wrote: any file is read to its end, in bounded time.

mod settings;

use std::{fs, path::Path};

use ratatui::{Terminal, backend::TestBackend};
use tracer_common::{Cause, TupleCount, TupleKey};

use super::*;
use crate::{
    cli::TableFormat,
    commands::report,
    config::{ReportConfig, ShowConfig, TableConfig},
    format::table::Column,
    recording::test_recorder::{OFFSET, Recorder, S, key},
    view::{filter::Filter, model::View, render},
};

/// splitmix64: the same seed gives the same numbers.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap()
    }
}

fn config(path: &Path, at: Option<String>) -> ReplayConfig {
    let table = TableConfig { sort: Column::Saturation, limit: None, format: TableFormat::Columns };
    let show = ShowConfig { batch: true, count: None, table, filter: Filter::default() };
    ReplayConfig { files: vec![path.to_owned()], speed: 1.0, at, show }
}

/// Does with a recording all that can be done: reports it, plays it from `at` on, draws it in every view, steps and jumps.
/// Returns false if the recording or `at` was refused.
fn use_it(path: &Path, at: Option<&str>) -> bool {
    let _text = report::run(&ReportConfig { files: vec![path.into()], json: false, limit: 10 });
    let _json = report::run(&ReportConfig { files: vec![path.into()], json: true, limit: 10 });
    let config = config(path, at.map(str::to_owned));
    let Ok(player) = Player::open(&config.files) else { return false };
    let mut source = Recorded::new(player, &config);
    let mut model = model(source.player.about().clone(), &config.show);
    if let Some(at) = at
        && source.begin_at(&mut model, at).is_err()
    {
        return false;
    }
    let mut screen = Terminal::new(TestBackend::new(100, 30)).unwrap();
    let (begin, end) = source.player.span();
    assert!(end == 0 || begin <= end, "{begin} to {end}");
    for turn in 0..40 {
        let Ok(Some(reading)) = source.next(&mut model) else { break };
        update(&mut model, Message::Read(Box::new(reading)));
        model.replay = source.replay(&model);
        model.view = View::ALL[turn % View::ALL.len()];
        crate::view::update::refresh(&mut model);
        screen.draw(|frame| render::draw(&model, frame)).unwrap();
    }
    let middle = begin / 2 + end / 2;
    let jumps = [0, begin, middle, end, u64::MAX].map(Play::Seek);
    for play in
        jumps.into_iter().chain([Play::Step(Direction::Back), Play::Step(Direction::Forward)])
    {
        let _refused = source.play(&mut model, play);
        screen.draw(|frame| render::draw(&model, frame)).unwrap();
    }
    true
}

fn recorder() -> Recorder {
    let mut recorder = Recorder::every(1);
    recorder.start(S, true);
    for number in 1..=6 {
        let mut count = TupleCount { opened: 100 * number, pid: 7, ..TupleCount::default() };
        count.failed[Cause::PortsExhausted as usize] = number;
        recorder.tuple(S * number * 2, key(1), &count, None);
        recorder.tuple(S * number * 2, key(2), &count, None);
        recorder.totals(S * number * 2, number, number);
        recorder.failure(S * number * 2 + 1, Cause::PortsExhausted);
        recorder.lost(S * number * 2 + 2);
    }
    recorder.stop(S * 20, 6, 6);
    recorder
}

/// Values that tracer does not write in place of a number.
const NUMBERS: [&str; 9] = [
    "0",
    "-1",
    "1",
    "4294967295",
    "4294967296",
    "18446744073709551615",
    "18446744073709551616",
    "1e308",
    "null",
];
/// Values that tracer does not write in place of a text.
const TEXTS: [&str; 6] =
    ["", "\\u0000", "\\ud800", "0.0.0.0", "9999-99-99T99:99:99.999999999Z", "\u{1b}[2J"];

/// Changes values, single bytes or lines, or cuts the recording short.
fn mutated(lines: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = lines.to_vec();
    for _ in 0..=random.below(6) {
        let at = random.below(bytes.len());
        match random.below(7) {
            // Replaces the number or the text after the next colon.
            0..=2 => {
                let Some(begin) = bytes[at..].iter().position(|byte| *byte == b':') else {
                    continue;
                };
                let begin = at + begin + 1;
                let rest = &bytes[begin..];
                let Some(length) = rest.iter().position(|byte| b",}\n".contains(byte)) else {
                    continue;
                };
                let new = if rest.first() == Some(&b'"') {
                    format!("\"{}\"", TEXTS[random.below(TEXTS.len())])
                } else {
                    NUMBERS[random.below(NUMBERS.len())].to_owned()
                };
                bytes.splice(begin..begin + length, new.into_bytes());
            }
            3 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = u8::try_from(random.below(256)).unwrap();
                }
            }
            4 => bytes.truncate(at.max(1)),
            // Copies a line to another place.
            5 => {
                let mut all: Vec<_> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
                let from = random.below(all.len());
                let line = all[from];
                all.insert(random.below(all.len()), line);
                bytes = all.concat();
            }
            _ => {
                let digit = |byte: &u8| byte.is_ascii_digit();
                if let Some(place) = bytes[at..].iter().position(digit) {
                    bytes[at + place] = b'0' + u8::try_from(random.below(10)).unwrap();
                }
            }
        }
        if bytes.is_empty() {
            bytes.push(b'\n');
        }
    }
    bytes
}

#[test]
fn mutated_recordings_are_read_to_their_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f");
    let recorder = recorder();
    let mut read = 0;
    for seed in 0..100 {
        let mut random = Random(seed);
        let mut bytes = mutated(recorder.bytes(), &mut random);
        if seed % 4 == 0 {
            bytes = zstd::encode_all(&bytes[..], 1).unwrap();
            // Sometimes damages the compressed data, too.
            if seed % 8 == 0 {
                let at = random.below(bytes.len());
                bytes[at] = bytes[at].wrapping_add(1);
            }
        }
        fs::write(&path, &bytes).unwrap();
        let at = ["0s", "5s", "3000h", "00:00"][random.below(4)];
        let begun = Instant::now();
        let kept = std::panic::catch_unwind(|| use_it(&path, Some(at)));
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(5), "seed {seed} took {took:?}");
        read += u32::from(kept.unwrap_or_else(|_| panic!("seed {seed}: it panicked")));
    }
    assert!(read > 50, "only {read} of 100 were read at all: nothing is shown by this");
}

/// A recording with one reading for each of these times: ns since 1970, and CLOCK_MONOTONIC in ns.
fn readings(times: &[(u64, u64)]) -> Vec<u8> {
    let mut lines = Vec::new();
    for (seq, (wall, mono)) in times.iter().enumerate() {
        let ts = crate::format::timestamp::Timestamp::default().text(*wall);
        let ts = str::from_utf8(&ts).unwrap();
        let line = format!(
            "{{\"v\":1,\"seq\":{seq},\"ts\":\"{ts}\",\"mono_ns\":{mono},\"event.name\":\"tracer.stats\"}}\n"
        );
        lines.extend_from_slice(line.as_bytes());
    }
    lines
}

#[test]
fn a_wall_clock_that_steps_back_or_far_ahead_is_no_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f");
    let back: Vec<_> = (0..100).map(|n| (OFFSET - n * 3600 * S, n * S)).collect();
    let step = [(OFFSET + 100 * S, S), (OFFSET, 2 * S), (OFFSET + S, 3 * S)];
    let far = [(0, 0), (u64::MAX, u64::MAX), (5, 7), (u64::MAX / 2, 1), (u64::MAX, u64::MAX - 1)];
    for times in [&back[..], &step, &far] {
        fs::write(&path, readings(times)).unwrap();
        for at in ["0s", "-5s", "+1h", "1000000h", "12:00", "2026-11-21T03:34:48Z"] {
            use_it(&path, Some(at));
        }
        assert!(use_it(&path, None), "{times:?}");
    }
}

#[test]
fn tuples_beyond_the_limit_are_counted_and_those_with_ports_are_kept() {
    let of = |number: u32| TupleKey { netns: number, ..key(1) };
    let reading = |history: &mut TupleHistory, tuples: &[(u32, u64)]| {
        history.begin(S);
        for (number, in_use) in tuples {
            let count = TupleCount { opened: *in_use, ..TupleCount::default() };
            history.add(&crate::view::reading::TupleSample {
                key: of(*number),
                count: &count,
                has_states: true,
                has_uses: true,
                capacity: None,
                limits: None,
                reuse: None,
                older: None,
                search_p99: None,
                called: crate::host::process::Called::default(),
                cgroup: None,
                container: None,
                netns_name: None,
            });
        }
        history.end(&Snapshot::default());
    };
    let mut history = TupleHistory::of(3);
    reading(&mut history, &[(1, 0), (2, 0), (3, 5), (4, 0)]);
    assert_eq!(history.left_out(), 1);
    // 1 and 2 hold no ports and are not in this reading: they make room for 5 and 6.
    reading(&mut history, &[(3, 5), (5, 7), (6, 8), (7, 9)]);
    assert_eq!(history.left_out(), 1);
    let mut held: Vec<_> =
        history.rows(crate::view::tuple_history::Window::Second).map(|row| row.key.netns).collect();
    held.sort_unstable();
    assert_eq!(held, [3, 5, 6]);
    reading(&mut history, &[(3, 5)]);
    assert_eq!(history.left_out(), 0);
}
