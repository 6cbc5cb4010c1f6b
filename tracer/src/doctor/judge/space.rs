//! The findings about a namespace as a whole: its settings, its listeners, and what its counters say.

use std::collections::BTreeMap;

use tracer_common::Cause;

use super::{
    Around, Seen, listeners, queues, sysctls,
    time_wait::{self, TimeWaits},
};
use crate::doctor::finding::Finding;

/// The findings `small_range`, `nodeport_overlap`, `reuse_ineffective`, `listeners_in_range` and `poisoned_ports`. None of a
/// namespace without outgoing connections: what an idle one is set to hurts nobody.
pub(super) fn of_settings(seen: &Seen, around: &Around) -> Vec<Finding> {
    if seen.now.by_ends.is_empty() && seen.activity.is_empty() {
        return Vec::new();
    }
    let Seen { place, settings, now, .. } = seen;
    let first = seen.details.as_ref().and_then(|it| it.network.first_unprivileged_port);
    let all = [
        sysctls::small_range(place, settings, now, first, around.has_node_ports(place)),
        sysctls::nodeport_overlap(place, settings, around.has_node_ports(place)),
        time_wait::reuse_ineffective(place, settings.reuse, seen.time_wait_s),
        listeners::listeners_in_range(place, settings, now, &around.owners),
    ];
    let mut all: Vec<Finding> = all.into_iter().flatten().collect();
    all.extend(poisoned(seen, around));
    all
}

/// Ports that programs took by bind().
fn poisoned(seen: &Seen, around: &Around) -> Vec<Finding> {
    let Seen { place, settings, now, .. } = seen;
    let bound = listeners::by_owner(settings, now, &around.owners);
    // Parity does not say which of them are a spreader's.
    let all = now.by_ends.keys().map(|ends| (*ends, u32::MAX));
    let spreads = around.spreads.may_be_in(place.inum);
    let fast: BTreeMap<_, _> = if spreads { all.collect() } else { BTreeMap::new() };
    listeners::poisoned_ports(place, settings, now, &bound, &fast)
}

/// The findings `self_connect`, `nonlocal_bind`, `reverse_path`, `upstream_queue` and `time_wait_overflow`; none if the sockets
/// of the namespace were not listed ([`Seen::details`] is `None`).
pub(super) fn of_details(seen: &Seen, around: &Around) -> Vec<Finding> {
    let Some(details) = &seen.details else { return Vec::new() };
    let Seen { place, settings, now, .. } = seen;
    let local = details.local.as_deref().unwrap_or_default();
    let refused = seen.activity.iter().map(|(ends, it)| (*ends, it.failures(Cause::Refused)));
    let mut all = listeners::self_connect(place, settings, now, &around.owners, refused, local);
    let addresses = sysctls::Addresses {
        place,
        settings: &details.network,
        now,
        sources: &[],
        local: details.local.as_deref(),
    };
    all.extend(sysctls::nonlocal_bind(&addresses));
    all.extend(sysctls::reverse_path(&addresses, grown(seen, |it| it.reverse_path_drops)));
    all.extend(queues::upstream_queue(&queues::Queues {
        place,
        now,
        before: seen.before.as_ref().map(|(before, _)| before),
        overflows: grown(seen, |it| it.listen_overflows),
        longest_backlog: details.network.longest_backlog,
        local,
        destinations: &around.destinations,
        owners: &around.owners,
    }));
    all.extend(time_wait::overflow(&TimeWaits {
        place,
        growth: seen.growth,
        now: details.counters.map_or(0, |it| it.sockets.time_waits),
        most: details.network.most_time_waits,
        lasts_s: seen.time_wait_s,
    }));
    all
}

/// By how much a counter grew over the window, and how long that was in seconds; `None`: not known.
fn grown(
    seen: &Seen,
    counter: impl Fn(&crate::host::counters::Counters) -> Option<u64>,
) -> Option<(u64, f64)> {
    let (counters, seconds) = seen.growth.as_ref()?;
    Some((counter(counters)?, *seconds))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            Spreads,
            test_seen::{held, opened, seen},
        },
        *,
    };
    use crate::{
        doctor::{
            finding::Id,
            snapshot::Details,
            tuples::{Parity, Tuple},
        },
        host::counters::{Counters, Reading},
    };

    fn ids(findings: &[Finding]) -> Vec<Id> {
        findings.iter().map(|it| it.id).collect()
    }

    #[test]
    fn a_small_range_matters_only_where_something_connects() {
        let around = Around::default();
        let mut seen = seen(held(10, 0));
        assert_eq!(ids(&of_settings(&seen, &around)), [Id::SmallRange]);
        seen.now.by_ends.clear();
        assert_eq!(of_settings(&seen, &around), []);
        let seen = seen.watched(opened(5, 5));
        assert_eq!(ids(&of_settings(&seen, &around)), [Id::SmallRange]);
    }

    #[test]
    fn ports_of_kubernetes_matter_only_in_the_namespace_of_the_kubelet() {
        let mut seen = seen(held(10, 0));
        (seen.settings.range.low, seen.settings.range.high) = (10_240, 65_535);
        let of = |kubelet| ids(&of_settings(&seen, &Around { kubelet, ..Around::default() }));
        assert_eq!(of(Some(seen.place.inum)), [Id::NodeportOverlap]);
        assert_eq!(of(Some(seen.place.inum + 1)), [], "a pod's");
        assert_eq!(of(None), []);
    }

    #[test]
    fn counters_are_those_of_the_window() {
        let mut seen = seen(held(10, 0));
        assert_eq!(of_details(&seen, &Around::default()), []);
        let network = crate::host::network_settings::NetworkSettings {
            most_time_waits: Some(100),
            ..Default::default()
        };
        let counters = Some(Reading::default());
        seen.details = Some(Details { counters, network, local: None });
        assert_eq!(of_details(&seen, &Around::default()), []);
        let overflows = Counters { time_wait_overflows: Some(50), ..Counters::default() };
        seen.growth = Some((overflows, 5.0));
        assert_eq!(ids(&of_details(&seen, &Around::default())), [Id::TimeWaitOverflow]);
    }

    #[test]
    fn ports_of_a_spreader_are_no_poisoned_ones_and_one_elsewhere_changes_nothing() {
        let parity = Parity { second: 120, recent_second: 120, ..Parity::default() };
        let seen = seen(Tuple { parity, ..held(120, 0) });
        let inum = seen.place.inum;
        let of = |spreads| ids(&poisoned(&seen, &Around { spreads, ..Around::default() }));
        assert_eq!(of(Spreads::default()), [Id::PoisonedPorts]);
        assert_eq!(of(Spreads::In([inum + 1].into())), [Id::PoisonedPorts]);
        assert_eq!(of(Spreads::In([inum, inum + 1].into())), []);
        assert_eq!(of(Spreads::Anywhere), []);
    }
}
