//! Looks up the names of processes that called connect() or bind(), and of their cgroups.

use tracer_common::{Event, TupleCount, Who, event_flag};

use crate::host::{
    cgroups::Names,
    process::{Called, Processes},
};

/// Names of processes and of cgroups, which are looked up when they are needed, and kept: see [`Processes`] and [`Names`].
pub struct Callers {
    pub cgroups: Names,
    pub processes: Processes,
}

impl Callers {
    /// Begins with these names of cgroups, and with no name of a process.
    pub fn new(cgroups: Names) -> Self {
        Self { cgroups, processes: Processes::default() }
    }

    /// Names of the process that connected last, by the counters of a tuple, at the time of their newest change: all zero if no
    /// caller is known. [`NameOf::Unknown`](crate::host::process::NameOf::Unknown): the name can be that of one of its threads.
    pub fn last(&mut self, count: &TupleCount) -> Called {
        self.processes.of_either(&last(count), count.last_ns)
    }

    /// Names of the process that an event is about, as of the begin of the call; all zero: the caller is not known.
    pub fn of(&mut self, event: &Event) -> Called {
        let &Event { cgroup, pid, tid, comm, .. } = event;
        self.processes.called(&Who { cgroup, pid, tid, comm }, called_ns(event))
    }
}

/// When the call began that an event is about: CLOCK_MONOTONIC, ns; if the event has no duration, when it was emitted. An
/// event can be emitted minutes after the call, when the process has ended and another one has its id.
fn called_ns(event: &Event) -> u64 {
    let measured = event.flags & event_flag::DURATION != 0;
    event.mono_ns.saturating_sub(if measured { event.duration_ns } else { 0 })
}

/// The process that connected last, with thread id 0: the counters do not say which of its threads it was.
pub(crate) fn last(count: &TupleCount) -> Who {
    Who { cgroup: count.cgroup, pid: count.pid, tid: 0, comm: count.comm }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_of_the_process_that_called_and_not_of_a_later_one_with_its_id() {
        let late = Event { mono_ns: 200, duration_ns: 130, ..Event::default() };
        assert_eq!(called_ns(&late), 200);
        assert_eq!(called_ns(&Event { flags: event_flag::DURATION, ..late }), 70);
    }
}
