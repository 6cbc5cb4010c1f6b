use std::io::Write;

use tempfile::NamedTempFile;

use super::*;
use crate::spread::projection::Peak;

fn start(interval_s: f64) -> String {
    format!(
        r#"{{"v":1,"seq":0,"mono_ns":1,"event.name":"tracer.start","settings.stats_interval_s":{interval_s}}}"#
    )
}

fn stats(ms: u64, source: u8, destination: u8, in_use: u64, netns: u32) -> String {
    let mono_ns = ms * 1_000_000;
    format!(
        r#"{{"v":1,"mono_ns":{mono_ns},"event.name":"tuple.stats","network.local.address":"10.0.0.{source}","network.peer.address":"10.9.0.{destination}","network.peer.port":80,"netns":{netns},"ports.in_use":{in_use},"ports.capacity":1000,"more":{{}}}}"#
    )
}

fn file(bytes: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn peak(found: &BTreeMap<u32, Namespace>, netns: u32, destination: u8) -> Option<Peak> {
    let to = (to_addr(IpAddr::from([10, 9, 0, destination])), 80);
    found.get(&netns)?.peaks.get(&to).copied()
}

/// The ports of two sources in one reading are added up; those of two readings are not: the higher one counts.
#[test]
fn a_peak_is_of_one_reading() {
    let lines = [
        start(2.0),
        stats(1_000, 1, 1, 300, 7),
        stats(1_001, 2, 1, 100, 7),
        stats(1_002, 1, 1, 50, 8),
        r#"{"v":1,"mono_ns":1500,"event.name":"lost","lost.reason":"map_busy","lost.count":1}"#
            .to_owned(),
        // The next reading, which has no line of the first source.
        stats(3_000, 2, 1, 350, 7),
        stats(3_001, 1, 2, 20, 7),
        // A third reading, earlier than the interval says: it begins because a tuple comes that the second one has.
        stats(3_100, 2, 1, 10, 7),
    ];
    let text = lines.join("\n") + "\n";
    let zstd = zstd::encode_all(text.as_bytes(), 1).unwrap();
    for bytes in [text.as_bytes(), &zstd] {
        let mut recording = Recording::new(Vec::new());
        recording.read(file(bytes).path()).unwrap();
        let found = recording.finish();
        assert_eq!(peak(&found, 7, 1), Some(Peak { in_use: 400, fullest: 350 }));
        assert_eq!(peak(&found, 7, 2), Some(Peak { in_use: 20, fullest: 20 }));
        assert_eq!(peak(&found, 8, 1), Some(Peak { in_use: 50, fullest: 50 }));
        assert_eq!(found[&7].capacity, Some(1000));
        assert_eq!((recording.readings(), recording.lines()), (3, 8));
    }
}

#[test]
fn a_recording_of_two_runs_has_readings_of_both() {
    let text = [start(10.0), stats(5, 1, 1, 9, 7), start(10.0), stats(6, 2, 1, 5, 7)].join("\n");
    let mut recording = Recording::new(Vec::new());
    recording.read(file(text.as_bytes()).path()).unwrap();
    let found = recording.finish();
    assert_eq!(peak(&found, 7, 1), Some(Peak { in_use: 9, fullest: 9 }));
}

#[test]
fn a_wrong_line_is_named_and_one_that_was_cut_short_is_left_out() {
    let good = stats(5, 1, 1, 9, 7);
    let read = |text: &str| {
        let mut recording = Recording::new(Vec::new());
        recording.read(file(text.as_bytes()).path()).map(|()| recording.finish().len())
    };
    assert_eq!(read(&format!("{good}\n{}", &good[..40])).unwrap(), 1);
    for text in [
        format!("{good}\nnot JSON\n"),
        format!("{good}\n{}\n{good}\n", &good[..40]),
        format!("{good}\n{}\n", good.replace("10.9.0.1", "nowhere")),
        format!("{good}\n{{\"v\":1}}\n"),
    ] {
        let error = read(&text).unwrap_err();
        assert!(error.to_string().contains(", line 2: not a line of"), "{error}");
        assert_eq!(error.exit() as u8, 1);
    }
}

#[test]
fn a_compressed_recording_may_be_cut_short_but_not_damaged() {
    let text = (1..200).map(|at| stats(5 + at, 1, 1, at, 7) + "\n").collect::<String>();
    let whole = zstd::encode_all(text.as_bytes(), 1).unwrap();
    let read = |bytes: &[u8]| Recording::new(Vec::new()).read(file(bytes).path());
    read(&whole[..whole.len() / 2]).unwrap();
    let mut damaged = whole;
    damaged[4..20].fill(0xff);
    let error = read(&damaged).unwrap_err();
    assert!(error.to_string().contains(", line 1: "), "{error}");
}
