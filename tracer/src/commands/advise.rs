//! `tracer advise`: gathers the load, the pool and the settings, and prints configuration for them.

mod measured;
mod recorded;
mod running;

use std::{collections::BTreeSet, io, path::Path};

use crate::{
    advise::{self, Basis, Destination, Plan, Program, Settings, Source},
    config::{AdviseConfig, KernelConfig, NOT_MEASURED},
    doctor::{snapshot, window::Window},
    error::Error,
    host::{
        capacity::{PortRange, Reuse, Usable},
        netns::{self, Netns, Worker},
        sockdiag::{self, tcp_state},
    },
    runtime::{shutdown::StopSignals, stdout},
    spread::listing::{self, Listing},
};

/// Destinations of a load that are configured at most, unless `--to` names them: those that need most ports.
const DESTINATIONS_MAX: usize = 16;
/// The sysctls that may be advised, below `net.ipv4`.
const KEYS: [&str; 4] =
    ["ip_local_port_range", "ip_local_reserved_ports", "tcp_tw_reuse", "tcp_timestamps"];

/// The load of this host.
#[derive(Clone, Debug, Default)]
struct Measured {
    /// How long it was measured.
    seconds: f64,
    /// The destinations that the configuration asks about, of this network namespace.
    destinations: Vec<Destination>,
    /// How many ports were not counted because a table was full.
    lost: u64,
}

/// What `tracer advise` prints, and the hooks for a load that has to be measured first.
pub struct Advice {
    config: AdviseConfig,
    plan: Plan,
    /// The network namespace, by its inode number.
    netns: u32,
    /// `None`: the load is not measured.
    window: Option<Box<Window>>,
}

impl Advice {
    /// Gathers all but a load that is measured. If one is, this attaches the hooks for it: the calling thread, and those that it
    /// starts later, can only read from then on. That hooks cannot be attached is no error: the text says so.
    ///
    /// # Errors
    /// The namespace does not exist, or cannot be entered; the port range or the addresses cannot be read; a pool without
    /// addresses; recordings that cannot be read, or in which no connection was opened to the destinations; no server is known
    /// for a program that needs them; a signal asked to stop.
    pub fn start(kernel: &KernelConfig, config: AdviseConfig) -> Result<Self, Error> {
        let (mut plan, netns) = gather(&config)?;
        let mut window = None;
        if config.measured().is_some() {
            match measured::open(kernel)? {
                Ok(open) => window = Some(Box::new(open)),
                Err(why) => without_load(&mut plan, &config, why)?,
            }
        } else {
            given(&config, &mut plan)?;
        }
        Ok(Self { config, plan, netns, window })
    }

    /// Whether [`Self::run`] measures a load; if not, [`Self::print`] does the same.
    pub fn measures(&self) -> bool {
        self.window.is_some()
    }

    /// Measures the load if that is wanted, and prints the text. A signal ends the measurement early; the text is for what was
    /// seen by then.
    ///
    /// # Errors
    /// A map cannot be read; no load was seen, and a program needs servers; stdout cannot be written.
    pub fn run(mut self, signals: &StopSignals) -> Result<(), Error> {
        if let Some(window) = self.window.take() {
            let Self { config, plan, netns, .. } = &mut self;
            let load = measured::measure(*window, config, &plan.settings, *netns, signals)?;
            load.put_into(plan, config)?;
        }
        signals.writing(true);
        self.print()?;
        signals.writing(false);
        Ok(())
    }

    /// Prints the text as it is now, without a measurement. A reader of stdout that is gone is no error.
    ///
    /// # Errors
    /// Stdout cannot be written.
    pub fn print(&self) -> Result<(), Error> {
        stdout::print(advise::text(self.config.program, &self.plan).as_bytes()).map(drop)
    }
}

/// A plan without a load, and the inode number of the network namespace that it is for.
///
/// # Errors
/// The namespace does not exist, or cannot be entered; the port range or the addresses cannot be read; a pool without addresses.
fn gather(config: &AdviseConfig) -> Result<(Plan, u32), Error> {
    let own = netns::own()
        .map_err(|error| Error::Failure(format!("cannot read this network namespace: {error}")))?;
    let other = config.netns.as_ref().map(|it| netns::resolve(&it.to_string())).transpose();
    let other = other.map_err(|error| Error::BadConfig(error.to_string()))?;
    let other = other.filter(|other| other.inum != own.inum);
    let (listing, settings, mut remarks) = match &other {
        Some(netns) => visit(netns, config)?,
        None => look(config)?,
    };
    let several =
        |v4: bool| listing.members.iter().filter(|it| it.address.is_ipv4() == v4).count() > 1;
    if config.program.names_servers()
        && !config.pool.is_empty()
        && !several(true)
        && !several(false)
    {
        remarks.push(
            "the pool has no family with several addresses: there is nothing to spread over"
                .to_owned(),
        );
    }
    let inum = other.map_or(own.inum, |other| other.inum);
    let mut plan = plan(config, &listing, settings, remarks);
    // The program of a recording may run elsewhere.
    if config.program == Program::Nginx && config.from.is_empty() {
        with_running(&mut plan, running::nginx(inum));
    }
    Ok((plan, inum))
}

