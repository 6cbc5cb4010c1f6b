//! A session: an attached backend, its maps and counts, and how it is detached.

use std::{
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

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
        run_time,
        spread::{
            pinned::Pins,
            programs::{CgroupTarget, Spreader},
        },
        sys,
    },
    one,
};
use crate::{
    error::Error,
    runtime::beat::{Detaching, beat},
};

/// An attached backend, and the spreader if there is one. Dropping it detaches what is not pinned ([`Self::detach`]).
pub struct Session {
    pub backend: Backend,
    /// What is not seen or does not work on this kernel, and why, one text each; empty: nothing.
    pub degraded: Vec<String>,
    pub maps: Maps,
    pub events: Events,
    pub commands: Commands,
    pub(super) log: KernelLog,
    /// `None`: the programs were detached.
    pub(super) attached: Option<Running>,
    /// How often the kernel skipped a hook until the programs were detached; 0 before that.
    pub(super) missed_before: Missed,
    /// `None`: this session spreads nothing.
    pub spreader: Option<Spreader>,
}

/// What keeps the programs attached: dropping it detaches those whose links are not pinned.
pub(super) struct Running {
    pub(super) ebpf: Ebpf,
    /// Links (or on kernels without these, perf events) of kprobes: dropping one detaches its program, unless it is pinned.
    pub(super) probes: Vec<OwnedFd>,
    /// Perf events of tracepoints: dropping one detaches its program.
    pub(super) tracepoints: Vec<OwnedFd>,
}

impl Session {
    /// How often the kernel skipped a hook of the ledger since this session attached the programs; once they are detached, until
    /// then.
    pub fn missed_hooks(&self) -> Missed {
        let Some(attached) = &self.attached else { return self.missed_before };
        let programs = COMMON.iter().chain(programs::of(self.backend));
        let fds = programs.filter_map(|program| attached.ebpf.program(program.name)?.fd().ok());
        let by_program = fds.map(|fd| missed::of_program(fd.as_fd()));
        let by_probe = attached.probes.iter().map(|probe| sys::link_missed(probe.as_fd()));
        by_program.chain(by_probe).collect()
    }

    /// How long the ledger's programs ran since this session attached them, in ns. `None`: the kernel does not count it
    /// (kernel.bpf_stats_enabled is 0), none has run, or they are not attached any more.
    pub fn run_time_ns(&self) -> Option<u64> {
        let attached = self.attached.as_ref()?;
        let programs = COMMON.iter().chain(programs::of(self.backend));
        let fds = programs.filter_map(|program| attached.ebpf.program(program.name)?.fd().ok());
        let sum: u64 = fds.filter_map(|fd| run_time::of(fd.as_fd())).sum();
        (sum > 0).then_some(sum)
    }

    /// Each program of the ledger with how long it ran since this session attached it: see [`Self::run_time_ns`]. Empty once they
    /// are detached.
    pub fn run_times(&self) -> Vec<(&'static str, Duration)> {
        let Some(attached) = &self.attached else { return Vec::new() };
        let programs = COMMON.iter().chain(programs::of(self.backend));
        let times = programs.filter_map(|program| {
            let fd = attached.ebpf.program(program.name)?.fd().ok()?;
            Some((program.name, Duration::from_nanos(run_time::of(fd.as_fd())?)))
        });
        times.collect()
    }

    /// The totals that the kernel side counted ([`Totals`]), with [`Self::missed_hooks`]' count in `hook_missed`.
    ///
    /// # Errors
    /// The map of the totals cannot be read.
    pub fn totals(&self) -> Result<Totals, Error> {
        Ok(Totals { hook_missed: self.missed_hooks().counted, ..self.maps.totals()? })
    }

    /// Attaches the spreader to these cgroups as far as it is not attached to them, and removes pinned links to cgroups
    /// that are gone or that it is not attached to. Does nothing without a spreader, or once the programs are detached.
    ///
    /// # Errors
    /// The reason, as a text for people: a program cannot be attached, or a link not pinned or removed.
    pub fn sync_cgroups(&mut self, pins: &Pins, targets: Vec<CgroupTarget>) -> Result<(), String> {
        let (Some(spreader), Some(running)) = (&mut self.spreader, &mut self.attached) else {
            return Ok(());
        };
        spreader.sync_cgroups(&mut running.ebpf, pins, targets)
    }

    /// Removes pinned links to cgroups that the spreader is not attached to, such as those of an earlier process. Does nothing
    /// without a spreader.
    ///
    /// # Errors
    /// The reason, as a text for people: a link cannot be removed.
    pub fn remove_other_links(&self, pins: &Pins) -> Result<(), String> {
        self.spreader.as_ref().map_or(Ok(()), |spreader| spreader.remove_other_links(pins))
    }

    /// Passes the messages of the BPF programs on to this program's own log.
    pub fn flush_log(&mut self) {
        self.log.flush();
    }

    /// Detaches every program whose link is not pinned, and closes this process's descriptors of the others. The maps can
    /// still be read. Does nothing the second time.
    pub fn detach(&mut self) {
        self.missed_before = self.missed_hooks();
        let Some(Running { mut ebpf, probes, tracepoints }) = self.attached.take() else { return };
        let _detaching = Detaching::begin();
        // One by one: the kernel waits for each until no CPU runs it any more. The backend's hooks go first. The common
        // ones, which say who calls, go last: without them, each port that is taken meanwhile would count as a loss.
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
        tracing::debug!("cannot detach {name} yet: {error}");
    }
    beat();
}

impl Drop for Session {
    fn drop(&mut self) {
        // Dropping the fields would detach all programs without a heartbeat; `detach` has one after each program.
        self.detach();
    }
}
