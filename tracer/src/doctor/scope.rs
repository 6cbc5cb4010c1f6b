//! `--pid` and `--cgroup`: which findings are judged. What is counted does not depend on it. No I/O.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use super::{
    finding::{Finding, Id, Subject},
    tuples::{Ends, Settings, ip},
    verdict::{Check, Missing},
};
use crate::{
    host::sockdiag::{DiagSocket, tcp_state},
    ledger::outbound::outbound,
};

/// The processes that are judged (`--pid`, `--cgroup`), and what they have.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Members {
    /// Their ids, as /proc of this process has them.
    pub pids: BTreeSet<u32>,
    /// Ids of the cgroups that are judged, those below them included: whatever belongs to one of these is judged.
    pub cgroups: BTreeSet<u64>,
    /// Inodes of the sockets that the processes have open.
    pub inodes: HashSet<u32>,
    /// Whether some of the processes were asked for by their ids: then the cgroup of a socket does not say that it is another
    /// process's.
    pub by_pid: bool,
    /// Paths through which the network namespaces of the processes that are named, or in a named cgroup, can be entered, such as
    /// /proc/PID/ns/net; at most 4 each, by inode number.
    pub namespaces: BTreeMap<u32, Vec<PathBuf>>,
    /// Why something of them may be missing, as a text for people; `None`: nothing is.
    pub missing: Option<String>,
}

/// The processes and cgroups that the user asks about (`--pid`, `--cgroup`).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Judged {
    pub pids: Vec<u32>,
    /// Paths below the root of the hierarchy, beginning with a slash.
    pub cgroups: Vec<String>,
}

/// The process that called connect() or bind(), as a BPF program saw it. 0: not known.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Caller {
    /// Its id in the first PID namespace.
    pub pid: u32,
    /// Id of its cgroup (cgroup v2).
    pub cgroup: u64,
}

/// Whose something is, as far as it is known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Whose {
    /// Of the processes that are judged.
    Theirs,
    Others,
    Unknown,
}

impl Members {
    /// Adds the processes, cgroups and sockets of an earlier moment. All other fields stay those of `self`.
    #[must_use]
    pub fn and(mut self, earlier: Self) -> Self {
        self.pids.extend(earlier.pids);
        self.cgroups.extend(earlier.cgroups);
        self.inodes.extend(earlier.inodes);
        self
    }

    /// The check `processes`, which is not made if something of them may be missing. It is a core check: what is missing could
    /// hide a finding.
    pub fn check(&self) -> Check {
        let missing = self.missing.clone().map(|why| Missing { why, needs: None });
        Check { id: "processes", core: true, missing }
    }

    fn whose(&self, socket: &DiagSocket) -> Whose {
        let open = socket.inode != 0;
        let of_process = open && self.inodes.contains(&socket.inode);
        if of_process || self.cgroups.contains(&socket.cgroup) {
            Whose::Theirs
        } else if open || (socket.cgroup != 0 && !self.by_pid) {
            Whose::Others
        } else {
            Whose::Unknown
        }
    }

    /// Whose call it was. `pids`: see [`Owned::connected`].
    fn whose_call(&self, caller: Caller, pids: bool) -> Whose {
        let known = pids && caller.pid != 0;
        let of_process = known && self.pids.contains(&caller.pid);
        if of_process || self.cgroups.contains(&caller.cgroup) {
            Whose::Theirs
        } else if known || (caller.cgroup != 0 && !self.by_pid) {
            Whose::Others
        } else {
            Whose::Unknown
        }
    }
}

/// Which tuples and addresses in one network namespace belong to the processes that are judged, and which to others. One can
/// belong to both, and to neither: nobody knows whose a TIME_WAIT was.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Owned {
    theirs: Ports,
    others: Ports,
}

#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Ports {
    /// Source addresses and destinations of connections.
    tuples: BTreeSet<(IpAddr, SocketAddr)>,
    /// Where a socket listens, is bound, or is connected to itself; port 0: a bind() that failed.
    addresses: BTreeSet<SocketAddr>,
}

impl Owned {
    /// Whose the tuples and addresses are, by the sockets of the namespace in all states. Tuples are of connections that
    /// connect() opened ([`outbound`]), addresses of sockets that listen, are only bound, or are connected to themselves. A
    /// socket whose owner is not known adds nothing. `settings`: those of the namespace.
    pub fn of(sockets: &[DiagSocket], settings: &Settings, members: &Members) -> Self {
        let mut owned = Self::default();
        for socket in outbound(sockets, |port| settings.range.contains(port)) {
            if let Some(ports) = owned.of_mut(members.whose(socket)) {
                let ends = Ends {
                    source: socket.source,
                    destination: socket.destination,
                    port: socket.destination_port,
                };
                ports.tuples.insert((ends.from(), ends.peer()));
            }
        }
        for socket in sockets {
            let own = (socket.source, socket.source_port);
            let stays = [tcp_state::LISTEN, tcp_state::CLOSE].contains(&socket.state)
                || own == (socket.destination, socket.destination_port);
            if let Some(ports) = owned.of_mut(members.whose(socket)).filter(|_| stays) {
                ports.addresses.insert(SocketAddr::new(ip(own.0), own.1));
            }
        }
        owned
    }

    /// Adds the tuple of a connect() that was seen in the namespace, whether or not it failed; nothing if the caller does not
    /// show whose it is. `pids`: whether the id of the caller is one of the PID namespace of this process; false: only its cgroup
    /// says whose it is.
    pub fn connected(&mut self, ends: &Ends, caller: Caller, members: &Members, pids: bool) {
        if let Some(ports) = self.of_mut(members.whose_call(caller, pids)) {
            ports.tuples.insert((ends.from(), ends.peer()));
        }
    }

