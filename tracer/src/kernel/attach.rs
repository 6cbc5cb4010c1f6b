//! Act: load the BPF object, attach one backend. Dropping the [`Session`] detaches it.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use aya::{
    Btf, Ebpf, EbpfLoader, VerifierLogLevel,
    programs::{CgroupAttachMode, ProbeKind, ProgramError},
};
use tracer_common::{
    Filter,
    settings::{global, map},
};

use super::{
    commands::Commands,
    events::Events,
    klog::{self, KernelLog},
    maps::{Maps, Totals},
    missed::{self, Missed},
    object::{BPF_OBJECT, MISSING},
    offsets::Offsets,
    perf,
    plan::Backend,
    programs::{self, COMMON, Hook, Program},
    sys,
};
use crate::error::Error;

/// What the BPF programs are loaded with.
#[derive(Debug)]
pub struct Settings {
    /// `Kind::bit`s of the wanted events.
    pub event_mask: u32,
    pub ring_size: u32,
    pub max_conns: u32,
    pub max_tuples: u32,
    pub filter: Filter,
    pub offsets: Offsets,
    /// Address of `tw_timer_handler`; 0: not known.
    pub tw_timer_handler: u64,
}

/// Where programs are attached, opened beforehand.
#[derive(Debug)]
pub struct Places {
    /// Root of the cgroup v2 hierarchy.
    pub cgroup: OwnedFd,
    /// Number of a tracepoint: category, name.
    pub tracepoint_id: fn(&str, &str) -> io::Result<u64>,
}

/// An attached backend.
pub struct Session {
    pub backend: Backend,
    /// What is not seen, and why.
    pub degraded: Vec<String>,
    pub maps: Maps,
    pub events: Events,
    pub commands: Commands,
    log: KernelLog,
    attached: Option<Running>,
    /// Hooks missed until the programs were detached.
    missed_before: Missed,
}

/// Programs and their links live as long as this.
struct Running {
    ebpf: Ebpf,
    probes: Vec<OwnedFd>,
    _tracepoints: Vec<OwnedFd>,
}

impl Session {
    /// How often the kernel passed over a hook since the programs were attached.
    pub fn missed_hooks(&self) -> Missed {
        let Some(attached) = &self.attached else { return self.missed_before };
        let programs = COMMON.iter().chain(programs::of(self.backend));
        let fds = programs.filter_map(|program| attached.ebpf.program(program.name)?.fd().ok());
        let by_program = fds.map(|fd| missed::of_program(fd.as_fd()));
        let by_probe = attached.probes.iter().map(|probe| sys::link_missed(probe.as_fd()));
        by_program.chain(by_probe).collect()
    }

    /// What the kernel side counted.
    ///
    /// # Errors
    /// Maps that cannot be read.
    pub fn totals(&self) -> Result<Totals, Error> {
        Ok(Totals { hook_missed: self.missed_hooks().counted, ..self.maps.totals()? })
    }

    /// Hands what the BPF programs logged to this program's own log.
    pub fn flush_log(&mut self) {
        self.log.flush();
    }

    /// Detaches every program. The maps stay readable.
    pub fn detach(&mut self) {
        self.missed_before = self.missed_hooks();
        self.attached = None;
    }
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
        maps.set_filter(&settings.filter)?;
        // From here on, a release of a socket that is not known yet is noted.
        maps.set_seeding(true)?;
        let events = Events::take(&mut ebpf)?;
        let commands = Commands::take(&mut ebpf)?;
        let log = KernelLog::take(&mut ebpf);
        let mut attached = Attached::default();
        let programs = || COMMON.iter().chain(programs::of(*backend));
        // All are loaded before any is attached: verifying one takes milliseconds, in which what
        // begins after one hook must not end before another one is there.
        let step =
            programs().try_for_each(|program| attached.load(&mut ebpf, program)).and_then(|()| {
                programs().try_for_each(|program| attached.attach(&mut ebpf, program, places))
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
                        _tracepoints: attached.tracepoints,
                    }),
                    missed_before: Missed::default(),
                });
            }
            Err(reason) => {
                tracing::info!("{backend}: {reason}");
                reasons.push((backend.to_string(), reason));
            }
        }
    }
    Err(Error::NoBackend { reasons })
}

