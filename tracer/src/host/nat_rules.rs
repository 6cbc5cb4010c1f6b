//! Reads the source NAT rules of the network namespace of the calling thread, and says how many ports each address has by them.
//!
//! Which connections are translated is not decided by these rules, but read from conntrack ([`crate::host::conntrack`]), which
//! has those of other mechanisms, too.

mod compat;
mod nft;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read},
    net::IpAddr,
    ops::ControlFlow,
    time::{Duration, Instant},
};

use rustix::net::netlink::NETFILTER;

use crate::host::netlink::{self, Each, Ended, NLM_F_DUMP};

/// Messages of nftables: `NFNL_SUBSYS_NFTABLES` in the upper byte; `NFT_MSG_GETRULE`, and the type of its answers.
const GET_RULE: u16 = 10 << 8 | 7;
const NEW_RULE: u16 = 10 << 8 | 6;
/// `struct nfgenmsg` of a request about all families.
const NO_FAMILY: [u8; 4] = [0; 4];
/// The most different rules of source NAT that are kept.
const MOST: usize = 4_096;
/// The longest time that the rules are read.
const LONGEST: Duration = Duration::from_secs(1);
/// How often a list that changes while it is read is tried.
const TRIES: usize = 3;
/// The names of the tables of iptables' older kind, of which netlink says nothing.
const LEGACY: [&str; 2] =
    ["/proc/thread-self/net/ip_tables_names", "/proc/thread-self/net/ip6_tables_names"];

/// How many ports a rule without a range chooses from: 1024 to 65535 (`nf_nat_l4proto_unique_tuple` in
/// net/netfilter/nf_nat_core.c), whatever `net.ipv4.ip_local_port_range` says.
pub const ALL_PORTS: u32 = 64_512;

/// The ports that a rule gives to connections.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum PortChoice {
    /// The rule names none: see [`ALL_PORTS`].
    All,
    /// Those between these two, both inclusive; either of the two can be the greater.
    Range(u16, u16),
    /// Not known: the rule takes them from a map, or is damaged.
    Unknown,
}

/// A rule of source NAT.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Rule {
    /// Whether it can give IPv4 addresses.
    pub v4: bool,
    /// Whether it can give IPv6 addresses.
    pub v6: bool,
    /// The protocol of IP that the rule is for; `None`: any, or not known.
    pub protocol: Option<u8>,
    /// The first and the last address that it gives; `None`: it names none (masquerade gives the interface's), or they are not
    /// known (it takes them from a map, or is damaged).
    pub addresses: Option<(IpAddr, IpAddr)>,
    pub ports: PortChoice,
    /// Whether it begins its search for a free port at a random one.
    pub fully_random: bool,
}

/// How many ports an address of source NAT has towards each destination.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Capacity {
    /// How many.
    pub ports: u32,
    /// Whether the rules say so. False: `ports` is the most that it can be.
    pub exact: bool,
    /// Whether every rule for the address begins its search for a free port at a random one.
    pub fully_random: bool,
}

impl Capacity {
    /// What is taken where no rule is known.
    pub const DEFAULT: Self = Self { ports: ALL_PORTS, exact: false, fully_random: false };
}

/// The rules of source NAT of a namespace.
#[derive(Clone, Debug, Default)]
pub struct NatRules {
    rules: BTreeSet<Rule>,
    /// Whether there may be rules that are not among them: those of iptables' older kind, more than are kept, or changed ones.
    more: bool,
}

impl NatRules {
    /// How many ports this address has towards each destination. `protocol`: of IP, such as 6 for TCP. [`Capacity::DEFAULT`] if
    /// no known rule can give the address.
    ///
    /// Which rule chose an address is not known if several can: then it is the most that one of them gives.
    pub fn capacity(&self, address: IpAddr, protocol: u8) -> Capacity {
        let of_it: Vec<_> =
            self.rules.iter().filter(|rule| rule.can_give(address, protocol)).collect();
        let ports = || of_it.iter().map(|rule| rule.ports());
        let Some((least, most)) = ports().min().zip(ports().max()) else {
            return Capacity::DEFAULT;
        };
        let known = of_it.iter().all(|rule| rule.ports != PortChoice::Unknown);
        Capacity {
            ports: if self.more { ALL_PORTS } else { most },
            exact: least == most && known && !self.more,
            fully_random: !self.more && of_it.iter().all(|rule| rule.fully_random),
        }
    }

    /// The fewest ports that a known rule gives an address; [`ALL_PORTS`] if no rule is known. A rule that takes them from a map
    /// counts as [`ALL_PORTS`].
    pub fn least(&self) -> u32 {
        self.rules.iter().map(Rule::ports).min().unwrap_or(ALL_PORTS)
    }

    /// Adds a rule, if there is room for it.
    fn add(&mut self, rule: Rule) {
        if self.rules.len() < MOST {
            self.rules.insert(rule);
        } else {
            self.more |= !self.rules.contains(&rule);
        }
    }
}

impl Rule {
    fn can_give(&self, address: IpAddr, protocol: u8) -> bool {
        let family = if address.is_ipv4() { self.v4 } else { self.v6 };
        let has = |(first, last): (IpAddr, IpAddr)| (first..=last).contains(&address);
        family && self.protocol.is_none_or(|it| it == protocol) && self.addresses.is_none_or(has)
    }

    /// How many ports it gives; the most that it can be if that is not known.
    fn ports(&self) -> u32 {
        match self.ports {
            PortChoice::All | PortChoice::Unknown => ALL_PORTS,
            // The kernel takes the ends in any order.
            PortChoice::Range(one, other) => u32::from(one.abs_diff(other)) + 1,
        }
    }
}

/// The rules of source NAT of the calling thread's namespace, of nftables and of both kinds of iptables. Ask only if there are
/// translated connections: asking loads the module.
///
/// # Errors
/// The step that failed. `PermissionDenied`: it needs CAP_NET_ADMIN. It is no error if the rules could not be read to their end
/// within a second, or changed during each of three readings: then those that were read are returned, and
/// [`NatRules::capacity`] is not exact.
pub fn read() -> io::Result<NatRules> {
    let begin = Instant::now();
    let mut rules = NatRules::default();
    for _ in 0..TRIES {
        rules = NatRules::default();
        let ended = match each(begin, &mut rules) {
            // This kernel has no nftables.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ended::Whole,
            ended => ended?,
        };
        rules.more |= ended != Ended::Whole;
        if ended != Ended::Changed {
            break;
        }
    }
    rules.more |= LEGACY.iter().any(|path| may_have_nat(path));
    Ok(rules)
}

fn each(begin: Instant, rules: &mut NatRules) -> io::Result<Ended> {
    let list = Each {
        name: "nftables",
        things: "rules",
        protocol: NETFILTER,
        request: &netlink::request(GET_RULE, NLM_F_DUMP, &NO_FAMILY),
        reply: NEW_RULE,
    };
    list.visit(|message| {
        nft::rules(message, |rule| rules.add(rule));
        if begin.elapsed() > LONGEST { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
}

/// Whether the names of tables include `nat`, or cannot be read.
fn may_have_nat(path: &str) -> bool {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return false,
        Err(_) => return true,
        Ok(file) => file,
    };
    let mut text = String::new();
    let read = file.take(64 * 1024).read_to_string(&mut text);
    read.is_err() || text.lines().any(|name| name.trim() == "nat")
}
