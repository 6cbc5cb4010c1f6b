//! One rule of `tracer status -o json`, with the keys that tests look at.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::harness::tuple::Tuple;

/// One rule. A key that may be absent or null is an `Option`; all others are required.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Status {
    pub rule: String,
    /// Process id of the rule's agent; `None` if no agent runs.
    #[serde(rename = "agent.pid")]
    pub agent: Option<u64>,
    /// The namespace's name in /run/netns; `None`: it has none.
    #[serde(rename = "netns.name")]
    pub netns_name: Option<String>,
    /// How many ports connect() can be given for a tuple that holds none.
    #[serde(rename = "ports.capacity")]
    pub capacity: u64,
    /// Why a tuple cannot hold all ports of the range: `reserved`, `bound`, or both; empty if it can, or tracer does not know.
    #[serde(rename = "ports.taken_by")]
    pub taken_by: String,
    /// Whether the rule hands out fast ports.
    pub fast_ports: bool,
    /// The folder of the pins, or a text that says why there is none.
    pub pins: String,
    /// How many links are pinned; if no pins were found, how many are active.
    pub links: usize,
    /// Every address of the pool, with its weight.
    pub pool: Vec<(IpAddr, u16)>,
    /// Addresses that the rule does not use at all now, each with the reason.
    pub left_out: Vec<(IpAddr, String)>,
    /// Addresses that the rule does not use towards some destinations: one entry for each address and destination.
    pub left_out_towards: Vec<LeftOutTowards>,
    /// Cgroups of the rule that do not exist any more.
    pub cgroups_gone: Vec<PathBuf>,
    /// Texts for people that say what works less well than it could; empty if nothing does.
    pub degraded: Vec<String>,
    /// How many hooks the kernel has skipped, as the rule's agents have counted them.
    pub hook_missed: u64,
    /// How many corrections the rule's agents have made in the ledger, because the kernel's sockets contradicted an entry.
    pub drift: u64,
    /// The addresses that `--pool auto` took; empty without it.
    pub taken: Vec<Candidate>,
    /// The addresses that `--pool auto` did not take, each with the reason; empty without it.
    pub passed_over: Vec<Candidate>,
    /// Networks to which `--pool auto` does not spread; empty without it.
    pub left_alone: Vec<Elsewhere>,
    /// What may be wrong with addresses that `--pool` names, as texts for people.
    pub warnings: Vec<String>,
    /// How many times the hooks took each decision since the rule began: (name, count), those with 0 included.
    pub decisions: Vec<(String, u64)>,
    /// How many times each loss was counted since the rule began, by name; 0 included.
    pub lost: BTreeMap<String, u64>,
    /// The tuples of the rule that the ledger has.
    pub tuples: Vec<Use>,
    /// Keys that no test looks at one by one.
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

/// An address of the pool that the rule does not use towards one destination.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct LeftOutTowards {
    pub address: IpAddr,
    destination: IpAddr,
    port: u16,
    /// Why not, for people.
    pub reason: String,
    /// When the address is used again, by CLOCK_MONOTONIC, ns; `None`: as soon as the reason is gone (a missing route).
    pub until_mono_ns: Option<u64>,
}

impl LeftOutTowards {
    /// The destination's address and port.
    pub fn peer(&self) -> SocketAddr {
        SocketAddr::new(self.destination, self.port)
    }
}

/// An address that `--pool auto` considered.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Candidate {
    /// The address, in text form.
    pub address: String,
    /// The name of the interface that has it.
    pub interface: String,
    /// Why the address is not taken; `None` if it is.
    pub reason: Option<String>,
}

/// A network that the host reaches over another interface than the pool's, so that connections to it are not spread.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Elsewhere {
    /// In CIDR notation, such as `10.3.0.0/24`.
    pub network: String,
}

/// One tuple of the rule: its source is an address of the pool.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Use {
    #[serde(rename = "network.local.address")]
    source: IpAddr,
    #[serde(rename = "network.peer.address")]
    destination: IpAddr,
    #[serde(rename = "network.peer.port")]
    port: u16,
    /// How many connections to this destination got this source from the rule.
    pub chosen: u64,
    /// Number of ports: those in use, and those that connect() can still be given.
    #[serde(rename = "ports.capacity")]
    pub capacity: u64,
    #[serde(flatten)]
    pub counts: Counts,
}

/// The counts of one tuple.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
pub struct Counts {
    /// Ports in use, those in TIME_WAIT included.
    #[serde(rename = "ports.in_use")]
    pub in_use: u64,
    /// How many of `in_use` are in TIME_WAIT.
    #[serde(rename = "ports.time_wait")]
    pub time_wait: u64,
    /// Connections that were opened since the rule began, including those that the rule did not spread.
    pub opened: u64,
    /// connect() calls that failed since the rule began.
    pub failed: u64,
}

