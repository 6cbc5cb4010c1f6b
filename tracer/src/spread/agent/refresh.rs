//! The rule that the hooks go by, made from what the host has now.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use tracer_common::{Addr, spread::rule_flag};

use super::{
    super::{
        addresses::{self, Host},
        destinations,
        health::REFUSED,
        notes::Notes,
        pool::{self, PoolAddress},
        ports,
        rule::{self, Inputs},
        start,
        state::State,
    },
    Agent,
};
use crate::{
    error::Error,
    host::capacity::{PortRange, Reuse},
};

/// Routes change without a word that would be cheap to listen to (a router has a million of them), so they are
/// read now and then; where that takes long, less often.
const AUTO_READS: Duration = Duration::from_secs(10);
/// Where only warnings depend on them.
const READS: Duration = Duration::from_mins(1);
/// The part of the time that reading may take: one in so many.
const SHARE: u32 = 50;

/// When the routes are looked at again.
#[derive(Debug)]
pub(super) struct RouteReads {
    last: Instant,
    took: Duration,
    /// Addresses have changed since.
    pub(super) changed: bool,
    /// Why the pool's interfaces are not clear any more.
    unclear: Option<String>,
}

impl RouteReads {
    pub(super) fn new() -> Self {
        Self { last: Instant::now(), took: Duration::ZERO, changed: false, unclear: None }
    }

    fn is_due(&self, auto: bool) -> bool {
        let interval = match (self.changed, auto) {
            (true, _) => Duration::ZERO,
            (false, true) => AUTO_READS,
            (false, false) => READS,
        };
        self.last.elapsed() >= interval.max(self.took * SHARE)
    }

    fn looked(&mut self, begun: Instant) {
        (self.last, self.took, self.changed) = (Instant::now(), begun.elapsed(), false);
    }
}

impl Agent {
    /// Makes the rule anew from what the host has now, and hands it to the hooks if it differs.
    pub(super) fn refresh(&mut self) -> Result<(), Error> {
        self.range_changed();
        let now = Instant::now();
        let blocked = self.blocked()?;
        let bound = self.tracer.looked();
        let (usable, left_out) = self.usable(now);
        let taken = ports::taken(&self.inside.range, &blocked);
        if *taken != *self.taken {
            self.spreader()?.maps.set_excluded(&taken)?;
            self.taken = taken;
        }
        let destinations = self.inside.host.ways.destinations(&self.destinations);
        let (netns, netns_cookie) = (self.netns.inum, self.inside.cookie);
        let (low, high) = (self.inside.range.low, self.inside.range.high);
        let random = self.random;
        // No call is denied by a count that may be too low.
        let sure = self.tracer.is_sure_of_ports();
        let flags = self.config.flags & if sure { u32::MAX } else { !rule_flag::FAIL_FAST };
        let reuse = self.inside.reuse;
        let capacity = ports::capacity(&self.inside.range, &blocked);
        let other_capacity = ports::other_capacity(&self.inside.range, &self.taken);
        let unsure = ports::is_last_unsure(&self.inside.range, &self.taken);
        let sample =
            if self.config.sample == 0 { self.missing.sample() } else { self.config.sample };
        let build = move |is_there: &dyn Fn(Addr) -> bool| {
            let there: Vec<_> =
                usable.iter().filter(|member| is_there(member.address)).copied().collect();
            rule::build(&Inputs {
                netns,
                netns_cookie,
                flags,
                addresses: &there,
                destinations: &destinations,
                low,
                high,
                capacity,
                other_capacity,
                unsure,
                bound,
                reuse,
                sample,
                random,
            })
        };
        self.rule = self.keeper.set(Box::new(build))?;
        self.say(left_out);
        Ok(())
    }

    /// The range and the reuse of TIME_WAITs are sysctls, of which nobody tells when they change.
    fn range_changed(&mut self) {
        let (_, _, worker, _) = self.tracer.split();
        let result = worker.run_in(&self.netns, || (PortRange::read(), Reuse::read()));
        self.tracer.visited(&self.netns, &result);
        match result {
            Ok((range, reuse)) => {
                self.inside.reuse = reuse;
                match range {
                    Ok(range) => self.inside.range = range,
                    Err(error) => tracing::debug!("{error}"),
                }
            }
            Err(error) => {
                tracing::debug!("{error}");
                self.find_namespace();
            }
        }
    }

    /// The name or the process by which the namespace was reached is gone. Where no other leads to it,
    /// nobody is left in it whom the pool is for, and it must not live on because of us.
    fn find_namespace(&mut self) {
        if self.namespace_gone {
            return;
        }
        let (_, _, worker, _) = self.tracer.split();
        let all = match worker.discover() {
            Ok(all) => all,
            Err(error) => return tracing::debug!("cannot look for namespaces: {error}"),
        };
        let found = all.found.into_iter().find(|netns| netns.inum == self.netns.inum);
        if let Some(netns) = found {
            self.netns = netns;
            return;
        }
        if all.cut_short {
            return tracing::debug!("the search for namespaces took too long");
        }
        tracing::warn!("the pool's network namespace {} is gone", self.netns);
        self.namespace_gone = true;
        self.keeper.forget_namespace();
        self.inside.host = Host::default();
    }

