//! [`ReportedSettings`]: which settings of network namespaces the stream has reported.

use foldhash::HashMap;

use crate::{
    export::{port_settings::PortSettings, record::NetnsSettings},
    host::capacity::{Limits, PackedPorts, Reuse, Usable},
    ledger::trace::Tracer,
};

/// Namespaces whose settings are reported at most.
const MOST: usize = 10_000;

/// The settings of network namespaces that the stream has reported, by inode number; at most 10,000 namespaces.
#[derive(Debug, Default)]
pub(super) struct ReportedSettings(HashMap<u32, Reported>);

/// The settings of a namespace: its range, the ports of it that are not reserved, and which TIME_WAITs connect() may reuse
/// (`None`: not known).
#[derive(Debug, PartialEq)]
struct Reported {
    range: (u16, u16),
    unreserved: PackedPorts,
    reuse: Option<Reuse>,
}

impl ReportedSettings {
    /// The line `netns.settings` for a namespace (inode number) whose settings are new or have changed; they count as reported
    /// from now on. `name`: its name in /run/netns. `None`: the stream has them already, they are not known, or 10,000 other
    /// namespaces were reported.
    pub(super) fn news<'a>(
        &mut self,
        tracer: &Tracer,
        netns: u32,
        name: Option<&'a str>,
    ) -> Option<NetnsSettings<'a>> {
        let usable = tracer.usable(netns)?;
        self.of(usable, tracer.reuses().get(&netns).copied(), (netns, name))
    }

    fn of<'a>(
        &mut self,
        usable: &Usable,
        reuse: Option<Reuse>,
        (netns, name): (u32, Option<&'a str>),
    ) -> Option<NetnsSettings<'a>> {
        let Limits { low, high, .. } = usable.limits();
        let range = (low, high);
        let is_reported = self.0.get(&netns).is_some_and(|it| {
            it.range == range && it.reuse == reuse && it.unreserved == *usable.unreserved()
        });
        if is_reported || (self.0.len() >= MOST && !self.0.contains_key(&netns)) {
            return None;
        }
        let unreserved = usable.unreserved().clone();
        self.0.insert(netns, Reported { range, unreserved, reuse });
        Some(NetnsSettings {
            netns,
            name,
            range: usable.limits().range(),
            ports: PortSettings::new(Some(usable.reserved()), reuse),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::capacity::PortRange;

    #[test]
    fn settings_are_reported_once_and_again_when_they_change() {
        let usable = |reserved| {
            let range = PortRange { low: 40_000, high: 40_019, reserved };
            Usable::new(&range, [40_005].into_iter().collect())
        };
        let mut reported = ReportedSettings::default();
        let mut of = |usable: &Usable, reuse, netns| {
            let line = reported.of(usable, reuse, (netns, Some("edge")))?;
            Some((line.range, line.ports.reserved, line.ports.reuse, line.ports.timestamps))
        };
        let (none, some) = (usable(vec![]), usable(vec![40_001..=40_001, 40_010..=40_019]));
        let reuse = Some(Reuse { setting: 2, delay_ms: Some(1_000), timestamps: true });
        let range = || "40000-40019".to_owned();
        let first = Some((range(), Some(String::new()), Some(2), Some(true)));
        assert_eq!([of(&none, reuse, 7), of(&none, reuse, 7)], [first.clone(), None]);
        assert_eq!(of(&none, reuse, 8), first);
        let reserved = Some("40001,40010-40019".to_owned());
        assert_eq!(of(&some, reuse, 7), Some((range(), reserved.clone(), Some(2), Some(true))));
        assert_eq!(of(&some, None, 7), Some((range(), reserved, None, None)));
        // bind() is no setting.
        let bound = Usable::new(
            &PortRange { low: 40_000, high: 40_019, reserved: vec![] },
            PackedPorts::default(),
        );
        assert_eq!(of(&bound, reuse, 8), None);
        for netns in 100..20_000 {
            of(&none, reuse, netns);
        }
        assert_eq!(reported.0.len(), MOST);
    }
}
