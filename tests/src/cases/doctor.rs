//! `doctor::*`: each finding of `tracer doctor` in a situation made for it, and the healthy situation that looks most like it.

mod calls;
mod command;
mod conntrack;
pub(super) mod edge;
mod forms;
mod gains;
mod grammar;
mod largest_rate;
mod load;
mod logged;
mod privileges;
mod proxies;
mod recorded;
mod reuse;
mod scenes;
mod scope;
mod states;
mod table;
mod together;
mod watch;
mod window;

pub use table::table;

use super::{Case, Plan};

pub(super) fn cases(plan: &Plan) -> Vec<Case> {
    plan.group("doctor")
        .table(scenes::tests())
        .only_host()
        .waiting()
        .once(&[
            ("healthy_side_by_side", scenes::healthy),
            ("commands_help", scenes::commands_help),
        ])
        .only_host()
        .waiting()
        .once(&[
            ("full_of_time_waits", states::full_of_time_waits),
            ("nearly_full", states::nearly_full),
            ("taken_over_time_waits", states::taken_over_time_waits),
            ("black_hole", states::black_hole),
            ("connections_not_closed_here", states::held_open),
            ("connections_not_closed_there", states::fin_wait2_held),
            ("failing_calls", window::failing_calls),
        ])
        .waiting()
        .once(&[("open_files_are_listed", command::open_files_are_listed)])
        .once(&[
            ("largest_rate", largest_rate::largest_rate),
            ("printed_gains", gains::printed_gains),
            ("first_half_full", window::first_half_full),
            ("every_port_reserved", window::every_port_reserved),
            ("bound_addresses", window::bound_addresses),
            ("a_load_that_fits", window::a_load_that_fits),
            ("of_a_process", scope::of_a_process),
            ("of_a_cgroup", scope::of_a_cgroup),
            ("watching_an_incident", watch::an_incident),
            ("end_of_watching", watch::its_end),
            ("recording_of_failing_calls", recorded::failing_calls),
        ])
        .only_host()
        .waiting()
        .once(&[
            ("snat_exhausted", conntrack::snat_exhausted),
            ("snat_shared_with_own_connections", conntrack::snat_shared_with_own_connections),
            ("conntrack_not_in_use", conntrack::not_in_use),
        ])
        .needs(&["nft"])
        .waiting()
        .once(&[("conntrack_full", conntrack::conntrack_full)])
        .needs(&["nft", "conntrack"])
        .once(&[
            ("nginx_closes_first", proxies::nginx_closes_first),
            ("nginx_with_old_defaults", proxies::nginx_with_old_defaults),
            ("blamed_upstream", proxies::blamed_upstream),
            ("nginx_without_its_source", logged::nginx_without_its_source),
            ("nginx_without_descriptors", logged::nginx_without_descriptors),
        ])
        .needs(&["nginx", "wrk"])
        .once(&[
            ("haproxy_at_its_limit", proxies::haproxy_at_its_limit),
            ("haproxy_without_its_source", proxies::haproxy_without_its_source),
            ("haproxy_reuse", reuse::haproxy_reuse),
        ])
        .needs(&["nginx", "haproxy", "wrk"])
        .once(&[("squid_binds_ports", reuse::squid_binds_ports)])
        .needs(&["nginx", "squid"])
        .once(&[
            ("log_that_is_named", proxies::log_that_is_named),
            ("blamed_by_log", logged::blamed_by_log),
        ])
        .kernel_independent()
        .once(&[("reads_only", calls::reads_only)])
        .needs(&["nginx", "haproxy", "strace"])
        .once(&[("together_with_record_and_spread", together::record_and_spread)])
        .only_host()
        .once(&[("same_verdict_or_the_reason", privileges::same_verdict_or_the_reason)])
        .only_host()
        .waiting()
        .once(&[("nodeport_overlap", scenes::nodeport_overlap)])
        .kernel_independent()
        .once(&[
            ("root_of_a_container", privileges::root_of_a_container),
            ("exit_codes", command::exit_codes),
            ("exit_codes_of_each_form", forms::exit_codes_of_each_form),
            ("without_privileges", command::without_privileges),
            ("leaves_nothing_behind", command::leaves_nothing_behind),
        ])
        .kernel_independent()
        .cases()
}
