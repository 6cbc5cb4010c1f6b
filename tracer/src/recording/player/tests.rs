//! Plays recordings that the tests write line by line.

mod any;
mod ends;

use std::{fs, io::Write, path::Path};

use proptest::prelude::*;
use tempfile::TempDir;
use tracer_common::{Cause, TupleCount};

use super::*;
use crate::{
    host::cgroups::Name,
    ledger::stats::Row,
    recording::test_recorder::{OFFSET, Recorder, S, key},
    view::tuple_history::{TupleHistory, Window},
};
use any::any_reading;

fn file(folder: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    path
}

fn play(bytes: &[u8]) -> (Vec<Snapshot>, Player) {
    let folder = tempfile::tempdir().unwrap();
    let mut player = Player::open(&[file(&folder, "f", bytes)]).unwrap();
    (rest(&mut player), player)
}

/// The readings that are left. `self_stats.ring_kib`, which recordings do not have, says how many tuples each has.
fn rest(player: &mut Player) -> Vec<Snapshot> {
    let mut readings = Vec::new();
    loop {
        let upcoming = player.upcoming().unwrap();
        let mut tuples = 0;
        let Some(mut reading) = player.next(&mut |_| tuples += 1).unwrap() else {
            assert_eq!(upcoming, None);
            return readings;
        };
        assert_eq!(upcoming, Some(reading.mono_ns));
        reading.self_stats.ring_kib = tuples;
        readings.push(reading);
    }
}

/// `count` readings of two tuples, `step` ns apart.
fn readings(count: u64, step: u64) -> Recorder {
    let mut recorder = Recorder::every(step / S);
    recorder.start(S, true);
    for number in 1..=count {
        let count = TupleCount { opened: number, ..TupleCount::default() };
        recorder.tuple(S + number * step, key(1), &count, None);
        recorder.tuple(S + number * step, key(2), &count, None);
        recorder.stats(S + number * step, number);
    }
    recorder
}

#[test]
fn readings_have_their_tuples_failures_and_totals() {
    let mut recorder = Recorder::default();
    recorder.start(S, true);
    recorder.failure(2 * S, Cause::Refused);
    recorder.tuple(3 * S, key(1), &TupleCount::default(), None);
    recorder.stats(3 * S, 1);
    // A reading without tuples.
    recorder.stats(4 * S, 1);
    recorder.failure(4 * S + 1, Cause::PortsExhausted);
    recorder.lost(4 * S + 2);
    recorder.tuple(5 * S, key(1), &TupleCount::default(), None);
    let (readings, player) = play(recorder.bytes());
    assert_eq!(readings.len(), 3, "the last one has no end");
    assert_eq!(player.about().host, "proxy-7");
    assert_eq!(player.about().range, Some((32_768, 60_999)));
    let [first, second, third] = &readings[..] else { panic!("{readings:?}") };
    assert_eq!((first.wall_ns, first.mono_ns), (OFFSET + 3 * S, 3 * S));
    assert_eq!([first, second, third].map(|it| it.self_stats.ring_kib), [1, 0, 1]);
    assert_eq!((first.self_stats.seen, first.self_stats.cpu_ns), (7, 8));
    assert_eq!(first.failed[Cause::Refused as usize], 1);
    assert_eq!(third.lost, [("map_busy".to_owned(), 3)], "totals, not their sum with lost lines");
    let failure = &first.failures[0];
    assert_eq!((failure.cause, failure.errno, failure.pid), (Cause::Refused, 99, 812));
    assert_eq!((failure.key, failure.local_port), (key(1), 4711));
    assert_eq!(failure.container.as_deref(), Some("c1"));
    assert_eq!((first.failures.len(), second.failures.len(), third.failures.len()), (1, 0, 1));
    assert_eq!((player.missing(), player.unreadable()), (0, 0));
}

