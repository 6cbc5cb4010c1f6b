//! Workloads: sequences of socket calls. Each runs on a stage, and has the stage compare the ledger with the kernel whenever the
//! kernel's sockets do not change. The comment of a workload says what must hold; it returns an error if that does not, or if a
//! call fails that must succeed.

pub mod binding;
pub mod close;
pub mod failure;
pub mod family;
pub mod lifetime;
pub mod older;
pub mod random;
pub mod states;
pub mod time_wait;
pub mod uses;
pub mod variant;

use anyhow::Result;

use crate::harness::{probe, stage::Stage};

/// A workload: its name, its calls, and when it runs.
pub struct Workload {
    pub name: &'static str,
    /// Makes the calls on this stage; an error if a call has not the expected result, or the ledger is not what the kernel has.
    pub play: fn(&mut Stage) -> Result<()>,
    /// The reason why the workload cannot run on this machine; `None` if it can.
    pub excuse: fn() -> Option<String>,
    /// When the tracer starts.
    pub tracer: Tracer,
}

/// When the tracer starts, and whether one run of the workload is for all backends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Tracer {
    /// Before the workload. On the host, the workload runs once for each backend.
    First,
    /// In the middle of the workload, by [`Stage::watch`] or [`Stage::start_watches`]: the workload is about sockets that are
    /// older than the tracer.
    Later,
    /// Before the workload. On the host, too, the tracers of all backends watch one run, because the workload is slow. (In a
    /// guest, they do so for every workload.)
    Together,
}

const fn workload(name: &'static str, play: fn(&mut Stage) -> Result<()>) -> Workload {
    Workload { name, play, excuse: || None, tracer: Tracer::First }
}

impl Workload {
    const fn unless(self, excuse: fn() -> Option<String>) -> Self {
        Self { excuse, ..self }
    }

    const fn tracer(self, tracer: Tracer) -> Self {
        Self { tracer, ..self }
    }
}

/// All workloads, in the order in which they run; in a guest, those with [`Tracer::Later`] run last. A workload with
/// [`Tracer::Together`], which mostly waits, may run at the same time as other tests.
pub const ALL: &[Workload] = &[
    workload("client_closes_first", close::client_first),
    workload("server_closes_first", close::server_first),
    workload("both_close_at_once", close::both_at_once),
    workload("reset_by_client", close::reset_by_client),
    workload("reset_by_server", close::reset_by_server),
    workload("half_closed", close::half_closed),
    workload("requests_and_closers", uses::requests_and_closers),
    workload("every_state", states::every_state),
    workload("refused", failure::refused),
    workload("timed_out", failure::timed_out),
    workload("aborted_nonblocking", failure::aborted_nonblocking),
    workload("nonblocking_with_wait", failure::nonblocking_with_wait),
    workload("gave_up_without_an_answer", failure::gave_up_without_an_answer),
    workload("ports_exhausted", failure::ports_exhausted),
    workload("tuple_in_use", failure::tuple_in_use),
    workload("no_route", failure::no_route),
    workload("no_source_address", failure::no_source_address).unless(probe::no_ipv6),
    workload("fd_used_again_after_failure", failure::fd_used_again),
    workload("connect_twice", failure::connect_twice),
    workload("bind_address_then_connect", binding::bind_address),
    workload("bind_address_no_port", binding::bind_address_no_port),
    workload("explicit_port", binding::explicit_port),
    workload("reuse_address_two_destinations", binding::reuse_address),
    workload("listen_in_between", binding::listen_in_between),
    workload("listener_lowers_capacity", binding::listener_lowers_capacity),
    workload("disconnect_and_connect_again", binding::disconnect),
    workload("fin_wait2_ends", time_wait::fin_wait2_ends),
    workload("time_wait_reused", time_wait::reused),
    workload("time_wait_recycled_by_bound_socket", time_wait::recycled),
    workload("time_wait_bucket_overflow", time_wait::bucket_overflow),
    workload("ipv6", family::ipv6).unless(probe::no_ipv6),
    workload("v4_mapped", family::v4_mapped).unless(probe::no_ipv6),
    workload("mptcp", variant::mptcp).unless(probe::no_mptcp),
    workload("fast_open_sendto", variant::fast_open_sendto),
    workload("fast_open_connect", variant::fast_open_connect),
    workload("fast_open_connect_without_a_write", variant::fast_open_connect_without_a_write),
    workload("io_uring", variant::io_uring).unless(probe::no_io_uring),
    workload("inherited_socket", lifetime::inherited),
    workload("owner_killed", lifetime::owner_killed),
    workload("older_sockets", older::every_state).tracer(Tracer::Later),
    workload("churn_while_seeding", older::churn_while_seeding).tracer(Tracer::Later),
    workload("older_bound_ports", older::bound_ports)
        .tracer(Tracer::Later)
        .unless(probe::no_idle_sockets),
    workload("listeners_end_while_seeding", older::listeners_end).tracer(Tracer::Later),
    workload("random_operations", random::mixed),
    workload("time_wait_to_its_end", time_wait::to_its_end).tracer(Tracer::Together),
    // Last: a namespace that is made afterwards may get the inode number of the one that vanished, and the shared tracers
    // would take the two for the same.
    workload("namespace_vanishes", lifetime::namespace_vanishes),
];
