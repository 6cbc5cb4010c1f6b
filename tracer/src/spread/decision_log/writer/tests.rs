use std::{
    fs::File,
    io::{Read, Write as _},
    os::fd::OwnedFd,
};

use super::*;

fn stop(lines: u64, dropped: Dropped) -> Stop {
    Stop {
        seen: lines,
        emitted: lines,
        written: lines - dropped.events,
        failed: std::collections::BTreeMap::new(),
        lost: [("output_full", dropped.events), ("output_full_other", dropped.others)].into(),
        drift: 0,
    }
}

/// A writer whose thread is in no sandbox, which a test could not leave again.
fn writer(sink: Sink) -> Writer {
    let (lines, queue) = mpsc::sync_channel(QUEUE);
    let (ends, ended) = mpsc::channel::<()>();
    let shared = Arc::<Shared>::default();
    let of_thread = Arc::clone(&shared);
    thread::spawn(move || {
        _ = write(Output::new(sink, None, StopSignals::default()), &queue, &of_thread);
        drop(ends);
    });
    Writer { lines: Some(lines), begin: None, shared, ended }
}

fn pipe() -> (File, File) {
    let (reader, writer): (OwnedFd, OwnedFd) = rustix::pipe::pipe().unwrap();
    (reader.into(), writer.into())
}

#[test]
fn queueing_never_waits_for_a_reader_and_dropped_lines_are_counted() {
    let (mut reader, mut filled) = pipe();
    rustix::fs::fcntl_setfl(&filled, rustix::fs::OFlags::NONBLOCK).unwrap();
    while filled.write(&[b'\n'; 4096]).is_ok() {}
    rustix::fs::fcntl_setfl(&filled, rustix::fs::OFlags::empty()).unwrap();
    let mut writer = writer(Sink::over(filled));
    let all = 4 * QUEUE as u64;
    let mut left_out = 0;
    for number in 0..all {
        let line = move |output: &mut Output| output.lost("test", number);
        if writer.add(line) == Handover::QueueFull {
            writer.leave_out();
            left_out += 1;
        }
    }
    assert!(left_out > 0 && left_out < all, "{left_out}");
    assert_eq!(writer.dropped(), Dropped { events: left_out, others: 0 });
    writer.end(Box::new(move |dropped| stop(all, dropped)));
    let reads = thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).map(|_| text)
    });
    writer.wait();
    let text = reads.join().unwrap().unwrap();
    let lines: Vec<serde_json::Value> = text
        .lines()
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len() as u64, all - left_out + 1);
    let last = lines.last().unwrap();
    assert_eq!(last["event.name"], "tracer.stop", "{last}");
    assert_eq!(last["lost.output_full"], left_out, "{last}");
    // Dropped lines are a gap in `seq`.
    assert_eq!(last["seq"], all, "{last}");
}

#[test]
fn a_reader_that_is_gone_ends_the_stream() {
    let (reader, filled) = pipe();
    drop(reader);
    let mut writer = writer(Sink::over(filled));
    let line = || |output: &mut Output| output.lost("test", 1);
    let end = Instant::now() + Duration::from_secs(10);
    while writer.add(line()) != Handover::Closed {
        assert!(Instant::now() < end);
        thread::sleep(Duration::from_millis(1));
    }
    writer.wait();
}
