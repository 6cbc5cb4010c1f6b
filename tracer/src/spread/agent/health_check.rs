//! How the addresses of the pool fare, and what follows from that: by the rule's own connections, destination by
//! destination.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    time::Instant,
};

use tracer_common::{
    Addr, TupleCount, TupleKey,
    seed::{Command, Op},
    spread::{Decision, LeftOut},
};

use super::{
    super::{addresses, health::Outcome, pool},
    Agent,
};
use crate::error::Error;

/// Pairs of a source and a destination without a route that are remembered; beyond that the oldest is dropped.
const UNROUTED_MAX: usize = 256;
/// Other destinations of the rule to which the routes from an address are looked at when it turns out to have
/// none to one of them.
const OTHERS_MAX: usize = 64;

/// What had become of the connections of a tuple at the last look.
#[derive(Clone, Copy, Default)]
pub(super) struct Seen {
    chosen: u32,
    established: u32,
    nowhere: u32,
    /// Up to then.
    outcome: Outcome,
}

impl Seen {
    /// One look later. `before`: what was seen at the last one; what was before the first is nobody's fault.
    fn new(before: Option<&Self>, count: &TupleCount) -> Self {
        let outcome = before.map_or_else(Outcome::default, |before| {
            before.outcome.then(
                count.established.wrapping_sub(before.established),
                count.nowhere.wrapping_sub(before.nowhere),
            )
        });
        let TupleCount { chosen, established, nowhere, .. } = *count;
        Self { chosen, established, nowhere, outcome }
    }
}

impl Agent {
    /// Takes in what the hooks tell; true if an address is left out because of it.
    pub(super) fn hear(&mut self) -> bool {
        let now = Instant::now();
        let Some(spreader) = &mut self.tracer.session.spreader else { return false };
        let mut refused: Vec<Addr> = Vec::new();
        let mut doubted = Vec::new();
        spreader.maps.drain_decisions(|told| {
            let is_new = || {
                !refused.contains(&told.chosen)
                    && self.health.refused.until(&told.chosen, now).is_none()
            };
            if told.decision == Decision::Refused as u32 && is_new() {
                refused.push(told.chosen);
            }
            let chosen = [Decision::LeastUsed, Decision::FastPort].map(|it| it as u32);
            let pair = TupleKey {
                source: told.chosen,
                destination: told.destination,
                netns: told.netns,
                destination_port: told.destination_port,
                zero: 0,
            };
            if chosen.contains(&told.decision) && self.missing.follow(&pair) {
                doubted.push(pair);
            }
            self.decision_log.add(told);
        });
        let mut changed = !doubted.is_empty() && self.look_at_routes(doubted);
        if changed && let Err(error) = self.leave_out() {
            tracing::warn!("{error}");
        }
        changed |= !refused.is_empty() && self.look_at_refused(refused, now);
        changed
    }

    /// True if one of these addresses is left out.
    fn look_at_refused(&mut self, mut refused: Vec<Addr>, now: Instant) -> bool {
        // The kernel can have refused it for the socket's sake: an IPV6_V6ONLY one and an IPv4 destination.
        let (_, _, worker, _) = self.tracer.split();
        let gone = worker.run_in(&self.netns, move || {
            refused.retain(|address| !addresses::can_be_bound(pool::address(*address)));
            refused
        });
        let gone = gone.unwrap_or_else(|error| {
            tracing::warn!("cannot read which addresses the kernel refused: {error}");
            Vec::new()
        });
        for address in &gone {
            self.health.refused.begin(*address, now);
        }
        !gone.is_empty()
    }

    /// The pool's addresses, usable now or not.
    fn members(&self) -> HashSet<Addr> {
        let members = pool::members(&self.config.pool, &self.inside.host);
        members.iter().map(|member| pool::to_addr(member.address)).collect()
    }

    /// Compares how the addresses of the pool fare, destination by destination: by the connections whose source
    /// the spreader chose, and no others.
    pub(super) fn look_at_health(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        self.health.tidy(now);
        let members = self.members();
        let mut seen = HashMap::new();
        let mut opened = 0_u64;
        self.tracer.read_tuples()?;
        for (key, count) in self.tracer.tuples() {
            let was_chosen = count.chosen != 0 || count.nowhere != 0 || count.left_out != 0;
            if key.netns != self.netns.inum || !was_chosen {
                continue;
            }
            let before = self.before.get(key);
            let chosen_before = before.map_or(0, |before| before.chosen);
            opened += u64::from(count.chosen.wrapping_sub(chosen_before));
            seen.insert(*key, Seen::new(before, count));
            if count.nowhere != count.forgiven {
                let command = Command { op: Op::Forgive as u32, tuple: *key, ..Command::default() };
                self.tracer.session.commands.run(&command)?;
            }
            // What an earlier agent left out is looked at anew.
            match LeftOut::from_wire(count.left_out).filter(|_| !self.left_out.contains_key(key)) {
                Some(LeftOut::NoRoute) => self.unrouted.push_back(*key),
                Some(LeftOut::Failing) => self.health.failing.begin(*key, now),
                None => continue,
            }
            self.left_out.extend(LeftOut::from_wire(count.left_out).map(|why| (*key, why)));
        }
        let mut by_destination: HashMap<_, Vec<_>> = HashMap::new();
        for (key, seen) in seen.iter_mut().filter(|(key, _)| members.contains(&key.source)) {
            let destination = (key.destination, key.destination_port);
            by_destination.entry(destination).or_default().push((*key, &mut seen.outcome));
        }
        for outcomes in by_destination.values_mut() {
            self.health.judge(outcomes, now);
        }
        self.before = seen;
        // After the tuples: what is under way is missing now, and makes up for it at the next look.
        let decided = self.spreader()?.maps.decision_counts()?;
        let chosen = [Decision::LeastUsed, Decision::FastPort].map(|it| decided.get(it as usize));
        self.missing.look(chosen.into_iter().flatten().sum(), opened);
        // Those that had no way are back as soon as they have one.
        self.look_at_routes(Vec::new());
        let usable: Vec<Addr> = self.usable(now).0.iter().map(|it| it.address).collect();
        self.health.keep_one(&usable, now);
        self.leave_out()
    }

