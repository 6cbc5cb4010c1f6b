//! From a configuration to a running spreader: everything that can be wrong is found out before
//! anything is attached.

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
    destinations,
    ears::Ears,
    notes::Notes,
    pool::{self, PoolAddress},
    reach::{Choice, Reach},
    state::{Lock, State},
    ways::{self, Unclear},
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

/// What a namespace has for a spreader.
#[derive(Debug)]
pub(super) struct Inside {
    pub(super) host: Host,
    pub(super) range: PortRange,
    pub(super) reuse: Reuse,
    /// 0: this kernel does not say.
    pub(super) cookie: u64,
    /// How the destinations are reached, or why that is not known.
    pub(super) reaches: Result<Vec<Reach>, String>,
}

/// The namespace of the pool: a named one, or this process's own.
pub(super) fn namespace(named: Option<&NetnsRef>) -> Result<Netns, Error> {
    match named {
        Some(named) => {
            netns::resolve(&named.to_string()).map_err(|error| Error::BadConfig(error.to_string()))
        }
        None => netns::own().map_err(|error| {
            Error::Failure(format!("cannot tell this process's network namespace: {error}"))
        }),
    }
}

/// Looks around in the namespace.
pub(super) fn look(worker: &Worker, netns: &Netns, config: &SpreadConfig) -> io::Result<Inside> {
    let listed: Vec<IpAddr> = pool::listed(&config.pool).collect();
    let targets = destinations::networks(&config.targets);
    let look = move || -> io::Result<Inside> {
        let host = Host::read(listed)?;
        Ok(Inside {
            reaches: addresses::reaches(&targets, &host).map_err(|error| error.to_string()),
            host,
            range: PortRange::read()?,
            reuse: Reuse::read(),
            cookie: cookie(),
        })
    };
    worker.run_in(netns, look).and_then(|result| result)
}

/// Word of changes in the namespace. The sockets keep the namespace alive, so they are let go of when
/// nothing else leads there any more.
pub(super) fn ears(worker: &Worker, netns: &Netns) -> io::Result<Ears> {
    worker.run_in(netns, Ears::open).and_then(|result| result)
}

/// Leaves no lock of a start that has made nothing else. Says that nothing is left.
pub(super) fn withdraw(rule: &str, pins: &Pins) -> bool {
    if !pins.exists() {
        Lock::remove(rule);
    }
    true
}

/// Leaves nothing of a start that did not get to its end: what an earlier agent left goes on as it was.
/// Whoever has this has the rule's lock.
#[derive(Clone)]
pub(super) struct Undo {
    rule: String,
    pins: Pins,
    /// Links of the earlier agent; `None`: there was none.
    earlier: Option<Vec<String>>,
}

impl Undo {
    /// `adopted`: the rule was there before.
    pub(super) fn new(rule: &str, pins: &Pins, adopted: bool) -> Self {
        let earlier = adopted.then(|| pins.links());
        Self { rule: rule.to_owned(), pins: pins.clone(), earlier }
    }

    /// Says whether nothing is left.
    pub(super) fn run(&self) -> bool {
        let removed = match &self.earlier {
            Some(earlier) => self.pins.remove_links_but(earlier),
            None => self.pins.remove(),
        };
        if self.earlier.is_none() {
            State::remove(&self.rule);
        }
        // Last: the log may wait for its reader.
        removed.inspect_err(|error| tracing::warn!("{error}")).is_ok()
    }
}

/// That a look into the namespace failed.
pub(super) fn cannot_look(error: io::Error) -> Error {
    Error::Failure(format!("cannot read the pool's network namespace: {error}"))
}

/// The pool as this namespace has it.
pub(super) fn pool(config: &SpreadConfig, inside: &mut Inside) -> Result<Vec<PoolAddress>, Error> {
    let wrong = |error: &dyn std::error::Error| Error::BadConfig(error.to_string());
    inside.host.ways = ways(config, &inside.reaches)?;
    let pool = pool::resolve(&config.pool, &inside.host).map_err(|error| wrong(&error))?;
    destinations::check(&config.targets, &pool).map_err(|error| wrong(&error))?;
    Ok(pool)
}

/// Which interfaces `--pool auto` means; none where it was not asked for.
pub(super) fn ways(
    config: &SpreadConfig,
    reaches: &Result<Vec<Reach>, String>,
) -> Result<Choice, Error> {
    if !pool::is_auto(&config.pool) {
        return Ok(Choice::default());
    }
    let reaches = reaches.as_ref().map_err(|error| {
        Error::Failure(format!(
            "--pool auto: cannot read the routes to the destinations: {error}; name the addresses"
        ))
    })?;
    let place = DESTINATIONS_MAX.saturating_sub(config.targets.len().max(1));
    let unclear = |error: Unclear| Error::BadConfig(format!("--pool auto: {error}"));
    let choice = ways::choose(reaches, place).map_err(unclear)?;
    let count = choice.destinations(&config.destinations()).len();
    if count > DESTINATIONS_MAX {
        return Err(unclear(Unclear::NoPlace { count: choice.elsewhere.len() }));
    }
    Ok(choice)
}

/// What there is to say of the pool.
pub(super) fn notes(config: &SpreadConfig, inside: &Inside) -> Notes {
    Notes::new(&config.pool, &inside.host, inside.reaches.as_deref().unwrap_or_default())
}

/// The cgroups to attach to.
pub(super) fn places(paths: &[PathBuf]) -> Result<Vec<CgroupTarget>, Error> {
    paths.iter().map(|path| place(path)).collect()
}

/// One of them.
pub(super) fn place(path: &Path) -> Result<CgroupTarget, Error> {
    let wrong = |error: cgroups::CgroupError| Error::BadConfig(error.to_string());
    let found = cgroups::resolve_arg(&path.to_string_lossy()).map_err(wrong)?;
    let root = cgroups::find()
        .map_err(|error| Error::BadConfig(cgroups::CgroupError::NoHierarchy(error).to_string()))?;
    // `--all`, or a root that would be taken for the host's.
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

/// SO_NETNS_COOKIE (Linux 5.14) of the calling thread's namespace.
#[expect(unsafe_code, reason = "getsockopt(2) of an option that rustix does not have")]
fn cookie() -> u64 {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let flags = SocketFlags::CLOEXEC;
    let Ok(socket) = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None) else {
        return 0;
    };
    let mut cookie = 0_u64;
    let mut len: libc::socklen_t = 8;
    // SAFETY: the value is as long as the length says, and both outlive the call.
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
