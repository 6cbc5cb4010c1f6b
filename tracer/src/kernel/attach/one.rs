//! Attaches one program, of any kind.

use std::{
    convert::Infallible,
    io,
    os::fd::{AsFd, OwnedFd},
};

use aya::programs::{CgroupAttachMode, ProbeKind, Program, ProgramError, links::FdLink};

use super::{super::perf, AttachTargets, Hook};
use crate::kernel::error::chain;

/// What keeps a program attached.
pub(super) enum Attachment {
    /// aya keeps the link.
    InPlace,
    /// The perf event of a tracepoint.
    Event(OwnedFd),
    /// A link, or the perf event on kernels that have no links for perf events.
    Probe(OwnedFd),
    /// A link that aya made, and that the caller pins.
    Link(FdLink),
}

/// Attaches one program. `keep`: whether the caller gets a link that aya makes, to pin it; else aya keeps it. What is made
/// without aya (for kprobes and tracepoints) the caller always gets.
///
/// # Errors
/// The program is of another kind than its hook or is not loaded, the tracepoint is not found, or the kernel refuses to attach
/// the program.
pub(super) fn attach(
    program: &mut Program,
    hook: Hook,
    targets: &AttachTargets,
    keep: bool,
) -> Result<Attachment, AttachError> {
    use aya::programs as aya;
    // A cgroup link allows other programs in every mode; the kernel rejects the flags of the other modes on links.
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
            let id = (targets.tracepoint_id)(category, name).map_err(AttachError::Tracepoint)?;
            let event = perf::attach_tracepoint(program.fd()?.as_fd(), id);
            Attachment::Event(event.map_err(AttachError::Perf)?)
        }
        Hook::CgroupSockAddr => attach!(aya::CgroupSockAddr, &targets.cgroup, mode),
        Hook::CgroupSock => attach!(aya::CgroupSock, &targets.cgroup, mode),
        Hook::SockOps => attach!(aya::SockOps, &targets.cgroup, mode),
    })
}

/// Attaches a kprobe or kretprobe to the first of these functions at which the kernel accepts it.
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

/// Why a program cannot be attached.
#[derive(Debug, thiserror::Error)]
pub(super) enum AttachError {
    /// aya or the kernel refuses the program, or it has another type than its hook.
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error("cannot read the kernel's type information: {0}")]
    Btf(#[from] aya::BtfError),
    /// [`Self::Btf`] without its reason. It does not occur.
    #[error("cannot read the kernel's type information")]
    NoBtf,
    /// The number of the tracepoint cannot be looked up.
    #[error("cannot find the tracepoint: {0}")]
    Tracepoint(io::Error),
    /// A perf event cannot be opened, or the program not attached to it.
    #[error("perf_event_open: {0}")]
    Perf(io::Error),
    /// A link that aya made cannot be pinned.
    #[error("cannot pin its link: {0}")]
    Pin(#[from] aya::pin::PinError),
    /// A link that tracer made itself cannot be pinned, or the rule has ended, so that no link may be pinned.
    #[error("cannot pin its link, which keeps it attached after this process: {0}")]
    PinProbe(io::Error),
    #[error("cannot take its link out of aya: {0}")]
    Keep(#[from] aya::programs::links::LinkError),
}

/// Converting some kinds of links cannot fail.
impl From<Infallible> for AttachError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// The error in one line, without the verifier's log, which can have thousands of lines.
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

/// The advice if the kernel has no memory for a program (ENOMEM): the tables, which are allocated before, have left too
/// little. An empty text for any other error.
fn if_no_memory(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOMEM) => {
            " (little memory is left after the tables: lower --max-conns and --max-tuples, or give its cgroup more)"
        }
        _ => "",
    }
}

/// Detaches a program, unless its link was taken out of aya, and releases it. The kernel waits until no CPU runs it any
/// more.
///
/// # Errors
/// It is not loaded.
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
        // No hook has another type; dropping the object would release it.
        _ => Ok(()),
    }
}
