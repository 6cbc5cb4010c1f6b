//! Reads which source ports connect() can be given in a network namespace and which TIME_WAITs it may reuse, and computes how
//! many ports a tuple can hold.

pub mod addresses;
pub mod apart;
mod bound_ports;
mod limits;
mod packed;
mod port_set;

pub use bound_ports::BoundPorts;
pub use limits::{Limits, Usable};
pub use packed::PackedPorts;
pub use port_set::PortSet;

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

use tracer_common::{Addr, Halves, TupleCount, TupleKey};

use crate::host::sysctl;

/// The ports that the kernel chooses from, by the sysctls of one network namespace.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PortRange {
    /// First port (net.ipv4.ip_local_port_range).
    pub low: u16,
    /// Last port, inclusive; not below `low` if [`Self::read`] made this.
    pub high: u16,
    /// Ports that the kernel never chooses (net.ipv4.ip_local_reserved_ports); may be outside of the range.
    pub reserved: Vec<RangeInclusive<u16>>,
}

impl Default for PortRange {
    /// The kernel's default.
    fn default() -> Self {
        Self { low: 32_768, high: 60_999, reserved: Vec::new() }
    }
}

impl PortRange {
    /// Reads the sysctls of the calling thread's network namespace: /proc/sys/net shows each thread its own.
    ///
    /// # Errors
    /// A file cannot be read, or (`InvalidData`) not understood; the text names it.
    pub fn read() -> io::Result<Self> {
        let (range, reserved) =
            (setting("ip_local_port_range")?, setting("ip_local_reserved_ports")?);
        let (low, high) =
            parse_range(&range).ok_or_else(|| unexpected("ip_local_port_range", &range))?;
        let reserved = parse_reserved(&reserved)
            .ok_or_else(|| unexpected("ip_local_reserved_ports", &reserved))?;
        Ok(Self { low, high, reserved })
    }

    /// Whether the range has this port, reserved or not.
    pub fn contains(&self, port: u16) -> bool {
        (self.low..=self.high).contains(&port)
    }
}

/// Which TIME_WAITs the kernel's port search may reuse in one network namespace (net.ipv4.tcp_tw_reuse).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Reuse {
    /// 0: none; 1: all; 2: those of loopback addresses (the kernel's default).
    pub setting: u8,
    /// The age from which on they can be reused, ms (net.ipv4.tcp_tw_reuse_delay). `None`: the kernel has no such setting (before
    /// Linux 6.14), so from the next second of its clock on; or the setting cannot be read.
    pub delay_ms: Option<u32>,
    /// Whether net.ipv4.tcp_timestamps is on: without timestamps, no TIME_WAIT is reused.
    pub timestamps: bool,
}

impl Reuse {
    /// Reads the sysctls of the calling thread's network namespace. If tcp_tw_reuse or tcp_timestamps cannot be read or
    /// understood, it counts as 0, so that nothing depends on a reuse that may not happen.
    pub fn read() -> Self {
        let number = |name: &str| -> Option<u32> {
            let text = setting(name).map_err(|error| tracing::debug!("{error}")).ok()?;
            text.trim().parse().ok()
        };
        let setting = number("tcp_tw_reuse").and_then(|it| u8::try_from(it).ok()).unwrap_or(0);
        let timestamps = number("tcp_timestamps").is_some_and(|it| it != 0);
        Self { setting, delay_ms: number("tcp_tw_reuse_delay"), timestamps }
    }

    /// Those of a tuple's TIME_WAITs that connect() may reuse, of any age (`old` is false); `None`: the settings allow none.
    pub fn of(self, key: &TupleKey, count: &TupleCount) -> Option<TakenOver> {
        /// ms. Before Linux 6.14, reuse begins with the next second of a clock that counts whole seconds; by this age it
        /// has begun.
        const NEXT_SECOND_MS: u32 = 2_000;
        let loopback = is_loopback(key.source) || is_loopback(key.destination);
        (self.timestamps && self.is_on(loopback)).then(|| TakenOver {
            all: u64::from(Halves(count.waiting).even()) + u64::from(Halves(count.waiting).odd()),
            old: false,
            after_ms: self.delay_ms.unwrap_or(NEXT_SECOND_MS),
        })
    }

    /// Whether tcp_tw_reuse lets TIME_WAITs be reused: those of loopback addresses if `loopback` is true, else all others.
    pub const fn is_on(self, loopback: bool) -> bool {
        self.setting == 1 || (self.setting == 2 && loopback)
    }
}

/// TIME_WAITs of a tuple that connect() may reuse: no bind() took their ports, and both ends used timestamps.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TakenOver {
    /// How many there are.
    pub all: u64,
    /// Whether all of them are old enough to be reused now; false: each is from the age `after_ms` on.
    pub old: bool,
    /// The age from which on they can be reused, ms.
    pub after_ms: u32,
}

