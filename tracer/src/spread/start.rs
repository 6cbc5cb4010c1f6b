//! Checks and opens what `tracer spread` needs before it attaches anything, and undoes a start that failed.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use tracer_common::spread::DESTINATIONS_MAX;

use super::{
    addresses::{self, Host},
    auto::{self, Unclear},
    destinations,
    netns_sockets::NetnsSockets,
    notes::Notes,
    pool::{self, PoolAddress},
    reach::{AutoChoice, Reach},
    state::{Lock, State},
};
use crate::{
    cli::NetnsRef,
    config::SpreadConfig,
    error::Error,
    host::{
        capacity::{PortRange, Reuse},
        cgroups,
        mounts::open_dir,
        netns::{self, Netns, Worker},
    },
    kernel::spread::{pinned::Pins, programs::CgroupTarget},
};

/// What was read of the pool's network namespace.
#[derive(Debug)]
pub(super) struct NetnsView {
    /// The interfaces and addresses of the namespace.
    pub(super) host: Host,
    pub(super) range: PortRange,
    pub(super) reuse: Reuse,
    /// The namespace's cookie; 0: not known.
    pub(super) cookie: u64,
    /// How the destinations are reached, or why the routes could not be read.
    pub(super) reaches: Result<Vec<Reach>, String>,
}

/// The pool's network namespace: that of `--netns`, or this process's own.
///
/// # Errors
/// There is no such namespace, the path of `--netns` is something else, or it cannot be opened.
pub(super) fn namespace(named: Option<&NetnsRef>) -> Result<Netns, Error> {
    match named {
        Some(named) => {
            netns::resolve(&named.to_string()).map_err(|error| Error::BadConfig(error.to_string()))
        }
        None => netns::own().map_err(|error| {
            Error::Failure(format!("cannot read this process's network namespace: {error}"))
        }),
    }
}

/// Reads the network namespace's addresses, routes and settings. Routes that cannot be read are no error here (see
/// [`NetnsView::reaches`]), nor is another setting than the port range.
///
/// # Errors
/// The namespace cannot be entered; its addresses or its port range cannot be read.
pub(super) fn read_netns(
    worker: &Worker,
    netns: &Netns,
    config: &SpreadConfig,
) -> io::Result<NetnsView> {
    let listed: Vec<IpAddr> = pool::listed(&config.pool).collect();
    let targets = destinations::networks(&config.targets);
    let read = move || -> io::Result<NetnsView> {
        let host = Host::read(listed)?;
        Ok(NetnsView {
            reaches: addresses::reaches(&targets, &host).map_err(|error| error.to_string()),
            host,
            range: PortRange::read()?,
            reuse: Reuse::read(),
            cookie: cookie(),
        })
    };
    worker.run_in(netns, read)
}

/// Opens the agent's sockets in the namespace. They keep the namespace alive, so they must be closed when nothing else
/// leads to it any more.
///
/// # Errors
/// The namespace cannot be entered; the kernel makes no such socket.
pub(super) fn open_sockets(worker: &Worker, netns: &Netns) -> io::Result<NetnsSockets> {
    worker.run_in(netns, NetnsSockets::open)
}

/// Removes the rule's lock file, if the rule has no pins: the start has made nothing else. Always true: nothing is left
/// to undo.
pub(super) fn remove_unused_lock(rule: &str, pins: &Pins) -> bool {
    if !pins.exists() {
        Lock::remove(rule);
    }
    true
}

/// Undoes a start that failed: removes what it pinned, and leaves the pins of an earlier agent. Or ends a rule whose agent
/// was asked to stop and does not end in time. Only for the holder of the rule's lock.
#[derive(Clone)]
pub(super) struct Undo {
    rule: String,
    pins: Pins,
    /// Names of the links that stay pinned; `None`: all pins and files of the rule are removed.
    earlier: Option<Vec<String>>,
}

impl Undo {
    /// What [`Self::run`] is to undo of the rule with this name and these pins. `adopted`: the links that are pinned now stay,
    /// and so does the rule; else the rule is removed with all its pins and files.
    pub(super) fn new(rule: &str, pins: &Pins, adopted: bool) -> Self {
        let earlier = adopted.then(|| pins.links());
        Self { rule: rule.to_owned(), pins: pins.clone(), earlier }
    }

    /// Removes what is not to stay; false: some of it could not be removed, which is logged.
    pub(super) fn run(&self) -> bool {
        let removed = match &self.earlier {
            Some(earlier) => self.pins.remove_links_but(earlier),
            None => self.pins.remove(),
        };
        if self.earlier.is_none() {
            State::remove(&self.rule);
        }
        // Last, because writing to the log may wait for its reader.
        removed.inspect_err(|error| tracing::warn!("{error}")).is_ok()
    }
}

/// The error for a network namespace that cannot be read.
pub(super) fn cannot_read_netns(error: io::Error) -> Error {
    Error::Failure(format!("cannot read the pool's network namespace: {error}"))
}

