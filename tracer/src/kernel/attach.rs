//! Act: load the BPF object, attach one backend. Dropping the [`Session`] detaches it.

mod one;
mod session;

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
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
};
use crate::{
    error::Error,
    ledger::sizes::{Sizes, not_made},
    runtime::shutdown,
};
use one::{AttachError, Attachment, short};
use session::Running;
pub use session::Session;

/// What the BPF programs are loaded with.
#[derive(Debug)]
pub struct Settings {
    /// `Kind::bit`s of the wanted events.
    pub event_mask: u32,
    pub ring_size: u32,
    /// Of the ledger's tables. Those that a rule has already keep theirs.
    pub sizes: Sizes,
    pub filter: Filter,
    pub offsets: Offsets,
    /// Address of `tw_timer_handler`; 0: not known.
    pub tw_timer_handler: u64,
    /// Whether a program may set the errno of a call that it denies.
    pub fail_fast: bool,
    /// [`KernelFacts::blocked_until_free`](super::facts::KernelFacts::blocked_until_free)
    pub blocked_until_free: bool,
    /// [`KernelFacts::maps_are_locked`](super::facts::KernelFacts::maps_are_locked)
    pub maps_are_locked: bool,
    /// A spreader beside the ledger; everything is then pinned, and outlives the session.
    pub spreading: Option<Spreading>,
}

/// Where programs are attached, opened beforehand.
#[derive(Debug)]
pub struct Places {
    /// Root of the cgroup v2 hierarchy.
    pub cgroup: OwnedFd,
    /// Number of a tracepoint: category, name.
    pub tracepoint_id: fn(&str, &str) -> io::Result<u64>,
}

/// Tries the backends in order; the first that can be attached is it.
///
/// # Errors
/// [`Error::NoBackend`] with each backend's reason.
pub fn attach(
    settings: &Settings,
    backends: &[Backend],
    places: &Places,
) -> Result<Session, Error> {
    let mut reasons = Vec::new();
    for backend in backends {
        // A fresh object for each: dropping it undoes whatever was attached.
        let mut ebpf = load(settings)?;
        let mut maps = Maps::take(&mut ebpf)?;
        maps.key_shares()?;
        maps.set_filter(&settings.filter)?;
        // From here on, a release of a socket that is not known yet is noted.
        maps.set_seeding(true)?;
        let events = Events::take(&mut ebpf)?;
        let commands = Commands::take(&mut ebpf)?;
        let log = KernelLog::take(&mut ebpf);
        let keep = settings.spreading.as_ref();
        let mut attached = Attached { keep: keep.map(|it| it.pins.clone()), ..Attached::default() };
        let all = COMMON.iter().chain(programs::of(*backend));
        // Who only counts does not need what is told beside the counts.
        let needed: Vec<&Program> =
            all.filter(|program| keep.is_none() || program.counts()).collect();
        let programs = || needed.iter().copied();
        let mut spreader = None;
        // All are loaded before any is attached: verifying one takes milliseconds, in which what
        // begins after one hook must not end before another one is there.
        let step = programs()
            .try_for_each(|program| go_on().and_then(|()| attached.load(&mut ebpf, program)))
            .and_then(|()| {
                // Before the ledger's hooks, so that it runs before them in the same cgroup.
                let mark = keep.and_then(|keep| attached.mark(keep));
                spreader = keep
                    .map(|keep| Spreader::attach(&mut ebpf, keep, mark.as_ref()))
                    .transpose()?;
                let fds = programs().filter_map(|it| ebpf.program(it.name)?.fd().ok());
                for (mark, fd) in fds.flat_map(|fd| mark.iter().map(move |mark| (mark, fd))) {
                    if let Err(error) = mark.put_on(fd.as_fd()) {
                        tracing::debug!("a program of the ledger is not marked: {error}");
                    }
                }
                programs().try_for_each(|program| {
                    go_on()?;
                    attached.attach(&mut ebpf, program, places)
                })
            })
            .and_then(|()| attached.pin())
            .and_then(|()| match (&spreader, keep) {
                (Some(spreader), Some(keep)) => spreader.check(&keep.pins),
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
                shutdown::go_on()?;
                tracing::info!("{backend}: {reason}");
                reasons.push((backend.to_string(), reason));
            }
        }
    }
    Err(Error::NoBackend { reasons })
}