impl TakenOver {
    /// Those of a recording's reading: `reusable` ones, all old enough at that time. `after_ms` is 1,000, because a recording
    /// does not have the setting.
    pub const fn recorded(reusable: u64) -> Self {
        Self { all: reusable, old: true, after_ms: 1_000 }
    }
}

/// Whether the address is in 127.0.0.0/8 or is ::1, for which net.ipv4.tcp_tw_reuse=2 holds.
pub(crate) fn is_loopback(address: Addr) -> bool {
    address.to_v4().map_or_else(
        || Ipv6Addr::from(address.0).is_loopback(),
        |octets| Ipv4Addr::from(octets).is_loopback(),
    )
}

fn path_of(name: &str) -> String {
    format!("/proc/sys/net/ipv4/{name}")
}

fn setting(name: &str) -> io::Result<String> {
    let path = path_of(name);
    sysctl::read(&path)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot read {path}: {error}")))
}

fn unexpected(name: &str, text: &str) -> io::Error {
    let message = format!("cannot understand {}: it has {:?}", path_of(name), text.trim());
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// Parses `32768\t60999`: first and last port. `None`: anything else, or the first is above the last.
fn parse_range(text: &str) -> Option<(u16, u16)> {
    let mut words = text.split_ascii_whitespace();
    let (low, high) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    (words.next().is_none() && low <= high).then_some((low, high))
}

/// Parses `8080,9148-9150`: runs of ports in the order of the text, in which a run from a higher to a lower port is empty. An
/// empty text has none. `None`: anything else.
pub fn parse_reserved(text: &str) -> Option<Vec<RangeInclusive<u16>>> {
    let items = text.trim().split(',').filter(|item| !item.is_empty());
    let parse = |item: &str| {
        let (low, high) = item.split_once('-').unwrap_or((item, item));
        Some(low.parse().ok()?..=high.parse().ok()?)
    };
    items.map(parse).collect()
}

/// How many ports a tuple can hold, and which of its TIME_WAITs connect() can reuse.
#[derive(Clone, Copy, Debug, Default)]
pub struct Holds {
    /// Ports that it can hold; `None`: not known.
    pub capacity: Option<u32>,
    /// TIME_WAITs that connect() may reuse; `None`: the settings allow none, or are not known.
    pub reuse: Option<TakenOver>,
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::host::test_netns;

    #[test]
    fn sysctl_texts_are_understood_or_refused() {
        assert_eq!(parse_range("32768\t60999\n"), Some((32_768, 60_999)));
        for text in ["", "1", "1 2 3", "2 1", "1 65536", "a b"] {
            assert_eq!(parse_range(text), None, "{text}");
        }
        assert_eq!(parse_reserved("\n"), Some(vec![]));
        assert_eq!(parse_reserved("8080,9148-9150\n"), Some(vec![8080..=8080, 9148..=9150]));
        assert_eq!(parse_reserved("8080,x"), None);
        assert_eq!(parse_reserved("70000"), None);
    }

    #[test]
    fn a_long_list_of_reserved_ports_is_read_to_its_end() {
        let inside = test_netns::run(|| {
            fs::write(path_of("ip_local_port_range"), "40000 40099").unwrap();
            let odd = (40_001..40_100).step_by(2).map(|port: u16| port.to_string());
            let list = odd.collect::<Vec<_>>().join(",");
            fs::write(path_of("ip_local_reserved_ports"), list).unwrap();
            PortRange::read().unwrap()
        });
        assert_eq!(Usable::new(&inside, PackedPorts::default()).limits().usable(), 50);
    }

    #[test]
    fn reuse_of_time_waits_is_read_in_the_threads_own_namespace() {
        let inside = test_netns::run(|| {
            fs::write(path_of("tcp_tw_reuse"), "1").unwrap();
            Reuse::read()
        });
        assert_eq!(inside.setting, 1);
        let on = |setting| {
            [false, true].map(|loopback| Reuse { setting, ..Reuse::default() }.is_on(loopback))
        };
        assert_eq!([0, 1, 2].map(on), [[false; 2], [true; 2], [false, true]]);
    }

    #[test]
    fn each_thread_reads_its_own_namespace() {
        let before = PortRange::read().unwrap();
        let inside = test_netns::run(|| {
            fs::write(path_of("ip_local_port_range"), "41000 41999").unwrap();
            fs::write(path_of("ip_local_reserved_ports"), "41001,41010-41012").unwrap();
            PortRange::read().unwrap()
        });
        let reserved = vec![41_001..=41_001, 41_010..=41_012];
        assert_eq!(inside, PortRange { low: 41_000, high: 41_999, reserved });
        assert_eq!(Usable::new(&inside, PackedPorts::default()).limits().usable(), 996);
        assert_eq!(PortRange::read().unwrap(), before);
    }
}
