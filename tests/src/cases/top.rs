//! `top::*`: the live view, as text and on a terminal.

mod answer;
mod forecast;
mod replay;
mod screen;
mod text;

use super::{Case, Plan};

pub fn cases(plan: &Plan) -> Vec<Case> {
    // The view does not depend on the kernel, so guests skip these; the numbers that it shows are tested in guests by other
    // tests.
    plan.group("top")
        .once(&[
            ("text::is_what_the_kernel_has", text::is_what_the_kernel_has),
            ("text::has_its_forms", text::has_its_forms),
            ("text::says_what_its_filter_leaves_out", text::says_what_its_filter_leaves_out),
            ("text::foresees_the_end_of_a_ramp", text::foresees_the_end_of_a_ramp),
            ("forecast::one_interval_is_none", forecast::one_interval_is_none),
            ("forecast::reused_ports_are_room", forecast::reused_ports_are_room),
            ("forecast::other_time_waits_are_not", forecast::other_time_waits_are_not),
            ("forecast::full_is_what_a_search_proves", forecast::full_is_what_a_search_proves),
        ])
        .needs(&[])
        // This test makes eight connections a second for more than a minute: it mostly waits.
        .once(&[("forecast::a_steady_load_is_none", forecast::a_steady_load_is_none)])
        .needs(&[])
        .waiting()
        .once(&[(
            "forecast::older_time_waits_have_their_ends",
            forecast::older_time_waits_have_their_ends,
        )])
        .needs(&["setsid"])
        .once(&[("answer::is_what_doctor_says", answer::is_what_doctor_says)])
        .needs(&[])
        .once(&[("replay::is_what_was_shown", replay::is_what_was_shown)])
        .needs(&[])
        .once(&[("screen::shows_an_exhaustion", screen::shows_an_exhaustion)])
        .needs(&["nginx", "wrk", "setsid"])
        .once(&[("screen::in_tmux", screen::in_tmux)])
        .needs(&["tmux"])
        .once(&[
            ("screen::is_given_back", screen::is_given_back),
            ("screen::ends_with_its_terminal", screen::ends_with_its_terminal),
            ("screen::of_any_size", screen::of_any_size),
        ])
        .needs(&["setsid"])
        .cases()
}
