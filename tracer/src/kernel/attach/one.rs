//! Attaching one program, of whatever kind.

use std::{
    convert::Infallible,
    io,
    os::fd::{AsFd, OwnedFd},
};

use aya::programs::{CgroupAttachMode, ProbeKind, Program, ProgramError, links::FdLink};

use super::{super::perf, Hook, Places};
use crate::kernel::error::chain;

/// What holds an attached program.
pub(super) enum Attachment {
    /// aya does.
    InPlace,
    Event(OwnedFd),
    /// A link, or, on kernels that have none for probes, the perf event.
    Probe(OwnedFd),
    Link(FdLink),
}

/// Attaches one program. `keep`: its link is wanted for itself.
pub(super) fn attach(
    program: &mut Program,
    hook: Hook,
    places: &Places,
    keep: bool,
) -> Result<Attachment, AttachError> {
    use aya::programs as aya;
    // A link to a cgroup lets others be there in every mode; the kernel refuses the other modes'
    // flags on a link.
    let mode = CgroupAttachMode::Single;
    macro_rules! attach {
        ($kind:ty, $($argument:expr),*) => {{
            let program: &mut $kind = program.try_into()?;
            let link = program.attach($($argument),*)?;
            if keep {
                Attachment::Link(program.take_link(link)?.try_into()?)
            } else {
                Attachment::InPlace
            }
        }};
    }
    Ok(match hook {
        Hook::FEntry(_) => attach!(aya::FEntry,),
        Hook::FExit(_) => attach!(aya::FExit,),
        Hook::KProbe(function) => Attachment::Probe(kprobe(program, &[function])?),
        Hook::KProbeAny(functions) => Attachment::Probe(kprobe(program, functions)?),
        Hook::RawTracepoint(name) => attach!(aya::RawTracePoint, name),
        Hook::Tracepoint(category, name) => {
            let program: &mut aya::TracePoint = program.try_into()?;
            let id = (places.tracepoint_id)(category, name).map_err(AttachError::Tracepoint)?;
            let event = perf::attach_tracepoint(program.fd()?.as_fd(), id);
            Attachment::Event(event.map_err(AttachError::Perf)?)
        }
        Hook::CgroupSockAddr => attach!(aya::CgroupSockAddr, &places.cgroup, mode),
        Hook::CgroupSock => attach!(aya::CgroupSock, &places.cgroup, mode),
        Hook::SockOps => attach!(aya::SockOps, &places.cgroup, mode),
    })
}

/// Attaches a kprobe or kretprobe to the first of these functions that the kernel has.
fn kprobe(program: &mut Program, functions: &[&str]) -> Result<OwnedFd, AttachError> {
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
pub(super) enum AttachError {
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error("the kernel's type information cannot be read: {0}")]
    Btf(#[from] aya::BtfError),
    #[error("the kernel's type information cannot be read")]
    NoBtf,
    #[error("cannot find the tracepoint: {0}")]
    Tracepoint(io::Error),
    #[error("perf_event_open: {0}")]
    Perf(io::Error),
    #[error("cannot pin its link: {0}")]
    Pin(#[from] aya::pin::PinError),
    #[error("cannot keep it attached without this process: {0}")]
    PinProbe(io::Error),
    #[error("cannot keep its link: {0}")]
    Keep(#[from] aya::programs::links::LinkError),
}

/// Some links always are of the kind that can be kept.
impl From<Infallible> for AttachError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// One line for people: the verifier's log can be thousands.
pub(super) fn short(error: &AttachError) -> String {
    match error {
        AttachError::Program(ProgramError::LoadError { io_error, .. }) => {
            format!("the kernel refuses to load it: {io_error}{}", if_no_memory(io_error))
        }
        AttachError::Program(ProgramError::SyscallError(error)) => {
            format!("{}: {}{}", error.call, error.io_error, if_no_memory(&error.io_error))
        }
        other => chain(other),
    }
}

/// The tables are made before the programs are loaded.
fn if_no_memory(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOMEM) => {
            " (beside the tables: smaller --max-conns and --max-tuples, or more memory for its cgroup)"
        }
        _ => "",
    }
}

/// Detaches a program and lets go of it. The kernel waits until nobody runs it any more.
pub(super) fn unload(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::FEntry(it) => it.unload(),
        Program::FExit(it) => it.unload(),
        Program::KProbe(it) => it.unload(),
        Program::RawTracePoint(it) => it.unload(),
        Program::TracePoint(it) => it.unload(),
        Program::CgroupSockAddr(it) => it.unload(),
        Program::CgroupSock(it) => it.unload(),
        Program::SockOps(it) => it.unload(),
        // No hook is of another type; it would be let go of with the rest.
        _ => Ok(()),
    }
}
