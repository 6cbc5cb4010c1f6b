//! `tracer advise`: configuration of programs and of the host that gives a load enough source ports, ready to paste.
//!
//! A [`Plan`] becomes text ([`text()`]); [`Flow`] computes how many ports a load needs, [`Samples`] measures the load. No I/O:
//! the caller reads the host.

mod block;
mod envoy;
mod groups;
mod haproxy;
mod ip;
mod measured;
mod nginx;
mod notes;
mod seen;
mod squid;
mod sysctl;

use std::{collections::BTreeSet, net::IpAddr};

pub use measured::{Samples, destinations};
pub use seen::Seen;

use crate::{
    doctor::flow::{Flow, longest_time_wait_s},
    host::capacity::{PortRange, Reuse},
};
/// How long a connection is open, in seconds, where that is not known.
const ASSUMED_OPEN_S: f64 = 0.1;

/// What the printed text configures.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Program {
    Nginx,
    Haproxy,
    Envoy,
    Squid,
    /// A file for /etc/sysctl.d.
    Sysctl,
    /// Lines for `ip -batch`.
    Ip,
}

impl Program {
    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
            Self::Squid => "squid",
            Self::Sysctl => "sysctl",
            Self::Ip => "ip",
        }
    }

    /// Whether its configuration names the servers, so that a plan needs [`Plan::destinations`].
    pub const fn names_servers(self) -> bool {
        matches!(self, Self::Nginx | Self::Haproxy | Self::Envoy)
    }
}

/// A version of a program: `Version(1, 29, 7)` is 1.29.7.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Version(pub u16, pub u16, pub u16);

/// A source address of the pool.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Source {
    pub address: IpAddr,
    /// Whether the host has it now.
    pub is_here: bool,
}

/// Where connections go to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Destination {
    pub address: IpAddr,
    pub port: u16,
    /// The connections of all source addresses together.
    pub flow: Flow,
    /// The most connections that are open at the same time.
    pub peak: f64,
    /// Source addresses that connect to it now; at least 1.
    pub sources: u32,
}

impl Destination {
    /// A destination with this flow, from one source address. Its connections come evenly: as many are open at the peak
    /// as on average.
    pub fn steady(address: IpAddr, port: u16, flow: Flow) -> Self {
        Self { address, port, flow, peak: flow.rate * flow.open_s, sources: 1 }
    }
}

/// Where the rates of a plan come from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Basis {
    /// `--rate`: how long connections are open and who closes them is assumed.
    Given,
    /// A recording; `readings`: how many readings it has.
    Recording { readings: u64 },
    /// The connections of the last `seconds`.
    Measured { seconds: f64 },
    /// No load is known: rates are 0.
    Nothing,
}

/// The settings of the network namespace.
#[derive(Clone, Debug)]
pub struct Settings {
    pub range: PortRange,
    /// How many ports one source address has towards a destination; more than 0.
    pub capacity: u32,
    pub reuse: Reuse,
    /// Ticks of the kernel's timer per second; `None`: not known.
    pub hz: Option<u32>,
    /// Names of the sysctls that exist here, such as `net.ipv4.tcp_tw_reuse`.
    pub keys: BTreeSet<String>,
    /// Ports on which sockets listen, in the range or not.
    pub listening: BTreeSet<u16>,
    /// Whether Kubernetes runs here, which gives ports 30000 to 32767 to services.
    pub has_node_ports: bool,
}

impl Settings {
    /// How long a TIME_WAIT holds its port, in seconds: 1 if connect() may take it over, else as long as it lasts at
    /// most ([`longest_time_wait_s`]: 62 s if [`Self::hz`] is not known). `loopback`: of connections to loopback addresses.
    pub fn time_wait_s(&self, loopback: bool) -> f64 {
        let reuses = self.reuse.timestamps && self.reuse.is_on(loopback);
        if reuses { REUSED_AFTER_S } else { longest_time_wait_s(self.hz) }
    }

    /// How long a TIME_WAIT held its port when a recording was made, in seconds: 1 if connect() took TIME_WAITs over then
    /// (`reuses`), towards whichever address; else as long as one lasts at most on this host, as in [`Self::time_wait_s`].
    pub fn recorded_time_wait_s(&self, reuses: bool) -> f64 {
        if reuses { REUSED_AFTER_S } else { longest_time_wait_s(self.hz) }
    }