fn load(settings: &Settings) -> Result<Ebpf, Error> {
    if BPF_OBJECT.is_empty() {
        return Err(Error::Failure(MISSING.into()));
    }
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
        .override_global(global::TW_TIMER_HANDLER, &settings.tw_timer_handler, true)
        .override_global(aya_log::LEVEL, &log_level, false)
        .map_max_entries(map::EVENTS, settings.ring_size)
        .map_max_entries(map::CONNS, settings.max_conns)
        .map_max_entries(map::TUPLES, settings.max_tuples);
    for (name, value) in settings.offsets.iter() {
        loader.override_global(name, value, true);
    }
    loader
        .load(BPF_OBJECT)
        .map_err(|error| Error::Failure(format!("cannot load the BPF object: {}", chain(&error))))
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
        match attach_one(target, program.hook, places) {
            Ok(event) => {
                let is_probe = matches!(program.hook, Hook::KProbe(_) | Hook::KProbeAny(_));
                let events = if is_probe { &mut self.probes } else { &mut self.tracepoints };
                events.extend(event);
                Ok(())
            }
            Err(error) => self.judge(program, Err(error)),
        }
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

/// Attaches one program; a kprobe or a tracepoint gives a descriptor to keep.
fn attach_one(
    program: &mut aya::programs::Program,
    hook: Hook,
    places: &Places,
) -> Result<Option<OwnedFd>, AttachError> {
    use aya::programs as aya;
    // A link to a cgroup lets others be there in every mode; the kernel refuses the other modes'
    // flags on a link.
    let mode = CgroupAttachMode::Single;
    match hook {
        Hook::FEntry(_) => {
            TryInto::<&mut aya::FEntry>::try_into(program)?.attach()?;
        }
        Hook::FExit(_) => {
            TryInto::<&mut aya::FExit>::try_into(program)?.attach()?;
        }
        Hook::KProbe(function) => return attach_kprobe(program, &[function]).map(Some),
        Hook::KProbeAny(functions) => return attach_kprobe(program, functions).map(Some),
        Hook::RawTracepoint(name) => {
            TryInto::<&mut aya::RawTracePoint>::try_into(program)?.attach(name)?;
        }
        Hook::Tracepoint(category, name) => {
            let program: &mut aya::TracePoint = program.try_into()?;
            let id = (places.tracepoint_id)(category, name).map_err(AttachError::Tracepoint)?;
            let event = perf::attach_tracepoint(program.fd()?.as_fd(), id);
            return event.map(Some).map_err(AttachError::Perf);
        }
        Hook::CgroupSockAddr => {
            TryInto::<&mut aya::CgroupSockAddr>::try_into(program)?.attach(&places.cgroup, mode)?;
        }
        Hook::CgroupSock => {
            TryInto::<&mut aya::CgroupSock>::try_into(program)?.attach(&places.cgroup, mode)?;
        }
        Hook::SockOps => {
            TryInto::<&mut aya::SockOps>::try_into(program)?.attach(&places.cgroup, mode)?;
        }
    }
    Ok(None)
}

/// Attaches a kprobe or kretprobe to the first of these functions that the kernel has.
fn attach_kprobe(
    program: &mut aya::programs::Program,
    functions: &[&str],
) -> Result<OwnedFd, AttachError> {
    let program: &mut aya::programs::KProbe = program.try_into()?;
    let at_return = matches!(program.kind(), ProbeKind::Return);
    let mut refused = None;
    for function in functions {
        match perf::attach_kprobe(program.fd()?.as_fd(), function, at_return) {
            Ok(event) => return Ok(event),
            Err(error) => refused = Some(error),
        }
    }
    Err(AttachError::Perf(refused.unwrap_or_else(|| io::ErrorKind::NotFound.into())))
}

/// Why attaching failed.
#[derive(Debug, thiserror::Error)]
enum AttachError {
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error("the kernel's type information cannot be read: {0}")]
    Btf(#[from] aya::BtfError),
    #[error("the kernel's type information cannot be read")]
    NoBtf,
    #[error("the tracepoint cannot be found: {0}")]
    Tracepoint(io::Error),
    #[error("perf_event_open: {0}")]
    Perf(io::Error),
}

/// One line for people: the verifier's log can be thousands.
fn short(error: &AttachError) -> String {
    match error {
        AttachError::Program(ProgramError::LoadError { io_error, .. }) => {
            format!("the kernel refuses to load it: {io_error}")
        }
        AttachError::Program(ProgramError::SyscallError(error)) => {
            format!("{}: {}", error.call, error.io_error)
        }
        other => chain(other),
    }
}

/// An error with everything below it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(below) = source {
        let below_text = below.to_string();
        if !text.contains(&below_text) {
            text = format!("{text}: {below_text}");
        }
        source = below.source();
    }
    text
}
