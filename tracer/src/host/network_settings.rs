//! Reads the settings of a network namespace that decide how connections fail, other than those of the port range and of reuse
//! ([`crate::host::capacity`]).

use std::{fs, io, path::Path};

use crate::host::sysctl;

/// The settings, by the files below /proc/sys/net. `None`: this kernel does not have it, or it cannot be read.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct NetworkSettings {
    /// The most TIME_WAITs: while there are as many, further connections end without one (net.ipv4.tcp_max_tw_buckets).
    pub most_time_waits: Option<u64>,
    /// Whether programs may bind IPv4 addresses that this namespace does not have (net.ipv4.ip_nonlocal_bind).
    pub nonlocal_bind: Option<bool>,
    /// The same for IPv6 (net.ipv6.ip_nonlocal_bind).
    pub nonlocal_bind_v6: Option<bool>,
    /// The strictest reverse path filter of an interface (net.ipv4.conf.*.rp_filter), of the first 4,096 interfaces.
    pub reverse_path: Option<ReversePath>,
    /// The most connections that may wait at a listener, whatever its program asks for (net.core.somaxconn).
    pub longest_backlog: Option<u64>,
    /// How long FIN_WAIT2 lasts without the socket's program, in seconds (net.ipv4.tcp_fin_timeout).
    pub fin_wait2_s: Option<u64>,
    /// The first port that a program may bind without a privilege (net.ipv4.ip_unprivileged_port_start). The port range cannot be
    /// set to begin below it.
    pub first_unprivileged_port: Option<u16>,
}

/// What a reverse path filter drops, from nothing to most.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum ReversePath {
    /// Nothing.
    Off,
    /// Packets from sources to which there is no route.
    Loose,
    /// Packets that arrive at another interface than that by which their source is reached.
    Strict,
}

impl ReversePath {
    /// The filter of an interface: of its own value and that of `all`, the larger one counts (ip-sysctl.rst).
    fn of(all: u64, own: u64) -> Self {
        match all.max(own) {
            0 => Self::Off,
            1 => Self::Strict,
            _ => Self::Loose,
        }
    }
}

/// The most interfaces that are looked at.
const INTERFACES: usize = 4096;

impl NetworkSettings {
    /// Reads the settings of the calling thread's namespace: /proc/sys/net shows each thread its own.
    pub fn read() -> Self {
        let root = Path::new("/proc/sys/net");
        let number = |name: &str| number(&root.join(name));
        let flag = |name: &str| number(name).map(|value| value != 0);
        Self {
            most_time_waits: number("ipv4/tcp_max_tw_buckets"),
            nonlocal_bind: flag("ipv4/ip_nonlocal_bind"),
            nonlocal_bind_v6: flag("ipv6/ip_nonlocal_bind"),
            reverse_path: reverse_path(&root.join("ipv4/conf")),
            longest_backlog: number("core/somaxconn"),
            fin_wait2_s: number("ipv4/tcp_fin_timeout"),
            first_unprivileged_port: number("ipv4/ip_unprivileged_port_start")
                .and_then(|port| u16::try_from(port).ok()),
        }
    }
}

/// A number in a file; `None`: the file cannot be read, or has none.
fn number(path: &Path) -> Option<u64> {
    let text = sysctl::read(path)
        .map_err(|error| tracing::debug!("cannot read {}: {error}", path.display()));
    text.ok()?.trim().parse().ok()
}

/// The strictest filter of the interfaces that have a folder here. The folder `default` is for interfaces to come.
fn reverse_path(folder: &Path) -> Option<ReversePath> {
    let value = |interface: &Path| number(&interface.join("rp_filter"));
    let all = value(&folder.join("all")).unwrap_or(0);
    let entries = fs::read_dir(folder).ok()?.take(INTERFACES).filter_map(io::Result::ok);
    let interfaces = entries.map(|entry| entry.path());
    let real = interfaces.filter(|path| !path.ends_with("default") && !path.ends_with("all"));
    real.filter_map(|path| Some(ReversePath::of(all, value(&path)?))).max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::test_netns;

    #[test]
    fn settings_are_those_of_the_threads_namespace() {
        let (before, after) = test_netns::run(|| {
            let before = NetworkSettings::read();
            for (name, value) in [
                ("ipv4/tcp_max_tw_buckets", "5"),
                ("ipv4/ip_nonlocal_bind", "1"),
                ("ipv4/conf/default/rp_filter", "1"),
                ("ipv4/conf/all/rp_filter", "0"),
                ("ipv4/conf/lo/rp_filter", "2"),
                ("core/somaxconn", "3"),
                ("ipv4/tcp_fin_timeout", "7"),
                ("ipv4/ip_unprivileged_port_start", "80"),
            ] {
                fs::write(format!("/proc/sys/net/{name}"), value).unwrap();
            }
            (before, NetworkSettings::read())
        });
        let expected = NetworkSettings {
            most_time_waits: Some(5),
            nonlocal_bind: Some(true),
            nonlocal_bind_v6: before.nonlocal_bind_v6,
            reverse_path: Some(ReversePath::Loose),
            longest_backlog: Some(3),
            fin_wait2_s: Some(7),
            first_unprivileged_port: Some(80),
        };
        assert_eq!(after, expected);
        assert_eq!(
            (before.nonlocal_bind, before.first_unprivileged_port),
            (Some(false), Some(1024))
        );
        assert!(before.most_time_waits > Some(1_000) && before.longest_backlog > Some(100));
    }

    #[test]
    fn the_larger_value_counts_and_the_strictest_interface() {
        use ReversePath::{Loose, Off, Strict};
        let of = |(all, own)| ReversePath::of(all, own);
        assert_eq!(
            [(0, 0), (0, 1), (1, 0), (2, 1), (1, 2)].map(of),
            [Off, Strict, Strict, Loose, Loose]
        );
        assert_eq!([Loose, Strict, Off].into_iter().max(), Some(Strict));
    }

    #[test]
    fn what_is_not_there_is_missing() {
        assert_eq!(number(Path::new("/proc/sys/net/ipv4/no-such")), None);
        assert_eq!(number(Path::new("/proc/sys/kernel/osrelease")), None);
        assert_eq!(reverse_path(Path::new("/proc/sys/net/no-such")), None);
    }
}
