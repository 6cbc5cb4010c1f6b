//! An attached backend, and its end.

use std::os::fd::{AsFd, OwnedFd};

use aya::{Ebpf, programs::Program};

use super::{
    super::{
        commands::Commands,
        events::Events,
        klog::KernelLog,
        maps::{Maps, Totals},
        missed::{self, Missed},
        plan::Backend,
        programs::{self, COMMON},
        spread::{
            pinned::Pins,
            programs::{Place, Spreader},
        },
        sys,
    },
    one,
};
use crate::{
    error::Error,
    runtime::beat::{Detaching, beat},
};

/// An attached backend.
pub struct Session {
    pub backend: Backend,
    /// What is not seen, and why.
    pub degraded: Vec<String>,
    pub maps: Maps,
    pub events: Events,
    pub commands: Commands,
    pub(super) log: KernelLog,
    pub(super) attached: Option<Running>,
    /// Hooks missed until the programs were detached.
    pub(super) missed_before: Missed,
    pub spreader: Option<Spreader>,
}

/// Programs and their links live as long as this.
pub(super) struct Running {
    pub(super) ebpf: Ebpf,
    pub(super) probes: Vec<OwnedFd>,
    pub(super) tracepoints: Vec<OwnedFd>,
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

    /// ns that the programs ran since they were attached; `None`: the kernel does not count it
    /// (kernel.bpf_stats_enabled), or they are not attached any more.
    pub fn run_time_ns(&self) -> Option<u64> {
        let attached = self.attached.as_ref()?;
        let programs = COMMON.iter().chain(programs::of(self.backend));
        let fds = programs.filter_map(|program| attached.ebpf.program(program.name)?.fd().ok());
        let sum: u64 = fds.filter_map(|fd| missed::run_time_ns(fd.as_fd())).sum();
        (sum > 0).then_some(sum)
    }

    /// What the kernel side counted.
    ///
    /// # Errors
    /// Maps that cannot be read.
    pub fn totals(&self) -> Result<Totals, Error> {
        Ok(Totals { hook_missed: self.missed_hooks().counted, ..self.maps.totals()? })
    }

    /// Attaches the spreader to those of these cgroups that it is not attached to.
    ///
    /// # Errors
    /// The reason, in words.
    pub fn sync_cgroups(&mut self, pins: &Pins, places: Vec<Place>) -> Result<(), String> {
        let (Some(spreader), Some(running)) = (&mut self.spreader, &mut self.attached) else {
            return Ok(());
        };
        spreader.follow(&mut running.ebpf, pins, places)
    }

    /// Lets go of cgroups that are not the rule's any more.
    ///
    /// # Errors
    /// The reason, in words.
    pub fn let_go_of_others(&self, pins: &Pins) -> Result<(), String> {
        self.spreader.as_ref().map_or(Ok(()), |spreader| spreader.remove_others(pins))
    }

    /// Hands what the BPF programs logged to this program's own log.
    pub fn flush_log(&mut self) {
        self.log.flush();
    }

    /// Detaches every program. The maps stay readable.
    pub fn detach(&mut self) {
        self.missed_before = self.missed_hooks();
        let Some(Running { mut ebpf, probes, tracepoints }) = self.attached.take() else { return };
        let _detaching = Detaching::begin();
        // One by one: the kernel waits at each of them until nobody runs it any more. What says that a call failed goes
        // first, then what says that it has a port, and last what says who calls: without that, each port that is taken
        // meanwhile would count as a loss.
        let backend: Vec<&str> = programs::of(self.backend).iter().map(|it| it.name).collect();
        for name in &backend {
            if let Some(program) = ebpf.program_mut(name) {
                detach_one(name, program);
            }
        }
        for link in probes.into_iter().chain(tracepoints) {
            drop(link);
            beat();
        }
        for (name, program) in ebpf.programs_mut() {
            if !backend.contains(&name) {
                detach_one(name, program);
            }
        }
        drop(ebpf);
    }
}

fn detach_one(name: &str, program: &mut Program) {
    if let Err(error) = one::unload(program) {
        tracing::debug!("{name} cannot be detached yet: {error}");
    }
    beat();
}

impl Drop for Session {
    fn drop(&mut self) {
        // Program by program, with signs of life: see `detach`.
        self.detach();
    }
}
