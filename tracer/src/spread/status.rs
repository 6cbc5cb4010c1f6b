//! `tracer status`: shows the active rules, from their maps and their agents' states.

mod text;

use std::{collections::BTreeMap, net::IpAddr, time::Instant};

use serde::Serialize;
use tracer_common::{
    Halves, Loss, Rule, TupleCount, TupleKey,
    spread::{Decision, rule_flag},
};

use super::{
    pool::address,
    state::{Lock, State, StateFile},
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

/// All active rules, or those of the name that was asked for.
#[derive(Debug, Serialize)]
struct Status {
    rules: Vec<RuleStatus>,
    /// Rules whose maps only another version of tracer can read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    foreign: Vec<ForeignRule>,
    /// Folders that were not read, because others than root can change them; one text each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    refused: Vec<String>,
}

/// A rule of another version of tracer.
#[derive(Debug, Serialize)]
struct ForeignRule {
    rule: String,
    layout: String,
    pins: String,
}

/// One rule, with the keys of its JSON object. If the hooks have no rule now (it is being ended), or it cannot be read, `netns`
/// and `capacity` are 0, `fast_ports` is false, and `tuples` is empty.
#[derive(Debug, Serialize)]
pub struct RuleStatus {
    pub rule: String,
    /// Process id of the rule's agent; absent: the rule is active without an agent, or its lock file cannot be read.
    #[serde(rename = "agent.pid", skip_serializing_if = "Option::is_none")]
    pub agent: Option<u32>,
    /// Inode number of the pool's network namespace.
    pub netns: u32,
    /// The namespace's name in /run/netns; absent: it has none.
    #[serde(rename = "netns.name", skip_serializing_if = "Option::is_none")]
    pub netns_name: Option<String>,
    /// Ports that connect() can be given for a tuple that holds none.
    #[serde(rename = "ports.capacity")]
    pub capacity: u32,
    /// Whether the rule hands out fast ports: for a tuple that uses more than 45 % of its ports, the hook binds a free
    /// port, so that connect() need not search for one.
    pub fast_ports: bool,
    /// The folder of its pins, or that they were not found.
    pub pins: String,
    /// How many links (of programs to hooks and cgroups) are pinned there; if no pins were found, how many are active.
    pub links: usize,
    /// Active links of the same rule that are not pinned in `pins`.
    #[serde(rename = "links.elsewhere")]
    pub elsewhere: usize,
    /// The state that the rule's agent published last; the default if there is none, or it is not shown.
    #[serde(flatten)]
    pub state: State,
    /// Why the agent's state is not shown; absent: it is, or there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unbelieved: Option<String>,
    /// How often each decision was made since the rule began, by name of the decision, also if it is 0.
    pub decisions: Vec<(&'static str, u64)>,
    /// What was not recorded since the rule began, by name of the loss, also if it is 0.
    pub lost: BTreeMap<&'static str, u64>,
    /// The pool's addresses towards each destination, if a connection was opened or a connect() failed. Sorted by ports
    /// in use, most first; empty, too, if the state is not known.
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
    /// Ports held now, those in TIME_WAIT included.
    #[serde(rename = "ports.in_use")]
    pub in_use: u64,
    /// Of these: ports in TIME_WAIT.
    #[serde(rename = "ports.time_wait")]
    pub time_wait: u64,
    /// Number of ports: those in use, and those that connect() can still be given.
    #[serde(rename = "ports.capacity")]
    pub capacity: u32,
    /// How many ports of the second parity, which the kernel tries last, are in use; without those that connect() could
    /// not be given anyway, as after bind().
    #[serde(rename = "ports.other_half")]
    pub other_half: u64,
    /// Connections to which the rule gave this address. Wraps at 2³².
    pub chosen: u32,
    /// Connections that were opened since the rule began, including those that the rule did not spread.
    pub opened: u64,
    /// connect() calls that failed since the rule began.
    pub failed: u64,
}

/// What `tracer status` prints: a text, or with `config.json` one line of JSON; each with its last newline.
///
/// # Errors
/// Capabilities are missing or cannot be read, or this process is in a user namespace of its own; there is no rule of the name
/// that is asked for; a map of a rule cannot be opened or read.
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
    let (readable, others): (Vec<_>, Vec<_>) =
        unpinned.into_iter().partition(Loaded::is_of_this_version);
    for loaded in &readable {
        shown.push(read_loaded(loaded)?);
    }
    let others = others.into_iter().map(|it| ForeignRule {
        rule: it.rule.clone(),
        layout: it.layout.to_string(),
        pins: NOT_FOUND.to_owned(),
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

/// In place of the folder of pins, for an active rule of which no pins can be found.
const NOT_FOUND: &str = "not found in any reachable bpffs";

/// Reads a rule that has pins. Fails if one of the rule's maps cannot be opened or read.
fn read(name: String, pins: &Pins) -> Result<RuleStatus, Error> {
    let folder = pins.dir().display().to_string();
    let elsewhere = loaded::unpinned_links(&name, pins);
    let mut status = read_maps(name, Pinned::open(pins)?, folder, pins.links().len())?;
    status.elsewhere = elsewhere;
    Ok(status)
}

/// Reads a rule whose pins were not found. Fails if one of the rule's maps cannot be opened or read.
fn read_loaded(loaded: &Loaded) -> Result<RuleStatus, Error> {
    let pinned = Pinned::of_loaded(loaded)?;
    read_maps(loaded.rule.clone(), pinned, NOT_FOUND.to_owned(), loaded.links())
}

/// Reads a rule's maps and its agent's state. Fails if a map cannot be read; a rule without a state, or with one that
/// cannot be trusted, gets the default state.
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
    let (state, unbelieved) = match State::read(&name) {
        StateFile::State(state) => (*state, None),
        StateFile::Untrusted(why) => (State::default(), Some(why)),
        StateFile::Nothing => (State::default(), None),
    };
    let fast = rule.flags & rule_flag::FAST_PORTS != 0 && state.no_fast_ports.is_none();
    let is_of_pool = |key: &TupleKey| {
        key.netns == rule.netns && state.pool.iter().any(|(ip, _)| *ip == address(key.source))
    };
    let mut uses: Vec<Use> = tuples
        .iter()
        .filter(|(key, count)| is_of_pool(key) && (count.opened > 0 || count.failures() > 0))
        .map(|(key, count)| usage(&rule, key, count))
        .collect();
    uses.sort_by_key(|one| std::cmp::Reverse(one.in_use));
    let ring_full = Decision::NotTold;
    let mut lost: BTreeMap<_, _> = Loss::ALL
        .into_iter()
        .zip(pinned.stats.totals()?.lost)
        .map(|(loss, count)| (loss.name(), count))
        .collect();
    lost.insert(ring_full.name(), decided.get(ring_full as usize).copied().unwrap_or(0));
    lost.insert("hook_missed", state.hook_missed);
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
        state,
        unbelieved,
        tuples: uses,
    })
}

/// The name of a network namespace in /run/netns; `None`: it has none.
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
        // The rule's capacity does not count ports that bind() took, of which the tuple may hold some.
        capacity: count.capacity(rule.capacity + u32::from(rule.unsure)),
        other_half: if rule.other_low & 1 == 1 { held.odd() } else { held.even() }.into(),
        chosen: count.chosen,
        opened: count.opened,
        failed: count.failures(),
    }
}
