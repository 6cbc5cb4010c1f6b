//! Formats all lines but those of socket events: start and stop, readings, losses, degradations, decisions of the spreader. They
//! are few compared with the socket events of a busy host, so serde formats them.

use std::{borrow::Cow, collections::BTreeMap, net::IpAddr};

use serde::Serialize;
use serde_json::Value;

use super::{
    line::{LineWriter, Moment},
    lines::Lines,
    port_settings::PortSettings,
};
use crate::format::{
    json::terminal_safe,
    losses::lost_prefix,
    tuple::{AddressStats, Tuple},
};

/// `tracer.start`, the first line.
#[derive(Clone, Debug, Serialize)]
pub struct Start<'a> {
    /// tracer's version.
    pub version: &'a str,
    /// Kernel release, as `uname -r` prints it.
    pub kernel: Cow<'a, str>,
    /// Name of the backend, such as `fexit`.
    pub backend: &'a str,
    /// Empty: every line has the name in its fields.
    #[serde(rename = "host.name", skip_serializing_if = "is_empty")]
    pub host: Cow<'a, str>,
    /// net.ipv4.ip_local_port_range of the network namespace in which tracer was started (of `tracer spread`: of the pool's),
    /// as `32768-60999`; `None`: unknown.
    #[serde(rename = "ports.range", skip_serializing_if = "Option::is_none")]
    pub range: Option<String>,
    /// The namespace that `range` and `ports` are of, by its inode number; `None`: unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netns: Option<u32>,
    /// Further settings of that namespace that decide which ports connect() is given.
    #[serde(flatten)]
    pub ports: PortSettings,
    /// Ticks of the kernel's timer per second (CONFIG_HZ), which say how long a TIME_WAIT lasts at most; `None`: unknown.
    #[serde(rename = "kernel.hz", skip_serializing_if = "Option::is_none")]
    pub hz: Option<u32>,
    /// What does not work here as well as it could, and why; empty: nothing.
    pub degraded: Vec<String>,
    /// The settings. The keys here have no `settings.` prefix; the line's keys have it.
    #[serde(flatten, serialize_with = "with_prefix")]
    pub settings: BTreeMap<Cow<'a, str>, Value>,
}

fn is_empty(text: &str) -> bool {
    text.is_empty()
}

fn with_prefix<S: serde::Serializer>(
    settings: &BTreeMap<Cow<'_, str>, Value>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(settings.iter().map(|(key, value)| (format!("settings.{key}"), value)))
}

/// `tracer.stop`, the last line. In the stream of `tracer spread`, the events that it counts are decisions.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Stop {
    /// Events that passed the event mask and the filter in the kernel, lost ones included.
    #[serde(rename = "events.seen")]
    pub seen: u64,
    /// Of those, how many the kernel side put into the ring buffer.
    #[serde(rename = "events.emitted")]
    pub emitted: u64,
    /// Of those, how many were written as lines: they could be decoded, and neither a full queue nor the output dropped them.
    #[serde(rename = "events.written")]
    pub written: u64,
    /// connect() and bind() calls of the whole host that failed, by cause, without the `failed.`
    /// prefix.
    #[serde(flatten, serialize_with = "failed_prefix")]
    pub failed: BTreeMap<&'static str, u64>,
    /// Every loss by its name, without the `lost.` prefix, also if it is 0.
    #[serde(flatten, serialize_with = "lost_prefix")]
    pub lost: BTreeMap<&'static str, u64>,
    /// Corrections of the ledger, by comparison with the kernel's sockets, that no loss explains.
    pub drift: u64,
}

/// `tracer.stats`: ends a reading, after its `tuple.stats` and `address.stats` lines, which have the same `mono_ns`. All but
/// [`Self::tuples`] and the memory are totals since the start; those that [`Stop`] has, too, mean the same there.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Stats {
    /// Number of `tuple.stats` lines of this reading.
    pub tuples: u64,
    #[serde(rename = "events.seen")]
    pub seen: u64,
    #[serde(rename = "events.emitted")]
    pub emitted: u64,
    /// Failed calls of the whole host, as in [`Stop::failed`].
    #[serde(flatten, serialize_with = "failed_prefix")]
    pub failed: BTreeMap<&'static str, u64>,
    /// Losses, as in [`Stop::lost`], but without those that are 0.
    #[serde(flatten, serialize_with = "lost_prefix")]
    pub lost: BTreeMap<&'static str, u64>,
    pub drift: u64,
    /// CPU time of tracer's process since its start, ns.
    #[serde(rename = "process.cpu_ns")]
    pub cpu_ns: u64,
    /// Resident memory of tracer's process now, KiB.
    #[serde(rename = "process.memory.rss_kib")]
    pub rss_kib: u64,
}

