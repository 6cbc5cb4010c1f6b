//! Loads the BPF object and attaches one backend. Dropping the [`Session`] detaches what is not pinned.

mod one;
mod session;

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::Instant,
};

use aya::{Btf, Ebpf, EbpfError, EbpfLoader, VerifierLogLevel, maps::MapError};
use tracer_common::{
    Filter,
    settings::{MAX_TOUCHED, global, map},
};

use super::{
    commands::Commands,
    error::chain,
    events::Events,
    klog::{self, KernelLog},
    maps::Maps,
    missed::Missed,
    object::{BPF_OBJECT, MISSING},
    offsets::Offsets,
    plan::Backend,
    programs::{self, COMMON, Hook, Program},
    spread::{
        loaded::Mark,
        pinned::Pins,
        programs::{PINNED_MAPS, Spreader, Spreading},
    },
    verified::log_loaded,
};
use crate::{
    error::Error,
    ledger::sizes::{Sizes, not_made},
    runtime::shutdown,
};
use one::{AttachError, Attachment, short};
use session::Running;
pub use session::Session;

/// The settings that the BPF programs are loaded with.
#[derive(Debug)]
pub struct Settings {
    /// Bits of the kinds of events that hooks write (`Kind::bit`); 0: none.
    pub event_mask: u32,
    /// Size of the ring buffer for events, in bytes.
    pub ring_size: u32,
    /// Sizes of the ledger's tables. The tables that a rule already has keep their sizes.
    pub sizes: Sizes,
    pub filter: Filter,
    pub offsets: Offsets,
    /// Address of `tw_timer_handler`; 0: not known.
    pub tw_timer_handler: u64,
    /// Whether the kernel lets a program set the errno of a call that it denies (Linux 6.1).
    pub fail_fast: bool,
    /// Whether bind() blocks a port until it is free: [`blocked_until_free`](super::facts::KernelFacts::blocked_until_free).
    pub blocked_until_free: bool,
    /// Whether maps count against RLIMIT_MEMLOCK: [`maps_are_locked`](super::facts::KernelFacts::maps_are_locked).
    pub maps_are_locked: bool,
    /// Settings of a spreader, which uses the ledger. If set, all links and the maps in `PINNED_MAPS` are pinned, and
    /// outlive the session. `None`: nothing is spread or pinned.
    pub spreading: Option<Spreading>,
}

/// Where programs are attached.
#[derive(Debug)]
pub struct AttachTargets {
    /// Root of the cgroup v2 hierarchy.
    pub cgroup: OwnedFd,
    /// Looks up the number of a tracepoint by its category and name.
    pub tracepoint_id: fn(&str, &str) -> io::Result<u64>,
}