    /// The flow at this rate (connections/s), of which nothing else is known: it is assumed that each connection is open for a
    /// tenth of a second and that this host closes it first. `loopback`: whether the connections are to loopback addresses.
    pub fn assumed(&self, rate: f64, loopback: bool) -> Flow {
        let time_wait_s = self.time_wait_s(loopback);
        Flow { rate, open_s: ASSUMED_OPEN_S, closes_first: 1.0, time_wait_s }
    }
}

/// The age from which on connect() takes a TIME_WAIT over where `net.ipv4.tcp_tw_reuse` lets it, in seconds.
const REUSED_AFTER_S: f64 = 1.0;

/// What is to be configured, for which load.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Source addresses to use, each once (not checked), IPv4 first. Empty: none were named.
    pub pool: Vec<Source>,
    pub destinations: Vec<Destination>,
    /// The connections to one destination, for a plan without [`Self::destinations`].
    pub flow: Flow,
    pub basis: Basis,
    /// With [`Basis::Nothing`]: why no load is known; else empty.
    pub no_load: String,
    pub settings: Settings,
    /// Networks that the destinations are in, for programs that choose a source by network; empty: all.
    pub networks: Vec<ipnet::IpNet>,
    /// The interface by which the destinations are reached; `None`: not known, or several.
    pub interface: Option<String>,
    /// Worker processes of the program; `None`: not known.
    pub workers: Option<u32>,
    /// The program's version; `None`: not known.
    pub version: Option<Version>,
    /// The limit of open descriptors of one process of the program; `None`: not known.
    pub descriptors: Option<u32>,
    /// What else is to be said about the load, one sentence each.
    pub remarks: Vec<String>,
}

impl Plan {
    /// Whether it is assumed how long connections are open, and who closes them first.
    pub fn is_assumed(&self) -> bool {
        matches!(self.basis, Basis::Given | Basis::Nothing)
    }

    /// The plan with this share of connections that this host closes first.
    #[must_use]
    fn closing(&self, closes_first: f64) -> Self {
        let mut plan = self.clone();
        let flows = plan.destinations.iter_mut().map(|it| &mut it.flow);
        flows
            .chain(std::iter::once(&mut plan.flow))
            .for_each(|flow| flow.closes_first = closes_first);
        plan
    }

    /// The connections to the destination that needs most ports of one address; without destinations: [`Self::flow`].
    pub fn worst(&self) -> Flow {
        let flows = self.destinations.iter().map(|it| it.flow);
        flows.max_by(|one, other| one.ports().total_cmp(&other.ports())).unwrap_or(self.flow)
    }

    /// The most source addresses that connect to a destination of this family now; at least 1.
    fn sources_now(&self, v4: bool) -> u32 {
        let of_family = self.destinations.iter().filter(|it| it.address.is_ipv4() == v4);
        of_family.map(|it| it.sources).max().unwrap_or(1).max(1)
    }

    /// How many source addresses are needed so that connect() finds a port soon (see [`Flow::addresses`]), towards the
    /// destination of [`Self::worst`]; at least 1.
    pub fn needed(&self) -> u32 {
        self.worst().addresses(self.settings.capacity)
    }

    /// The pool's addresses of this family.
    fn family(&self, v4: bool) -> Vec<IpAddr> {
        let addresses = self.pool.iter().map(|it| it.address);
        addresses.filter(|it| it.is_ipv4() == v4).collect()
    }

    /// How many addresses of this family the pool has.
    fn pool_size(&self, v4: bool) -> u32 {
        u32::try_from(self.family(v4).len()).unwrap_or(u32::MAX)
    }
}

/// The text for this program: comments, and below each the lines to paste. It ends with a newline. For HAProxy (`mode http`,
/// which resets connections), it is taken that this host closes none first, unless the load was measured or recorded.
pub fn text(program: Program, plan: &Plan) -> String {
    let of_haproxy;
    let plan = if program == Program::Haproxy {
        of_haproxy = haproxy::of_mode_http(plan);
        &of_haproxy
    } else {
        plan
    };
    let blocks = match program {
        Program::Nginx => nginx::blocks(plan),
        Program::Haproxy => haproxy::blocks(plan),
        Program::Envoy => envoy::blocks(plan),
        Program::Squid => squid::blocks(plan),
        Program::Sysctl => sysctl::blocks(plan),
        Program::Ip => ip::blocks(plan),
    };
    let all = std::iter::once(notes::head(program, plan)).chain(blocks);
    all.map(|block| block.text()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
pub(crate) mod tests;
