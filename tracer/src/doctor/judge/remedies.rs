//! What helps a tuple that lacks ports, with what it gives: the surest and strongest first.

use super::{
    Around, Seen,
    set::{set, size},
    sysctls,
    text::{cgroup_option, netns_option, number, rate, seconds},
};
use crate::doctor::{
    activity::Activity, finding::Advice, flow::Flow, open_ports::EXACT, tuples::Ends,
};

/// By how much a wider range must help to be named.
const WORTH_WIDENING: f64 = 1.1;

/// A tuple that lacks ports, and what its advice depends on.
pub(super) struct Need<'a> {
    pub(super) seen: &'a Seen,
    pub(super) around: &'a Around,
    pub(super) ends: &'a Ends,
    /// Ports that the tuple can hold.
    pub(super) capacity: u32,
    /// The tuple's connections; see `measured`.
    pub(super) flow: Flow,
    /// Whether the flow was measured; if not, it says only which end closes first, and its rate is 0.
    pub(super) measured: bool,
}

impl Need<'_> {
    /// The advice for a tuple whose ports are mostly in TIME_WAIT.
    pub(super) fn of_time_waits(&self) -> Vec<Advice> {
        let mut all: Vec<Advice> = self.take_over().into_iter().collect();
        all.push(self.keep_connections());
        all.push(self.more_addresses());
        all.extend(self.widen());
        all
    }

    /// The advice for a tuple whose ports are held by open connections.
    pub(super) fn of_open_connections(&self) -> Vec<Advice> {
        let fewer = Advice::new(
            "keep fewer connections open at the same time (connection limits and pools of the program)",
            "each closed connection is a port",
        );
        let mut all = vec![self.more_addresses()];
        all.extend(self.widen());
        all.push(fewer);
        all
    }

    /// `tcp_tw_reuse`, where it is not on yet and can work.
    fn take_over(&self) -> Option<Advice> {
        let reuse = self.seen.settings.reuse;
        if !reuse.timestamps || self.flow.time_wait_s < self.seen.time_wait_s {
            return None;
        }
        let after_s = reuse.delay_ms.map_or(1.0, |ms| f64::from(ms) / 1e3);
        let with = Flow { time_wait_s: after_s, ..self.flow };
        let gain = format!(
            "ports are free after {} instead of {}: about {} connections/s (the setting is {} now)",
            seconds(after_s),
            seconds(self.seen.time_wait_s),
            rate(with.largest_rate(self.capacity)),
            reuse.setting
        );
        let what = format!("let connect() take over TIME_WAITs older than {}", seconds(after_s));
        let advice =
            set(&self.seen.place, &[("net.ipv4.tcp_tw_reuse", "1".to_owned())], what, gain);
        let advice = advice
            .factor(self.flow.held_s() / with.held_s())
            .risk("the other end must use TCP timestamps, too, or its ports stay in TIME_WAIT");
        Some(advice)
    }

    /// The advice to reuse connections, or to let the other end close first.
    pub(super) fn keep_connections(&self) -> Advice {
        let what = "reuse connections (keepalive), or let the other end close first";
        if !self.measured {
            return Advice::new(what, "no port stays in TIME_WAIT here");
        }
        let requests = self.flow.requests_per_connection(self.flow.rate, self.capacity.max(1));
        // With one, no connection is used again.
        let requests = requests.max(2);
        let carried = self.seen.activity.get(self.ends).map(|it| it.closed.carried());
        let gain = if carried.is_some_and(|it| it.is_several_each()) {
            // How many they carry is not known exactly.
            format!("{requests} times as many requests on each connection as now are enough")
        } else {
            format!(
                "{requests} requests on each connection are enough for {} requests/s",
                rate(self.flow.rate)
            )
        };
        let without = Flow { closes_first: 0.0, ..self.flow };
        let advice = Advice::new(what, gain);
        // Nothing but the time that a connection is open limits the rate then: the open ports for each connection that was opened.
        let known = |it: &Activity| it.open.is_exact() && it.opened >= EXACT;
        if self.seen.activity.get(self.ends).is_some_and(known) {
            advice.factor(self.flow.held_s() / without.held_s())
        } else {
            advice
        }
    }

    fn more_addresses(&self) -> Advice {
        if !self.measured {
            let gain =
                format!("{} more ports with each address", number(self.seen.now.usable.into()));
            return spread(self.seen, Some(self.ends), "", &gain);
        }
        // One address is there already.
        let count = self.flow.addresses(self.capacity.max(1)).max(2);
        let all = self.flow.largest_rate(self.capacity) * f64::from(count);
        let gain = format!(
            "{count} addresses in all give {} connections/s, {} below the slow half",
            rate(all),
            rate(all * crate::doctor::flow::FAST_SHARE)
        );
        spread(self.seen, Some(self.ends), "", &gain).factor(f64::from(count))
    }

    /// A wider range, if it helps: with the ports of services reserved.
    fn widen(&self) -> Option<Advice> {
        let Seen { place, settings, now, details, .. } = self.seen;
        let first = details.as_ref().and_then(|it| it.network.first_unprivileged_port);
        let has_node_ports = self.around.has_node_ports(place);
        let advice = sysctls::wider(place, settings, now, first, has_node_ports)?;
        advice.factor.is_some_and(|factor| factor >= WORTH_WIDENING).then_some(advice)
    }
}

/// The advice for a namespace in which connect() can be given no port.
pub(super) fn no_port_at_all(seen: &Seen) -> Vec<Advice> {
    let what = "leave ports of the range unreserved (net.ipv4.ip_local_reserved_ports), and keep programs from binding them";
    let size = size(&seen.settings.range);
    vec![Advice::new(
        what,
        format!("{} ports towards each destination at most", number(size.into())),
    )]
}

/// The advice to use `tracer spread`, with a command that changes nothing yet: for the cgroup whose process connected last in
/// this tuple; for all processes if that is not known, or `ends` is `None`. `option`: a further option of the command, with a
/// space after it; empty: none. `gain`: see [`Advice::gain`].
pub(super) fn spread(seen: &Seen, ends: Option<&Ends>, option: &str, gain: &str) -> Advice {
    let activity = ends.and_then(|ends| seen.activity.get(ends));
    let cgroup = activity.and_then(|it| it.cgroup.as_deref());
    let programs = cgroup_option(cgroup);
    let netns = netns_option(&seen.place);
    let command = format!("tracer spread --pool auto {programs} {option}--dry-run{netns}");
    Advice::new("spread connections over more source addresses (add them with ip addr first)", gain)
        .command(command)
        .until_reboot()
        .risk("a NAT behind this host may map all addresses to one")
}