/// Returns a session of the first of these backends, in order, that can be attached. Its hooks write tombstones until
/// [`Maps::set_seeding`] is called with false.
///
/// # Errors
/// [`Error::NoBackend`] with each backend's reason (none if `backends` is empty); the object, a map or the program for commands
/// cannot be loaded or used; the rule's folders cannot be made or used; a signal asked to stop. Pins made by then stay.
pub fn attach(
    settings: &Settings,
    backends: &[Backend],
    targets: &AttachTargets,
) -> Result<Session, Error> {
    let mut reasons = Vec::new();
    for backend in backends {
        // A fresh object for each backend: dropping it detaches whatever was attached and is not pinned.
        let mut ebpf = load(settings)?;
        let mut maps = Maps::take(&mut ebpf)?;
        maps.key_shares()?;
        maps.set_filter(&settings.filter)?;
        // From here on, hooks write a tombstone for a socket that ends or changes, as it may not be in the ledger yet.
        maps.set_seeding(true)?;
        let events = Events::take(&mut ebpf)?;
        let commands = Commands::take(&mut ebpf)?;
        let log = KernelLog::take(&mut ebpf);
        let spreading = settings.spreading.as_ref();
        let mut attached =
            Attached { pins: spreading.map(|it| it.pins.clone()), ..Attached::default() };
        let all = COMMON.iter().chain(programs::of(*backend));
        // A spreader does not attach programs that only add detail.
        let needed: Vec<&Program> =
            all.filter(|program| spreading.is_none() || program.counts()).collect();
        let programs = || needed.iter().copied();
        let mut spreader = None;
        // All are loaded before any is attached. Verifying one takes milliseconds, in which a connection could end
        // whose begin one hook saw while the hook for its end is not there yet.
        let step = programs()
            .try_for_each(|program| check_stop().and_then(|()| attached.load(&mut ebpf, program)))
            .and_then(|()| {
                // The spreader is attached before the ledger's hooks, so that it runs before them in the same cgroup.
                let mark = spreading.and_then(|it| attached.mark(it));
                spreader = spreading
                    .map(|it| Spreader::attach(&mut ebpf, it, mark.as_ref()))
                    .transpose()?;
                let fds = programs().filter_map(|it| ebpf.program(it.name)?.fd().ok());
                for (mark, fd) in fds.flat_map(|fd| mark.iter().map(move |mark| (mark, fd))) {
                    if let Err(error) = mark.put_on(fd.as_fd()) {
                        tracing::debug!("cannot mark a program of the ledger: {error}");
                    }
                }
                programs().try_for_each(|program| {
                    check_stop()?;
                    attached.attach(&mut ebpf, program, targets)
                })
            })
            .and_then(|()| attached.pin())
            .and_then(|()| match (&spreader, spreading) {
                (Some(spreader), Some(it)) => spreader.check(&it.pins),
                _ => Ok(()),
            });
        match step {
            Ok(()) => {
                return Ok(Session {
                    backend: *backend,
                    degraded: attached.degraded,
                    maps,
                    events,
                    commands,
                    log,
                    attached: Some(Running {
                        ebpf,
                        probes: attached.probes,
                        tracepoints: attached.tracepoints,
                    }),
                    missed_before: Missed::default(),
                    spreader,
                });
            }
            Err(reason) => {
                shutdown::check_stop()?;
                tracing::info!("{backend}: {reason}");
                reasons.push((backend.to_string(), reason));
            }
        }
    }
    Err(Error::NoBackend { reasons })
}

fn unusable_tables(error: io::Error) -> Error {
    Error::Failure(format!("cannot use the tables of the rule: {error}"))
}

/// Fails, with the reason as text, if a signal asked the program to stop.
fn check_stop() -> Result<(), String> {
    shutdown::check_stop().map_err(|error| error.to_string())
}

fn load(settings: &Settings) -> Result<Ebpf, Error> {
    if BPF_OBJECT.is_empty() {
        return Err(Error::Failure(MISSING.into()));
    }
    let sizes = &settings.sizes;
    let wake_at = settings.ring_size / 4;
    let filtered = u32::from(settings.filter.active);
    let log_level = klog::level();
    let mut loader = EbpfLoader::new();
    loader
        .verifier_log_level(if tracing::enabled!(tracing::Level::DEBUG) {
            VerifierLogLevel::DEBUG | VerifierLogLevel::STATS
        } else {
            VerifierLogLevel::DISABLE
        })
        .override_global(global::EVENT_MASK, &settings.event_mask, true)
        .override_global(global::WAKE_AT, &wake_at, true)
        .override_global(global::FILTERED, &filtered, true)
        .override_global(global::MAX_TUPLES, &sizes.tuples, true)
        .override_global(global::MAX_CONNS, &sizes.conns, true)
        .override_global(global::MAX_BINDS, &sizes.binds, true)
        .override_global(global::TW_TIMER_HANDLER, &settings.tw_timer_handler, true)
        .override_global(aya_log::LEVEL, &log_level, false)
        .map_max_entries(map::EVENTS, settings.ring_size)
        .map_max_entries(map::CONNS, sizes.conns)
        .map_max_entries(map::TUPLES, sizes.tuples)
        .map_max_entries(map::BOUND_PORTS, sizes.binds)
        .map_max_entries(map::TOUCHED, if settings.blocked_until_free { MAX_TOUCHED } else { 1 })
        .map_max_entries(map::TOMBSTONES, sizes.tombstones)
        .map_max_entries(map::ATTEMPTS, sizes.attempts);
    for (name, value) in settings.offsets.iter() {
        loader.override_global(name, value, true);
    }
    let fail_fast = u32::from(settings.fail_fast);
    loader.override_global(global::FAIL_FAST, &fail_fast, true);
    let blocked = u32::from(settings.blocked_until_free);
    loader.override_global(global::BLOCKED_UNTIL_FREE, &blocked, true);
    if settings.spreading.is_none() {
        loader.map_max_entries(map::BOUND_SINCE, 1);
    }
    let spreading = u32::from(settings.spreading.is_some());
    loader.override_global(global::SPREADING, &spreading, true);
    match &settings.spreading {
        Some(spreading) => {
            spreading.pins.create()?;
            for name in PINNED_MAPS {
                if let Some(path) = spreading.pins.map_path(name).map_err(unusable_tables)? {
                    loader.map_pin_path(name, path);
                }
            }
        }
        None => {
            loader.map_max_entries(map::DECISION_RING, 4096);
        }
    }
    loader.load(BPF_OBJECT).map_err(|error| {
        let no_memory = match &error {
            EbpfError::MapError(MapError::CreateError { name, io_error }) => {
                not_made(name, io_error, sizes, (settings.ring_size, settings.maps_are_locked))
            }
            _ => None,
        };
        let other = || format!("cannot load the BPF object: {}", chain(&error));
        Error::Failure(no_memory.unwrap_or_else(other))
    })
}

