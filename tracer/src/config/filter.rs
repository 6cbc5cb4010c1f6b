//! The filter of the command line, and the form of it that the kernel side reads.

use std::{fmt, net::IpAddr, path::PathBuf};

use ipnet::IpNet;
use tracer_common::{
    Addr, Filter, TupleKey, Who,
    filter::{Cgroup, FILTER_VALUES, Ports, Prefix},
};

use super::unfit::{self, COMMAND_LINE, Spelling, Unfit};
use crate::{
    cli::{FilterArgs, NetnsRef},
    error::Error,
};

/// A checked filter, whose cgroups and namespaces are not yet looked up on the host. Each list has at most 4 values, of which one
/// must match; an empty list matches everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FilterSpec {
    /// Process ids, as processes outside of containers see them (the kernel's first process namespace).
    pub pids: Vec<u32>,
    /// Names of processes or threads, of 1 to 15 bytes each.
    pub comms: Vec<String>,
    /// Cgroups: that of the process must be one of them, or below one.
    pub cgroups: Vec<PathBuf>,
    /// Network namespaces, of which the tuple's must be one.
    pub netns: Vec<NetnsRef>,
    /// Networks of which the source address must be in one.
    pub sources: Vec<IpNet>,
    /// Networks of which the destination address must be in one.
    pub destinations: Vec<IpNet>,
    /// Ranges of which the destination's port must be in one.
    pub destination_ports: Vec<Ports>,
    /// 4, 6, or 0 for both, as [`Filter::family`].
    pub family: u8,
}

impl TryFrom<&FilterArgs> for FilterSpec {
    type Error = Error;

    /// # Errors
    /// [`Error::Usage`] of the first fault that `Self::checked` finds.
    fn try_from(args: &FilterArgs) -> Result<Self, Error> {
        Self::checked(args, COMMAND_LINE).map_err(unfit::usage)
    }
}

impl FilterSpec {
    /// The filter that these options make.
    ///
    /// # Errors
    /// Everything that is wrong, in the words of `spelling`; at least one: an option has more than 4 values; a network can match
    /// nothing with the other options; an IPv6 network covers IPv4, too, and an IPv4 network is given with it.
    pub(super) fn checked(args: &FilterArgs, spelling: Spelling) -> Result<Self, Vec<Unfit>> {
        let counts = [
            ("pid", args.pid.len()),
            ("comm", args.comm.len()),
            ("cgroup", args.cgroup.len()),
            ("netns", args.netns.len()),
            ("src", args.src.len()),
            ("dst", args.dst.len()),
            ("dport", args.dport.len()),
        ];
        let mut unfit: Vec<Unfit> = counts
            .into_iter()
            .filter_map(|(option, given)| more_than_four(option, given, spelling))
            .collect();
        let mut family = match (args.ipv4, args.ipv6) {
            (true, _) => 4,
            (false, true) => 6,
            (false, false) => 0,
        };
        for (option, networks) in [("src", &args.src), ("dst", &args.dst)] {
            match family_with(family, &spelling.option(option), networks) {
                Ok(found) => family = found,
                Err(why) => unfit.push(Unfit { option, why }),
            }
        }
        if !unfit.is_empty() {
            return Err(unfit);
        }
        Ok(Self {
            pids: args.pid.clone(),
            comms: args.comm.clone(),
            cgroups: args.cgroup.clone(),
            netns: args.netns.clone(),
            sources: args.src.clone(),
            destinations: args.dst.clone(),
            destination_ports: args.dport.clone(),
            family,
        })
    }
}

/// The filter as options of the command line: `--dst 10.0.0.0/8 --netns blue`; empty if there is none.
impl fmt::Display for FilterSpec {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut options: Vec<String> = Vec::new();
        let mut add =
            |option: &str, value: &dyn fmt::Display| options.push(format!("{option} {value}"));
        self.pids.iter().for_each(|pid| add("--pid", pid));
        self.comms.iter().for_each(|comm| add("--comm", comm));
        self.cgroups.iter().for_each(|path| add("--cgroup", &path.display()));
        self.netns.iter().for_each(|netns| add("--netns", netns));
        self.sources.iter().for_each(|network| add("--src", network));
        self.destinations.iter().for_each(|network| add("--dst", network));
        for ports in &self.destination_ports {
            if ports.low == ports.high {
                add("--dport", &ports.low);
            } else {
                add("--dport", &format!("{}-{}", ports.low, ports.high));
            }
        }
        let networks = [&self.sources, &self.destinations].into_iter().flatten().next();
        match (self.family, networks) {
            (4, None) => options.push("-4".into()),
            (6, None) => options.push("-6".into()),
            _ => {}
        }
        out.write_str(&options.join(" "))
    }
}

/// What is wrong with an option that was given this many times; `None`: it has no more than four values.
fn more_than_four(option: &'static str, given: usize, spelling: Spelling) -> Option<Unfit> {
    let why = format!(
        "{} was given {given} times, and takes at most {FILTER_VALUES} values; leave it out \
         and pick from the output instead",
        spelling.option(option)
    );
    (given > FILTER_VALUES).then_some(Unfit { option, why })
}

