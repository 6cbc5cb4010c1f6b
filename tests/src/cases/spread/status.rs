//! `spread::status`: `tracer status` shows what a rule has done and lost, without an agent, too, and rules of another version of
//! tracer.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{Application, Case, Host, POOL, PORTS, Plan};
use crate::{
    cases::errors::says,
    harness::tracer::{START_LIMIT, command, run, spread::PINS, status::LeftOutTowards},
};

pub(super) fn cases(plan: &Plan) -> Vec<Case> {
    plan.group("spread::status")
        .once(&[
            ("chosen", chosen),
            ("losses_without_an_agent", losses_without_an_agent),
            ("another_layout", another_layout),
        ])
        .cases()
}

/// The text that `tracer status --rule NAME` prints.
fn printed(host: &Host) -> Result<String> {
    let ended = run(&mut command(&["status", "--rule", host.rule.name()])?, START_LIMIT)?;
    ensure!(ended.code() == 0 && ended.stderr.is_empty(), "{ended:?}");
    Ok(ended.stdout)
}

/// `chosen` counts the 60 connections to which the rule gave this source. Another process opens 30 from the same address, with a
/// port that bind() or connect() chose: they are in `opened` only, which is 90. Connections with fast ports count as chosen, and
/// the text of the status has the same number.
fn chosen() -> Result<()> {
    let mut host = Host::new()?;
    let server = host.server("10.1.0.1:7000")?;
    let spread = host.spread(&POOL[..1], &[])?;
    let first: SocketAddr = format!("{}:0", POOL[0]).parse()?;
    let mut held = (0..60).map(|_| host.connect(server.address)).collect::<Result<Vec<_>>>()?;
    let other = Application::new(&host.stage.netns)?;
    for turn in 0..30_u16 {
        let sock = other.app.tcp(server.address)?;
        match turn % 3 {
            0 => sock.set_bind_address_no_port()?,
            1 => {}
            _ => sock.bind(SocketAddr::new(first.ip(), 39_000 + turn))?,
        }
        if turn % 3 < 2 {
            sock.bind(first)?;
        }
        sock.connect(server.address)?;
        held.push(sock);
    }
    let status = host.rule.status()?;
    let [tuple] = &status.tuples[..] else { anyhow::bail!("not one tuple: {status:?}") };
    ensure!(tuple.chosen == 60 && tuple.counts.opened == 90, "{tuple:?}");
    ensure!(tuple.counts.in_use == 90 && tuple.capacity > 0, "{tuple:?}");
    // A fast port counts as chosen, too.
    if status.fast_ports {
        while host.rule.status()?.decided("fast_port")? < 50 {
            ensure!((held.len() as u64) < PORTS, "no ports are handed out");
            held.extend(
                (0..100).map(|_| host.connect(server.address)).collect::<Result<Vec<_>>>()?,
            );
        }
        let status = host.rule.status()?;
        let chosen: u64 = status.tuples.iter().map(|it| it.chosen).sum();
        ensure!(chosen == held.len() as u64 - 30, "{} held: {status:?}", held.len());
    }
    let text = printed(&host)?;
    let capacity = host.rule.status()?.capacity.to_string();
    let pins = host.rule.pins().display().to_string();
    let chosen = (held.len() - 30).to_string();
    for word in
        ["CHOSEN", "drift ", " handed out", "losses      ", " links", &pins, &capacity, &chosen]
    {
        ensure!(text.contains(word), "no {word:?} in {text}");
    }
    spread.stop()?;
    Ok(())
}

