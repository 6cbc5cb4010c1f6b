//! How the addresses of the pool fare, and what follows from that.

use std::{
    collections::{BTreeMap, HashMap},
    time::Instant,
};

use tracer_common::{Addr, spread::Decision};

use super::{
    super::{
        addresses,
        health::{Outcome, Reason},
        pool, ports, start,
    },
    Agent,
};
use crate::error::Error;

/// What had become of the connections of a tuple at the last look.
#[derive(Clone, Copy, Default)]
pub(super) struct Seen {
    opened: u64,
    nowhere: u64,
    /// Up to then.
    outcome: Outcome,
}

impl Agent {
    /// Takes in what the hooks tell; true if an address is left out because of it.
    pub(super) fn hear(&mut self) -> bool {
        let now = Instant::now();
        let Some(spreader) = &mut self.tracer.session.spreader else { return false };
        let mut refused: Vec<Addr> = Vec::new();
        let mut doubted = Vec::new();
        spreader.maps.told(|told| {
            let is_new = || {
                !refused.contains(&told.chosen) && self.health.reason(&told.chosen, now).is_none()
            };
            if told.decision == Decision::Refused as u32 && is_new() {
                refused.push(told.chosen);
            }
            let chosen = [Decision::LeastUsed, Decision::FastPort].map(|it| it as u32);
            if chosen.contains(&told.decision) && self.doubt.follow(told.chosen, told.destination) {
                doubted.push((told.chosen, told.destination));
            }
            self.teller.add(&self.config.rule, told);
        });
        let mut changed = !doubted.is_empty() && self.look_at_routes(doubted);
        changed |= !refused.is_empty() && self.look_at_refused(refused, now);
        changed
    }

    /// True if one of these addresses is left out.
    fn look_at_refused(&mut self, mut refused: Vec<Addr>, now: Instant) -> bool {
        // The kernel can have refused it for the socket's sake: an IPV6_V6ONLY one and an IPv4 destination.
        let (_, _, worker) = self.tracer.split();
        let gone = worker.run_in(&self.netns, move || {
            refused.retain(|address| !addresses::can_be_bound(start::address(*address)));
            refused
        });
        let gone = gone.unwrap_or_else(|error| {
            tracing::warn!("refused addresses cannot be looked at: {error}");
            Vec::new()
        });
        for address in &gone {
            self.health.quarantine(*address, Reason::Refused, now);
        }
        !gone.is_empty()
    }

    /// Compares how the addresses of the pool fare, destination by destination.
    pub(super) fn look_at_health(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        self.health.tidy(now);
        let netns = self.netns.inum;
        let members = pool::members(&self.config.pool, &self.inside.host);
        let ours =
            |address: &Addr| members.iter().any(|member| pool::to_addr(member.address) == *address);
        let mut seen = HashMap::new();
        let mut opened = 0;
        self.tracer.read_tuples()?;
        for (key, count) in self.tracer.tuples().iter().filter(|(key, _)| key.netns == netns) {
            let before = self.before.get(key).copied();
            let since = before.unwrap_or_default();
            let (made, nowhere) = (count.opened, ports::nowhere(count));
            let new = made.saturating_sub(since.opened);
            if ours(&key.source) {
                opened += new;
            }
            // What was before the first look is nobody's fault.
            let outcome = match before {
                Some(before) => before.outcome.then(new, nowhere.saturating_sub(before.nowhere)),
                None => Outcome::default(),
            };
            seen.insert(*key, Seen { opened: made, nowhere, outcome });
        }
        let mut by_destination: HashMap<_, Vec<_>> = HashMap::new();
        for (key, seen) in seen.iter_mut().filter(|(key, _)| ours(&key.source)) {
            let destination = (key.destination, key.destination_port);
            by_destination.entry(destination).or_default().push((key.source, &mut seen.outcome));
        }
        for outcomes in by_destination.values_mut() {
            self.health.judge(outcomes, now);
        }
        self.before = seen;
        // After the tuples: what is under way is missing now, and makes up for it at the next look.
        let decided = self.spreader()?.maps.decided()?;
        let chosen = [Decision::LeastUsed, Decision::FastPort].map(|it| decided.get(it as usize));
        self.doubt.look(chosen.into_iter().flatten().sum(), opened);
        // Those that had no way are back as soon as they have one.
        self.look_at_routes(Vec::new());
        Ok(())
    }

    /// Whether there is a way from these sources to these destinations, and from those that had none. Where
    /// there is none but one without the source, the address is to blame, even if all of the pool fare
    /// the same. True if that has changed.
    fn look_at_routes(&mut self, mut pairs: Vec<(Addr, Addr)>) -> bool {
        pairs.extend(self.unrouted.iter().map(|(source, destination)| (*source, *destination)));
        if pairs.is_empty() {
            return false;
        }
        let (_, _, worker) = self.tracer.split();
        let unrouted = worker.run_in(&self.netns, move || -> BTreeMap<Addr, Addr> {
            let has_route = |destination: &Addr, source: Option<&Addr>| {
                addresses::has_route(
                    start::address(*destination),
                    source.map(|source| start::address(*source)),
                )
            };
            pairs.retain(|(source, destination)| {
                !has_route(destination, Some(source)) && has_route(destination, None)
            });
            pairs.into_iter().collect()
        });
        match unrouted {
            Ok(unrouted) => {
                let changed = unrouted != self.unrouted;
                self.unrouted = unrouted;
                changed
            }
            Err(error) => {
                tracing::debug!("routes cannot be looked at: {error}");
                false
            }
        }
    }
}