    /// The addresses that can be used now, and why the others cannot.
    pub(super) fn usable(&self, now: Instant) -> (Vec<PoolAddress>, Vec<(IpAddr, String)>) {
        let mut usable = Vec::new();
        let mut left_out = Vec::new();
        for member in pool::members(&self.config.pool, &self.inside.host) {
            let address = pool::to_addr(member.address);
            let trouble = member.trouble.map(|trouble| trouble.name().to_owned());
            let refused = || self.health.refused.until(&address, now).map(|_| REFUSED.to_owned());
            match trouble.or_else(refused) {
                Some(why) => left_out.push((member.address, why)),
                None => usable.extend(member.usable()),
            }
        }
        (usable, left_out)
    }

    /// Ports of the namespace that no connect() is given because of bind() or listen(). What tuples hold takes no room from
    /// here on where it is one of these.
    fn blocked(&mut self) -> Result<Vec<u16>, Error> {
        self.tracer.know_range(self.netns.clone(), self.inside.range.clone());
        self.tracer.refresh_ports()?;
        Ok(self.tracer.blocked(self.netns.inum))
    }

    /// For `tracer status`, and on the log what changed of the pool.
    fn say(&mut self, left_out: Vec<(IpAddr, String)>) {
        for (address, why) in left_out.iter().filter(|it| !self.said.left_out.contains(it)) {
            tracing::warn!("{address} is left out: {why}");
        }
        let back = |it: &&(IpAddr, String)| !left_out.iter().any(|other| other.0 == it.0);
        for (address, _) in self.said.left_out.iter().filter(back) {
            tracing::warn!("{address} is used again");
        }
        let limits = self.tracer.limits(self.netns.inum);
        let spreader = self.tracer.session.spreader.as_ref();
        let members = pool::members(&self.config.pool, &self.inside.host);
        let state = State {
            cgroups: self.config.cgroups.clone(),
            netns: self.netns.path().to_owned(),
            backend: self.tracer.session.backend.name().to_owned(),
            range: (self.inside.range.low, self.inside.range.high),
            taken_by: limits.map(|limits| limits.taken_by()).unwrap_or_default().to_owned(),
            pool: members.iter().map(|member| (member.address, member.weight)).collect(),
            left_out,
            cgroups_gone: self.cgroups_gone.clone(),
            no_fast_ports: spreader.and_then(|spreader| spreader.no_fast_ports.clone()),
            degraded: self.degraded(),
            notes: self.notes(),
            ..self.troubles()
        };
        if state != self.said {
            if let Err(error) = state.write(&self.config.rule) {
                tracing::warn!("cannot write the state that `tracer status` shows: {error}");
            }
            self.said = state;
        }
    }

    /// What the routes say of the pool; on the log what is new of it.
    fn notes(&self) -> Notes {
        let notes = start::notes(&self.config, &self.inside);
        if self.said != State::default() {
            for (word, text) in notes.lines() {
                if !self.said.notes.lines().iter().any(|known| known.1 == text) {
                    tracing::warn!("{word}: {text}");
                }
            }
        }
        notes
    }

    /// Looks at the routes again, by which destinations are reached now, if it is time to. What was clear
    /// before holds where it is not clear any more.
    pub(super) fn follow_routes(&mut self) -> bool {
        let auto = pool::is_auto(&self.config.pool);
        if self.namespace_gone || !self.routes.is_due(auto) {
            return false;
        }
        let begun = Instant::now();
        let targets = destinations::networks(&self.config.targets);
        let host = self.inside.host.clone();
        let (_, _, worker, _) = self.tracer.split();
        let reaches = worker
            .run_in(&self.netns, move || addresses::reaches(&targets, &host))
            .and_then(|reaches| reaches)
            .map_err(|error| error.to_string());
        self.routes.looked(begun);
        match start::ways(&self.config, &reaches) {
            Ok(ways) => {
                self.routes.unclear = None;
                self.inside.host.ways = ways;
            }
            Err(error) => {
                let why = error.to_string();
                if self.routes.unclear.as_ref() != Some(&why) {
                    tracing::warn!("{why}; the pool stays as it is");
                }
                self.routes.unclear = Some(why);
            }
        }
        match reaches {
            Ok(_) => self.inside.reaches = reaches,
            Err(error) => tracing::debug!("{error}"),
        }
        true
    }

    /// What does not work here as well as it could.
    pub(super) fn degraded(&self) -> Vec<String> {
        let of_spreader = self.tracer.session.spreader.iter().flat_map(|it| &it.degraded);
        self.tracer.degraded().into_iter().chain(of_spreader.cloned()).collect()
    }
}