fn failed_prefix<S: serde::Serializer>(
    failed: &BTreeMap<&'static str, u64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(failed.iter().map(|(cause, count)| (format!("failed.{cause}"), count)))
}

/// `netns.settings`: the settings of a network namespace; written before its first `tuple.stats`, and when they have changed.
#[derive(Clone, Debug, Serialize)]
pub struct NetnsSettings<'a> {
    /// The namespace's inode number.
    pub netns: u32,
    /// `None`: it has no name in /run/netns.
    #[serde(rename = "netns.name", skip_serializing_if = "Option::is_none")]
    pub name: Option<&'a str>,
    /// net.ipv4.ip_local_port_range, as in [`Start::range`].
    #[serde(rename = "ports.range")]
    pub range: String,
    /// Its further settings that decide which ports connect() is given.
    #[serde(flatten)]
    pub ports: PortSettings,
}

/// `tracer.degraded`: written when the list of what does not work as well as it could has changed.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Degraded<'a> {
    /// All that does not work as well as it could now, as in [`Start::degraded`].
    pub degraded: &'a [String],
    /// Which of these the last line with such a list (`tracer.start` or `tracer.degraded`) did not have.
    #[serde(rename = "degraded.added")]
    pub added: &'a [String],
    /// What the last line with such a list had, and does not hold any more.
    #[serde(rename = "degraded.ended")]
    pub ended: &'a [String],
}

/// `lost`: how often one loss happened since the last such line of the same reason, or since the start.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Lost<'a> {
    /// Name of the loss (`tracer/doc/losses.md`).
    #[serde(rename = "lost.reason")]
    pub reason: &'a str,
    #[serde(rename = "lost.count")]
    pub count: u64,
}

/// `spread.decision`: what the spreader did about a connect(). Ports are in host byte order. `None` of the keys of the process:
/// not known, or there is none.
#[derive(Clone, Debug, Serialize)]
pub struct Decided<'a> {
    /// `tcp`
    #[serde(rename = "network.transport")]
    pub transport: &'a str,
    /// `ipv4` or `ipv6`
    #[serde(rename = "network.type")]
    pub family: &'a str,
    #[serde(rename = "network.peer.address")]
    pub destination: IpAddr,
    #[serde(rename = "network.peer.port")]
    pub port: u16,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Id of the process that called connect().
    #[serde(rename = "process.pid")]
    pub pid: u32,
    /// Name of that process, or of a thread of it: see `comm_source`.
    #[serde(rename = "process.executable.name")]
    pub comm: String,
    /// Whose name `comm` is; `None`: the process's. See [`crate::host::process::NameOf`].
    #[serde(rename = "process.executable.name.source", skip_serializing_if = "Option::is_none")]
    pub comm_source: Option<&'a str>,
    /// Name of the thread that called; empty: not known.
    #[serde(rename = "thread.name")]
    pub thread: String,
    /// Path of the process's cgroup, from the root of the hierarchy.
    #[serde(rename = "process.linux.cgroup", skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<&'a str>,
    #[serde(rename = "container.id", skip_serializing_if = "Option::is_none")]
    pub container: Option<&'a str>,
    #[serde(rename = "systemd.unit", skip_serializing_if = "Option::is_none")]
    pub unit: Option<&'a str>,
    /// The socket's number, unique and never reused (SO_COOKIE).
    #[serde(rename = "socket.cookie")]
    pub cookie: u64,
    /// The address that the spreader bound, or tried to bind and the kernel refused; `None`: it tried none.
    #[serde(rename = "spread.chosen", skip_serializing_if = "Option::is_none")]
    pub chosen: Option<IpAddr>,
    /// The port that was bound with the address; `None`: the kernel chooses one.
    #[serde(rename = "spread.port", skip_serializing_if = "Option::is_none")]
    pub chosen_port: Option<u16>,
    /// The address that the socket was bound to before; `None`: to none.
    #[serde(rename = "spread.original", skip_serializing_if = "Option::is_none")]
    pub original: Option<IpAddr>,
    /// Why this address: `least_used`, `fast_port` or `pool_full`; `passed`: the socket was left unchanged.
    #[serde(rename = "spread.reason")]
    pub reason: &'a str,
    /// Why the socket was left unchanged, or its connect() denied; `None`: neither happened.
    #[serde(rename = "spread.passed", skip_serializing_if = "Option::is_none")]
    pub passed: Option<&'a str>,
    /// Name of the rule.
    #[serde(rename = "spread.rule")]
    pub rule: &'a str,
    /// Ports that the tuple of the chosen address had in use before this connect(); `None`: no address was chosen.
    #[serde(rename = "ports.in_use", skip_serializing_if = "Option::is_none")]
    pub in_use: Option<u32>,
}

