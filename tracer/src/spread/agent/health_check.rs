//! Finds out which addresses of the pool get no answer from a destination, have no route to it, or are refused by the
//! kernel, and makes the hooks leave these out.

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

/// How many pairs of a source and a destination without a route are remembered; of more, the oldest are dropped.
const UNROUTED_MAX: usize = 256;
/// When an address has no route to one destination, its routes to the destinations of at most this many other tuples
/// are checked, too.
const OTHERS_MAX: usize = 64;

/// The counters of a tuple at the last health check.
#[derive(Clone, Copy, Default)]
pub(super) struct TupleBaseline {
    chosen: u32,
    established: u32,
    unanswered: u32,
    /// What became of the tuple's connections up to that check.
    outcome: Outcome,
}

impl TupleBaseline {
    /// The baseline of this check. `before`: that of the check before; `None`: there was none, so what `count` has
    /// counted until now is not held against the address.
    fn new(before: Option<&Self>, count: &TupleCount) -> Self {
        let outcome = before.map_or_else(Outcome::default, |before| {
            before.outcome.add_check(
                count.established.wrapping_sub(before.established),
                count.nowhere.wrapping_sub(before.unanswered),
            )
        });
        let TupleCount { chosen, established, nowhere: unanswered, .. } = *count;
        Self { chosen, established, unanswered, outcome }
    }
}

impl Agent {
    /// Reads the decisions that wait in the ring buffer: queues their lines, and checks addresses that the kernel refused and
    /// routes that may be missing. True if that has changed what is left out, so that the rule must be made again. False, too,
    /// without a spreader.
    pub(super) fn drain_decisions(&mut self) -> bool {
        let now = Instant::now();
        let Some(spreader) = &mut self.tracer.session.spreader else { return false };
        let mut refused: Vec<Addr> = Vec::new();
        let mut to_check = Vec::new();
        spreader.maps.drain_decisions(|record| {
            let is_new = || {
                !refused.contains(&record.chosen)
                    && self.health.refused.until(&record.chosen, now).is_none()
            };
            if record.decision == Decision::Refused as u32 && is_new() {
                refused.push(record.chosen);
            }
            let chosen = [Decision::LeastUsed, Decision::FastPort].map(|it| it as u32);
            let pair = TupleKey {
                source: record.chosen,
                destination: record.destination,
                netns: record.netns,
                destination_port: record.destination_port,
                zero: 0,
            };
            if chosen.contains(&record.decision) && self.missing.should_check(&pair) {
                to_check.push(pair);
            }
            self.decision_log.add(record);
        });
        let mut changed = !to_check.is_empty() && self.check_routes(to_check);
        if changed && let Err(error) = self.leave_out() {
            tracing::warn!("{error}");
        }
        changed |= !refused.is_empty() && self.check_refused(refused, now);
        changed
    }