/// What is attached so far of the backend that is being tried.
#[derive(Default)]
struct Attached {
    /// The kernel's type information, which aya takes 15 ms to read; `None` until a program on a trampoline needs it.
    btf: Option<Btf>,
    /// Perf events of tracepoints.
    tracepoints: Vec<OwnedFd>,
    /// Links or perf events of kprobes and kretprobes.
    probes: Vec<OwnedFd>,
    /// What is not seen or does not work, and why.
    degraded: Vec<String>,
    /// Optional programs that cannot be loaded or attached.
    left_out: Vec<&'static str>,
    /// Where links are pinned; `None`: nowhere.
    pins: Option<Pins>,
    /// Programs whose links are pinned, as `NAME_new` until all are.
    pinned: Vec<&'static str>,
}

impl Attached {
    /// Loads one program; leaves an optional one out if that fails. The error is why the backend cannot be used.
    fn load(&mut self, ebpf: &mut Ebpf, program: &Program) -> Result<(), String> {
        let Some(target) = ebpf.program_mut(program.name) else {
            return Err(format!("{}: it is not in the BPF object", program.name));
        };
        let begun = Instant::now();
        let result = self.load_one(target, program.hook);
        if result.is_ok() {
            log_loaded(program.name, begun.elapsed(), || target.info());
        }
        self.skip_or_fail(program, result)
    }

    /// Attaches one loaded program; leaves an optional one out if that fails. The error is why the backend cannot be used.
    fn attach(
        &mut self,
        ebpf: &mut Ebpf,
        program: &Program,
        targets: &AttachTargets,
    ) -> Result<(), String> {
        let target =
            ebpf.program_mut(program.name).filter(|_| !self.left_out.contains(&program.name));
        let Some(target) = target else { return Ok(()) };
        let done = one::attach(target, program.hook, targets, self.pins.is_some());
        match done.and_then(|attached| self.keep(program.name, attached)) {
            Ok(()) => Ok(()),
            Err(error) => self.skip_or_fail(program, Err(error)),
        }
    }