#[test]
fn without_tuple_stats_failures_give_a_reading_a_second() {
    let mut recorder = Recorder::default();
    recorder.start(S, false);
    for ms in [0, 400, 999, 1000, 1500, 9000] {
        recorder.failure(2 * S + ms * 1_000_000, Cause::Refused);
    }
    recorder.lost(12 * S);
    let (readings, _) = play(recorder.bytes());
    let seconds: Vec<_> = readings
        .iter()
        .map(|reading| {
            let calls = reading.failures.iter().map(|failure| failure.count);
            (reading.mono_ns / 1_000_000, calls.sum::<u64>())
        })
        .collect();
    assert_eq!(seconds, [(3000, 3), (4000, 2), (5000, 0), (12_000, 1)]);
    assert_eq!(readings[3].failed[Cause::Refused as usize], 6);
    assert_eq!(readings[3].lost, [("map_busy".to_owned(), 2)]);
}

#[test]
fn a_rotated_set_in_any_order_is_one_recording_and_a_missing_file_shows() {
    let recorder = readings(400, S);
    let bytes = recorder.bytes();
    // Cuts between two lines, as rotation does.
    let cut = |part: usize| {
        let at = bytes.len() * part / 4;
        at + bytes[at..].iter().position(|byte| *byte == b'\n').unwrap() + 1
    };
    let folder = tempfile::tempdir().unwrap();
    let parts =
        [&bytes[..cut(1)], &bytes[cut(1)..cut(2)], &bytes[cut(2)..cut(3)], &bytes[cut(3)..]];
    let one = file(&folder, "f", parts[3]);
    let two = file(&folder, "f.1", parts[2]);
    let three = file(&folder, "f.2.zst", &zstd::encode_all(parts[1], 1).unwrap());
    let four = file(&folder, "f.3", parts[0]);
    let empty = file(&folder, "f.new", b"");
    let all = [two.clone(), empty, four.clone(), one.clone(), three];
    let mut player = Player::open(&all).unwrap();
    let shown = rest(&mut player);
    assert_eq!(shown.len(), 400);
    assert!(shown.iter().all(|reading| reading.self_stats.ring_kib == 2));
    assert_eq!((player.missing(), player.unreadable()), (0, 0));
    assert_eq!(player.span(), (OFFSET + S, OFFSET + 401 * S));
    // All but the third file: its lines are missing.
    let mut player = Player::open(&[one, two, four]).unwrap();
    let count = rest(&mut player).len();
    let lines = parts[1].split(|byte| *byte == b'\n').count() as u64 - 1;
    assert_eq!(player.missing(), lines);
    assert!((299..=302).contains(&count), "{count}");
}

#[test]
fn unreadable_lines_are_counted_once_and_are_not_missing() {
    let recorder = readings(10, S);
    let text = str::from_utf8(recorder.bytes()).unwrap();
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines[5] = lines[5][..40].to_owned();
    lines[8] = String::from("\u{0}\u{1}");
    lines.remove(12);
    let whole = lines.join("\n");
    let cut = &whole[..whole.len() - 20];
    let folder = tempfile::tempdir().unwrap();
    let mut player = Player::open(&[file(&folder, "cut", cut.as_bytes())]).unwrap();
    rest(&mut player);
    assert_eq!((player.missing(), player.unreadable()), (1, 3));
    let first = player.first_unreadable().unwrap();
    assert_eq!((first.line, first.why), (Some(6), "it is not a line of the format"));
    // Going back counts nothing twice.
    player.seek(0).unwrap();
    rest(&mut player);
    assert_eq!((player.missing(), player.unreadable()), (1, 3));
}

#[test]
fn several_runs_in_one_file_count_from_0_each() {
    let bytes = [readings(3, S).bytes(), readings(2, S).bytes()].concat();
    let (readings, player) = play(&bytes);
    assert_eq!(readings.len(), 5);
    assert_eq!(readings[3].failed[Cause::Refused as usize], 1);
    assert_eq!(player.missing(), 0);
}

