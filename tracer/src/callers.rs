//! Who called, in words: the names of processes, and of their cgroups.

use tracer_common::{Event, TupleCount, Who};

use crate::{
    cgroups::Names,
    process::{Called, Processes},
};

/// Names that are asked for when they are needed, and kept.
pub struct Callers {
    pub cgroups: Names,
    pub processes: Processes,
}

impl Callers {
    pub fn new(cgroups: Names) -> Self {
        Self { cgroups, processes: Processes::default() }
    }

    /// Who connected last, by name.
    pub fn last(&mut self, count: &TupleCount) -> Called {
        self.processes.of_either(&last(count), count.last_ns)
    }

    /// Whose event it is, by name.
    pub fn of(&mut self, event: &Event) -> Called {
        let &Event { cgroup, pid, tid, comm, mono_ns, .. } = event;
        self.processes.called(&Who { cgroup, pid, tid, comm }, mono_ns)
    }
}

/// Who connected last.
pub(crate) fn last(count: &TupleCount) -> Who {
    Who { cgroup: count.cgroup, pid: count.pid, tid: 0, comm: count.comm }
}