    /// Whether there is a way from these sources to these destinations, and from those that had none. Where
    /// there is none but one without the source, the address is left out there, even if all of the pool fare
    /// the same. True if that has changed.
    fn look_at_routes(&mut self, pairs: Vec<TupleKey>) -> bool {
        if pairs.is_empty() && self.unrouted.is_empty() {
            return false;
        }
        let known: Vec<TupleKey> = self.unrouted.iter().copied().collect();
        let members = self.members();
        let others: Vec<TupleKey> = self.before.keys().take(OTHERS_MAX).copied().collect();
        let (_, _, worker, _) = self.tracer.split();
        let unrouted = worker.run_in(&self.netns, move || {
            let mut ways = Ways::default();
            let mut unrouted: Vec<TupleKey> =
                known.iter().filter(|key| ways.only_without(key)).copied().collect();
            for pair in pairs {
                if unrouted.contains(&pair) || !ways.only_without(&pair) {
                    continue;
                }
                unrouted.push(pair);
                // The rest of the pool may be no better off there, nor this address elsewhere.
                let there = members.iter().map(|source| TupleKey { source: *source, ..pair });
                let from = others.iter().map(|other| TupleKey { source: pair.source, ..*other });
                for next in there.chain(from) {
                    if !unrouted.contains(&next) && ways.only_without(&next) {
                        unrouted.push(next);
                    }
                }
            }
            let too_many = unrouted.len().saturating_sub(UNROUTED_MAX);
            unrouted.split_off(too_many)
        });
        match unrouted {
            Ok(unrouted) => {
                let changed = !self.unrouted.iter().eq(&unrouted);
                self.unrouted = unrouted.into();
                changed
            }
            Err(error) => {
                tracing::debug!("cannot read the routes: {error}");
                false
            }
        }
    }

    /// Has the hooks leave out what is to be left out towards single destinations, and nothing else.
    fn leave_out(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        let failing = self.health.failing.now(now).map(|(key, _)| (*key, LeftOut::Failing));
        let unrouted = self.unrouted.iter().map(|key| (*key, LeftOut::NoRoute));
        let wanted: HashMap<TupleKey, LeftOut> = failing.chain(unrouted).collect();
        let no_more = self.left_out.keys().filter(|key| !wanted.contains_key(*key));
        let changes =
            no_more.map(|key| (key, 0)).chain(wanted.iter().map(|(k, why)| (k, *why as u32)));
        for (tuple, flags) in changes {
            let command =
                Command { op: Op::LeaveOut as u32, flags, tuple: *tuple, ..Command::default() };
            self.tracer.session.commands.run(&command)?;
        }
        let towards = |key: &TupleKey| {
            let to: IpAddr = pool::address(key.destination);
            let to = std::net::SocketAddr::new(to, key.destination_port);
            format!("{} towards {to}", pool::address(key.source))
        };
        for (key, why) in wanted.iter().filter(|(key, _)| !self.left_out.contains_key(key)) {
            tracing::warn!("{} is left out: {}", towards(key), why.name());
        }
        for key in self.left_out.keys().filter(|key| !wanted.contains_key(*key)) {
            tracing::warn!("{} is used again", towards(key));
        }
        self.left_out = wanted;
        Ok(())
    }
}

/// The routes of the calling thread's namespace, each asked for once.
#[derive(Default)]
struct Ways(HashMap<(Addr, Option<Addr>), bool>);

impl Ways {
    fn has(&mut self, destination: Addr, source: Option<Addr>) -> bool {
        *self.0.entry((destination, source)).or_insert_with(|| {
            addresses::has_route(pool::address(destination), source.map(pool::address))
        })
    }

    /// Whether there is a way to the destination, but none from this source.
    fn only_without(&mut self, key: &TupleKey) -> bool {
        let is_v4 = |addr: &Addr| addr.to_v4().is_some();
        is_v4(&key.source) == is_v4(&key.destination)
            && !self.has(key.destination, Some(key.source))
            && self.has(key.destination, None)
    }
}