/// The status, as JSON and as text, has the losses of a full table of connections (one owner's share of 100 entries is 89), even
/// when there is no agent.
fn losses_without_an_agent() -> Result<()> {
    let mut host = Host::new()?;
    let server = host.server("10.1.0.1:7000")?;
    let spread = host.spread(&POOL[..1], &["--max-conns", "100", "--on-exit", "keep"])?;
    let status = host.rule.status()?;
    // Connections that were open before the rule began can be lost, too: these losses do not count here.
    let before = status.lost("conns_share")?;
    spread.kill()?;
    // One owner's share of a table with 100 entries is 89 of them.
    let _held = (0..600).map(|_| host.connect(server.address)).collect::<Result<Vec<_>>>()?;
    let status = host.rule.status()?;
    ensure!(status.agent.is_none(), "an agent is left: {status:?}");
    let lost = status.lost("conns_share")?;
    let counted = status.tuples.first().context("nothing opened")?.counts.opened;
    let right = (1..=89).contains(&counted) && lost - before + counted >= 600;
    ensure!(right, "{counted} counted: {status:?}");
    status.lost("not_told")?;
    let text = printed(&host)?;
    let shown = text
        .split("conns_share ")
        .nth(1)
        .and_then(|rest| rest.split(|one: char| !one.is_ascii_digit()).next()?.parse::<u64>().ok());
    ensure!(shown.is_some_and(|shown| shown >= lost), "not {lost}: {text}");
    Ok(())
}

/// Whether the status, as JSON and as text, shows `address` as left out for a time towards the destination `peer`, with the end
/// of that time; false if one of them does not, or the address is not left out there.
///
/// # Errors
/// The address is left out there for another reason than `why`; the end is missing, more than 2 s ago, or more than a minute from
/// now; or `tracer status` fails.
pub(super) fn shows_quarantine(
    host: &Host,
    (address, peer): (&str, SocketAddr),
    why: &str,
) -> Result<bool> {
    let status = host.rule.status()?;
    let address: IpAddr = address.parse()?;
    let is = |it: &&LeftOutTowards| it.address == address && it.peer() == peer;
    let Some(one) = status.left_out_towards.iter().find(is) else { return Ok(false) };
    ensure!(one.reason == why, "{one:?}");
    let until = Duration::from_nanos(one.until_mono_ns.context("no end")?);
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let now = Duration::try_from(now)?;
    ensure!(
        until <= now + Duration::from_mins(1) && now <= until + Duration::from_secs(2),
        "{one:?}"
    );
    let line = format!("left out    {address} towards {peer}: {why}");
    let text = printed(host)?;
    Ok(text.lines().any(|it| it.contains(&line) && it.ends_with(" s more")))
}

/// The folders of a rule without programs and maps, as another version of tracer would pin them; removed on drop.
struct Foreign(PathBuf);

impl Foreign {
    fn new(rule: &str) -> Result<Self> {
        let foreign = Self(Path::new(PINS).join("1").join(rule));
        for folder in ["maps", "links"] {
            fs::create_dir_all(foreign.0.join(folder))?;
        }
        Ok(foreign)
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
        // The removal fails if the folder has other rules.
        self.0.parent().map(fs::remove_dir);
    }
}

/// A rule of another version is not taken over (exit code 1); it can be released unless something else is in its folder (exit
/// code 1, and nothing is removed), and nothing else is removed with it.
fn another_layout() -> Result<()> {
    let host = Host::new()?;
    let foreign = Foreign::new(host.rule.name())?;
    let path = foreign.0.display().to_string();
    let cgroup = host.cgroup.path().to_string_lossy();
    let mut start = host.rule.command(&["--cgroup", &cgroup, "--pool", POOL[0]])?;
    let refused = host.stage.netns.run(|| run(&mut start, START_LIMIT))?;
    says(&refused, &[1], &["another version", "layout 1", &path, "--release"])?;
    let text = printed(&host)?;
    ensure!(text.contains("another version") && text.contains(&path), "{text}");
    // A folder in the rule's folder that no tracer makes.
    let others = foreign.0.join("others");
    fs::create_dir(&others)?;
    says(&host.rule.release()?, &[1], &[&others.display().to_string()])?;
    ensure!(others.exists() && foreign.0.join("links").exists(), "something was removed");
    fs::remove_dir(&others)?;
    let ended = host.rule.release()?;
    ensure!(ended.code() == 0 && !foreign.0.exists(), "{ended:?}");
    host.rule.check_nothing_left()
}
