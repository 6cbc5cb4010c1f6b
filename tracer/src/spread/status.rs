//! `tracer status`: the rules, as their maps have them.

mod text;

use std::{collections::BTreeMap, net::IpAddr, time::Instant};

use serde::Serialize;
use tracer_common::{
    Halves, Loss, Rule, TupleCount, TupleKey,
    spread::{Decision, rule_flag},
};

use super::{
    pool::address,
    state::{Lock, Said, State},
};
use crate::{
    config::StatusConfig,
    error::Error,
    host::netns,
    kernel::spread::{
        loaded::{self, Loaded},
        pinned::{Foreign, Pins},
        programs::Pinned,
    },
};

/// All that is pinned.
#[derive(Debug, Serialize)]
struct Status {
    rules: Vec<RuleStatus>,
    /// Rules whose maps only another version of tracer can read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    foreign: Vec<ForeignRule>,
    /// Folders that were not read, because others than root can change them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    refused: Vec<String>,
}

/// A rule of another version.
#[derive(Debug, Serialize)]
struct ForeignRule {
    rule: String,
    layout: String,
    pins: String,
}

/// One rule.
#[derive(Debug, Serialize)]
pub struct RuleStatus {
    pub rule: String,
    /// Process of its agent; absent: the rule is active without one.
    #[serde(rename = "agent.pid", skip_serializing_if = "Option::is_none")]
    pub agent: Option<u32>,
    pub netns: u32,
    /// Its name in /run/netns; absent: it has none.
    #[serde(rename = "netns.name", skip_serializing_if = "Option::is_none")]
    pub netns_name: Option<String>,
    /// Ports that a tuple can hold.
    #[serde(rename = "ports.capacity")]
    pub capacity: u32,
    /// Whether ports are handed out past 45 %.
    pub fast_ports: bool,
    /// Where everything is pinned.
    pub pins: String,
    pub links: usize,
    /// Links of the same rule that are not pinned there.
    #[serde(rename = "links.elsewhere")]
    pub elsewhere: usize,
    #[serde(flatten)]
    pub said: State,
    /// Why what the agent said is not shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unbelieved: Option<String>,
    /// How often each decision was taken.
    pub decisions: Vec<(&'static str, u64)>,
    /// What the kernel side did not record, by name, since the rule began.
    pub lost: BTreeMap<&'static str, u64>,
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
    /// Those in use, and those that could be had beside them.
    #[serde(rename = "ports.capacity")]
    pub capacity: u32,
    /// Of those in use, but for those that bind() took: of the half that the kernel tries last.
    #[serde(rename = "ports.other_half")]
    pub other_half: u64,
    /// Connections to which the rule gave this address. Starts over after 4,294,967,295.
    pub chosen: u32,
    /// Connections since the rule began, whoever opened them.
    pub opened: u64,
    /// connect() calls that failed.
    pub failed: u64,
}

/// What to print.
///
/// # Errors
/// Missing privileges; a rule that does not exist; pins that cannot be read.
pub fn run(config: &StatusConfig) -> Result<Vec<u8>, Error> {
    loaded::check_rights()?;
    let wanted = |name: &String| config.rule.as_ref().is_none_or(|rule| rule == name);
    let all = Pins::all();
    let rules: Vec<_> = all.rules.into_iter().filter(|(name, _)| wanted(name)).collect();
    let foreign: Vec<_> = all.foreign.into_iter().filter(|it| wanted(&it.rule)).collect();
    let known = |name: &str| {
        rules.iter().any(|(it, _)| it == name)
            || foreign.iter().any(|it| it.rule == name)
            || !wanted(&name.to_owned())
    };
    let unpinned = Loaded::unpinned(known);
    if let (Some(rule), [], [], []) = (&config.rule, &rules[..], &foreign[..], &unpinned[..]) {
        return Err(Error::BadConfig(format!(
            "there is no rule {rule}; `tracer status` lists all rules"
        )));
    }
    let mut shown =
        rules.into_iter().map(|(name, pins)| read(name, &pins)).collect::<Result<Vec<_>, _>>()?;
    let (ours, others): (Vec<_>, Vec<_>) =
        unpinned.into_iter().partition(Loaded::is_of_this_version);
    for loaded in &ours {
        shown.push(read_loaded(loaded)?);
    }
    let others = others.into_iter().map(|it| ForeignRule {
        rule: it.rule.clone(),
        layout: it.layout.to_string(),
        pins: NOWHERE.to_owned(),
    });
    let found = Status {
        rules: shown,
        foreign: foreign.into_iter().map(ForeignRule::from).chain(others).collect(),
        refused: all.refused.iter().map(ToString::to_string).collect(),
    };
    if !config.json {
        return Ok(text::of(&found).into_bytes());
    }
    let mut line = crate::format::json::terminal_safe(&found)
        .map_err(|error| Error::Failure(format!("cannot format the status: {error}")))?;
    line.push(b'\n');
    Ok(line)
}

impl From<Foreign> for ForeignRule {
    fn from(foreign: Foreign) -> Self {
        let Foreign { rule, layout, pins } = foreign;
        Self { rule, layout, pins: pins.dir().display().to_string() }
    }
}

/// In place of a path.
const NOWHERE: &str = "nowhere that can be reached";

fn read(name: String, pins: &Pins) -> Result<RuleStatus, Error> {
    let place = pins.dir().display().to_string();
    let beside = loaded::unpinned_links(&name, pins);
    let mut status = read_maps(name, Pinned::open(pins)?, place, pins.links().len())?;
    status.elsewhere = beside;
    Ok(status)
}

fn read_loaded(loaded: &Loaded) -> Result<RuleStatus, Error> {
    let pinned = Pinned::of_loaded(loaded)?;
    read_maps(loaded.rule.clone(), pinned, NOWHERE.to_owned(), loaded.links())
}

fn read_maps(
    name: String,
    mut pinned: Pinned,
    pins: String,
    links: usize,
) -> Result<RuleStatus, Error> {
    let rule = pinned.rule.get().unwrap_or_default();
    let decided = pinned.maps.decision_counts()?;
    let mut tuples = Vec::new();
    pinned.tuples.read(|key, count| tuples.push((key, count)))?;
    let (said, unbelieved) = match State::read(&name) {
        Said::State(state) => (*state, None),
        Said::Unbelievable(why) => (State::default(), Some(why)),
        Said::Nothing => (State::default(), None),
    };
    let fast = rule.flags & rule_flag::FAST_PORTS != 0 && said.no_fast_ports.is_none();
    let ours = |key: &TupleKey| {
        key.netns == rule.netns && said.pool.iter().any(|(ip, _)| *ip == address(key.source))
    };
    let mut uses: Vec<Use> = tuples
        .iter()
        .filter(|(key, count)| ours(key) && (count.opened > 0 || count.failures() > 0))
        .map(|(key, count)| usage(&rule, key, count))
        .collect();
    uses.sort_by_key(|one| std::cmp::Reverse(one.in_use));
    let not_told = Decision::NotTold;
    let mut lost: BTreeMap<_, _> = Loss::ALL
        .into_iter()
        .zip(pinned.stats.totals()?.lost)
        .map(|(loss, count)| (loss.name(), count))
        .collect();
    lost.insert(not_told.name(), decided.get(not_told as usize).copied().unwrap_or(0));
    lost.insert("hook_missed", said.hook_missed);
    Ok(RuleStatus {
        agent: Lock::holder(&name),
        netns: rule.netns,
        netns_name: name_of(rule.netns),
        capacity: rule.capacity + u32::from(rule.unsure),
        fast_ports: fast,
        pins,
        links,
        elsewhere: 0,
        decisions: Decision::ALL.iter().map(|it| it.name()).zip(decided).collect(),
        lost,
        rule: name,
        said,
        unbelieved,
        tuples: uses,
    })
}

fn name_of(netns: u32) -> Option<String> {
    let mut names = netns::Names::default();
    names.refresh(Instant::now());
    names.get(netns).map(|name| name.as_ref().to_owned())
}

fn usage(rule: &Rule, key: &TupleKey, count: &TupleCount) -> Use {
    let held = Halves(count.held);
    Use {
        source: address(key.source),
        destination: address(key.destination),
        port: key.destination_port,
        in_use: count.in_use(),
        time_wait: count.time_wait(),
        // With ports that bind() took, of which the rule's capacity is without all.
        capacity: count.capacity(rule.capacity + u32::from(rule.unsure)),
        other_half: if rule.other_low & 1 == 1 { held.odd() } else { held.even() }.into(),
        chosen: count.chosen,
        opened: count.opened,
        failed: count.failures(),
    }
}
