//! Makes the rule from what the host has now, gives it to the hooks, and publishes the agent's state. Also reads the routes
//! again.

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

/// Shortest time between two readings of routes where `--pool auto` depends on them, unless addresses change. Messages
/// about each change would cost too much on a router, which has a million routes.
const AUTO_READS: Duration = Duration::from_secs(10);
/// Shortest time between two readings of routes where only warnings depend on them, unless addresses change.
const READS: Duration = Duration::from_mins(1);
/// N, if reading routes may take 1/N of the time: after a slow reading, the next one comes later.
const SHARE: u32 = 50;

/// When the routes are read again.
#[derive(Debug)]
pub(super) struct RouteReads {
    /// When the last reading ended (at first: when the agent started), and how long it took.
    last: Instant,
    took: Duration,
    /// Whether addresses have changed since the last reading: then only [`SHARE`] (1/50 of the time) delays the next one.
    pub(super) changed: bool,
    /// Why the routes do not say any more which interfaces `--pool auto` means; `None`: they do.
    unclear: Option<String>,
}

impl RouteReads {
    /// A state as if the routes had been read just now, in no time.
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

    /// Notes a reading that began at `begun` and has ended now.
    fn finished(&mut self, begun: Instant) {
        (self.last, self.took, self.changed) = (Instant::now(), begun.elapsed(), false);
    }
}

impl Agent {
    /// Makes the rule from what the host has now, gives it to the hooks if it differs from theirs, and publishes the
    /// agent's state.
    ///
    /// # Errors
    /// A BPF map cannot be read or written; waiting for running hooks fails; the ledger refuses a command.
    pub(super) fn refresh(&mut self) -> Result<(), Error> {
        self.reread_range();
        let now = Instant::now();
        let blocked = self.blocked()?;
        let bound = self.tracer.bound_counts();
        let (usable, left_out) = self.usable(now);
        let excluded = ports::excluded(&self.view.range, &blocked);
        if *excluded != *self.excluded {
            self.spreader()?.maps.set_excluded(&excluded)?;
            self.excluded = excluded;
        }
        let destinations = self.view.host.auto.destinations(&self.destinations);
        let (netns, netns_cookie) = (self.netns.inum, self.view.cookie);
        let (low, high) = (self.view.range.low, self.view.range.high);
        let random = self.random;
        // `--fail-fast` must not deny a call while the count of free ports may be too low.
        let sure = self.tracer.is_sure_of_ports();
        let flags = self.config.flags & if sure { u32::MAX } else { !rule_flag::FAIL_FAST };
        let reuse = self.view.reuse;
        let capacity = ports::capacity(&self.view.range, &blocked);
        let other_capacity = ports::other_capacity(&self.view.range, &self.excluded);
        let unsure = ports::is_last_unsure(&self.view.range, &self.excluded);
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
        self.publish_state(left_out);
        Ok(())
    }

    /// Reads the port range and the reuse of TIME_WAITs; a range that cannot be read stays as it was. They are sysctls,
    /// and the kernel sends no message when one changes. If the namespace cannot be entered, looks for another path to
    /// it.
    fn reread_range(&mut self) {
        let (_, _, worker, _) = self.tracer.split();
        let result = worker.run_in(&self.netns, || Ok((PortRange::read(), Reuse::read())));
        self.tracer.visited(&self.netns, &result);
        match result {
            Ok((range, reuse)) => {
                self.view.reuse = reuse;
                match range {
                    Ok(range) => self.view.range = range,
                    Err(error) => tracing::debug!("{error}"),
                }
            }
            Err(error) => {
                tracing::debug!("{error}");
                self.find_namespace();
            }
        }
    }

