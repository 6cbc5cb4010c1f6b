//! Counts the TCP sockets of a network namespace without listing them.

use std::{fs, io};

/// The kernel's counters of the calling thread's network namespace (`net/ipv4/proc.c`, `net/ipv6/proc.c`).
const COUNTERS: [&str; 2] = ["/proc/thread-self/net/sockstat", "/proc/thread-self/net/sockstat6"];

/// How many TCP sockets of the calling thread's network namespace listen, connect or are connected; with `time_waits`
/// including those in TIME_WAIT. A file of the counters that does not exist counts as 0.
///
/// # Errors
/// A file of the counters exists and cannot be read.
pub(crate) fn sockets(time_waits: bool) -> io::Result<u64> {
    let mut count = 0_u64;
    for path in COUNTERS {
        match fs::read_to_string(path) {
            Ok(text) => count = count.saturating_add(parse(&text, time_waits)),
            // A kernel without IPv6 has no second file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

/// The number in the text of `sockstat` or `sockstat6`; 0 if it has no line for TCP or no number there.
fn parse(text: &str, time_waits: bool) -> u64 {
    let mut count = 0_u64;
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        if !matches!(words.next(), Some("TCP:" | "TCP6:")) {
            continue;
        }
        while let (Some(name), Some(value)) = (words.next(), words.next()) {
            if name == "inuse" || name == "tw" && time_waits {
                count = count.saturating_add(value.parse().unwrap_or(0));
            }
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::host::test_netns;

    #[test]
    fn sockets_of_both_families_and_time_waits_are_counted() {
        let text =
            "sockets: used 9\nTCP: inuse 3 orphan 7 tw 2 alloc 9 mem 1\nUDP: inuse 4 mem 3\n";
        assert_eq!((parse(text, true), parse(text, false)), (5, 3));
        assert_eq!(parse("TCP6: inuse 4\nUDP6: inuse 1\n", true), 4);
        assert_eq!(parse("", true), 0);
        assert_eq!(parse("TCP: inuse x tw", true), 0);
    }

    #[test]
    fn a_namespace_says_how_many_sockets_it_has() {
        test_netns::run(|| {
            assert_eq!(sockets(true).unwrap(), 0);
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            assert_eq!(sockets(false).unwrap(), 1);
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            drop(listener.accept().unwrap());
            drop((client, listener));
        });
    }
}