impl Use {
    pub fn tuple(&self) -> Tuple {
        Tuple::new(self.source, SocketAddr::new(self.destination, self.port))
    }
}

impl Status {
    /// How many times the hooks took this decision (such as `least_used`) since the rule began; an error if the status has no
    /// such decision.
    pub fn decided(&self, decision: &str) -> Result<u64> {
        let found = self.decisions.iter().find(|(name, _)| name == decision);
        let (_, count) = found.with_context(|| format!("no {decision}: {:?}", self.decisions))?;
        Ok(*count)
    }

    /// The decisions that were taken at least once, each with its count, as text: `"least_used" 3, "fast_port" 1`. Empty if none
    /// was.
    pub fn decisions(&self) -> String {
        let taken = self.decisions.iter().filter(|(_, count)| *count != 0);
        taken.map(|(name, count)| format!("\"{name}\" {count}")).collect::<Vec<_>>().join(", ")
    }

    /// Number of connect() calls that were spread, with fast ports or without. Errors as of [`Self::decided`].
    pub fn spread(&self) -> Result<u64> {
        Ok(self.decided("least_used")? + self.decided("fast_port")?)
    }

    /// How many times this loss was counted since the rule began; an error if the status has no such loss.
    pub fn lost(&self, loss: &str) -> Result<u64> {
        self.lost.get(loss).copied().with_context(|| format!("no {loss}: {:?}", self.lost))
    }

    /// The counts of one tuple; all 0 if the status does not have it.
    pub fn counts(&self, tuple: Tuple) -> Counts {
        let found = self.tuples.iter().find(|one| one.tuple() == tuple);
        found.map(|one| one.counts).unwrap_or_default()
    }

    /// Sum of the ports in use of all tuples, by the ledger.
    pub fn in_use(&self) -> u64 {
        self.tuples.iter().map(|one| one.counts.in_use).sum()
    }

    /// Addresses of the pool that the rule does not use towards one destination, each with the reason; empty if it uses all.
    pub fn left_out_towards(&self, peer: SocketAddr) -> Vec<(IpAddr, String)> {
        let there = self.left_out_towards.iter().filter(|one| one.peer() == peer);
        there.map(|one| (one.address, one.reason.clone())).collect()
    }

    /// Addresses of the pool that the rule does not use at all now; empty if it uses all.
    pub fn left_out(&self) -> Vec<IpAddr> {
        self.left_out.iter().map(|(address, _)| *address).collect()
    }

    /// Addresses of the pool, those that the rule does not use now included.
    pub fn pool(&self) -> Vec<IpAddr> {
        self.pool.iter().map(|(address, _)| *address).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"rule":"edge","netns":4026531840,"ports.capacity":1000,"fast_ports":true,
        "pins":"/sys/fs/bpf/tracer/15/edge","links":9,"links.elsewhere":0,"cgroups":["/"],"netns.path":"/proc/1/ns/net",
        "backend":"fexit","range":[32768,60999],"ports.taken_by":"","pool":[["10.0.0.5",1]],
        "left_out":[["10.0.0.6","tentative"]],"cgroups_gone":[],"no_fast_ports":null,"degraded":[],"quarantined":[],
        "left_out_towards":[{"address":"10.0.0.5","destination":"10.9.0.1","port":443,"reason":"no route"}],
        "hook_missed":0,"drift":2,"taken":[],"passed_over":[],"passed_over_more":0,"left_alone":[],"warnings":[],
        "decisions":[["least_used",3],["fast_port",1]],"lost":{"conns_full":0},
        "tuples":[{"network.local.address":"10.0.0.5","network.peer.address":"10.9.0.1","network.peer.port":443,
        "ports.in_use":4,"ports.time_wait":1,"ports.capacity":1000,"ports.other_half":1,"chosen":4,"opened":5,"failed":0}]}"#;

    #[test]
    fn a_line_is_read_whole() {
        let status: Status = serde_json::from_str(LINE).unwrap();
        assert_eq!((status.agent, status.spread().unwrap()), (None, 4));
        let tuple = status.tuples[0].tuple();
        let expected = Counts { in_use: 4, time_wait: 1, opened: 5, failed: 0 };
        assert_eq!(status.counts(tuple), expected);
        let peer = "10.9.0.1:443".parse().unwrap();
        assert_eq!(status.left_out_towards(peer).len(), 1);
        assert_eq!(status.left_out(), ["10.0.0.6".parse::<IpAddr>().unwrap()]);
        assert!(status.lost("no_such_loss").is_err());
    }

    #[test]
    fn a_line_without_its_counts_is_an_error() {
        let line = LINE.replace(r#""ports.in_use":4,"#, "");
        assert!(serde_json::from_str::<Status>(&line).is_err());
    }
}
