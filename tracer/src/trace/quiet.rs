//! Namespaces of which the ledger has nothing. Where every hook of one was missed, only its own counters say that it
//! has sockets.

use std::{
    collections::HashSet,
    fs, io,
    time::{Duration, Instant},
};

use super::{Tracer, left_out::Look};
use crate::{netns::Netns, shutdown};

/// The kernel's counters of the namespace that the reading thread is in (`net/ipv4/proc.c`, `net/ipv6/proc.c`).
const COUNTERS: [&str; 2] = ["/proc/thread-self/net/sockstat", "/proc/thread-self/net/sockstat6"];
/// How long it takes until the counters are read again, unless reading them took long: then, so many times as long.
const SOONEST: Duration = Duration::from_secs(30);
const LATEST: Duration = Duration::from_mins(5);
const SHARE: u32 = 2000;

/// When the counters were read last.
#[derive(Debug)]
pub(super) struct Quiet {
    looked: Instant,
    cost: Duration,
}

impl Quiet {
    /// All namespaces have just been read in full.
    pub(super) fn new(now: Instant) -> Self {
        Self { looked: now, cost: Duration::ZERO }
    }

    fn is_due(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.looked) >= (self.cost * SHARE).clamp(SOONEST, LATEST)
    }
}

/// TCP sockets in the text of `sockstat` or `sockstat6`, TIME_WAITs among them. Text without such a line has none:
/// a kernel without IPv6 has no second file.
fn sockets(text: &str) -> u64 {
    let mut count = 0_u64;
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        if !matches!(words.next(), Some("TCP:" | "TCP6:")) {
            continue;
        }
        while let (Some(name), Some(value)) = (words.next(), words.next()) {
            if matches!(name, "inuse" | "tw") {
                count = count.saturating_add(value.parse().unwrap_or(0));
            }
        }
    }
    count
}

/// Whether the namespace of the calling thread has TCP sockets.
fn has_sockets() -> io::Result<bool> {
    for path in COUNTERS {
        match fs::read_to_string(path) {
            Ok(text) if sockets(&text) > 0 => return Ok(true),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(false)
}

impl Tracer {
    /// Now and then, the namespaces that have TCP sockets and that are not among `known`; else none.
    pub(super) fn quiet_namespaces(&mut self, known: &HashSet<u32>) -> Vec<Netns> {
        let began = Instant::now();
        if !self.quiet.is_due(began) {
            return Vec::new();
        }
        let mut found = self.namespaces();
        found.retain(|netns| {
            if known.contains(&netns.inum) || shutdown::asked().is_some() {
                return false;
            }
            match self.worker.run_in(netns, has_sockets).and_then(|result| result) {
                Ok(has) => has,
                Err(error) => {
                    // One that has gone has no sockets.
                    if error.kind() != io::ErrorKind::NotFound && shutdown::asked().is_none() {
                        self.left_out.add(netns, Look::Sockets, &error);
                    }
                    false
                }
            }
        });
        self.quiet = Quiet { looked: Instant::now(), cost: began.elapsed() };
        found
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::test_netns;

    #[test]
    fn sockets_of_both_families_and_time_waits_are_counted() {
        let text =
            "sockets: used 9\nTCP: inuse 3 orphan 7 tw 2 alloc 9 mem 1\nUDP: inuse 4 mem 3\n";
        assert_eq!(sockets(text), 5);
        assert_eq!(sockets("TCP6: inuse 4\nUDP6: inuse 1\n"), 4);
        assert_eq!(sockets(""), 0);
        assert_eq!(sockets("TCP: inuse x tw"), 0);
    }

    #[test]
    fn a_namespace_says_whether_it_has_sockets() {
        test_netns::run(|| {
            assert!(!has_sockets().unwrap());
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            assert!(has_sockets().unwrap());
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            drop(listener.accept().unwrap());
            drop((client, listener));
        });
    }

    #[test]
    fn what_takes_long_is_done_seldom() {
        let now = Instant::now();
        let later = |quiet: &Quiet, seconds| quiet.is_due(now + Duration::from_secs(seconds));
        let quiet = Quiet::new(now);
        assert!(!later(&quiet, 29) && later(&quiet, 30));
        let slow = Quiet { cost: Duration::from_millis(50), ..quiet };
        assert!(!later(&slow, 99) && later(&slow, 100));
        let slowest = Quiet { cost: Duration::from_secs(9), looked: now };
        assert!(!later(&slowest, 299) && later(&slowest, 300));
    }
}