fn not_ours(error: io::Error) -> Error {
    Error::Failure(format!("cannot use the tables of the rule: {error}"))
}

/// Between two steps.
fn go_on() -> Result<(), String> {
    shutdown::go_on().map_err(|error| error.to_string())
}

fn load(settings: &Settings) -> Result<Ebpf, Error> {
    if BPF_OBJECT.is_empty() {
        return Err(Error::Failure(MISSING.into()));
    }
    let sizes = &settings.sizes;
    let wake_at = settings.ring_size / 4;
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
                if let Some(path) = spreading.pins.map_path(name).map_err(not_ours)? {
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

/// What one attempt has attached so far.
#[derive(Default)]
struct Attached {
    /// aya's reading of the kernel's type information, for trampolines only: it takes 15 ms.
    btf: Option<Btf>,
    tracepoints: Vec<OwnedFd>,
    /// kprobes and kretprobes.
    probes: Vec<OwnedFd>,
    degraded: Vec<String>,
    /// Optional programs that cannot be had.
    left_out: Vec<&'static str>,
    /// Where links are to be pinned.
    keep: Option<Pins>,
    /// Links that are, under the name of their program and another one until all are there.
    pinned: Vec<&'static str>,
}

impl Attached {
    /// Loads one program; the error is the reason why the backend cannot be used.
    fn load(&mut self, ebpf: &mut Ebpf, program: &Program) -> Result<(), String> {
        let Some(target) = ebpf.program_mut(program.name) else {
            return Err(format!("{}: it is not in the BPF object", program.name));
        };
        let result = self.load_one(target, program.hook);
        self.judge(program, result)
    }

    /// Attaches one loaded program.
    fn attach(
        &mut self,
        ebpf: &mut Ebpf,
        program: &Program,
        places: &Places,
    ) -> Result<(), String> {
        let target =
            ebpf.program_mut(program.name).filter(|_| !self.left_out.contains(&program.name));
        let Some(target) = target else { return Ok(()) };
        let done = one::attach(target, program.hook, places, self.keep.is_some());
        match done.and_then(|attached| self.hold(program.name, attached)) {
            Ok(()) => Ok(()),
            Err(error) => self.judge(program, Err(error)),
        }
    }

    fn hold(&mut self, name: &'static str, attached: Attachment) -> Result<(), AttachError> {
        let new = format!("{name}_new");
        if let Some(pins) = &self.keep {
            // Left over from a start that was cut short. (A bpffs takes no dots in names.)
            _ = pins.remove_link(&new);
        }
        match (attached, &self.keep) {
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

    /// By which the rule is found where its pins cannot be reached.
    fn mark(&mut self, spreading: &Spreading) -> Option<Mark> {
        match Mark::new(spreading.pins.rule()) {
            Ok(mark) => Some(mark),
            Err(error) => {
                self.degraded.push(format!("the rule is found only by its pins ({error})"));
                None
            }
        }
    }

    /// Puts the new links in the place of those of an earlier process, which ends these: both count
    /// for a moment, which the ledger does not mind.
    fn pin(&self) -> Result<(), String> {
        let Some(pins) = &self.keep else { return Ok(()) };
        for name in &self.pinned {
            pins.rename_link(&format!("{name}_new"), name)
                .map_err(|error| format!("cannot pin {name}: {error}"))?;
        }
        // Of a backend that another process used.
        for name in pins.links() {
            if !name.contains('@') && !self.pinned.iter().any(|pinned| *pinned == name) {
                pins.remove_link(&name)
                    .map_err(|error| format!("cannot remove {name}: {error}"))?;
            }
        }
        Ok(())
    }

    /// A program that cannot be had: what is not seen for it, or the end of this backend.
    fn judge(&mut self, program: &Program, result: Result<(), AttachError>) -> Result<(), String> {
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