    /// Adds the address of a bind(address, 0) that failed in the namespace; nothing if the caller does not show whose it is.
    /// `pids`: see [`Self::connected`].
    pub fn refused(&mut self, address: IpAddr, caller: Caller, members: &Members, pids: bool) {
        if let Some(ports) = self.of_mut(members.whose_call(caller, pids)) {
            ports.addresses.insert(SocketAddr::new(address, 0));
        }
    }

    fn add(&mut self, more: Self) {
        for (ports, more) in [(&mut self.theirs, more.theirs), (&mut self.others, more.others)] {
            ports.tuples.extend(more.tuples);
            ports.addresses.extend(more.addresses);
        }
    }

    fn of_mut(&mut self, whose: Whose) -> Option<&mut Ports> {
        match whose {
            Whose::Theirs => Some(&mut self.theirs),
            Whose::Others => Some(&mut self.others),
            Whose::Unknown => None,
        }
    }

    /// Whether the processes that are judged have what `is` looks for, or it is not known that others have it.
    fn has(&self, is: impl Fn(&Ports) -> bool) -> bool {
        is(&self.theirs) || !is(&self.others)
    }
}

impl Ports {
    fn lead_to(&self, address: SocketAddr) -> bool {
        self.tuples.iter().any(|(_, to)| is_at(address, *to))
    }

    /// Whether a socket is at this address; port 0: at any port of it.
    fn are_at(&self, address: SocketAddr) -> bool {
        let any = address.port() == 0;
        let at = |it: &SocketAddr| *it == address || any && it.ip() == address.ip();
        self.addresses.iter().any(at)
            || any && self.tuples.iter().any(|(from, _)| *from == address.ip())
    }
}

/// Whether a connection to `to` reaches a listener at this address, if that listens at any address: one of its port.
fn is_at(listener: SocketAddr, to: SocketAddr) -> bool {
    let wildcard = listener.ip().is_unspecified() && listener.port() == to.port();
    wildcard || listener == to
}

/// Which findings are judged if the user asks about some processes.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    members: Arc<Members>,
    /// By inode number of the network namespace.
    owned: BTreeMap<u32, Owned>,
    /// Further processes of the same servers: the master process of a worker.
    related: BTreeSet<u32>,
}

impl Scope {
    /// The scope of these processes. `owned`: whose the tuples and addresses are, by inode number of the network namespace; one
    /// can be there several times. In a namespace that is not there, all findings about tuples and addresses are judged.
    pub fn new(members: Arc<Members>, owned: impl IntoIterator<Item = (u32, Owned)>) -> Self {
        let mut scope = Self { members, ..Self::default() };
        for (inum, owned) in owned {
            scope.owned.entry(inum).or_default().add(owned);
        }
        scope
    }

    /// Adds servers, each by the ids of all its processes: if one of these is in [`Members::pids`], findings about the others are
    /// judged, too.
    pub fn relate<'a>(&mut self, servers: impl IntoIterator<Item = &'a BTreeSet<u32>>) {
        for server in servers.into_iter().filter(|it| !it.is_disjoint(&self.members.pids)) {
            self.related.extend(server);
        }
    }

    /// The ids of the processes that are judged ([`Members::pids`]), without those of [`Self::relate`].
    pub fn pids(&self) -> &BTreeSet<u32> {
        &self.members.pids
    }

    /// Whether the connections of this tuple are judged: processes that are judged have some, or it is not known that others
    /// have. True in a namespace that [`Self::new`] was not given. `netns`: its inode number.
    pub fn has_tuple(&self, netns: u32, ends: &Ends) -> bool {
        let tuple = (ends.from(), ends.peer());
        self.owned.get(&netns).is_none_or(|it| it.has(|ports| ports.tuples.contains(&tuple)))
    }

    /// Whether bind() calls at this address are judged: processes that are judged have a socket or a connection with this source
    /// address, at any port, or it is not known that others have. True in a namespace that [`Self::new`] was not given. `netns`:
    /// its inode number.
    pub fn has_address(&self, netns: u32, address: IpAddr) -> bool {
        let address = SocketAddr::new(address, 0);
        self.owned.get(&netns).is_none_or(|it| it.has(|ports| ports.are_at(address)))
    }

    /// Whether a finding is judged. It is, if it is about
    /// - the host or a whole namespace, which concerns every process there, or ports that programs hold by bind()
    ///   ([`Id::PoisonedPorts`]), which no connect() is given;
    /// - a process that is judged, or one that [`Self::relate`] added;
    /// - a tuple or an address that a judged process uses, or of which it is not known that others do. Of [`Id::SnatExhausted`],
    ///   whose source is an address of the NAT, only the destination counts.
    pub fn judges(&self, finding: &Finding) -> bool {
        let of_place = |inum: u32, is: &dyn Fn(&Ports) -> bool| {
            self.owned.get(&inum).is_none_or(|owned| owned.has(is))
        };
        match &finding.subject {
            Subject::Host | Subject::Netns(_) => true,
            // connect() of every process of the namespace is given none of these ports.
            Subject::Process(_) if finding.id == Id::PoisonedPorts => true,
            Subject::Process(process) => {
                self.members.pids.contains(&process.pid) || self.related.contains(&process.pid)
            }
            // The source is an address of the NAT.
            Subject::Tuple { place, destination, .. } if finding.id == Id::SnatExhausted => {
                of_place(place.inum, &|ports| ports.lead_to(*destination))
            }
            Subject::Tuple { place, source, destination } => {
                let tuple = (*source, *destination);
                of_place(place.inum, &|ports| ports.tuples.contains(&tuple))
            }
            Subject::Address { place, address } => {
                of_place(place.inum, &|ports| ports.are_at(*address) || ports.lead_to(*address))
            }
        }
    }
}

#[cfg(test)]
mod tests;
