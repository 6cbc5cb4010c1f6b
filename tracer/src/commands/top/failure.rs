//! Events about failed calls, as failures of a reading.

use std::time::Instant;

use tracer_common::Event;

use crate::{
    host::callers::Callers,
    ledger::decode::{Typed, typed},
    view::reading::{Call, Failure},
};

/// The failed call that an event is about; `None`: it is about something else, or its kind or detail is unknown. `offset`: the
/// wall clock minus CLOCK_MONOTONIC, ns. [`Failure::count`] is 1, [`Failure::holder`] `None`.
pub(super) fn of(
    event: &Event,
    offset: u64,
    callers: &mut Callers,
    now: Instant,
) -> Option<Failure> {
    let (call, cause) = match typed(event).ok()? {
        Typed::ConnectFailed(cause) => (Call::Connect, cause),
        Typed::BindFailed(cause) => (Call::Bind, cause),
        _ => return None,
    };
    let container = callers.cgroups.get(event.cgroup, now).and_then(|it| it.place().cloned());
    Some(Failure {
        count: 1,
        wall_ns: event.mono_ns.saturating_add(offset),
        call,
        key: event.tuple,
        local_port: event.local_port,
        cause,
        errno: event.errno,
        pid: event.pid,
        comm: callers.of(event).shown(),
        container,
        holder: None,
    })
}
