//! `tracer status`: the rules, as their maps have them.

use std::{fmt::Write as _, net::IpAddr};

use serde::Serialize;
use tracer_common::{
    Rule, TupleCount, TupleKey,
    spread::{Decision, rule_flag},
};

use super::{
    start::address,
    state::{Lock, State},
};
use crate::{
    config::StatusConfig,
    error::Error,
    kernel::{pins::Pins, spreader::Pinned},
};

/// One rule.
#[derive(Debug, Serialize)]
pub struct RuleStatus {
    pub rule: String,
    /// Process of its agent; absent: it goes on by itself.
    #[serde(rename = "agent.pid", skip_serializing_if = "Option::is_none")]
    pub agent: Option<u32>,
    pub netns: u32,
    /// Ports that a tuple can hold.
    #[serde(rename = "ports.capacity")]
    pub capacity: u32,
    /// Whether ports are handed out past 45 %.
    pub fast_ports: bool,
    /// Where everything is pinned.
    pub pins: String,
    pub links: usize,
    #[serde(flatten)]
    pub said: State,
    /// How often each decision was taken.
    pub decisions: Vec<(&'static str, u64)>,
    pub tuples: Vec<Use>,
}

/// One address towards one destination.
#[derive(Clone, Debug, Serialize)]
pub struct Use {
    #[serde(rename = "network.local.address")]
    pub source: IpAddr,
    #[serde(rename = "network.peer.address")]
    pub destination: IpAddr,
    #[serde(rename = "network.peer.port")]
    pub port: u16,
    #[serde(rename = "ports.in_use")]
    pub in_use: u64,
    #[serde(rename = "ports.time_wait")]
    pub time_wait: u64,
    #[serde(rename = "ports.capacity")]
    pub capacity: u32,
    /// Of those in use: of the half that the kernel tries last.
    #[serde(rename = "ports.other_half")]
    pub other_half: u64,
    /// Connections since the rule began.
    pub opened: u64,
    pub failed: u64,
}

/// What to print.
///
/// # Errors
/// A rule that does not exist; pins that cannot be read.
pub fn run(config: &StatusConfig) -> Result<Vec<u8>, Error> {
    let wanted = |name: &String| config.rule.as_ref().is_none_or(|rule| rule == name);
    let rules: Vec<_> = Pins::all().into_iter().filter(|(name, _)| wanted(name)).collect();
    if let (Some(rule), []) = (&config.rule, &rules[..]) {
        return Err(Error::BadConfig(format!(
            "there is no rule {rule}; `tracer status` lists those that there are"
        )));
    }
    let found: Vec<RuleStatus> =
        rules.into_iter().map(|(name, pins)| read(name, &pins)).collect::<Result<_, _>>()?;
    if config.json {
        let mut text = crate::export::record::terminal_safe(&serde_json::json!({ "rules": found }))
            .map_err(|error| Error::Failure(format!("cannot put the status together: {error}")))?;
        text.push(b'\n');
        return Ok(text);
    }
    if found.is_empty() {
        return Ok(b"nothing is spread\n".to_vec());
    }
    let texts: Vec<String> = found.iter().map(text).collect();
    Ok(texts.join("\n").into_bytes())
}

fn read(name: String, pins: &Pins) -> Result<RuleStatus, Error> {
    let mut pinned = Pinned::open(pins)?;
    let rule = pinned.maps.rule().unwrap_or_default();
    let decided = pinned.maps.decided()?;
    let mut tuples = Vec::new();
    pinned.tuples.read(|key, count| tuples.push((key, count)))?;
    let said = State::read(&name).unwrap_or_default();
    let fast = rule.flags & rule_flag::FAST_PORTS != 0 && said.no_fast_ports.is_none();
    let ours = |key: &TupleKey| {
        key.netns == rule.netns && said.pool.iter().any(|(ip, _)| *ip == address(key.source))
    };
    let mut uses: Vec<Use> = tuples
        .iter()
        .filter(|(key, count)| ours(key) && count.opened > 0)
        .map(|(key, count)| usage(&rule, key, count))
        .collect();
    uses.sort_by_key(|one| std::cmp::Reverse(one.in_use));
    Ok(RuleStatus {
        agent: Lock::holder(&name),
        netns: rule.netns,
        capacity: rule.capacity,
        fast_ports: fast,
        pins: pins.dir().display().to_string(),
        links: pins.links().len(),
        decisions: Decision::ALL.iter().map(|it| it.name()).zip(decided).collect(),
        rule: name,
        said,
        tuples: uses,
    })
}

fn usage(rule: &Rule, key: &TupleKey, count: &TupleCount) -> Use {
    let odd = count.odd_in_use();
    Use {
        source: address(key.source),
        destination: address(key.destination),
        port: key.destination_port,
        in_use: count.in_use(),
        time_wait: count.time_wait(),
        capacity: rule.capacity,
        other_half: if rule.other_low & 1 == 1 { odd } else { count.in_use().saturating_sub(odd) },
        opened: count.opened,
        failed: count.failures(),
    }
}

fn text(status: &RuleStatus) -> String {
    let agent = match status.agent {
        Some(pid) => format!("agent {pid}"),
        None => "no agent: it goes on by itself".to_owned(),
    };
    let said = &status.said;
    let cgroups: Vec<_> = said.cgroups.iter().map(|path| path.display().to_string()).collect();
    let fast = match &said.no_fast_ports {
        _ if status.fast_ports => "on".to_owned(),
        Some(why) => format!("off ({why})"),
        None => "off".to_owned(),
    };
    let mut out = format!(
        "rule {}: {agent}\n  cgroups     {}\n  namespace   {}, ports {}-{}, {} towards each \
         destination\n  fast ports  {fast}\n  pool        {} addresses, {} in use by the rule\n",
        status.rule,
        cgroups.join(" "),
        status.netns,
        said.range.0,
        said.range.1,
        status.capacity,
        said.pool.len(),
        said.pool.len() - said.left_out.len(),
    );
    // Writing to a String cannot fail.
    for (address, why) in &said.left_out {
        _ = writeln!(out, "  left out    {address}: {why}");
    }
    for path in &said.cgroups_gone {
        _ = writeln!(out, "  gone        cgroup {}", path.display());
    }
    for reason in &said.degraded {
        _ = writeln!(out, "  degraded    {reason}");
    }
    let taken = status.decisions.iter().filter(|(_, count)| *count > 0);
    let taken: Vec<_> = taken.map(|(name, count)| format!("{name} {count}")).collect();
    _ = writeln!(out, "  decisions   {}", taken.join(", "));
    if !status.tuples.is_empty() {
        out.push_str(
            "  SRC                        DST:PORT                      PORTS     TW   %SAT    OPENED  FAILED\n",
        );
    }
    for one in &status.tuples {
        let to = std::net::SocketAddr::new(one.destination, one.port).to_string();
        let part = 100 * one.in_use / u64::from(one.capacity.max(1));
        _ = writeln!(
            out,
            "  {:<26} {to:<28} {:>6} {:>6} {part:>6} {:>9} {:>7}",
            one.source.to_string(),
            one.in_use,
            one.time_wait,
            one.opened,
            one.failed
        );
    }
    out
}
