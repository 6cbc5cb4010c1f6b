//! Counts the TCP sockets of a network namespace without listing them.

use std::{fs, io, path::Path};

/// The folder of the calling thread's network namespace.
const OWN: &str = "/proc/thread-self/net";
/// The kernel's counters in it (`net/ipv4/proc.c`, `net/ipv6/proc.c`).
const FILES: [&str; 2] = ["sockstat", "sockstat6"];

/// How many TCP sockets a network namespace has, of both address families.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SocketCounts {
    /// Those that listen, connect or are connected.
    pub in_use: u64,
    /// Those in TIME_WAIT, and in FIN_WAIT2 if no process has them open; accepted connections included.
    pub time_waits: u64,
}

impl SocketCounts {
    /// Reads the counters in a folder such as /proc/PID/net: of both address families.
    ///
    /// # Errors
    /// A file of the counters cannot be read.
    pub(crate) fn read(folder: &Path) -> io::Result<Self> {
        let mut counts = Self::default();
        for name in FILES {
            match fs::read_to_string(folder.join(name)) {
                Ok(text) => counts.add(&text),
                // A kernel without IPv6 has no second file.
                Err(error) if error.kind() == io::ErrorKind::NotFound && name != FILES[0] => {}
                Err(error) => return Err(error),
            }
        }
        Ok(counts)
    }

    /// Adds the numbers in the text of `sockstat` or `sockstat6`; none if it has no line for TCP. A value that is no number
    /// counts as 0.
    pub(crate) fn add(&mut self, text: &str) {
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            if !matches!(words.next(), Some("TCP:" | "TCP6:")) {
                continue;
            }
            while let (Some(name), Some(value)) = (words.next(), words.next()) {
                let value = value.parse().unwrap_or(0);
                match name {
                    "inuse" => self.in_use = self.in_use.saturating_add(value),
                    "tw" => self.time_waits = self.time_waits.saturating_add(value),
                    _ => {}
                }
            }
        }
    }
}

/// How many TCP sockets of the calling thread's network namespace listen, connect or are connected; with `time_waits`
/// including those in TIME_WAIT.
///
/// # Errors
/// A file of the counters cannot be read.
pub(crate) fn sockets(time_waits: bool) -> io::Result<u64> {
    let counts = SocketCounts::read(Path::new(OWN))?;
    Ok(if time_waits { counts.in_use.saturating_add(counts.time_waits) } else { counts.in_use })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::host::test_netns;

    fn parse(text: &str) -> (u64, u64) {
        let mut counts = SocketCounts::default();
        counts.add(text);
        (counts.in_use, counts.time_waits)
    }

    #[test]
    fn sockets_of_both_families_and_time_waits_are_counted() {
        let text =
            "sockets: used 9\nTCP: inuse 3 orphan 7 tw 2 alloc 9 mem 1\nUDP: inuse 4 mem 3\n";
        assert_eq!(parse(text), (3, 2));
        assert_eq!(parse(&format!("{text}TCP6: inuse 4\nUDP6: inuse 1\n")), (7, 2));
        assert_eq!(parse(""), (0, 0));
        assert_eq!(parse("TCP: inuse x tw"), (0, 0));
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

    #[test]
    fn a_folder_without_counters_is_an_error() {
        let error = SocketCounts::read(Path::new("/proc/self/task")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