#[test]
fn a_recording_whose_first_reading_is_cut_begins_with_the_next() {
    let bytes = readings(3, S).bytes().to_vec();
    let lines: Vec<_> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    let (readings, player) = play(&lines[2..].concat());
    assert_eq!(readings.len(), 2);
    assert!(readings.iter().all(|reading| reading.self_stats.ring_kib == 2));
    assert_eq!(player.missing(), 0);
}

#[test]
fn seeking_to_a_time_gives_the_readings_before_it() {
    let recorder = readings(2000, S);
    let folder = tempfile::tempdir().unwrap();
    let plain = file(&folder, "plain", recorder.bytes());
    let zstd = file(&folder, "zstd", &zstd::encode_all(recorder.bytes(), 1).unwrap());
    for path in [plain.clone(), zstd] {
        let mut player = Player::open(&[path]).unwrap();
        for second in [1500, 30, 1999, 700] {
            player.seek(OFFSET + second * S).unwrap();
            let reading = player.next(&mut |_| ()).unwrap().unwrap();
            let begin = OFFSET + second.saturating_sub(90).max(2) * S;
            assert!(reading.wall_ns <= begin, "{} for {second}", reading.wall_ns);
            let tuples = rest(&mut player);
            assert!(tuples.iter().all(|reading| reading.self_stats.ring_kib == 2));
            assert_eq!(tuples.last().unwrap().wall_ns, OFFSET + 2001 * S);
        }
        player.seek(u64::MAX).unwrap();
        rest(&mut player);
        assert_eq!((player.missing(), player.unreadable()), (0, 0));
    }
    // In a plain file, a seek goes close to the wanted time, so few earlier readings come first.
    let mut player = Player::open(&[plain]).unwrap();
    player.seek(OFFSET + 1500 * S).unwrap();
    let reading = player.next(&mut |_| ()).unwrap().unwrap();
    assert!(reading.wall_ns > OFFSET + 1100 * S, "{}", reading.wall_ns);
}

#[test]
fn with_long_intervals_a_reading_before_the_time_is_given() {
    let recorder = readings(400, 600 * S);
    let folder = tempfile::tempdir().unwrap();
    let mut player = Player::open(&[file(&folder, "f", recorder.bytes())]).unwrap();
    let time = OFFSET + 100_300 * S;
    player.seek(time).unwrap();
    let reading = player.next(&mut |_| ()).unwrap().unwrap();
    assert!(reading.wall_ns <= time, "{} s late", (reading.wall_ns - time) / S);
}

#[test]
fn other_files_are_refused_with_what_was_found() {
    let folder = tempfile::tempdir().unwrap();
    let open = |path: &Path| match Player::open(&[path.to_owned()]) {
        Ok(_) => panic!("{}", path.display()),
        Err(error) => error.to_string().replace(&*folder.path().to_string_lossy(), "/tmp"),
    };
    let errors = [
        open(&folder.path().join("none")),
        open(folder.path()),
        open(&file(&folder, "empty", b"")),
        open(&file(&folder, "log", b"Nov 25 \x1b[2J kernel: hello\nworld\n")),
        open(&file(&folder, "long", &vec![b'x'; 3 << 20])),
    ];
    insta::assert_snapshot!(errors.join("\n"));
}