    /// Looks for another path to the pool's network namespace, after the namespace could not be entered. If a complete
    /// search finds none, the namespace counts as gone, and the agent closes its sockets there, which would keep the
    /// namespace alive. If the search fails or is cut short, nothing changes.
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
        self.view.host = Host::default();
    }

    /// The addresses of the pool that can be used now; and the others (in quarantine, or see [`pool::Trouble`]), each with the
    /// reason.
    pub(super) fn usable(&self, now: Instant) -> (Vec<PoolAddress>, Vec<(IpAddr, String)>) {
        let mut usable = Vec::new();
        let mut left_out = Vec::new();
        for member in pool::members(&self.config.pool, &self.view.host) {
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

    /// Ports of the namespace that connect() does not get because of bind() or listen(). Also corrects the ledger: a
    /// connection that holds such a port takes no room of its tuple.
    ///
    /// # Errors
    /// A BPF map cannot be read; the ledger refuses a command.
    fn blocked(&mut self) -> Result<Vec<u16>, Error> {
        self.tracer.know_range(self.netns.clone(), self.view.range.clone());
        self.tracer.refresh_ports()?;
        Ok(self.tracer.blocked(self.netns.inum))
    }

    /// Writes the state that `tracer status` shows, if it has changed, and logs which addresses are newly left out or used
    /// again.
    fn publish_state(&mut self, left_out: Vec<(IpAddr, String)>) {
        for (address, why) in left_out.iter().filter(|it| !self.published.left_out.contains(it)) {
            tracing::warn!("{address} is left out: {why}");
        }
        let back = |it: &&(IpAddr, String)| !left_out.iter().any(|other| other.0 == it.0);
        for (address, _) in self.published.left_out.iter().filter(back) {
            tracing::warn!("{address} is used again");
        }
        let limits = self.tracer.limits(self.netns.inum);
        let spreader = self.tracer.session.spreader.as_ref();
        let members = pool::members(&self.config.pool, &self.view.host);
        let state = State {
            cgroups: self.config.cgroups.clone(),
            netns: self.netns.path().to_owned(),
            backend: self.tracer.session.backend.name().to_owned(),
            range: (self.view.range.low, self.view.range.high),
            taken_by: limits.map(|limits| limits.taken_by()).unwrap_or_default().to_owned(),
            pool: members.iter().map(|member| (member.address, member.weight)).collect(),
            left_out,
            cgroups_gone: self.cgroups_gone.clone(),
            no_fast_ports: spreader.and_then(|spreader| spreader.no_fast_ports.clone()),
            degraded: self.degraded(),
            notes: self.notes(),
            ..self.troubles()
        };
        if state != self.published {
            if let Err(error) = state.write(&self.config.rule) {
                tracing::warn!("cannot write the state that `tracer status` shows: {error}");
            }
            self.published = state;
        }
    }

    /// What the routes say about the pool. Logs the notes that the last published state did not have, except at the start,
    /// when [`Agent::summary`] has all of them.
    fn notes(&self) -> Notes {
        let notes = start::notes(&self.config, &self.view);
        if self.published != State::default() {
            for (word, text) in notes.lines() {
                if !self.published.notes.lines().iter().any(|known| known.1 == text) {
                    tracing::warn!("{word}: {text}");
                }
            }
        }
        notes
    }

    /// Reads the routes to the destinations again, if that is due: with `--pool auto` after 10 s, else after a minute, at once
    /// after a change of addresses, but later if reading them takes more than 1/50 of the time. True if it was due, also if
    /// reading failed; false, too, once the namespace is gone. If the routes cannot be read, or do not say any more which
    /// interfaces `--pool auto` means, the pool stays as it is.
    pub(super) fn reread_routes(&mut self) -> bool {
        let auto = pool::is_auto(&self.config.pool);
        if self.namespace_gone || !self.routes.is_due(auto) {
            return false;
        }
        let begun = Instant::now();
        let targets = destinations::networks(&self.config.targets);
        let host = self.view.host.clone();
        let (_, _, worker, _) = self.tracer.split();
        let reaches = worker
            .run_in(&self.netns, move || addresses::reaches(&targets, &host))
            .map_err(|error| error.to_string());
        self.routes.finished(begun);
        match start::auto_choice(&self.config, &reaches) {
            Ok(choice) => {
                self.routes.unclear = None;
                self.view.host.auto = choice;
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
            Ok(_) => self.view.reaches = reaches,
            Err(error) => tracing::debug!("{error}"),
        }
        true
    }

    /// What does not work as well as it could on this host, one text each; empty: nothing.
    pub(super) fn degraded(&self) -> Vec<String> {
        let of_spreader = self.tracer.session.spreader.iter().flat_map(|it| &it.degraded);
        self.tracer.degraded().into_iter().chain(of_spreader.cloned()).collect()
    }
}
