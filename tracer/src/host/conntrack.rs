//! Reads connection tracking (conntrack) in the network namespace of the calling thread: how full its table is, what its counters
//! say, and which ports of which addresses its source NAT uses.
//!
//! The kernel tracks connections only where a rule needs it: without NAT and without `ct` rules the table stays empty.

mod counters;
mod entry;
mod list;
mod mappings;
#[cfg(test)]
mod tests;

use std::{
    fs::File,
    io::{self, Read},
};

pub use counters::Counters;
pub use entry::{Snat, protocol};
pub use list::{Bounds, count_untranslated, mappings};
pub use mappings::{Mappings, Part, Ports};

use super::sysctl;

/// The counters of each CPU: see [`counters::parse`].
const COUNTERS: &str = "/proc/thread-self/net/stat/nf_conntrack";
/// The most bytes of that file that are read: a row of a CPU has some 160.
const LONGEST: u64 = 4 * 1024 * 1024;

/// How full the table is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Fill {
    /// Entries of this namespace.
    pub count: u32,
    /// The most entries that a namespace may have. It is one value for the host, which each namespace's own count is compared
    /// with. `None`: there is no limit, or this namespace does not show it.
    pub max: Option<u32>,
    /// Chains of the table, which all namespaces share; `None`: not shown.
    pub buckets: Option<u32>,
    /// How long an idle established TCP connection keeps its entry, in seconds; `None`: not shown.
    pub established_s: Option<u32>,
    /// How long a TCP connection keeps its entry after both ends have closed it, in seconds; `None`: not shown.
    pub time_wait_s: Option<u32>,
}

impl Fill {
    /// Share of the entries that are in use: `count` / `max`, which can be above 1 after the limit was lowered; 0 if `max` is
    /// `None`.
    pub fn share(&self) -> f64 {
        self.max.map_or(0.0, |max| f64::from(self.count) / f64::from(max))
    }
}

/// How full the table of the calling thread's namespace is; `None`: connections are not tracked, because the module is not
/// loaded.
///
/// # Errors
/// There are files of it, and they cannot be read.
pub fn fill() -> io::Result<Option<Fill>> {
    let count = match setting("count")? {
        Some(count) => count,
        // In a user namespace of its own, a namespace shows no settings on older kernels.
        None => match stat_file()? {
            Some((entries, _)) => entries,
            None => return Ok(None),
        },
    };
    Ok(Some(Fill {
        count,
        max: setting("max")?.filter(|max| *max > 0),
        buckets: setting("buckets")?,
        established_s: setting("tcp_timeout_established")?,
        time_wait_s: setting("tcp_timeout_time_wait")?,
    }))
}

/// The counters of the calling thread's namespace. Ask only if [`fill`] is not `None`: asking by netlink, as is done where the
/// kernel has no file of the counters, loads the module.
///
/// # Errors
/// Neither the file can be read, nor does the kernel answer. `PermissionDenied`: it has no file, and this needs CAP_NET_ADMIN.
pub fn counters() -> io::Result<Counters> {
    match stat_file()? {
        Some((_, counters)) => Ok(counters),
        None => counters::by_netlink(),
    }
}

/// The number of entries, and the counters; `None`: there is no such file.
fn stat_file() -> io::Result<Option<(u32, Counters)>> {
    let file = match File::open(COUNTERS) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text)?;
    counters::parse(&text).map(Some).ok_or_else(|| damaged("nf_conntrack"))
}

/// A setting of the calling thread's namespace; `None`: there is none of this name.
fn setting(name: &str) -> io::Result<Option<u32>> {
    match sysctl::read(format!("/proc/sys/net/netfilter/nf_conntrack_{name}")) {
        Ok(text) => text.trim().parse().map(Some).map_err(|_| damaged(name)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn damaged(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{name} is not as expected"))
}
