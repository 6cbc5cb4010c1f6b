//! In which network namespaces the rules of this host bind ports.

use crate::{
    doctor::judge::Spreads,
    kernel::spread::{maps::Pinned, pinned::Pins},
};

/// The namespaces of the rules that are pinned and in force. One that is being started or ended counts as none.
/// [`Spreads::Anywhere`] if one or its folder cannot be opened (which needs CAP_BPF), or another version has pinned it. Rules in a
/// bpffs that this thread may not look into, as without root, are not seen.
pub(super) fn spreads() -> Spreads {
    let all = Pins::all();
    if !all.foreign.is_empty() || !all.refused.is_empty() {
        return Spreads::Anywhere;
    }
    let namespace = |pins: &Pins| Pinned::open(pins).map(|pinned| pinned.rule.get()?.netns.into());
    let found: Result<Vec<Option<u32>>, _> =
        all.rules.iter().map(|(_, pins)| namespace(pins)).collect();
    found.map_or(Spreads::Anywhere, |all| Spreads::In(all.into_iter().flatten().collect()))
}