impl LineWriter {
    /// Appends a line `tuple.stats`, with its newline.
    ///
    /// # Errors
    /// That of `serde_json`, which does not occur with this type.
    pub fn tuple_stats(
        &mut self,
        out: &mut Lines,
        moment: Moment,
        tuple: &Tuple<'_>,
    ) -> serde_json::Result<()> {
        self.object(out, moment, "tuple.stats", &terminal_safe(tuple)?);
        Ok(())
    }

    /// Appends a line `address.stats`, with its newline.
    ///
    /// # Errors
    /// That of `serde_json`, which does not occur with this type.
    pub fn address_stats(
        &mut self,
        out: &mut Lines,
        moment: Moment,
        address: &AddressStats,
    ) -> serde_json::Result<()> {
        self.object(out, moment, "address.stats", &terminal_safe(address)?);
        Ok(())
    }

    /// Appends a line `spread.decision`, with its newline.
    ///
    /// # Errors
    /// That of `serde_json`, which does not occur with this type.
    pub fn decided(
        &mut self,
        out: &mut Lines,
        moment: Moment,
        record: &Decided<'_>,
    ) -> serde_json::Result<()> {
        self.object(out, moment, "spread.decision", &terminal_safe(record)?);
        Ok(())
    }

    /// Appends a line `tracer.start`, with its newline.
    ///
    /// # Errors
    /// That of `serde_json`, which does not occur with this type.
    pub fn start(
        &mut self,
        out: &mut Lines,
        moment: Moment,
        record: &Start<'_>,
    ) -> serde_json::Result<()> {
        self.object(out, moment, "tracer.start", &terminal_safe(record)?);
        Ok(())
    }

    /// Appends a line `netns.settings`, with its newline.
    ///
    /// # Errors
    /// That of `serde_json`, which does not occur with this type.
    pub fn settings(
        &mut self,
        out: &mut Lines,
        moment: Moment,
        record: &NetnsSettings<'_>,
    ) -> serde_json::Result<()> {
        self.object(out, moment, "netns.settings", &terminal_safe(record)?);
        Ok(())
    }

    /// Appends a line `tracer.degraded`, with its newline.
    ///
    /// # Errors
    /// That of `serde_json`, which does not occur with this type.
    pub fn degraded(
        &mut self,
        out: &mut Lines,
        moment: Moment,
        record: &Degraded<'_>,
    ) -> serde_json::Result<()> {
        self.object(out, moment, "tracer.degraded", &terminal_safe(record)?);
        Ok(())
    }

    /// Appends a line `tracer.stop`, with its newline.
    ///
    /// # Errors
    /// That of `serde_json`, which does not occur with this type.
    pub fn stop(
        &mut self,
        out: &mut Lines,
        moment: Moment,
        record: &Stop,
    ) -> serde_json::Result<()> {
        self.object(out, moment, "tracer.stop", &terminal_safe(record)?);
        Ok(())
    }

    /// Appends a line `tracer.stats`, with its newline.
    ///
    /// # Errors
    /// That of `serde_json`, which does not occur with this type.
    pub fn stats(
        &mut self,
        out: &mut Lines,
        moment: Moment,
        record: &Stats,
    ) -> serde_json::Result<()> {
        self.object(out, moment, "tracer.stats", &terminal_safe(record)?);
        Ok(())
    }

    /// Appends a line `lost`, with its newline.
    ///
    /// # Errors
    /// That of `serde_json`, which does not occur with this type.
    pub fn lost(
        &mut self,
        out: &mut Lines,
        moment: Moment,
        record: &Lost<'_>,
    ) -> serde_json::Result<()> {
        self.object(out, moment, "lost", &terminal_safe(record)?);
        Ok(())
    }
}