/// The pool's addresses that can be used in this namespace; sets `auto` of `view.host` to the result of [`auto_choice`].
///
/// # Errors
/// A `--pool` or `--to` value that cannot be used; those of [`auto_choice`].
pub(super) fn pool(config: &SpreadConfig, view: &mut NetnsView) -> Result<Vec<PoolAddress>, Error> {
    let wrong = |error: &dyn std::error::Error| Error::BadConfig(error.to_string());
    view.host.auto = auto_choice(config, &view.reaches)?;
    let pool = pool::resolve(&config.pool, &view.host).map_err(|error| wrong(&error))?;
    destinations::check(&config.targets, &pool).map_err(|error| wrong(&error))?;
    Ok(pool)
}

/// Which interfaces `--pool auto` means, and which networks the rule exempts because they are reached over others; the default,
/// which has neither, if no `--pool` value is `auto`. `reaches`: [`NetnsView::reaches`].
///
/// # Errors
/// With `auto`: `reaches` is an error; it has no route, or leads over different interfaces, so that it is not clear which are
/// meant; or the rule would have more than [`DESTINATIONS_MAX`] destinations with the exempt networks.
pub(super) fn auto_choice(
    config: &SpreadConfig,
    reaches: &Result<Vec<Reach>, String>,
) -> Result<AutoChoice, Error> {
    if !pool::is_auto(&config.pool) {
        return Ok(AutoChoice::default());
    }
    let reaches = reaches.as_ref().map_err(|error| {
        Error::Failure(format!(
            "--pool auto: cannot read the routes to the destinations: {error}; list the pool's addresses in place of auto"
        ))
    })?;
    let room = DESTINATIONS_MAX.saturating_sub(config.targets.len().max(1));
    let unclear = |error: Unclear| Error::BadConfig(format!("--pool auto: {error}"));
    let choice = auto::choose(reaches, room).map_err(unclear)?;
    let count = choice.destinations(&config.destinations()).len();
    if count > DESTINATIONS_MAX {
        return Err(unclear(Unclear::TooManyNetworks { count: choice.elsewhere.len() }));
    }
    Ok(choice)
}

/// The notes on the pool; if the routes could not be read, without the warnings that depend on them.
pub(super) fn notes(config: &SpreadConfig, view: &NetnsView) -> Notes {
    Notes::new(&config.pool, &view.host, view.reaches.as_deref().unwrap_or_default())
}

/// Opens the cgroups to attach to, in this order, up to the first error.
///
/// # Errors
/// There is no cgroup v2 hierarchy or no such cgroup, or it cannot be opened; a path is `/`, but the root that can be
/// reached is not the host's.
pub(super) fn attach_targets(paths: &[PathBuf]) -> Result<Vec<CgroupTarget>, Error> {
    paths.iter().map(|path| attach_target(path)).collect()
}

/// Opens one cgroup to attach to.
///
/// # Errors
/// There is no cgroup v2 hierarchy or no such cgroup, or it cannot be opened; the path is `/`, but the root that can be
/// reached is not the host's.
pub(super) fn attach_target(path: &Path) -> Result<CgroupTarget, Error> {
    let wrong = |error: cgroups::CgroupError| Error::BadConfig(error.to_string());
    let found = cgroups::resolve_arg(&path.to_string_lossy()).map_err(wrong)?;
    let root = cgroups::find()
        .map_err(|error| Error::BadConfig(cgroups::CgroupError::NoHierarchy(error).to_string()))?;
    // `/` is also what `--all` means. In a container, the root that can be reached may have only a part of the host's
    // cgroups.
    if found.path == Path::new("/") && !root.whole {
        let why = cgroups::NOT_WHOLE;
        return Err(Error::BadConfig(format!(
            "the root cgroup that can be reached is not the whole machine: {why}"
        )));
    }
    let root = root.directory;
    let open = || -> io::Result<OwnedFd> {
        let below = found.path.strip_prefix("/").unwrap_or(&found.path);
        let below = if below.as_os_str().is_empty() { Path::new(".") } else { below };
        Ok(open_dir(&root, below)?)
    };
    let directory = open().map_err(|source| Error::File {
        tried: "open the cgroup",
        path: found.path.clone(),
        source,
        do_this: "",
    })?;
    Ok(CgroupTarget { id: found.id, directory })
}

/// The cookie of the calling thread's network namespace (SO_NETNS_COOKIE, Linux 5.14); 0: this kernel has none, or it cannot
/// be read.
#[expect(unsafe_code, reason = "getsockopt(2) of an option that rustix does not have")]
fn cookie() -> u64 {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let flags = SocketFlags::CLOEXEC;
    let Ok(socket) = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None) else {
        return 0;
    };
    let mut cookie = 0_u64;
    let mut len: libc::socklen_t = 8;
    // SAFETY: `cookie` has the 8 bytes that `len` says, and both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if result == 0 { cookie } else { 0 }
}
