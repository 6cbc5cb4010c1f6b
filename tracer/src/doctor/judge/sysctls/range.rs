//! `small_range` and `nodeport_overlap`: which ports the range has.

use std::fmt::Write as _;

use std::ops::RangeInclusive;

use super::{netns_option, set};
use crate::{
    doctor::{
        finding::{Advice, Finding, Id, Place, Severity, Subject},
        flow::FAST_SHARE,
        judge::{
            set::{merged, reserve},
            text::{number, rounded, short},
        },
        tuples::{Settings, Tuple, Tuples},
    },
    host::capacity::{PackedPorts, PortRange},
};

/// A range with fewer ports is small.
const SMALL: u32 = 10_000;
/// The lower bound that is advised: services have fixed ports below.
const LOW: u16 = 10_240;
const HIGH: u16 = 65_535;
/// Ports that Kubernetes gives to services (kube-apiserver --service-node-port-range).
const NODE_PORTS: RangeInclusive<u16> = 30_000..=32_767;

/// A finding if the range has fewer than 10,000 ports that are not reserved (a warning), or is the default one although a tuple
/// uses 45 % of its ports (good to know). `None`: neither. `first_unprivileged`: the range may not go below this port; `None`:
/// not known. `kubelet`: whether a kubelet runs in this namespace.
pub fn small_range(
    place: &Place,
    settings: &Settings,
    now: &Tuples,
    first_unprivileged: Option<u16>,
    kubelet: bool,
) -> Option<Finding> {
    let range = &settings.range;
    let ports = unreserved(range);
    let fullest = now.by_ends.values().filter(|it| it.held > 0).map(Tuple::saturation);
    let fullest = fullest.fold(0.0, f64::max);
    let default = PortRange::default();
    let is_default = (range.low, range.high) == (default.low, default.high);
    let severity = match ports {
        ..SMALL => Severity::Warning,
        _ if is_default && fullest >= FAST_SHARE => Severity::Info,
        _ => return None,
    };
    let mut what =
        format!("the range {}-{} has {} ports", range.low, range.high, number(ports.into()));
    let all = u32::from(range.high) - u32::from(range.low) + 1;
    if ports < all {
        write!(what, ", {} more are reserved", number(u64::from(all - ports))).unwrap_or_default();
    }
    let finding = Finding::new(Id::SmallRange, severity, Subject::Netns(place.clone()), what)
        .with("ports.usable", ports)
        .with("ports.range", format!("{}-{}", range.low, range.high))
        .with("saturation.largest", rounded(fullest))
        .because(
            "each source address has the ports of the range towards each destination, and no more"
                .to_owned(),
        )
        .advise(wider(place, settings, now, first_unprivileged, kubelet))
        .verify_by(format!("tracer doctor{}", netns_option(place)));
    Some(finding)
}

/// The advice to widen the range to 10,240-65,535 (from `first_unprivileged` on if that is higher), with the ports of listeners
/// that come into it reserved, and with `kubelet` those of services; `None`: it would not have more ports. `first_unprivileged`
/// and `kubelet`: see [`small_range`].
pub(in crate::doctor::judge) fn wider(
    place: &Place,
    settings: &Settings,
    now: &Tuples,
    first_unprivileged: Option<u16>,
    kubelet: bool,
) -> Option<Advice> {
    let range = &settings.range;
    let low = LOW.max(first_unprivileged.unwrap_or(0));
    let is_new = |port: &u16| *port >= low && !range.contains(*port);
    let listening = now.listeners.iter().map(|it| it.port).filter(is_new).map(|port| port..=port);
    let node_ports = kubelet.then_some(NODE_PORTS);
    let reserved = merged(range.reserved.iter().cloned().chain(listening).chain(node_ports));
    let new = PortRange { low, high: HIGH, reserved };
    let taken = |range: &PortRange| {
        let unreserved = PackedPorts::without(range.low, range.high, &range.reserved);
        let bound = now.idle.iter().map(|it| it.port);
        let blocked: PackedPorts = now.listeners.iter().map(|it| it.port).chain(bound).collect();
        unreserved.count().saturating_sub(blocked.count_in(&unreserved))
    };
    let (before, after) = (taken(range), taken(&new));
    if after <= before {
        return None;
    }
    let factor = f64::from(after) / f64::from(before.max(1));
    let gain = format!(
        "{} ports in place of {}: × {}",
        number(after.into()),
        number(before.into()),
        short(factor)
    );
    let keys = vec![("net.ipv4.ip_local_port_range", format!("{low} {HIGH}"))];
    let what = if kubelet {
        "widen the range, with NodePorts and services reserved"
    } else {
        "widen the range, with the ports of services reserved"
    };
    // Reserved first: no port of a service is in the range without being reserved.
    let advice = if new.reserved == merged(range.reserved.iter().cloned()) {
        set(place, &keys, what, gain)
    } else {
        reserve(place, &new, [], keys, what, gain)
    };
    Some(advice.factor(factor).risk("firewalls that let only the old range through; services that do not run now, on ports of the new one"))
}

/// A finding if the range has ports that Kubernetes gives to services (30,000 to 32,767) and that are not reserved, and a kubelet
/// runs in this namespace (`kubelet`); else `None`.
pub fn nodeport_overlap(place: &Place, settings: &Settings, kubelet: bool) -> Option<Finding> {
    let range = &settings.range;
    let (low, high) = (range.low.max(*NODE_PORTS.start()), range.high.min(*NODE_PORTS.end()));
    let both =
        if low <= high { PackedPorts::without(low, high, &range.reserved).count() } else { 0 };
    if !kubelet || both == 0 {
        return None;
    }
    let what = format!(
        "the range {}-{} has {} ports that Kubernetes gives to services (30000-32767)",
        range.low,
        range.high,
        number(both.into())
    );
    let advice = reserve(
        place,
        range,
        [NODE_PORTS],
        Vec::new(),
        "reserve the NodePorts",
        "connect() and services have no port in common",
    )
    .risk("a cluster can have another range for services: --service-node-port-range of kube-apiserver");
    let finding =
        Finding::new(Id::NodeportOverlap, Severity::Warning, Subject::Netns(place.clone()), what)
            .with("ports.overlap", both)
            .with("ports.range", format!("{}-{}", range.low, range.high))
            .because(
                "a connection from a port that a service is given as well can fail, or get the service's packets"
                    .to_owned(),
            )
            .advise([advice])
            .verify_by(format!("tracer doctor{}", netns_option(place)));
    Some(finding)
}

fn unreserved(range: &PortRange) -> u32 {
    PackedPorts::without(range.low, range.high, &range.reserved).count()
}
