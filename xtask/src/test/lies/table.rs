//! Which lies each test is tried with first, and which tests read nothing that a lie changes.

/// The lies about what a test asserts, by the beginning of its name; the longest beginning that matches counts.
const GROUPS: &[(&str, &[&str])] = &[
    ("abuse::", &["other:ports.in_use", "other:degraded*"]),
    ("abuse::cgroups::a_delegated", &["without:process.linux.cgroup"]),
    ("abuse::cgroups::a_namespace", &["silence"]),
    ("abuse::floods::ends", &["zero:lost.*"]),
    ("abuse::health::", &["source"]),
    ("abuse::namespaces::fifos", &["exit"]),
    ("abuse::namespaces::one_", &["without:tracer.degraded"]),
    ("abuse::outsider::", &["granted"]),
    ("abuse::pins::", &["silence", "exit"]),
    ("abuse::reading::", &["granted", "exit"]),
    ("abuse::recordings::", &["silence", "exit"]),
    ("abuse::shares::bound_addresses", &["source"]),
    ("abuse::shares::bound_ports", &["other:ports.capacity"]),
    ("abuse::shares::one_port", &["source"]),
    ("abuse::shares::ports_bound", &["source"]),
    ("advise::", &["empty", "digits"]),
    ("attach::", &["kernel"]),
    ("attach::threads_are_not_ended", &["granted"]),
    ("doctor::", &["exit"]),
    ("drift::", &["other:drift"]),
    ("ending::", &["exit"]),
    ("errors::", &["silence"]),
    ("errors::no_count_of_segments", &["added:connections.segments"]),
    ("errors::only_root_gets_into_sys", &["other:ports.in_use"]),
    ("errors::three_capabilities_are_enough", &["without:port.allocated"]),
    ("errors::two_tracers_at_once", &["without:port.allocated"]),
    ("errors::under_a_bare_sys", &["other:ports.in_use"]),
    ("events::", &["without:connect.failed", "exit"]),
    ("events::bind_failures", &["without:bind.failed"]),
    ("events::bound_ports", &["without:port.*"]),
    ("events::default_backend", &["other:backend"]),
    ("events::every_line_is_whole", &["gap"]),
    ("events::fast_open_without_a_route", &["without:degraded", "without:connect.failed"]),
    ("events::io_uring_without_a_route", &["without:degraded", "without:connect.failed"]),
    ("events::one_connection", &["other:process.pid"]),
    ("events::port_holders", &["without:port.holder.*"]),
    ("events::shared_recordings_end_well", &["zero:failed.*", "other:events.written"]),
    ("events::sighup_reopens_the_file", &["gap"]),
    ("events::time_of_a_port_search", &["without:port.*"]),
    ("events::time_wait_release", &["other:port.time_wait"]),
    ("filters::", &["twice:connect.failed"]),
    ("filters::addresses_and_ports::not_ipv6", &["other:events.seen"]),
    ("filters::rows_of_tuples", &["other:ports.in_use"]),
    ("ledger::", &["other:ports.in_use"]),
    ("losses::", &["other:lost.*"]),
    ("losses::attempts_full", &["other:ports.*"]),
    ("losses::found_when_there_is_room", &["other:ports.*"]),
    ("losses::forgotten_and_opened_at_once", &["other:ports.*"]),
    ("losses::killed", &["gap", "other:ports.in_use"]),
    ("losses::record_into_a_closed_pipe", &["exit"]),
    ("losses::said_by_tables", &["silence"]),
    ("losses::tombstones_full", &["zero:lost.*"]),
    ("losses::tuples_into_a_closed_pipe", &["exit"]),
    ("oracle::", &["kernel"]),
    ("output::", &["gap"]),
    ("output::a_folder_that_cannot_be_rotated_in_is_refused", &["silence"]),
    ("output::log_as_json", &["silence"]),
    ("output::nothing_on_stderr_that_is_piped", &["noise"]),
    ("output::progress_is_shown_on_a_terminal", &["silence"]),
    ("output::what_takes_no_line", &["silence"]),
    ("proxies::", &["without:connect.failed"]),
    ("proxies::nginx_keepalive", &["double:connections.segments"]),
    ("room::", &["other:ports.capacity"]),
    ("room::forgotten_bound_ports_are_said", &["empty"]),
    ("room::never_more_than_all", &["double:ports.in_use"]),
    ("sizes::", &["without:tracer.degraded", "screen"]),
    ("sizes::no_memory_for_tables", &["silence"]),
    ("spread::", &["source", "other:decisions", "refused"]),
    ("spread::errors::", &["silence"]),
    ("spread::auto::follows_routes", &["other:taken"]),
    ("spread::auto::multipath", &["silence", "exit"]),
    ("spread::auto::dry_run", &["digits"]),
    ("spread::auto::named_addresses", &["silence"]),
    ("spread::auto::no_route", &["silence"]),
    ("spread::auto::several_interfaces", &["silence"]),
    ("spread::fail_open::conns_full", &["kernel", "refused"]),
    ("spread::fail_open::differential_", &["refused"]),
    ("spread::fail_open::lease_shorter", &["silence", "exit"]),
    ("spread::fills_the_pool::eight_processes_at_once", &["unspread"]),
    ("spread::from::", &["digits"]),
    ("spread::full::fail_fast_beside", &["refused"]),
    ("spread::odd_sockets::same_outcomes", &["refused"]),
    ("spread::proxies::haproxy", &["refused"]),
    ("spread::proxies::nginx_without_us", &["refused"]),
    ("spread::start::forced_undo_of_an_agent", &["exit"]),
    ("spread::start::signals", &["silence", "exit"]),
    ("spread::from::no", &["silence"]),
    ("spread::output::dry_run", &["digits"]),
    ("spread::output::full_pool", &["without:spread.decision"]),
    ("spread::output::passed", &["other:spread.*"]),
    ("spread::output::sampled", &["without:spread.decision"]),
    ("spread::output::status_for_people", &["digits"]),
    ("spread::status::", &["digits"]),
    ("spread::status::another_layout", &["silence"]),
    ("top::forecast::", &["added:eta_s"]),
    ("top::screen::", &["screen"]),
    ("top::screen::in_tmux", &["empty"]),
    ("top::text::", &["other:ports.in_use", "digits"]),
    ("top::forecast::full_is_what_a_search_proves", &["without:eta_s"]),
    ("top::forecast::older_time_waits_have_their_ends", &["digits"]),
    ("top::forecast::other_time_waits_are_not", &["other:ports.reusable"]),
    ("top::forecast::reused_ports_are_room", &["zero:ports.reusable"]),
    ("top::replay::", &["other:ports.in_use"]),
    ("top::text::foresees_the_end_of_a_ramp", &["without:eta_s"]),
    ("top::text::has_its_forms", &["empty"]),
    ("top::text::says_what_its_filter_leaves_out", &["digits"]),
    ("who::", &["other:process*"]),
    ("who::a_process_is_one_row", &["screen"]),
    ("who::a_unit_where_there_is_no_container", &["without:systemd.unit"]),
    ("who::holds_is_not_opened", &["screen"]),
    ("who::rows_that_look_alike", &["empty"]),
];

/// The lies that every test is tried with after those of [`GROUPS`].
pub(super) const EVERYWHERE: &[&str] = &[
    "other:ports.*",
    "other:decisions",
    "without:tracer.degraded",
    "digits",
    "screen",
    "source",
    "kernel",
    "empty",
    "gap",
    "silence",
    "noise",
    "exit",
];

/// Tests that read nothing that a lie changes, with what else shows that they can fail.
pub(super) const EXCEPTIONS: &[(&str, &str)] = &[];

/// The lies of [`GROUPS`] for this test; empty if no group has it.
pub(super) fn kinds(name: &str) -> &'static [&'static str] {
    let of = GROUPS.iter().filter(|(beginning, _)| name.starts_with(beginning));
    of.max_by_key(|(beginning, _)| beginning.len()).map_or(&[], |(_, kinds)| kinds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_beginning_decides() {
        assert_eq!(kinds("spread::errors::broadcast"), ["silence"]);
        assert_eq!(kinds("spread::pool::network"), ["source", "other:decisions", "refused"]);
        assert!(kinds("elsewhere").is_empty());
    }
}
