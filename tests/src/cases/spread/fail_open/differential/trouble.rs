//! What goes wrong while the application makes calls: agents are killed, stopped and restarted, tables fill up, addresses,
//! cgroups, namespaces and pins are removed.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::{super::KEEP, Progress};
use crate::{
    cases::spread::{Host, POOL, source},
    harness::{
        maker::Maker,
        netns::NetNs,
        sock::Sock,
        tracer::spread::{Rule, Spread},
    },
};

/// The host that gets into trouble, how far its application's calls have come, and what has happened.
pub(super) struct Trouble<'a> {
    pub(super) host: &'a Host,
    pub(super) progress: &'a Progress,
    pub(super) seen: Seen,
}

/// What happened during the trouble.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// For each address that was removed: the numbers (from 0) of the calls that may have been under way at that time, both ends
    /// included; the removal may have made one of them fail.
    pub(super) removals: Vec<RangeInclusive<usize>>,
    /// For each end of a rule: the numbers (from 0) of the calls that may have been under way at that time, both ends included. A
    /// socket that the rule bound for its first connect() keeps that address for the next one.
    pub(super) ends: Vec<RangeInclusive<usize>>,
    /// Number of decisions for which the ring had no room.
    pub(super) ring_full: u64,
    /// Number of connections for which the ledger had no room.
    pub(super) uncounted: u64,
    /// Number of connections with a fast port.
    pub(super) fast_port: u64,
    /// Number of connect() calls for which the pool was full.
    pub(super) pool_full: u64,
}

/// Makes each kind of trouble once, and adds to [`Trouble::seen`] what happened. Nothing is left of the rule at the end. An error
/// if a step fails or does not happen; it names the step.
pub(super) fn round(trouble: &mut Trouble<'_>) -> Result<()> {
    trouble.stopped_and_killed(POOL.as_slice()).context("stopped and killed")?;
    trouble.ring_full().context("ring full")?;
    trouble.addresses_removed().context("addresses removed")?;
    trouble.cgroup_removed().context("cgroup removed")?;
    trouble.namespace_deleted().context("namespace deleted")?;
    trouble.pins_deleted().context("pins deleted")?;
    trouble.tables_full().context("tables full")
}

/// Makes trouble with a pool of one address, which is full at times, and adds to [`Trouble::seen`] what happened. Nothing is left
/// of the rule at the end. An error if the pool does not get full within 10,000 calls, or a step fails.
pub(super) fn narrow_round(trouble: &mut Trouble<'_>) -> Result<()> {
    let pool = &POOL[..1];
    let agent = trouble.agent(pool, &[])?;
    let status = trouble.until("a full pool and fast ports", |trouble| {
        let status = trouble.host.rule.status()?;
        let there = status.decided("pool_full")? > 0 && status.decided("fast_port")? > 0;
        Ok(there.then_some(status))
    })?;
    trouble.seen.pool_full += status.decided("pool_full")?;
    trouble.seen.fast_port += status.decided("fast_port")?;
    agent.kill()?;
    trouble.progress.more(100)?;
    trouble.stopped_and_killed(pool)?;
    trouble.agent(pool, &["--ports", "kernel"])?.stop()?;
    trouble.progress.more(100)?;
    trouble.agent(pool, &[])?.stop()?;
    let from = usize::try_from(trouble.progress.calls())?;
    trouble.host.rule.release()?;
    trouble.seen.ends.push(from..=usize::try_from(trouble.progress.calls())?);
    trouble.progress.more(100)
}

