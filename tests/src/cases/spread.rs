//! `spread::*`: the connections of a cgroup are spread over a pool of addresses. Apart from their source they behave as with
//! spreading off, whatever process ends, and whatever address, cgroup, namespace or pin is removed.

mod auto;
mod errors;
mod fail_open;
mod fill;
mod foreign;
mod from;
mod full;
mod full_pipe;
mod harmless;
mod load;
mod odd;
mod output;
mod pool;
mod programs;
mod proxies;
mod reuse;
mod routes;
mod start;
mod status;

use std::{
    net::{IpAddr, SocketAddr},
    ops::Deref,
};

use anyhow::{Context, Result};

use super::{Case, Plan};
use crate::harness::{
    cgroup::Cgroup,
    lie,
    maker::Maker,
    netns::NetNs,
    probe::Place,
    sock::Sock,
    stage::{Server, Stage},
    tracer::spread::{Rule, Spread},
    tuple::Tuple,
};

/// The host runs all of these tests. A guest, which is slow, runs a few whose result depends on the kernel, and skips the others.
pub fn cases(plan: &Plan) -> Vec<Case> {
    let mut cases = fill::cases(plan);
    cases.extend(full::cases(plan));
    cases.extend(reuse::cases(plan));
    cases.extend(routes::cases(plan));
    cases.extend(harmless::cases(plan));
    cases.extend(odd::cases(plan));
    cases.extend(errors::cases(plan));
    cases.extend(output::cases(plan));
    cases.extend(start::cases(plan));
    cases.extend(status::cases(plan));
    cases.extend(from::cases(plan));
    cases.extend(pool::cases(plan));
    cases.extend(auto::cases(plan));
    cases.extend(programs::cases(plan));
    cases.extend(foreign::cases(plan));
    cases.extend(proxies::cases(plan));
    cases.extend(fail_open::cases(plan));
    cases.extend(odd::cases_by_backend(plan));
    if plan.place == Place::Host {
        return cases;
    }
    let mut of_guests = fill::cases_of_guests(plan);
    of_guests.extend(harmless::cases_of_guests(plan));
    of_guests.extend(odd::cases_of_guests(plan));
    of_guests.extend(odd::cases_by_backend(plan));
    of_guests.extend(fail_open::cases_of_guests(plan));
    cases.retain(|case| of_guests.iter().all(|of_guest| of_guest.name != case.name));
    plan.group("spread").with(of_guests).with(cases).only_host().cases()
}

/// Number of ports of each address towards one destination, from 40000 on.
pub(super) const PORTS: u64 = 1000;
/// IPv4 addresses of the pool.
pub(super) const POOL: [&str; 4] = ["10.1.0.11", "10.1.0.12", "10.1.0.13", "10.1.0.14"];
/// IPv6 addresses of the pool.
const POOL6: [&str; 4] = ["fd00::11", "fd00::12", "fd00::13", "fd00::14"];

/// A process in its own cgroup, and the name of a rule for that cgroup, which [`Self::spread_in`] starts.
pub(super) struct Application {
    /// The rule's name.
    pub(super) rule: Rule,
    /// The process that makes the sockets, which the test then connects: a socket belongs to the cgroup of its maker.
    pub(super) app: Maker,
    pub(super) cgroup: Cgroup,
}

impl Application {
    /// Makes the cgroup, and starts the process in it, in this network namespace. No rule is active yet. Errors as of
    /// [`Cgroup::new`] and [`Maker::spawn`].
    pub(super) fn new(netns: &NetNs) -> Result<Self> {
        let rule = Rule::new();
        let cgroup = Cgroup::new(rule.name())?;
        let app = netns.run(|| Maker::spawn(&cgroup))?;
        Ok(Self { rule, app, cgroup })
    }

