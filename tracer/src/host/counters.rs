//! Reads the kernel's counters of TCP in a network namespace: `netstat` and `sockstat` of /proc (proc_net(5)). No privilege is
//! needed, also for the namespaces of other users' processes.

#[cfg(test)]
mod tests;

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

pub use crate::host::sockstat::SocketCounts;

/// The counters of the calling thread's namespace.
const OWN: &str = "/proc/thread-self/net";
/// Longer than these files are: `netstat` has some 5 KiB.
const LONGEST: u64 = 256 * 1024;

/// Defines the counters from the kernel's names (`snmp4_net_list` in net/ipv4/proc.c).
macro_rules! counters {
    ($($(#[$about:meta])* $field:ident => $name:literal,)+) => {
        /// Counters since the namespace was made, or the growth of each between two readings ([`Self::since`]). `None`: this
        /// kernel does not have it.
        #[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
        pub struct Counters {
            $($(#[$about])* pub $field: Option<u64>,)+
        }

        impl Counters {
            /// By how much each counter grew since `before`; `None`: it is missing in one of the two. A counter that became
            /// smaller has begun anew (it grew by its value), or wrapped at 32 bits.
            #[must_use]
            pub fn since(&self, before: &Self) -> Self {
                Self { $($field: growth(self.$field, before.$field),)+ }
            }

            fn set(&mut self, name: &str, value: u64) {
                match name {
                    $($name => self.$field = Some(value),)+
                    _ => {}
                }
            }
        }
    };
}

counters! {
    /// TIME_WAITs that began, those of accepted connections included.
    time_waits => "TW",
    /// TIME_WAITs that a connect() took over.
    time_waits_reused => "TWRecycled",
    /// Connections that ended without a TIME_WAIT because there were `net.ipv4.tcp_max_tw_buckets`.
    time_wait_overflows => "TCPTimeWaitOverflow",
    /// SYNs, and answers to SYNs, that were sent again.
    syns_sent_again => "TCPSynRetrans",
    /// SYNs and connections that a listener dropped because its accept queue was full; a SYN that is sent again counts again.
    listen_overflows => "ListenOverflows",
    /// SYNs and connections that a listener dropped for any reason.
    listen_drops => "ListenDrops",
    /// SYNs that were answered with a cookie because the listener's SYN queue was full.
    syn_cookies => "TCPReqQFullDoCookies",
    /// SYNs that were dropped because the listener's SYN queue was full.
    syns_dropped => "TCPReqQFullDrop",
    /// Connections that were reset because TCP has too little memory or too many sockets without a process.
    memory_aborts => "TCPAbortOnMemory",
    /// Packets that the reverse path filter dropped.
    reverse_path_drops => "IPReversePathFilter",
}

impl Counters {
    /// Parses the text of `netstat`; a counter that is not in it, or that is no number, is missing.
    pub fn parse(text: &str) -> Self {
        let mut counters = Self::default();
        // A line of names is followed by a line of values, both with the same first word.
        let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
        while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
            let words = names.split_ascii_whitespace().zip(values.split_ascii_whitespace());
            for (name, value) in words.skip(1) {
                if let Ok(value) = value.parse() {
                    counters.set(name, value);
                }
            }
        }
        counters
    }
}

/// By how much a counter grew. A smaller value than before is a wrap of 32 bits (kernels of 32 bits count so), or, if that
/// would be growth by more than half of them, a counter that began anew.
fn growth(now: Option<u64>, before: Option<u64>) -> Option<u64> {
    const WRAP: u64 = 1 << 32;
    let (now, before) = (now?, before?);
    if let Some(growth) = now.checked_sub(before) {
        return Some(growth);
    }
    let wrapped = now.saturating_add(WRAP).checked_sub(before).filter(|it| *it < WRAP / 2);
    Some(wrapped.unwrap_or(now))
}

/// One reading of a namespace's counters.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Reading {
    pub counters: Counters,
    pub sockets: SocketCounts,
}

impl Reading {
    /// Reads the counters of the calling thread's namespace.
    ///
    /// # Errors
    /// A file cannot be read; the text names it.
    pub fn here() -> io::Result<Self> {
        Self::below(Path::new(OWN))
    }

    /// Reads the counters of a process's namespace, that of its first thread.
    ///
    /// # Errors
    /// A file cannot be read; the text names it. `NotFound`: the process has ended, or is hidden.
    pub fn of_process(pid: u32) -> io::Result<Self> {
        let folder: PathBuf = ["/proc", &pid.to_string(), "net"].iter().collect();
        Self::below(&folder)
    }

    fn below(folder: &Path) -> io::Result<Self> {
        let counters = Counters::parse(&read(&folder.join("netstat"))?);
        let sockets =
            SocketCounts::read(folder).map_err(|error| named(&folder.join("sockstat"), error))?;
        Ok(Self { counters, sockets })
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let opened = File::open(path).and_then(|file| file.take(LONGEST).read_to_string(&mut text));
    opened.map_err(|error| named(path, error))?;
    Ok(text)
}

/// The error with the name of the file. A process that ends after its file was opened is not found, too.
fn named(path: &Path, error: io::Error) -> io::Error {
    let ended = error.raw_os_error() == Some(libc::ESRCH);
    let kind = if ended { io::ErrorKind::NotFound } else { error.kind() };
    io::Error::new(kind, format!("cannot read {}: {error}", path.display()))
}