    /// Keeps an attached program attached: keeps the descriptor of a perf event or of a kprobe's link, and pins the link
    /// if there are pins.
    fn keep(&mut self, name: &'static str, attached: Attachment) -> Result<(), AttachError> {
        let new = format!("{name}_new");
        if let Some(pins) = &self.pins {
            // A link of this name may be left from a start that was interrupted. (The name ends in `_new` and not in
            // `.new` because names in a bpffs cannot have dots.)
            _ = pins.remove_link(&new);
        }
        match (attached, &self.pins) {
            (Attachment::Event(event), _) => self.tracepoints.push(event),
            (Attachment::Probe(probe), pins) => {
                if let Some(pins) = pins {
                    pins.pin_link(probe.as_fd(), &new).map_err(AttachError::PinProbe)?;
                    self.pinned.push(name);
                }
                self.probes.push(probe);
            }
            (Attachment::Link(link), Some(pins)) => {
                drop(link.pin(pins.link_path(&new).map_err(AttachError::PinProbe)?)?);
                self.pinned.push(name);
            }
            (Attachment::Link(_) | Attachment::InPlace, _) => {}
        }
        Ok(())
    }

    /// Makes the mark by which the rule is found where its pins cannot be reached. `None`: that failed, and
    /// `degraded` says why.
    fn mark(&mut self, spreading: &Spreading) -> Option<Mark> {
        match Mark::new(spreading.pins.rule()) {
            Ok(mark) => Some(mark),
            Err(error) => {
                self.degraded.push(format!("the rule is found only by its pins ({error})"));
                None
            }
        }
    }

    /// Renames the new links to their final names, which ends an earlier process's links of these names, and removes its
    /// links of another backend. Old and new programs see the same calls for a moment; the ledger counts each call once.
    fn pin(&self) -> Result<(), String> {
        let Some(pins) = &self.pins else { return Ok(()) };
        for name in &self.pinned {
            pins.rename_link(&format!("{name}_new"), name)
                .map_err(|error| format!("cannot pin {name}: {error}"))?;
        }
        // Removes links of another backend, which an earlier process used. (The spreader's links have an `@` in their name.)
        for name in pins.links() {
            if !name.contains('@') && !self.pinned.iter().any(|pinned| *pinned == name) {
                pins.remove_link(&name)
                    .map_err(|error| format!("cannot remove {name}: {error}"))?;
            }
        }
        Ok(())
    }

    /// Handles the failure of a program: notes what is not seen without it, or fails if the backend needs it.
    fn skip_or_fail(
        &mut self,
        program: &Program,
        result: Result<(), AttachError>,
    ) -> Result<(), String> {
        let Err(error) = result else { return Ok(()) };
        tracing::debug!("{}: {}", program.name, chain(&error));
        let reason = format!("{}: {}", program.name, short(&error));
        let Some(unseen) = program.optional else { return Err(reason) };
        tracing::info!("not seen: {unseen} ({reason})");
        self.degraded.push(format!("not seen: {unseen} ({reason})"));
        self.left_out.push(program.name);
        Ok(())
    }

    fn btf(&mut self) -> Result<&Btf, AttachError> {
        if self.btf.is_none() {
            self.btf = Some(Btf::from_sys_fs()?);
        }
        self.btf.as_ref().ok_or(AttachError::NoBtf)
    }

    fn load_one(
        &mut self,
        program: &mut aya::programs::Program,
        hook: Hook,
    ) -> Result<(), AttachError> {
        use aya::programs as aya;
        match hook {
            Hook::FEntry(function) => {
                let program: &mut aya::FEntry = program.try_into()?;
                program.load(function, self.btf()?)?;
            }
            Hook::FExit(function) => {
                let program: &mut aya::FExit = program.try_into()?;
                program.load(function, self.btf()?)?;
            }
            Hook::KProbe(_) | Hook::KProbeAny(_) => {
                TryInto::<&mut aya::KProbe>::try_into(program)?.load()?;
            }
            Hook::RawTracepoint(_) => {
                TryInto::<&mut aya::RawTracePoint>::try_into(program)?.load()?;
            }
            Hook::Tracepoint(..) => TryInto::<&mut aya::TracePoint>::try_into(program)?.load()?,
            Hook::CgroupSockAddr => {
                TryInto::<&mut aya::CgroupSockAddr>::try_into(program)?.load()?;
            }
            Hook::CgroupSock => TryInto::<&mut aya::CgroupSock>::try_into(program)?.load()?,
            Hook::SockOps => TryInto::<&mut aya::SockOps>::try_into(program)?.load()?,
        }
        Ok(())
    }
}
