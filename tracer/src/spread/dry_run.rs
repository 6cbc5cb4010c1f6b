//! `tracer spread --dry-run`: counts how full the tuples are now, and computes how full they would be with the pool.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    path::Path,
    time::Instant,
};

use tracer_common::{Addr, TupleKey, conn_flag, spread::Destination};

use super::{
    pool::{self, PoolAddress},
    ports,
    projection::{self, Projection},
    start,
};
use crate::{
    config::{KernelConfig, SpreadConfig},
    error::Error,
    host::{
        cgroups::{self, Names},
        netns::{Netns, Worker},
        sockdiag,
    },
    kernel::spread::programs::CgroupTarget,
    ledger::trace::{self, Tracer},
    runtime::sandbox::User,
};

/// Size of the ring buffer for the ledger's events, in bytes: one page, the smallest that the kernel takes, because no events are
/// read.
const RING_SIZE: u32 = 4096;

/// How many connections there are, by whether the rule would apply to them.
#[derive(Default)]
struct Connections {
    /// How many connections the rule would apply to, by tuple.
    tuples: BTreeMap<TupleKey, u64>,
    /// How many of these are in TIME_WAIT. The kernel does not say to which cgroup a TIME_WAIT belonged, so all count.
    time_wait: u64,
    /// How many connections to the same destinations are of other cgroups.
    others: u64,
}

/// The text to print: notes on the pool, each destination as it is and as it would be, and which connections count
/// although their cgroup is unknown, or do not count. Attaches a tracer for the time of this call, and no spreader. Leaves the
/// calling thread in the sandbox of `trace::start`.
///
/// # Errors
/// A pool, cgroup, destination or namespace that cannot be used; those of `trace::start`; the namespace, its routes,
/// its sockets, the cgroup file system or a BPF map cannot be read; a thread cannot be started.
pub fn run(kernel: &KernelConfig, config: &SpreadConfig) -> Result<String, Error> {
    let netns = start::namespace(config.netns.as_ref())?;
    let worker = Worker::spawn()
        .map_err(|error| Error::Failure(format!("cannot start a thread: {error}")))?;
    let mut view = start::read_netns(&worker, &netns, config).map_err(start::cannot_read_netns)?;
    let pool = start::pool(config, &mut view)?;
    let targets = start::attach_targets(&config.cgroups)?;
    let kernel = KernelConfig { ring_size: RING_SIZE, ..*kernel };
    let mut tracer = trace::start(&kernel, 0, &tracer_common::Filter::default(), User::own())?;
    tracer.know_range(netns.clone(), view.range.clone());
    tracer.refresh_ports()?;
    let blocked = tracer.blocked(netns.inum);
    let capacity = ports::capacity(&view.range, &blocked);
    let destinations = view.host.auto.destinations(&config.destinations());
    let counted = count(&mut tracer, &netns, &targets, config, &destinations)?;
    let tuples = counted.tuples.iter().map(|(key, in_use)| (*key, *in_use));
    let found = projection::project(tuples, capacity, |destination| weights(&pool, destination));
    let mut out = start::notes(config, &view).text();
    out.push_str(&text(&found, pool.len(), capacity));
    // Writing to a String cannot fail.
    if counted.time_wait > 0 {
        _ = writeln!(
            out,
            "included: {} ports in TIME_WAIT; the owner of a TIME_WAIT is unknown, so all count",
            counted.time_wait
        );
    }
    if counted.others > 0 {
        _ = writeln!(out, "not counted: {} connections of other cgroups", counted.others);
    }
    Ok(out)
}

/// Weights (1 to 100) of the pool's addresses of the destination's family, in the pool's order; empty: the pool has none.
pub(super) fn weights(pool: &[PoolAddress], destination: &Addr) -> Vec<u16> {
    let v4 = destination.to_v4().is_some();
    let family = pool.iter().filter(|member| member.address.to_v4().is_some() == v4);
    family.map(|member| member.weight).collect()
}

/// Counts the ledger's connections to the rule's destinations, by whether their sockets are in the rule's cgroups. Those
/// whose cgroup is not known count as in them.
///
/// # Errors
/// The cgroup file system, the kernel's sockets or the ledger cannot be read.
fn count(
    tracer: &mut Tracer,
    netns: &Netns,
    targets: &[CgroupTarget],
    config: &SpreadConfig,
    destinations: &[Destination],
) -> Result<Connections, Error> {
    let root = cgroups::root().map_err(|error| Error::Failure(error.to_string()))?;
    let mut names = Names::new(root);
    let now = Instant::now();
    let of_cgroup: HashMap<u64, u64> = {
        let (_, _, worker, _) = tracer.split();
        let dump = worker.run_in(netns, || sockdiag::dump_all(sockdiag::ALL_STATES));
        let sockets = dump.map_err(start::cannot_read_netns)?;
        sockets.iter().map(|socket| (socket.cookie, socket.cgroup)).collect()
    };
    // With `--all`, cgroups are not compared: every connection counts, even of a cgroup that was removed since and so
    // is not known to be below `/`.
    let all = config.cgroups == [Path::new("/")];
    let mut counted = Connections::default();
    tracer.session.maps.conns(|key, conn| {
        let (to, port) = (conn.tuple.destination, conn.tuple.destination_port);
        let wanted = Destination::is_spread(destinations, &to, port);
        if conn.tuple.netns != netns.inum || !wanted {
            return;
        }
        // 0: the socket is gone or in TIME_WAIT, or the kernel does not say.
        let cgroup = of_cgroup.get(&key.cookie).copied().unwrap_or(0);
        let is_within = |target: &CgroupTarget| names.is_within(cgroup, target.id, now);
        if !all && cgroup != 0 && !targets.iter().any(is_within) {
            counted.others += 1;
            return;
        }
        *counted.tuples.entry(conn.tuple).or_insert(0) += 1;
        counted.time_wait += u64::from(conn.flags & conn_flag::TIME_WAIT != 0);
    })?;
    Ok(counted)
}

/// The projections, which may be none, as a text for people: a line for all, then one for each. `addresses`: how many the pool
/// has; `capacity`: ports of each address towards a destination.
pub(super) fn text(found: &[Projection], addresses: usize, capacity: u32) -> String {
    let peak = |of: fn(&Projection) -> f64| found.iter().map(of).fold(0.0, f64::max);
    let mut out = format!(
        "pool of {addresses} {}, {capacity} ports each; {}\n",
        if addresses == 1 { "address" } else { "addresses" },
        gain(peak(|one| one.now), peak(|one| one.then)),
    );
    if found.is_empty() {
        out.push_str("no connection to these destinations\n");
        return out;
    }
    for one in found {
        let to = std::net::SocketAddr::new(pool::address(one.destination), one.port).to_string();
        // Writing to a String cannot fail.
        _ = writeln!(
            out,
            "  {to:<28} {:>7} ports, {:>6} at the fullest address; {}",
            one.in_use,
            one.fullest,
            gain(one.now, one.then)
        );
    }
    out
}

/// The text `peak saturation 95 % -> 48 %`. `now` and `then`: saturation of the fullest address; 1 is full.
fn gain(now: f64, then: f64) -> String {
    format!("peak saturation {:.0} % -> {:.0} %", now * 100.0, then * 100.0)
}
