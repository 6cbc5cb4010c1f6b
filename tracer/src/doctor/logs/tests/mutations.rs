//! Random changes of real lines: no panic, no long wait, bounded memory, and the same report however the bytes arrive.

use std::collections::BTreeMap;

use super::*;
use crate::{
    doctor::{judge, logs::pods},
    host::test_mutations::{Random, Run},
};

const LINES: &[&str] = &[
    "2026/11/29 19:15:12 [crit] 71#71: *45 connect() to 10.0.1.7:8080 failed (99: Cannot assign requested address) while \
      connecting to upstream, client: 10.0.0.1, server: , request: \"GET / HTTP/1.1\", upstream: \"http://10.0.1.7:8080/\", \
      host: \"a\"",
    "2026/11/29 19:15:12 [crit] 71#71: *45 bind(10.94.0.2) failed (99: Address not available) while connecting to upstream",
    "2026/11/29 19:15:12 [crit] 71#71: *45 bind(10.94.0.2:5000) failed (98: Address in use) while connecting to upstream",
    "2026/11/29 19:15:13 [error] 71#71: *46 no live upstreams while connecting to upstream, client: 10.0.0.1, server: , \
      request: \"GET / HTTP/1.1\", upstream: \"http://api/\", host: \"a\"",
    "2026/11/29 19:15:13 [alert] 71#71: *46 socket() failed (24: Too many open files) while connecting to upstream",
    "2026/11/29 19:15:13 [alert] 71#71: 512 worker_connections are not enough",
    "2026/11/29 19:15:13 [error] 71#71: *3 upstream timed out (110: Connection timed out) while connecting to upstream, \
      client: 1.2.3.4, server: , upstream: \"http://[2001:db8::1]:80/\"",
    "2026/11/29 19:15:13 [error] 71#71: *3 connect() failed (111: Connection refused) while connecting to upstream, upstream: \
      \"fastcgi://127.0.0.1:9000\"",
    "2026/11/29 19:15:13 kid1| commBind Cannot bind socket FD 59 to 10.94.0.2: (98) Address already in use",
    "2026/11/29 19:15:13.123 kid1| 50,0| comm.cc(231) commBind: Cannot bind socket FD 59 to [2001:db8::2]: (99) Cannot assign \
      requested address",
    "2026/11/29 19:15:13| comm_openex socket failure: (24) Too many open files",
    "Nov 29 19:15:12 host haproxy[71]: Connect() failed for backend B: no free ports.",
    "2026-11-29T19:15:12.123456+00:00 host haproxy[71]: backend B has no server available!",
    "<134>1 2026-11-29T19:15:12Z host haproxy 71 - [a b=\"c\"] Connect() failed for backend B: local address already in use.",
    "<128>Nov 29 19:15:12 haproxy[71]: Cannot bind to source address before connect() for server B/S.",
    "[ALERT] 332/191515 (71) : Cannot bind to source address before connect() for backend B. Aborting.",
    "Proxy P reached process FD limit (maxsock=100). Please check 'ulimit-n' and restart.",
    "10.0.0.1:5000 [29/Nov/2026:19:15:12.123] f B/S 0/0/-1/-1/0 503 217 - - SC-- 1/1/0/0/3 0/0 \"GET / HTTP/1.1\"",
    "10.0.0.1:5000 [29/Nov/2026:19:15:12.123] f B/S 0/-1/0 0 SC 1/1/0/0/3 0/0",
    "2026-11-29T19:15:12.123456789Z stderr F 2026/11/29 19:15:12 [crit] 1#1: accept4() failed (24: No file descriptors \
      available)",
    "2026-11-29T19:15:12.123456789Z stdout P 10.0.0.1:5000 [29/Nov/2026:19:15:12.123] f B/S",
    "2026-11-29T19:15:12.123456789Z stdout F  0/-1/0 0 SC 1/1/0/0/3 0/0",
    concat!(
        r#"{"log":"2026/11/29 19:15:12 [crit] 7#7: *1 connect() to 10.0.1.7:80 failed (99: x)"#,
        r#", request: \"GET \u003c HTTP/1.1\"\n","stream":"stderr","time":"2026-11-29T19:15:12.123456789Z"}"#,
    ),
    concat!(
        r#"{"log":"Connect() failed for backend B: no free ports.\n","stream":"stdout","attrs":{"tag":"x"},"#,
        r#""time":"2026-11-29T19:15:12Z"}"#,
    ),
    "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0a1b2c3d_0000_1111_2222_333344445555.slice/x.scope",
    "",
];

/// The most bytes of an input.
const LARGEST: usize = 1 << 20;

/// Some lines, one after the other.
fn lines(random: &mut Random) -> Vec<u8> {
    let mut text = Vec::new();
    for _ in 0..=random.below(6) {
        text.extend_from_slice(LINES[random.below(LINES.len())].as_bytes());
        text.extend_from_slice([&b"\n"[..], b"\r\n", b"", b"\n\0\0\0"][random.below(4)]);
    }
    text
}

fn change(random: &mut Random, text: &mut Vec<u8>) {
    let at = random.below(text.len());
    let end = at + random.below(text.len() - at + 1);
    match random.below(8) {
        0 => text.truncate(at),
        1 => drop(text.drain(at..end)),
        2 => {
            let part = text[at..end].to_vec();
            let to = random.below(text.len() + 1);
            text.splice(to..to, part);
        }
        3 => {
            let much = if random.below(500) == 0 { 300_000 } else { 300 };
            let byte = b"\0 9\"\\x\n("[random.below(8)];
            text.splice(at..at, vec![byte; random.below(much)]);
        }
        4 => {
            let piece = [
                &b"failed (99:"[..],
                b" failed (",
                b"\\u12",
                b"-1",
                b"99999999999999999999",
                b"\xf0\x9f",
                b": (98)",
                b"|",
            ];
            text.splice(at..at, piece[random.below(8)].iter().copied());
        }
        _ => {
            if let Some(byte) = text.get_mut(at) {
                *byte = u8::try_from(random.below(256)).unwrap();
            }
        }
    }
}

#[test]
fn no_input_ends_or_stops_it() {
    let mut random = Random(0x5eed_1095);
    let mut run = Run::of("logs");
    let mut counted = 0_u64;
    for round in 0..Run::inputs() {
        let mut text = lines(&mut random);
        for _ in 0..random.below(6) {
            change(&mut random, &mut text);
        }
        text.truncate(LARGEST);
        let whole = random.below(4) > 0;
        let report = run.parse(&text, |text| parse(text, whole, &ASKED));
        assert!(
            report.unread + report.undated + report.future <= 2 * report.lines + 2,
            "{report:?}"
        );
        counted += u64::from(report.groups().next().is_some());
        if round % 8 == 0 {
            let mut reader = Reader::new(ASKED, whole);
            let mut rest = &text[..];
            while !rest.is_empty() {
                let (chunk, after) = rest.split_at(1 + random.below(rest.len().min(400)));
                reader.feed(chunk);
                rest = after;
            }
            let chunked = reader.finish();
            assert_eq!(format!("{chunked:?}"), format!("{report:?}"), "{}", text.escape_ascii());
        }
        let upstreams = BTreeMap::new();
        let logged = judge::logs::Logged {
            report: &report,
            path: Path::new("/log"),
            process: None,
            place: None,
            upstreams: &upstreams,
        };
        judge::logs::judge(&logged, &[]);
        pods::pod_uid(&String::from_utf8_lossy(&text));
    }
    run.end();
    assert!(counted > Run::inputs() / 4, "only {counted} inputs still said something");
}