    /// Leaves out each of the `refused` addresses that no socket can bind any more. True if there is such an address;
    /// false, too, if the namespace cannot be entered, which is logged.
    fn check_refused(&mut self, mut refused: Vec<Addr>, now: Instant) -> bool {
        // The kernel may have refused the address to that socket only: an IPV6_V6ONLY socket cannot bind an IPv4 one.
        let (_, _, worker, _) = self.tracer.split();
        let gone = worker.run_in(&self.netns, move || {
            refused.retain(|address| !addresses::can_be_bound(pool::address(*address)));
            Ok(refused)
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

    /// All addresses of the pool, usable now or not.
    fn members(&self) -> HashSet<Addr> {
        let members = pool::members(&self.config.pool, &self.view.host);
        members.iter().map(|member| pool::to_addr(member.address)).collect()
    }

    /// Compares the addresses of the pool, destination by destination, by what became of the connections whose source
    /// the spreader chose. Counts chosen sources without a connection, checks pairs without a route again, takes over
    /// what an earlier agent left out, and updates what the hooks leave out.
    ///
    /// # Errors
    /// A BPF map cannot be read, or the ledger refuses a command.
    pub(super) fn check_health(&mut self) -> Result<(), Error> {
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
            let before = self.baselines.get(key);
            let chosen_before = before.map_or(0, |before| before.chosen);
            opened += u64::from(count.chosen.wrapping_sub(chosen_before));
            seen.insert(*key, TupleBaseline::new(before, count));
            if count.nowhere != count.forgiven {
                let command = Command { op: Op::Forgive as u32, tuple: *key, ..Command::default() };
                self.tracer.session.commands.run(&command)?;
            }
            // An earlier agent left this pair out: check it again.
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
        self.baselines = seen;
        // Read after the tuples: a connect() in between counts as missing now, and as opened at the next check.
        let decided = self.spreader()?.maps.decision_counts()?;
        let chosen = [Decision::LeastUsed, Decision::FastPort].map(|it| decided.get(it as usize));
        self.missing.add_reading(chosen.into_iter().flatten().sum(), opened);
        // Pairs that have a route again are used again.
        self.check_routes(Vec::new());
        let usable: Vec<Addr> = self.usable(now).0.iter().map(|it| it.address).collect();
        self.health.keep_one(&usable, now);
        self.leave_out()
    }

    /// Checks the routes of these pairs, and of all pairs that had none at the last check, and keeps in `unrouted`
    /// those pairs whose destination the host can reach, but not from this source, even if that leaves no address of
    /// the pool. True if `unrouted` has changed. False, too, if the routes cannot be read: then nothing changes.
    fn check_routes(&mut self, pairs: Vec<TupleKey>) -> bool {
        if pairs.is_empty() && self.unrouted.is_empty() {
            return false;
        }
        let known: Vec<TupleKey> = self.unrouted.iter().copied().collect();
        let members = self.members();
        let others: Vec<TupleKey> = self.baselines.keys().take(OTHERS_MAX).copied().collect();
        let (_, _, worker, _) = self.tracer.split();
        let unrouted = worker.run_in(&self.netns, move || {
            let mut routes = Routes::default();
            let mut unrouted: Vec<TupleKey> =
                known.iter().filter(|key| routes.lacks_source_route(key)).copied().collect();
            for pair in pairs {
                if unrouted.contains(&pair) || !routes.lacks_source_route(&pair) {
                    continue;
                }
                unrouted.push(pair);
                // Other addresses of the pool may have no route there either, nor this one to other destinations.
                let there = members.iter().map(|source| TupleKey { source: *source, ..pair });
                let from = others.iter().map(|other| TupleKey { source: pair.source, ..*other });
                for next in there.chain(from) {
                    if !unrouted.contains(&next) && routes.lacks_source_route(&next) {
                        unrouted.push(next);
                    }
                }
            }
            let too_many = unrouted.len().saturating_sub(UNROUTED_MAX);
            Ok(unrouted.split_off(too_many))
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

    /// Makes the hooks leave out the failing and unrouted pairs, and no others; logs what has changed.
    ///
    /// # Errors
    /// The ledger refuses a command.
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

/// Which routes the calling thread's network namespace has, by destination and source (`None`: the source that the
/// kernel would choose). The kernel is asked once for each.
#[derive(Default)]
struct Routes(HashMap<(Addr, Option<Addr>), bool>);

impl Routes {
    fn has(&mut self, destination: Addr, source: Option<Addr>) -> bool {
        *self.0.entry((destination, source)).or_insert_with(|| {
            addresses::has_route(pool::address(destination), source.map(pool::address))
        })
    }

    /// Whether the destination can be reached, but not from this source; false if they are of different families.
    fn lacks_source_route(&mut self, key: &TupleKey) -> bool {
        let is_v4 = |addr: &Addr| addr.to_v4().is_some();
        is_v4(&key.source) == is_v4(&key.destination)
            && !self.has(key.destination, Some(key.source))
            && self.has(key.destination, None)
    }
}