impl Trouble<'_> {
    fn stopped_and_killed(&self, pool: &[&str]) -> Result<()> {
        let agent = self.agent(pool, &[])?;
        agent.process.signal(Signal::STOP)?;
        let played = self.progress.more(200);
        agent.process.signal(Signal::CONT)?;
        played?;
        agent.kill()?;
        self.progress.more(50)
    }

    /// The agent, which should write every decision, is stopped until the ring is full of decisions that it has not read.
    fn ring_full(&mut self) -> Result<()> {
        let agent = self.agent(&POOL, &["--decisions", "all"])?;
        let before = self.host.rule.status()?.decided("not_told")?;
        agent.process.signal(Signal::STOP)?;
        let lost = self.until("decisions without room", |trouble| {
            let lost = trouble.host.rule.status()?.decided("not_told")? - before;
            Ok((lost > 0).then_some(lost))
        });
        agent.process.signal(Signal::CONT)?;
        self.seen.ring_full += lost?;
        agent.stop()?;
        Ok(())
    }

    /// One address of the pool is removed, then all; each time they are added again.
    fn addresses_removed(&mut self) -> Result<()> {
        let agent = self.agent(&POOL, &[])?;
        for addresses in [&POOL[..1], &POOL[..]] {
            for address in addresses {
                let from = usize::try_from(self.progress.calls())?;
                self.host.stage.netns.ip(&format!("addr del {address}/32 dev lo"))?;
                self.seen.removals.push(from..=usize::try_from(self.progress.calls())?);
            }
            self.progress.more(100)?;
            for address in addresses {
                self.host.stage.netns.ip(&format!("addr add {address}/32 dev lo"))?;
            }
            self.progress.more(100)?;
        }
        agent.stop()?;
        Ok(())
    }

    /// The rule's cgroup is removed, and another one with the same name is made.
    fn cgroup_removed(&self) -> Result<()> {
        let agent = self.agent(&POOL, &[])?;
        let cgroup = self.host.cgroup.path();
        let above = cgroup.parent().context("a cgroup at /")?;
        fs::write(above.join("cgroup.procs"), self.host.app.id().to_string())?;
        fs::remove_dir(cgroup)?;
        self.progress.more(100)?;
        fs::create_dir(cgroup)?;
        self.host.cgroup.add(self.host.app.id())?;
        self.progress.more(100)?;
        agent.stop()?;
        Ok(())
    }

    /// The namespace of another rule's pool ends; that rule is for the same cgroup.
    fn namespace_deleted(&self) -> Result<()> {
        let (rule, netns) = (Rule::new(), NetNs::new()?);
        netns.ip(&format!("addr add {}/32 dev lo", POOL[0]))?;
        let inhabitant = netns.run(|| Maker::spawn(&self.host.cgroup))?;
        let path = format!("/proc/{}/ns/net", inhabitant.id());
        let cgroup = self.host.cgroup.path().to_string_lossy();
        let arguments = ["--pool", POOL[0], "--cgroup", &cgroup, "--netns", &path];
        let agent = Spread::start(&rule, &[&arguments[..], &["--on-exit", "release"]].concat())?;
        self.progress.more(50)?;
        drop((inhabitant, netns));
        self.progress.more(100)?;
        agent.stop()?;
        rule.check_nothing_left()
    }

    fn pins_deleted(&self) -> Result<()> {
        let agent = self.agent(&POOL, &["--ports", "kernel"])?;
        fs::remove_dir_all(self.host.rule.pins())?;
        self.progress.more(50)?;
        agent.stop()?;
        self.progress.more(50)
    }

    /// Makes a new rule whose ledger has room for 16 connections and 16 tuples, and holds 32 connections.
    fn tables_full(&mut self) -> Result<()> {
        const ROOM: u64 = 16;
        let agent = self.agent(&POOL, &["--max-conns", "16", "--max-tuples", "16"])?;
        let peer: SocketAddr = "10.1.0.1:7200".parse()?;
        let listener = self.host.stage.netns.run(|| Sock::tcp(peer))?;
        listener.bind(peer)?;
        listener.listen(64)?;
        let mut held = Vec::new();
        for turn in 0..ROOM * 2 {
            held.push(self.host.connect(peer).with_context(|| format!("connect {turn}"))?);
        }
        // The sources are read from the sockets, not from /proc/net/tcp, which can list a socket twice while others come and go.
        let sources = held.iter().map(source).collect::<Result<Vec<_>>>()?;
        let in_pool = |from: &&IpAddr| POOL.contains(&&*from.to_string());
        let spread = sources.iter().filter(in_pool).count() as u64;
        ensure!(spread == ROOM * 2, "of {} connections, {spread} are spread", ROOM * 2);
        let counted = self.host.rule.status()?.in_use();
        ensure!(counted <= ROOM, "{counted} connections are counted where {ROOM} have room");
        self.seen.uncounted += spread - counted;
        held.iter().try_for_each(Sock::set_reset_on_close)?;
        drop(held);
        self.progress.more(100)?;
        agent.stop()?;
        self.host.rule.release()?;
        self.progress.more(50)
    }

    fn agent(&self, pool: &[&str], more: &[&str]) -> Result<Spread> {
        let spread = self.host.spread(pool, &[KEEP, more].concat())?;
        self.progress.more(50)?;
        Ok(spread)
    }

    /// Calls `there` after every 200 calls of the application until it returns a value; an error after 10,000 calls without one.
    fn until<T>(&self, what: &str, there: impl Fn(&Self) -> Result<Option<T>>) -> Result<T> {
        for _ in 0..50 {
            self.progress.more(200)?;
            if let Some(found) = there(self)? {
                return Ok(found);
            }
        }
        anyhow::bail!("after 10,000 calls there is not {what}: {:?}", self.host.rule.status())
    }
}
