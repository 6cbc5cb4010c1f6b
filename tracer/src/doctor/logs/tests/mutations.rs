//! Random changes of real lines: no panic, no long wait, bounded memory, and the same report however the bytes arrive.

use std::{collections::BTreeMap, env};

use rustix::time::{ClockId, clock_gettime};

use super::*;
use crate::doctor::{judge, logs::pods};

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

/// The generator xorshift64*, with a fixed seed: every run has the same inputs.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        usize::try_from(number).unwrap() % limit.max(1)
    }

    /// Some lines, one after the other.
    fn text(&mut self) -> Vec<u8> {
        let mut text = Vec::new();
        for _ in 0..=self.below(6) {
            text.extend_from_slice(LINES[self.below(LINES.len())].as_bytes());
            text.extend_from_slice([&b"\n"[..], b"\r\n", b"", b"\n\0\0\0"][self.below(4)]);
        }
        text
    }

    fn change(&mut self, text: &mut Vec<u8>) {
        let at = self.below(text.len());
        let end = at + self.below(text.len() - at + 1);
        match self.below(8) {
            0 => text.truncate(at),
            1 => drop(text.drain(at..end)),
            2 => {
                let part = text[at..end].to_vec();
                let to = self.below(text.len() + 1);
                text.splice(to..to, part);
            }
            3 => {
                let much = if self.below(500) == 0 { 300_000 } else { 300 };
                let byte = b"\0 9\"\\x\n("[self.below(8)];
                text.splice(at..at, vec![byte; self.below(much)]);
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
                text.splice(at..at, piece[self.below(8)].iter().copied());
            }
            _ => {
                if let Some(byte) = text.get_mut(at) {
                    *byte = u8::try_from(self.below(256)).unwrap();
                }
            }
        }
    }
}

/// The longest that an input may take.
const LONG: Duration = Duration::from_millis(if cfg!(debug_assertions) { 200 } else { 10 });

/// How long this thread has run: a busy machine may take it off its CPU for longer than it runs.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap()
}

fn inputs() -> u64 {
    env::var("TRACER_TEST_MUTATIONS").ok().and_then(|it| it.parse().ok()).unwrap_or(2_000)
}

#[test]
fn no_input_ends_or_stops_it() {
    let mut random = Random(0x5eed_1095);
    let (mut longest, mut counted) = (Duration::ZERO, 0_u64);
    for round in 0..inputs() {
        let mut text = random.text();
        for _ in 0..random.below(6) {
            random.change(&mut text);
        }
        let whole = random.below(4) > 0;
        let began = cpu_time();
        let report = parse(&text, whole, &ASKED);
        let mut took = cpu_time().saturating_sub(began);
        // A virtual CPU that the host takes away seems to run: what is slow is slow each time.
        for _ in 0..5 {
            if took > LONG {
                let began = cpu_time();
                parse(&text, whole, &ASKED);
                took = took.min(cpu_time().saturating_sub(began));
            }
        }
        longest = longest.max(took);
        assert!(took < LONG, "{took:?} for {} bytes", text.len());
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
    assert!(counted > inputs() / 4, "only {counted} inputs still said something");
}