proptest! {
    #[test]
    fn a_replay_shows_the_rows_that_the_live_view_showed(
        readings in prop::collection::vec(any_reading(), 1..12),
    ) {
        let mut recorder = Recorder::default();
        recorder.start(S, true);
        let mut live = TupleHistory::default();
        let mut shown = Vec::new();
        let mut mono_ns = S;
        for (step, samples, refused) in &readings {
            mono_ns += step;
            live.begin(mono_ns);
            let mut seen = std::collections::HashSet::new();
            for (number, count, container) in samples {
                if !seen.insert(number) {
                    continue;
                }
                let name = container.map(|inside| Name {
                    path: format!("/{number}").into(),
                    container: inside.then(|| "c".into()),
                    unit: None,
                });
                recorder.tuple(mono_ns, key(*number), count, name.as_ref());
                live.add(&TupleSample {
                    key: key(*number),
                    count,
                    has_states: true,
                    has_uses: true,
                    capacity: Some(1000.max(u32::try_from(count.in_use()).unwrap())),
                    limits: Some(crate::host::capacity::Limits::of(1000)),
                    reuse: None,
                    older: None,
                    search_p99: None,
                    called: crate::host::process::Called::of(count.pid, 0, count.comm),
                    cgroup: name.as_ref().map(|name| name.path.clone()),
                    container: name.and_then(|name| name.container),
                    netns_name: None,
});
            }
            recorder.stats(mono_ns, u64::from(*refused));
            let mut reading = Snapshot::default();
            reading.failed[Cause::Refused as usize] = u64::from(*refused);
            live.end(&reading);
            shown.push(screen(&live));
        }
        let folder = tempfile::tempdir().unwrap();
        let mut player = Player::open(&[file(&folder, "f", recorder.bytes())]).unwrap();
        let mut replayed = TupleHistory::default();
        for expected in shown {
            replayed.begin(player.upcoming().unwrap().unwrap());
            let reading = player.next(&mut |sample| replayed.add(sample)).unwrap().unwrap();
            replayed.end(&reading);
            prop_assert_eq!(screen(&replayed), expected);
        }
        prop_assert_eq!(player.upcoming().unwrap(), None);
    }

    #[test]
    fn any_bytes_are_read_to_their_end(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
        cut: prop::sample::Index, compressed: bool, seek: u64,
    ) {
        let folder = tempfile::tempdir().unwrap();
        // Random bytes are refused, or read to their end.
        if let Ok(mut player) = Player::open(&[file(&folder, "noise", &bytes)]) {
            rest(&mut player);
        }
        // A recording of which bytes are changed, cut off and added is read to its end, too.
        let mut damaged = readings(5, S).bytes().to_vec();
        if compressed {
            damaged = zstd::encode_all(&damaged[..], 1).unwrap();
        }
        for (place, byte) in places {
            let place = place.index(damaged.len());
            damaged[place] = byte;
        }
        damaged.truncate(cut.index(damaged.len()));
        damaged.extend_from_slice(&bytes);
        if let Ok(mut player) = Player::open(&[file(&folder, "damaged", &damaged)]) {
            rest(&mut player);
            player.seek(seek).unwrap();
            rest(&mut player);
        }
    }
}

/// All that the view shows of a history.
fn screen(history: &TupleHistory) -> (Vec<Row>, Vec<String>) {
    let rows: Vec<_> = history.rows(Window::TenSeconds).collect();
    let details = rows.iter().map(|row| format!("{:?}", history.detail(&row.key, Window::Minute)));
    let rates = format!("{:?}", history.host().rates(Window::Second));
    let details = details.chain([rates]).collect();
    (rows, details)
}

#[test]
fn a_pipe_goes_forward_only() {
    let recorder = readings(5, S);
    let (read, write) = rustix::pipe::pipe().unwrap();
    fs::File::from(write).write_all(recorder.bytes()).unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&read);
    let mut player = Player::open(&[PathBuf::from(format!("/proc/self/fd/{fd}"))]).unwrap();
    drop(read);
    assert!(!player.is_seekable());
    player.seek(OFFSET + 3 * S).unwrap();
    let first = player.next(&mut |_| ()).unwrap().unwrap();
    assert_eq!(first.mono_ns, 2 * S);
    player.next(&mut |_| ()).unwrap();
    let error = player.seek(first.wall_ns).unwrap_err();
    assert!(error.to_string().contains("pipe"), "{error}");
    assert_eq!(rest(&mut player).len(), 3);
    assert_eq!(player.span(), (0, 0));
}
