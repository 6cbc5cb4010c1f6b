//! RULES, ACTIVE_RULE: the spreader's rule. A module of its own, because `spread` chooses by it, and `bind` counts the bound
//! ports of its namespace.

use aya_ebpf::{macros::map, maps::Array};
use tracer_common::Rule;

/// Two rules, of which [`ACTIVE_RULE`] says which one is active. The agent writes the other one, and only after no hook reads
/// that any more, so that a hook sees the whole old rule or the whole new one. (A hash map would do the same, but needs a helper
/// call for its lookup.)
#[map]
static RULES: Array<Rule> = Array::with_max_entries(2, 0);

/// The active rule's index in [`RULES`], plus 1; 0: there is no rule.
#[map]
static ACTIVE_RULE: Array<u32> = Array::with_max_entries(1, 0);

/// The active rule; `None`: there is none.
#[inline(always)]
pub(crate) fn active() -> Option<&'static Rule> {
    // SAFETY: an array map's values are never freed while the program is loaded.
    let place = unsafe { ACTIVE_RULE.get_ptr(0)?.read_volatile() };
    RULES.get(place.checked_sub(1)?)
}
