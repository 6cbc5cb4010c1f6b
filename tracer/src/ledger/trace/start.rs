//! Starts a tracer: reads what the kernel offers, chooses a backend, attaches its programs, adds older sockets to the ledger,
//! then gives up privileges. Also resolves the names of a filter, which takes the privileges of the start.

use std::{
    collections::HashSet,
    io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::thread::CapabilitySet;
use tracer_common::Filter;

use super::{Agreement, Capacities, Filling, LeftOut, Missing, Quiet, Tracer, sizing};
use crate::{
    cli::Backend as BackendChoice,
    config::{FilterSpec, KernelConfig},
    error::Error,
    host::{
        cgroups::{self, Names},
        holder::Holders,
        mounts, netns,
        process::{self, ListsFiles},
    },
    kernel::{
        attach::{self, AttachTargets, Session, Settings},
        btf::{Btf, BtfError},
        facts::{self, KernelFacts},
        fentry,
        offsets::Offsets,
        open_files,
        plan::{Backend, Choice, Plan},
        privilege,
        spread::programs::{Spreading, kept_sizes},
    },
    ledger::sizes::{self, Sizes},
    runtime::{
        memory,
        sandbox::{self, Role, User},
        usage,
    },
};

const NO_FAIL_FAST: &str =
    "no --fail-fast: a program that denies connect() cannot choose its errno here (Linux 6.1)";
/// The function of the kernel that gives programs of connect() bpf_set_retval and bpf_get_retval. (Other programs had these since
/// Linux 5.18.)
const HAS_RETVAL: &str = "cgroup_common_func_proto";

/// Attaches, reads the older sockets, and puts the calling thread, and those that it starts later, into the sandbox
/// [`Role::Reads`], in which they open files as `user`. `event_mask`: the wanted kinds of events, as
/// [`tracer_common::Kind::bit`]s; 0: none. `filter`: which calls have events; the default: all. It does not limit what the ledger
/// counts.
///
/// # Errors
/// Missing privileges (exit code 77), no backend that can run (69), any other failure (1). Nothing stays attached.
pub(crate) fn start(
    config: &KernelConfig,
    event_mask: u32,
    filter: &Filter,
    user: User,
) -> Result<Tracer, Error> {
    start_with(config, event_mask, filter, Purpose::Sandbox(user))
}

/// Attaches the spreader's programs, and of the ledger's only those that count ports, and reads the older sockets. The
/// calling thread is not in a sandbox yet: of its capabilities, it keeps those to attach to cgroups, and those to put
/// itself (`enter_to_attach`) and the threads that it starts into their sandboxes.
///
/// # Errors
/// Missing privileges (exit code 77), no backend that can run (69), any other failure (1). What was pinned by then stays
/// attached: the caller removes it (`Undo` in `spread/start.rs`).
pub fn start_spreading(config: &KernelConfig, spreading: Spreading) -> Result<Tracer, Error> {
    start_with(config, 0, &Filter::default(), Purpose::Spread(spreading))
}

/// Who starts: a command that reads, whose threads open files as this user from then on, or a spreader.
enum Purpose {
    Sandbox(User),
    Spread(Spreading),
}

fn start_with(
    config: &KernelConfig,
    event_mask: u32,
    filter: &Filter,
    purpose: Purpose,
) -> Result<Tracer, Error> {
    let (spreading, user) = match purpose {
        Purpose::Sandbox(user) => (None, Some(user)),
        Purpose::Spread(spreading) => (Some(spreading), None),
    };
    let have = check_privileges()?;
    let worker = netns::Worker::spawn()
        .map_err(|error| Error::Failure(format!("cannot start a thread: {error}")))?;
    let kept = spreading.as_ref().map(|spreading| kept_sizes(&spreading.pins)).unwrap_or_default();
    let tables = sizes::choose(&config.sizes, &kept, &sizing::facts(&config.sizes));
    tracing::info!("{}", tables.text());
    if let Some(changed) = kept.ignored(&config.sizes) {
        tracing::warn!("{changed}");
    }
    let fail_fast = spreading.as_ref().is_some_and(|spreading| spreading.fail_fast);
    let Started { facts, plan, session, can_fail_fast, whole_host, idle_listed, files } =
        attach_best(config, (event_mask, filter), tables.sizes, spreading)?;
    let mut tracer = Tracer {
        release: facts.release.clone(),
        degraded: degraded(&plan, session.backend, &session.degraded, have),
        left_out: LeftOut::default(),
        session,
        seeded: 0,
        older: super::OlderEnds::default(),
        drift: 0,
        worker,
        agreement: Agreement::default(),
        kept_for_maps: privilege::kept_for_maps(facts.bpf_without_capability),
        idle_listed,
        tables,
        filling: Filling::default(),
        missing: Missing::default(),
        quiet: Quiet::new(Instant::now()),
        reconciled: Instant::now(),
        cost: Duration::ZERO,
        misses_seen: 0,
        capacities: Capacities::default(),
        holders: Holders::default(),
        ports: super::Ports::default(),
        tuples: Vec::new(),
        namespaces: HashSet::new(),
        held: HashSet::new(),
    };
    if fail_fast && !can_fail_fast {
        tracer.degraded.push(NO_FAIL_FAST.to_owned());
    }
    if !whole_host {
        tracer.degraded.push(cgroups::NOT_WHOLE.to_owned());
    }
    if let Some(files) = files {
        tracer.worker.use_list(files);
    }
    tracer.seed()?;
    tracer.session.flush_log();
    memory::release_start_memory();
    usage::prepare();
    drop_privileges(&tracer, user).map_err(cannot_enter)?;
    Ok(tracer)
}

fn cannot_enter(error: io::Error) -> Error {
    Error::Failure(format!("cannot drop the privileges: {error}"))
}

/// Puts the calling thread, which only reads maps or writes lines, into its sandbox ([`Role::Reads`]): from then on it opens
/// files as `user`, and has no capability but those of `keep`.
///
/// # Errors
/// [`Error::Failure`]: the kernel refuses to set no_new_privs, to change the user, to drop capabilities or to install the seccomp
/// filter.
pub(crate) fn enter_to_read(keep: CapabilitySet, user: User) -> Result<(), Error> {
    sandbox::enter(Role::Reads, user, keep).map_err(cannot_enter)
}

/// Puts the calling thread, which attaches the spreader to cgroups that are made again, into its sandbox: from then on it has no
/// capability but [`privilege::KEPT_FOR_CGROUPS`], and opens files as the user of this process.
///
/// # Errors
/// [`Error::Failure`]: the kernel refuses to set no_new_privs, to drop capabilities or to install the seccomp filter.
pub(crate) fn enter_to_attach() -> Result<(), Error> {
    sandbox::enter(Role::Attaches, User::own(), privilege::KEPT_FOR_CGROUPS).map_err(cannot_enter)
}

/// The effective capabilities of the calling thread, if tracer can run with them.
///
/// # Errors
/// [`Error::NoPrivilege`]: one that is always needed is missing; [`Error::InUserNamespace`]: they are those of a user namespace;
/// [`Error::Failure`]: they cannot be read.
pub fn check_privileges() -> Result<CapabilitySet, Error> {
    let have = privilege::effective()
        .map_err(|error| Error::Failure(format!("cannot read the capabilities: {error}")))?;
    let missing = privilege::missing(have);
    if !missing.is_empty() {
        return Err(Error::NoPrivilege { missing });
    }
    if !privilege::in_first_users() {
        return Err(Error::InUserNamespace { missing: privilege::needed() });
    }
    Ok(have)
}

/// A session that has started, and what was found out for it.
struct Started {
    facts: KernelFacts,
    plan: Plan,
    session: Session,
    /// Whether the kernel lets a program set the errno of a call that it denies.
    can_fail_fast: bool,
    /// Whether the hooks are attached to the root of the host's cgroups.
    whole_host: bool,
    /// Whether the kernel lists sockets that are bound and idle.
    idle_listed: bool,
    /// The kernel's list of open files; `None`: it has none.
    files: Option<Arc<dyn ListsFiles>>,
}

/// Attaches the best backend that this kernel accepts. Tries fexit first, without reading the kernel's symbols: only
/// the others need them, and reading them takes longer than attaching.
fn attach_best(
    config: &KernelConfig,
    (event_mask, filter): (u32, &Filter),
    sizes: Sizes,
    spreading: Option<Spreading>,
) -> Result<Started, Error> {
    let btf = Btf::from_kernel();
    let types = match &btf {
        Ok(types) => types,
        Err(error) => return Err(none_can_run(config, &btf, error)),
    };
    let offsets = Offsets::resolve(types)
        .map_err(|error| Error::Failure(format!("cannot read this kernel's sockets: {error}")))?;
    let root = cgroups::find().map_err(|error| none_can_run(config, &btf, &error))?;
    let targets = AttachTargets { cgroup: root.directory, tracepoint_id };
    let mut settings = Settings {
        event_mask,
        ring_size: config.ring_size,
        sizes,
        filter: *filter,
        offsets,
        tw_timer_handler: 0,
        blocked_until_free: false,
        maps_are_locked: false,
        fail_fast: types.has_function(HAS_RETVAL),
        spreading,
    };
    let mut refused = Vec::new();
    // fexit in the first round, the other backends in the second.
    for symbols in [false, true] {
        let facts = KernelFacts::read(&btf, symbols);
        let plan = Plan::new(&facts, choice(config.backend));
        settings.blocked_until_free = facts.blocked_until_free;
        settings.maps_are_locked = facts.maps_are_locked;
        settings.tw_timer_handler = facts.tw_timer_handler.unwrap_or(0);
        let attempts: Vec<Backend> = plan
            .attempts
            .iter()
            .copied()
            .filter(|backend| symbols != (*backend == Backend::Fexit))
            .collect();
        if attempts.contains(&Backend::Fexit)
            && let Some(error) = fentry::refusal(types)
        {
            let reason = format!("the kernel refuses to load a program at fentry: {error}");
            tracing::info!("{}: {reason}", Backend::Fexit);
            refused.push((Backend::Fexit.to_string(), reason));
            continue;
        }
        match attach::attach(&settings, &attempts, &targets) {
            Ok(session) => {
                for (backend, reason) in &plan.skipped {
                    tracing::info!("backend {backend} is not used: {reason}");
                }
                tracing::info!("attached: the backend is {}", session.backend);
                let can_fail_fast = settings.fail_fast;
                let files = open_files::shared(types);
                let (whole_host, idle_listed) = (root.whole, facts::lists_idle(types));
                return Ok(Started {
                    facts,
                    plan,
                    session,
                    can_fail_fast,
                    whole_host,
                    idle_listed,
                    files,
                });
            }
            Err(Error::NoBackend { reasons }) => refused.extend(reasons),
            Err(other) => return Err(other),
        }
        if symbols {
            return Err(no_backend(&plan, refused));
        }
    }
    Err(Error::NoBackend { reasons: refused })
}

/// The error for a lack of something that every backend needs: each backend that would have been tried has `reason`.
fn none_can_run(
    config: &KernelConfig,
    btf: &Result<Btf, BtfError>,
    reason: &dyn std::error::Error,
) -> Error {
    let plan = Plan::new(&KernelFacts::read(btf, false), choice(config.backend));
    let forced = plan.attempts.iter().map(|backend| (backend.to_string(), reason.to_string()));
    no_backend(&plan, forced)
}

/// Opens the cgroup hierarchy, to look up the names of cgroups in it. Must be called before privileges are given up.
///
/// # Errors
/// Missing privileges (exit code 77); the cgroup hierarchy, which every backend needs, cannot be opened (69); the capabilities of
/// this thread cannot be read (1).
pub fn cgroup_names(config: &KernelConfig) -> Result<Names, Error> {
    check_privileges()?;
    cgroups::root()
        .map(Names::new)
        .map_err(|error| none_can_run(config, &Btf::from_kernel(), &error))
}

/// The error with each backend's reason: first those that were not tried, then those that the kernel refused.
fn no_backend(plan: &Plan, refused: impl IntoIterator<Item = (String, String)>) -> Error {
    let passed = plan.skipped.iter().map(|(one, why)| (one.to_string(), why.clone()));
    Error::NoBackend { reasons: passed.chain(refused).collect() }
}

/// Gives up privileges. Capabilities belong to threads: the workers keep what entering namespaces needs, this thread
/// and those that it starts later what reading maps needs. `user` is `None`: this thread enters no sandbox yet, and keeps
/// what attaching to cgroups and putting threads into sandboxes needs.
fn drop_privileges(tracer: &Tracer, user: Option<User>) -> io::Result<()> {
    let keep = privilege::KEPT_FOR_NAMESPACES;
    tracer.worker.run_on_all(move || sandbox::enter(Role::Visits, User::own(), keep))?;
    if let Some(user) = user {
        return sandbox::enter(Role::Reads, user, tracer.kept_for_maps);
    }
    let keep = privilege::KEPT_FOR_CGROUPS | privilege::KEPT_FOR_SANDBOXES;
    Ok(privilege::drop_after_attach(keep)?)
}

fn degraded(
    plan: &Plan,
    backend: Backend,
    of_session: &[String],
    have: CapabilitySet,
) -> Vec<String> {
    let of_plan = plan.degraded_on(backend).map(str::to_owned);
    let of_plan = of_plan.chain(of_session.iter().cloned()).chain(privilege::shortcomings(have));
    of_plan.chain(process::shortcoming().map(str::to_owned)).collect()
}

const fn choice(backend: BackendChoice) -> Choice {
    match backend {
        BackendChoice::Auto => Choice::Auto,
        BackendChoice::Fexit => Choice::Forced(Backend::Fexit),
        BackendChoice::Kprobe => Choice::Forced(Backend::Kprobe),
        BackendChoice::Tracepoint => Choice::Forced(Backend::Tracepoint),
    }
}

/// The filter for the kernel side, with ids of cgroups and namespaces in place of their names. To be called before privileges are
/// given up.
///
/// # Errors
/// A cgroup or a namespace does not exist or cannot be opened (exit code 78).
pub fn resolve(spec: &FilterSpec) -> Result<Filter, Error> {
    let mut ids = Vec::new();
    for path in &spec.cgroups {
        let cgroup = cgroups::resolve_arg(&path.to_string_lossy())
            .map_err(|error| Error::BadConfig(error.to_string()))?;
        ids.push(tracer_common::filter::Cgroup { id: cgroup.id, level: cgroup.level, zero: 0 });
    }
    let mut namespaces = Vec::new();
    for spec in &spec.netns {
        namespaces.push(
            netns::resolve(&spec.to_string())
                .map_err(|error| Error::BadConfig(error.to_string()))?
                .inum,
        );
    }
    Ok(spec.to_kernel(&ids, &namespaces))
}

/// The number of a tracepoint, from tracefs.
fn tracepoint_id(category: &str, name: &str) -> io::Result<u64> {
    use rustix::fs::{Mode, OFlags, openat};
    let root = mounts::tracefs()?;
    let path = Path::new("events").join(category).join(name).join("id");
    let file = openat(&root, &path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let text = io::read_to_string(std::fs::File::from(file))?;
    text.trim().parse().map_err(|_| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: {text:?}", path.display()))
    })
}
