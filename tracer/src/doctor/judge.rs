//! Judges what was seen: pure functions from facts to findings, one file for each kind.

pub mod conntrack;
pub mod descriptors;
pub mod explanation;
mod flows;
pub mod haproxy;
mod lingering;
pub mod listeners;
pub mod logs;
pub mod nat_behind;
mod new_address;
pub mod nginx;
mod not_local;
mod ports;
pub mod proxies;
pub mod queues;
mod remedies;
mod search;
mod set;
mod silent;
mod space;
pub mod squid;
pub mod sysctls;
#[cfg(test)]
mod test_kernel;
#[cfg(test)]
pub(super) mod test_seen;
#[cfg(test)]
mod test_sockets;
mod text;
pub mod time_wait;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    time::Duration,
};

pub use lingering::held;
pub use new_address::name_interfaces;
pub use set::unite_reservations;
pub(crate) use text::look_again;
pub(super) use text::subject;
use tracer_common::Addr;

use super::{
    activity::Activity,
    finding::{Finding, Place, Process, Severity, Subject},
    flow::Flow,
    snapshot::Details,
    tuples::{Ends, Settings, Tuple, Tuples},
};
use crate::host::counters::Counters;

/// What was seen in a network namespace.
#[derive(Clone, Debug)]
pub struct Seen {
    pub place: Place,
    pub settings: Settings,
    /// The sockets at the end of the window.
    pub now: Tuples,
    /// The sockets at the beginning of the window, and how long before its end that was; `None`: there was one look.
    pub before: Option<(Tuples, Duration)>,
    /// How long a TIME_WAIT lasts at most on this host, in seconds.
    pub time_wait_s: f64,
    /// What happened during the window, by tuple; empty if the hooks were not attached.
    pub activity: BTreeMap<Ends, Activity>,
    /// Addresses at which bind(address, 0) or listen() takes ports, and those at which bind() failed; empty if the hooks were not
    /// attached.
    pub bound: Vec<BoundAddress>,
    /// What else was read of the namespace; `None`: its sockets were not listed because there are few, or the ports come
    /// from the ledger.
    pub details: Option<Details>,
    /// By how much the kernel's TCP counters ([`Details::counters`]) grew over the window, and how long that was in seconds;
    /// `None`: not known.
    pub growth: Option<(Counters, f64)>,
}

/// What was seen of the host that the findings in a namespace depend on.
#[derive(Clone, Debug, Default)]
pub struct Around {
    /// Where the tuples of all namespaces lead, by address and port.
    pub destinations: BTreeSet<(Addr, u16)>,
    /// The processes that have sockets open, by the socket's inode; without those that could not be found.
    pub owners: HashMap<u32, listeners::Owner>,
    /// The network namespace of the kubelet of this host, by its inode number; `None`: none runs here.
    pub kubelet: Option<u32>,
    /// Where rules of `tracer spread` bind ports.
    pub spreads: Spreads,
}

/// The network namespaces in which rules of `tracer spread` bind ports.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Spreads {
    /// In these, by their inode numbers; empty: there is no rule.
    In(BTreeSet<u32>),
    /// Not known: a rule cannot be read, or is one of another version.
    Anywhere,
}

impl Default for Spreads {
    /// There is no rule.
    fn default() -> Self {
        Self::In(BTreeSet::new())
    }
}

impl Spreads {
    /// Whether a rule binds ports in the namespace with this inode number, or may do so.
    fn may_be_in(&self, netns: u32) -> bool {
        match self {
            Self::In(all) => all.contains(&netns),
            Self::Anywhere => true,
        }
    }
}

impl Around {
    /// The process that has most of a tuple's sockets open; `None`: not known.
    fn holder(&self, tuple: &Tuple) -> Option<&Process> {
        let mut sockets: BTreeMap<&Process, usize> = BTreeMap::new();
        for owner in tuple.inodes.iter().filter_map(|inode| self.owners.get(inode)) {
            *sockets.entry(&owner.process).or_default() += 1;
        }
        sockets.into_iter().max_by_key(|(_, count)| *count).map(|(process, _)| process)
    }

    /// Whether Kubernetes gives ports of this namespace to services: pods have namespaces of their own.
    fn has_node_ports(&self, place: &Place) -> bool {
        self.kubelet == Some(place.inum)
    }
}

