//! Keeps the newest settings of each network namespace that a line has had so far: which ports and TIME_WAITs connect() may use.

use std::{collections::BTreeMap, ops::RangeInclusive, sync::Arc};

use crate::{host::capacity::Reuse, recording::Settings};

/// Namespaces whose settings are kept at most: as many as one recording reports.
const MOST: usize = 10_000;

/// The newest settings of each namespace, by its inode number.
#[derive(Debug, Default)]
pub(super) struct KnownSettings(BTreeMap<u32, Known>);

#[derive(Debug)]
struct Known {
    /// When the line was written, ns since 1970.
    wall_ns: u64,
    /// Which TIME_WAITs connect() may take over; `None`: the line does not say it.
    reuse: Option<Reuse>,
    /// Ports of the range that are never chosen; `None`: the line does not say it.
    reserved: Option<Arc<[RangeInclusive<u16>]>>,
}

impl KnownSettings {
    /// Replaces the settings of a namespace by those of a line: what the line does not say is not known then. `wall_ns`: when it
    /// was written, ns since 1970. Does nothing for a new namespace if [`MOST`] (10,000) are known.
    pub(super) fn set(&mut self, wall_ns: u64, settings: &Settings) {
        if self.0.len() >= MOST && !self.0.contains_key(&settings.netns) {
            return;
        }
        let Settings { netns, reuse, .. } = *settings;
        let reserved = settings.reserved.as_deref().map(Arc::from);
        self.0.insert(netns, Known { wall_ns, reuse, reserved });
    }

    /// Forgets settings that were written after this time (ns since 1970): before it, others may have been in force.
    pub(super) fn forget_after(&mut self, wall_ns: u64) {
        self.0.retain(|_, known| known.wall_ns <= wall_ns);
    }

    /// Which TIME_WAITs connect() may take over, by the namespace's inode number, where it is known.
    pub(super) fn reuses(&self) -> BTreeMap<u32, Reuse> {
        self.0.iter().filter_map(|(netns, known)| Some((*netns, known.reuse?))).collect()
    }

    /// The ports of the range that are never chosen (a list can be empty), by the namespace's inode number, where they are known.
    pub(super) fn reserved(&self) -> BTreeMap<u32, Arc<[RangeInclusive<u16>]>> {
        let known = |(netns, known): (&u32, &Known)| Some((*netns, known.reserved.clone()?));
        self.0.iter().filter_map(known).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_of_the_newest_line_and_not_of_a_time_after_a_seek() {
        let reuse = |setting| Some(Reuse { setting, delay_ms: None, timestamps: true });
        let line = |netns, setting, reserved| Settings {
            netns,
            reuse: reuse(setting),
            reserved,
            ..Settings::default()
        };
        let mut known = KnownSettings::default();
        known.set(10, &line(1, 0, None));
        known.set(20, &line(2, 0, Some(vec![5..=6])));
        known.set(30, &line(2, 1, Some(vec![7..=8])));
        let setting =
            |known: &KnownSettings, netns| known.reuses().get(&netns).map(|it| it.setting);
        assert_eq!([1, 2, 3].map(|netns| setting(&known, netns)), [Some(0), Some(1), None]);
        let reserved = known.reserved();
        assert_eq!(reserved.into_iter().collect::<Vec<_>>(), [(2, Arc::from([7..=8]))]);
        known.forget_after(29);
        assert_eq!([1, 2].map(|netns| setting(&known, netns)), [Some(0), None]);
        for netns in 0..20_000 {
            known.set(40, &line(netns, 2, None));
        }
        assert_eq!((known.0.len(), setting(&known, 1)), (MOST, Some(2)));
    }
}