/// What is read in the network namespace.
type Looked = (Listing, Settings, Vec<String>);

/// Reads what the plan needs in the network namespace of the calling thread.
fn look(config: &AdviseConfig) -> Result<Looked, Error> {
    let listing = listing::list(&config.pool, &config.targets)?;
    let mut remarks = Vec::new();
    let settings = settings(&mut remarks)?;
    Ok((listing, settings, remarks))
}

/// Reads what the plan needs in another network namespace ([`look`]).
///
/// # Errors
/// No thread can be started, the namespace cannot be entered, or that of [`look`].
fn visit(netns: &Netns, config: &AdviseConfig) -> Result<Looked, Error> {
    let failed = |error: io::Error| {
        let needs = match error.kind() {
            io::ErrorKind::PermissionDenied => " (needs CAP_SYS_ADMIN)",
            _ => "",
        };
        Error::Failure(format!("cannot look into network namespace {netns}: {error}{needs}"))
    };
    let config = config.clone();
    let worker = Worker::spawn().map_err(failed)?;
    worker.run_in(netns, move || Ok(look(&config))).map_err(failed)?
}

fn with_running(plan: &mut Plan, running: Result<Option<running::Running>, usize>) {
    match running {
        Ok(None) => {}
        Ok(Some(running)) => {
            plan.workers = running.workers;
            plan.version = running.version;
            plan.descriptors = running.descriptors;
        }
        Err(several) => plan.remarks.push(format!(
            "{several} nginx run in this network namespace: which one this is for is not known, nor its workers and its version"
        )),
    }
}

/// Puts in the load that is given: a rate, a recording, or none.
///
/// # Errors
/// Those of [`recorded::read`].
fn given(config: &AdviseConfig, plan: &mut Plan) -> Result<(), Error> {
    if let Some(rate) = config.rate {
        plan.basis = Basis::Given;
        assume(plan, config, rate);
    } else if config.from.is_empty() {
        return without_load(plan, config, NOT_MEASURED.to_owned());
    } else {
        recorded::read(config, plan)?;
        most_needed(plan, config);
    }
    Ok(())
}

/// A plan for the servers that are named, of whose load nothing is known, for this reason.
///
/// # Errors
/// None is named, and the program needs them.
fn without_load(plan: &mut Plan, config: &AdviseConfig, why: String) -> Result<(), Error> {
    assume(plan, config, 0.0);
    if config.program.names_servers() && plan.destinations.is_empty() {
        return Err(config.no_servers(&why));
    }
    plan.basis = Basis::Nothing;
    plan.no_load = why;
    Ok(())
}

/// A plan without a load.
fn plan(
    config: &AdviseConfig,
    listing: &Listing,
    settings: Settings,
    remarks: Vec<String>,
) -> Plan {
    let source = |address| Source { address, is_here: listing.is_here(address) };
    Plan {
        pool: listing.members.iter().map(|member| source(member.address)).collect(),
        destinations: Vec::new(),
        flow: settings.assumed(0.0, false),
        basis: Basis::Nothing,
        no_load: String::new(),
        settings,
        networks: config.networks(),
        interface: listing.interface.clone().filter(|name| is_plain(name)),
        workers: None,
        version: None,
        descriptors: None,
        remarks,
    }
}

/// Whether the name of an interface is one word without special characters: it is pasted as it is.
fn is_plain(name: &str) -> bool {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "._-@".contains(letter);
    !name.is_empty() && name.chars().all(plain)
}

/// Sets the servers that are named as destinations, each with this rate.
fn assume(plan: &mut Plan, config: &AdviseConfig, rate: f64) {
    let settings = &plan.settings;
    let to = |(address, port): (std::net::IpAddr, u16)| {
        Destination::steady(address, port, settings.assumed(rate, address.is_loopback()))
    };
    plan.destinations = config.servers().into_iter().map(to).collect();
    plan.flow = settings.assumed(rate, false);
}