/// An address at which bind(address, 0) or listen() takes ports of the range.
#[derive(Clone, Debug, PartialEq)]
pub struct BoundAddress {
    pub address: Addr,
    /// Ports in use there, and how many can be; `None`: not known.
    pub ports: Option<(u64, u32)>,
    /// bind(address, 0) and listen() calls that failed during the window because no port was free (EADDRINUSE).
    pub failed: u64,
    /// bind() calls with port 0 of the window that failed because the namespace does not have the address (EADDRNOTAVAIL).
    pub not_local: u64,
    /// How long the window was, in seconds; 0: there was none.
    pub seconds: f64,
    /// The process whose call failed last; `None`: none failed, or it is not known.
    pub caller: Option<Process>,
}

impl Seen {
    /// How long a TIME_WAIT holds its port against connect(), in seconds: as long as it lasts, or until `tcp_tw_reuse` lets
    /// connect() take it over.
    fn held_by_time_wait_s(&self, ends: &Ends) -> f64 {
        let loopback = crate::host::capacity::is_loopback;
        let reuse = self.settings.reuse;
        let local = loopback(ends.source) || loopback(ends.destination);
        if reuse.timestamps && reuse.is_on(local) {
            f64::from(reuse.delay_ms.unwrap_or(1_000)) / 1e3
        } else {
            self.time_wait_s
        }
    }

    /// The connections of a tuple, as they came and went during the window; `None`: programs wanted none, or nothing watched.
    fn flow(&self, ends: &Ends) -> Option<Flow> {
        let waiting = self.now.by_ends.get(ends).map_or(0.0, Tuple::waiting);
        self.activity.get(ends)?.flow(self.held_by_time_wait_s(ends), waiting)
    }

    /// The same tuple at the beginning of the window; `None`: it was not there, or there was one look.
    fn earlier(&self, ends: &Ends) -> Option<&Tuple> {
        self.before.as_ref()?.0.by_ends.get(ends)
    }

    /// A tuple as the subject of a finding.
    fn tuple(&self, ends: &Ends) -> Subject {
        Subject::Tuple {
            place: self.place.clone(),
            source: text::ip(ends.source),
            destination: SocketAddr::new(text::ip(ends.destination), ends.port),
        }
    }

    /// The command that looks at this namespace again.
    fn look_again(&self) -> String {
        look_again(&self.place)
    }
}

/// The findings in a namespace that follow from its sockets, settings and counters, and from what happened there, in no order.
/// Those of conntrack, NAT, descriptors, configurations and logs are not among them.
pub fn judge(seen: &Seen, around: &Around) -> Vec<Finding> {
    let mut findings = of_tuples(seen, around);
    findings.extend(not_local::bad_sources(seen));
    findings.extend(held(seen, around));
    findings.extend(space::of_settings(seen, around));
    findings.extend(space::of_details(seen, around));
    findings
}

/// How severe `ports_exhausted` and `black_hole` are for a tuple, if [`of_tuples`] finds them; `None`: it does not. Makes no
/// text. `tuple`: that of `ends` in `seen`.
pub fn severities(seen: &Seen, ends: &Ends, tuple: &Tuple) -> [Option<Severity>; 2] {
    [ports::severity_of(seen, ends, tuple), silent::severity_of(seen, ends, tuple)]
}

/// Share of a tuple's ports that are in use, as the evidence of `ports_exhausted` has it: four digits after the point, 0 for a
/// tuple that holds none, above 1 if it holds ports outside of the range.
pub fn saturation(tuple: &Tuple) -> f64 {
    text::rounded(ports::saturation(tuple))
}

/// The findings that need no more than the ports of each tuple and what happened to it, which the ledger knows, too:
/// `ports_exhausted`, `slow_search`, `black_hole`, `closes_first`, `churn`, `health_checks` and `hot_spot`, in no order.
pub fn of_tuples(seen: &Seen, around: &Around) -> Vec<Finding> {
    let mut findings = ports::exhausted(seen, around);
    findings.extend(ports::bound(seen));
    findings.extend(search::slow(seen, around));
    findings.extend(silent::black_holes(seen));
    findings.extend(flows::flows(seen, around));
    findings
}