/// The family of the addresses that `family` and `networks` let through; 0: both families. It is checked in addition to the
/// prefixes: the ledger keeps IPv4 as v4-mapped IPv6, which a short IPv6 prefix (`::/0`) covers, too.
///
/// `option`: the networks' option, as it is written.
///
/// # Errors
/// A sentence that says so: a network can match nothing, or another one covers it.
fn family_with(family: u8, option: &str, networks: &[IpNet]) -> Result<u8, String> {
    let v4 = networks.iter().find(|network| matches!(network, IpNet::V4(_)));
    let v6 = networks.iter().find(|network| matches!(network, IpNet::V6(_)));
    let nothing = |network: &IpNet, other: &str| {
        Err(format!(
            "{option} {network} can match nothing: the filter lets only {other} through; leave \
             one of the two out"
        ))
    };
    match (family, v4, v6) {
        (4, None, Some(network)) => nothing(network, "IPv4"),
        (6, Some(network), None) => nothing(network, "IPv6"),
        (0, None, Some(_)) => Ok(6),
        (0, Some(_), None) => Ok(4),
        (0, Some(v4), Some(_)) => {
            let covering = networks.iter().find(|network| covers_mapped(network));
            covering.map_or(Ok(0), |wide| {
                Err(format!(
                    "{option} {wide} covers IPv4 as well, so {option} {v4} would say nothing; \
                     leave one of the two out"
                ))
            })
        }
        _ => Ok(family),
    }
}

fn covers_mapped(network: &IpNet) -> bool {
    match network {
        IpNet::V4(_) => false,
        IpNet::V6(v6) => v6.contains(&std::net::Ipv4Addr::UNSPECIFIED.to_ipv6_mapped()),
    }
}

impl FilterSpec {
    /// Whether no option is given: everything passes.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The form that the BPF programs read. `cgroups` and `netns` (inode numbers): what `self.cgroups` and `self.netns` are on
    /// this host; values after the fourth are left out. The result's `active` is 0 if nothing is filtered.
    pub fn to_kernel(&self, cgroups: &[Cgroup], netns: &[u32]) -> Filter {
        let comms: Vec<_> = self.comms.iter().map(|comm| padded(comm)).collect();
        let sources: Vec<_> = self.sources.iter().map(prefix).collect();
        let destinations: Vec<_> = self.destinations.iter().map(prefix).collect();
        let mut filter = Filter { family: self.family, ..Filter::default() };
        filter.cgroup_count = put(&mut filter.cgroups, cgroups);
        filter.comm_count = put(&mut filter.comms, &comms);
        filter.source_count = put(&mut filter.sources, &sources);
        filter.destination_count = put(&mut filter.destinations, &destinations);
        filter.pid_count = put(&mut filter.pids, &self.pids);
        filter.netns_count = put(&mut filter.netns, netns);
        filter.destination_port_count = put(&mut filter.destination_ports, &self.destination_ports);
        filter.active = u8::from(filter != Filter::default());
        filter
    }
}

/// Copies the values; those beyond [`FILTER_VALUES`] are left out, but a [`FilterSpec`] has no more. Returns how many were
/// copied.
fn put<T: Copy>(to: &mut [T; FILTER_VALUES], from: &[T]) -> u8 {
    let mut count = 0;
    for (slot, value) in to.iter_mut().zip(from) {
        *slot = *value;
        count += 1;
    }
    count
}

fn padded(comm: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (slot, byte) in bytes.iter_mut().zip(comm.bytes().take(15)) {
        *slot = byte;
    }
    bytes
}

fn prefix(network: &IpNet) -> Prefix {
    let address = |address: IpAddr| match address {
        IpAddr::V4(v4) => Addr::v4(v4.octets()),
        IpAddr::V6(v6) => Addr(v6.octets()),
    };
    let length = match network {
        IpNet::V4(v4) => 96 + u32::from(v4.prefix_len()),
        IpNet::V6(v6) => u32::from(v6.prefix_len()),
    };
    let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
    Prefix { network: address(network.network()), mask: Addr(mask.to_be_bytes()) }
}

/// The filter as it applies to rows of the tuple table, with the same meaning as in the BPF programs: of each option that was
/// given, a row must match at least one value. An option that was not given matches every row.
#[derive(Clone, Copy, Debug)]
pub struct RowFilter<'a>(pub &'a Filter);

impl RowFilter<'_> {
    /// Whether a row passes by its key: addresses, port, family, namespace.
    pub fn matches(&self, key: &TupleKey) -> bool {
        let filter = self.0;
        let family = match filter.family {
            4 => key.destination.to_v4().is_some(),
            6 => key.destination.to_v4().is_none(),
            _ => true,
        };
        family
            && any(&filter.netns, filter.netns_count, |netns| *netns == key.netns)
            && any(&filter.sources, filter.source_count, |prefix| within(key.source, prefix))
            && any(&filter.destinations, filter.destination_count, |prefix| {
                within(key.destination, prefix)
            })
            && any(&filter.destination_ports, filter.destination_port_count, |ports| {
                (ports.low..=ports.high).contains(&key.destination_port)
            })
    }

    /// Whether a row passes by its owner `who`: of a tuple, the process that connected last. Of `name` (the process's name;
    /// `None`: not known) and the name in `who` (the thread's), one must match. `lineage`: the ids of the owner's cgroup and of
    /// all cgroups above it.
    pub fn matches_owner(&self, who: &Who, name: Option<[u8; 16]>, lineage: &[u64]) -> bool {
        let filter = self.0;
        any(&filter.pids, filter.pid_count, |pid| *pid == who.pid)
            && any(&filter.comms, filter.comm_count, |comm| {
                *comm == who.comm || name.as_ref() == Some(comm)
            })
            && any(&filter.cgroups, filter.cgroup_count, |cgroup| lineage.contains(&cgroup.id))
    }
}

fn any<T>(values: &[T], count: u8, matches: impl FnMut(&T) -> bool) -> bool {
    count == 0 || values.iter().take(usize::from(count)).any(matches)
}

fn within(address: Addr, prefix: &Prefix) -> bool {
    let [address, mask, network] =
        [address.0, prefix.mask.0, prefix.network.0].map(u128::from_be_bytes);
    address & mask == network
}

#[cfg(test)]
mod tests;