impl Measured {
    /// Puts it into the plan. Servers that are named and have no load are destinations, too.
    ///
    /// # Errors
    /// No load was seen and no server is named, and the program needs servers.
    fn put_into(self, plan: &mut Plan, config: &AdviseConfig) -> Result<(), Error> {
        if self.lost > 0 {
            plan.remarks.push(format!(
                "{} ports were not counted, because a table was full: the load is larger (--max-conns, --max-tuples)",
                self.lost
            ));
        }
        let seconds = format!("{:.1}", self.seconds);
        let seconds = seconds.trim_end_matches(".0");
        if self.destinations.is_empty() {
            let to = if config.targets.is_empty() { "" } else { " to these destinations" };
            return without_load(plan, config, format!("none was seen{to} in {seconds} s"));
        }
        assume(plan, config, 0.0);
        let idle = std::mem::replace(&mut plan.destinations, self.destinations);
        let is_seen = |it: &Destination| plan.destinations.iter().any(|seen| same_server(seen, it));
        let idle: Vec<_> = idle.into_iter().filter(|it| !is_seen(it)).collect();
        plan.destinations.extend(idle);
        plan.basis = Basis::Measured { seconds: self.seconds };
        most_needed(plan, config);
        Ok(())
    }
}

fn same_server(one: &Destination, other: &Destination) -> bool {
    (one.address, one.port) == (other.address, other.port)
}

/// Sorts the destinations by what they need, and leaves out those that need least if there are too many, except for servers that
/// are named.
fn most_needed(plan: &mut Plan, config: &AdviseConfig) {
    let key = |it: &Destination| (it.flow.ports(), it.flow.rate);
    let order = |one: (f64, f64), other: (f64, f64)| {
        other.0.total_cmp(&one.0).then(other.1.total_cmp(&one.1))
    };
    plan.destinations.sort_by(|one, other| order(key(one), key(other)));
    let named: BTreeSet<_> = config.servers().into_iter().collect();
    let is_named = |it: &Destination| named.contains(&(it.address, it.port));
    let before = plan.destinations.len();
    let mut room =
        DESTINATIONS_MAX.saturating_sub(plan.destinations.iter().filter(|it| is_named(it)).count());
    plan.destinations.retain(|it| {
        let stays = is_named(it) || room > 0;
        room = room.saturating_sub(usize::from(stays && !is_named(it)));
        stays
    });
    let more = before.saturating_sub(plan.destinations.len());
    if more > 0 && config.program.names_servers() {
        plan.remarks.push(format!(
            "{more} destinations that need fewer ports are left out: name those that matter with --to"
        ));
    }
    if let Some(first) = plan.destinations.first() {
        plan.flow = first.flow;
    }
}

/// The settings of the network namespace of the calling thread.
///
/// # Errors
/// The port range cannot be read.
fn settings(remarks: &mut Vec<String>) -> Result<Settings, Error> {
    let range = PortRange::read().map_err(|error| Error::Failure(error.to_string()))?;
    let states = (1_u32 << tcp_state::LISTEN) | (1_u32 << tcp_state::BOUND_INACTIVE);
    let bound = sockdiag::dump_all(states).unwrap_or_else(|error| {
        remarks.push(format!(
            "listeners could not be read ({}): their ports count as free here",
            crate::format::text::line(&error.to_string())
        ));
        Vec::new()
    });
    let blocked: BTreeSet<u16> = bound.iter().map(|socket| socket.source_port).collect();
    let listening = bound.iter().filter(|socket| socket.state == tcp_state::LISTEN);
    let listening = listening.map(|socket| socket.source_port).collect();
    let capacity = Usable::new(&range, blocked.iter().copied().collect()).limits().usable();
    let exists = |key: &&&str| Path::new("/proc/sys/net/ipv4").join(key).exists();
    Ok(Settings {
        range,
        capacity: capacity.max(1),
        reuse: Reuse::read(),
        hz: snapshot::hz(),
        keys: KEYS.iter().filter(exists).map(|key| format!("net.ipv4.{key}")).collect(),
        listening,
        has_node_ports: Path::new("/var/lib/kubelet").exists(),
    })
}

/// The settings as a recording has them, where it does. `program`: a file of sysctls is for this host, and keeps this host's.
fn with_recorded(
    settings: &mut Settings,
    program: Program,
    range: Option<(u16, u16)>,
    capacity: Option<u32>,
) {
    if program == Program::Sysctl {
        return;
    }
    if let Some((low, high)) = range
        && (low, high) != (settings.range.low, settings.range.high)
    {
        settings.range = PortRange { low, high, reserved: Vec::new() };
    }
    if let Some(capacity) = capacity {
        settings.capacity = capacity.max(1);
    }
}

#[cfg(test)]
mod tests;