    /// Starts `tracer spread` for its cgroup in this namespace, with this pool. The rule is released when this agent ends, unless
    /// `arguments` have `--on-exit` or `--detach`. Errors as of [`Spread::start`].
    pub(super) fn spread_in(
        &self,
        netns: &NetNs,
        pool: &[&str],
        arguments: &[&str],
    ) -> Result<Spread> {
        let cgroup = self.cgroup.path().to_string_lossy();
        let mut all = vec!["--cgroup", &cgroup];
        all.extend(pool.iter().flat_map(|address| ["--pool", address]));
        if !arguments.iter().any(|it| ["--on-exit", "--detach"].contains(it)) {
            all.extend(["--on-exit", "release"]);
        }
        all.extend(arguments);
        netns.run(|| Spread::start(&self.rule, &all))
    }

    /// Opens a connection of the application, and waits for it; an error, which names the destination, if connect() fails.
    pub(super) fn connect(&self, peer: SocketAddr) -> Result<Sock> {
        let sock = self.app.tcp(peer)?;
        sock.connect(peer).with_context(|| format!("connect to {peer}"))?;
        Ok(sock)
    }
}

/// A network namespace with a narrow port range and one application. The pool's addresses are on `lo`.
pub(super) struct Host {
    application: Application,
    pub(super) stage: Stage,
}

impl Deref for Host {
    type Target = Application;

    fn deref(&self) -> &Application {
        &self.application
    }
}

impl Host {
    /// Makes the namespace, with [`PORTS`] ports and the addresses of [`POOL`], and the application. No rule is active yet.
    /// Errors as of [`Stage::new`] and [`Application::new`].
    pub(super) fn new() -> Result<Self> {
        let stage = Stage::new(&[])?;
        for address in POOL {
            stage.netns.ip(&format!("addr add {address}/32 dev lo"))?;
        }
        let range = format!("40000 {}", 40_000 + PORTS - 1);
        stage.netns.sysctl("ipv4/ip_local_port_range", &range)?;
        // A queue so long that thousands of connections need not be accepted.
        stage.netns.sysctl("core/somaxconn", "65535")?;
        let application = Application::new(&stage.netns)?;
        Ok(Self { application, stage })
    }

    /// As [`Self::new`], with IPv6 addresses, too.
    fn with_ipv6() -> Result<Self> {
        let host = Self::new()?;
        for address in POOL6.iter().chain(&["fd00::1"]) {
            host.stage.netns.ip(&format!("addr add {address}/128 dev lo nodad"))?;
        }
        Ok(host)
    }

    /// A listener at this address (`IP:PORT`) with a queue for all connections, so that none has to be accepted. Errors as of
    /// [`Stage::server`].
    pub(super) fn server(&mut self, address: &str) -> Result<Server> {
        let server = self.stage.server(address)?;
        server.listener.listen(65_535)?;
        Ok(server)
    }

    /// Starts `tracer spread` for the host's application, in the host's namespace, with this pool: see
    /// [`Application::spread_in`].
    pub(super) fn spread(&self, pool: &[&str], arguments: &[&str]) -> Result<Spread> {
        self.spread_in(&self.stage.netns, pool, arguments)
    }

    /// How many ports each of these addresses has in use towards a destination, TIME_WAIT included, by the kernel's own list; in
    /// the order of `pool`.
    fn in_use(&self, pool: &[&str], destination: SocketAddr) -> Result<Vec<u64>> {
        let table = self.stage.oracle()?;
        let count = |address: &&str| -> Result<u64> {
            let tuple = Tuple::new(address.parse()?, destination);
            Ok(table.get(&tuple).map_or(0, |sockets| sockets.in_use))
        };
        pool.iter().map(count).collect()
    }
}

/// The source address of a socket, falsified if `TRACER_TEST_LIE` asks for that ([`lie::source`]); an IPv4 address for a
/// v4-mapped one. Unspecified if the socket has no address yet.
pub(super) fn source(sock: &Sock) -> Result<IpAddr> {
    let peer = sock.peer().ok().map(|peer| peer.ip().to_canonical());
    Ok(lie::source(sock.local()?.ip().to_canonical(), peer))
}
