//! `top::*`: the live view, as text and on a terminal.

mod forecast;
mod replay;
mod screen;
mod text;

use super::{Case, proxies::excuse};

pub fn cases() -> Vec<Case> {
    // The view does not depend on the kernel, so guests skip these; the numbers that it shows are tested in guests by other tests.
    let needs = |programs: &[&str]| excuse(programs);
    let case = |name: &str, test: fn() -> anyhow::Result<()>, programs: &[&str]| {
        Case::new(format!("top::{name}"), test).unless(needs(programs))
    };
    vec![
        case("text::is_what_the_kernel_has", text::is_what_the_kernel_has, &[]),
        case("text::has_its_forms", text::has_its_forms, &[]),
        case("text::says_what_its_filter_leaves_out", text::says_what_its_filter_leaves_out, &[]),
        case("text::foresees_the_end_of_a_ramp", text::foresees_the_end_of_a_ramp, &[]),
        case("forecast::a_steady_load_is_none", forecast::a_steady_load_is_none, &[]),
        case("forecast::one_interval_is_none", forecast::one_interval_is_none, &[]),
        case("forecast::reused_ports_are_room", forecast::reused_ports_are_room, &[]),
        case("forecast::other_time_waits_are_not", forecast::other_time_waits_are_not, &[]),
        case("forecast::full_is_what_a_search_proves", forecast::full_is_what_a_search_proves, &[]),
        case(
            "forecast::older_time_waits_have_their_ends",
            forecast::older_time_waits_have_their_ends,
            &["setsid"],
        ),
        case("replay::is_what_was_shown", replay::is_what_was_shown, &[]),
        case(
            "screen::shows_an_exhaustion",
            screen::shows_an_exhaustion,
            &["nginx", "wrk", "setsid"],
        ),
        case("screen::in_tmux", screen::in_tmux, &["tmux"]),
        case("screen::is_given_back", screen::is_given_back, &["setsid"]),
        case("screen::ends_with_its_terminal", screen::ends_with_its_terminal, &["setsid"]),
        case("screen::of_any_size", screen::of_any_size, &["setsid"]),
    ]
}
