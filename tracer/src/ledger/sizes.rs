//! How many entries the tables of the kernel side have, where the command line does not say it: from what is open
//! now, what the kernel can have of TIME_WAITs, and the memory there is. Pure.

use std::{borrow::Cow, io};

use serde_json::Value;
use tracer_common::{Attempt, Bound, Conn, ConnKey, TupleCount, TupleKey};

use crate::error::reason;

/// What the command line says; `None`: the host decides.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Asked {
    pub conns: Option<u32>,
    pub tuples: Option<u32>,
    pub binds: Option<u32>,
    pub tombstones: Option<u32>,
    pub attempts: Option<u32>,
}

/// The sizes of tables that a rule has since its first start; `None`: it has none yet.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Kept {
    pub conns: Option<u32>,
    pub tuples: Option<u32>,
    pub binds: Option<u32>,
}

impl Kept {
    /// What to say of what was asked for, where a rule has it otherwise; `None`: nothing.
    pub fn otherwise(&self, asked: &Asked) -> Option<String> {
        let tables = [
            ("--max-conns", self.conns, asked.conns),
            ("--max-tuples", self.tuples, asked.tuples),
            ("--max-binds", self.binds, asked.binds),
        ];
        let differ = tables.into_iter().filter_map(|(name, kept, asked)| {
            let (kept, asked) = (kept?, asked?);
            (kept != asked).then(|| format!("{name} {asked} (it has {kept})"))
        });
        let differ: Vec<_> = differ.collect();
        (!differ.is_empty()).then(|| {
            format!(
                "the rule keeps the tables of its first start, so these change nothing: {}; end it with `tracer \
                 spread --release`, then start again",
                differ.join(", ")
            )
        })
    }
}

/// What the host has, as far as it is known.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Facts {
    /// TCP sockets of the host, those in TIME_WAIT among them.
    pub sockets: u64,
    /// net.ipv4.tcp_max_tw_buckets where the tracer was started; 0: not known.
    pub time_waits: u64,
    /// Ports of net.ipv4.ip_local_port_range where the tracer was started; 0: not known.
    pub range: u32,
    pub memory: Memory,
}

/// Bytes; `None`: not known, or no limit.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Memory {
    /// Of the machine.
    pub total: Option<u64>,
    /// Of that, what can be had without swapping.
    pub available: Option<u64>,
    /// The lowest limit of the memory cgroups that this process is in.
    pub limit: Option<u64>,
}

impl Memory {
    /// What the tables may take; `None`: nothing is known.
    fn budget(self) -> Option<u64> {
        let shares = [
            self.total.map(|bytes| bytes / 16),
            self.available.map(|bytes| bytes / 4),
            self.limit.map(|bytes| bytes / 4),
        ];
        shares.into_iter().flatten().min()
    }
}

/// Entries of each table.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Sizes {
    /// Held ports.
    pub conns: u32,
    pub tuples: u32,
    /// Bound ports.
    pub binds: u32,
    /// Sockets that ended while the older ones were being read.
    pub tombstones: u32,
    /// Calls under way.
    pub attempts: u32,
}

/// However little memory there is.
const LEAST: Sizes =
    Sizes { conns: 16_384, tuples: 8_192, binds: 4_096, tombstones: 4_096, attempts: 4_096 };
/// Where memory does not say otherwise.
const USUAL: Sizes =
    Sizes { conns: 32_768, tuples: 32_768, binds: 16_384, tombstones: 16_384, attempts: 16_384 };
/// The tables that grow with the connections, by a quarter of them, grow up to this.
const MOST: u32 = 262_144;
/// As for the command line.
const MOST_CONNS: u64 = 1 << 24;

/// The sizes, and why they are these.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Chosen {
    pub sizes: Sizes,
    /// What decided the number of connections.
    pub why: String,
    /// A rule has them since its first start.
    pub kept: bool,
}

/// Chooses the sizes: what a rule has already, what was asked for, and else what the host says.
pub fn choose(asked: &Asked, kept: &Kept, facts: &Facts) -> Chosen {
    let (wanted, by_host) = conns(facts);
    let conns = kept.conns.or(asked.conns).unwrap_or(wanted);
    let quarter = |least: u32| (conns / 4).clamp(least, MOST);
    let fixed = [
        kept.conns.or(asked.conns),
        kept.tuples.or(asked.tuples),
        kept.binds.or(asked.binds),
        asked.tombstones,
        asked.attempts,
    ];
    let mut sizes = Sizes {
        conns,
        tuples: fixed[1].unwrap_or_else(|| quarter(USUAL.tuples)),
        binds: fixed[2].unwrap_or_else(|| quarter(USUAL.binds)),
        tombstones: fixed[3].unwrap_or_else(|| quarter(USUAL.tombstones)),
        attempts: fixed[4].unwrap_or(USUAL.attempts),
    };
    let budget = facts.memory.budget();
    let fits = budget.is_none_or(|budget| shrink(&mut sizes, fixed.map(|it| it.is_some()), budget));
    let mut why = match (kept.conns, asked.conns) {
        (Some(_), _) => "as since the first start of the rule".to_owned(),
        (None, Some(_)) => "as --max-conns says".to_owned(),
        (None, None) => by_host,
    };
    if let Some(budget) = budget.filter(|_| !fits || sizes.conns < conns) {
        why = format!("{why}; no more than {} MiB of memory is for tables", budget >> 20);
    }
    Chosen { sizes, why, kept: kept.conns.is_some() }
}

/// How many connections there should be room for, and what says so.
fn conns(facts: &Facts) -> (u32, String) {
    let Facts { sockets, time_waits, range, .. } = *facts;
    let wanted = [
        (sockets.saturating_mul(4), format!("four times the {sockets} TCP sockets of now")),
        (
            sockets.saturating_add(time_waits),
            format!("tcp_max_tw_buckets ({time_waits}) beside the {sockets} TCP sockets of now"),
        ),
        (u64::from(range) * 3 / 2, format!("half as much again as the {range} ports of the range")),
    ];
    let (most, why) = wanted.into_iter().max_by_key(|(most, _)| *most).unwrap_or_default();
    // That many are to be no reason for a warning: see `ledger/trace/filling.rs`.
    let room = (most.saturating_mul(5) / 4).clamp(u64::from(USUAL.conns), MOST_CONNS);
    (u32::try_from(room.next_power_of_two()).unwrap_or(u32::MAX), why)
}

/// Halves what takes most, until all fits. False: it does not.
fn shrink(sizes: &mut Sizes, fixed: [bool; 5], budget: u64) -> bool {
    while sizes.bytes() > budget {
        let bytes = sizes.each_bytes();
        let least = LEAST.each();
        let each = sizes.each_mut();
        let candidates = each.into_iter().zip(least).zip(fixed).zip(bytes);
        let largest = candidates
            .filter(|(((size, least), fixed), _)| !*fixed && **size / 2 >= *least)
            .max_by_key(|(_, bytes)| *bytes);
        let Some((((size, _), _), _)) = largest else { return false };
        *size /= 2;
    }
    true
}

impl Sizes {
    fn each(&self) -> [u32; 5] {
        [self.conns, self.tuples, self.binds, self.tombstones, self.attempts]
    }

    fn each_mut(&mut self) -> [&mut u32; 5] {
        [
            &mut self.conns,
            &mut self.tuples,
            &mut self.binds,
            &mut self.tombstones,
            &mut self.attempts,
        ]
    }

    /// What the kernel takes for each table, all of it at once.
    fn each_bytes(&self) -> [u64; 5] {
        let key = size_of::<ConnKey>();
        let values = [
            (key, size_of::<Conn>()),
            (size_of::<TupleKey>(), size_of::<TupleCount>()),
            (key, size_of::<Bound>()),
            (key, size_of::<u64>()),
            (size_of::<u64>(), size_of::<Attempt>()),
        ];
        let mut bytes = self.each().map(u64::from);
        for (entries, (key, value)) in bytes.iter_mut().zip(values) {
            // kernel: struct htab_elem before key and value, and a bucket for each power of two (kernel/bpf/hashtab.c).
            let element = 48 + key as u64 + value as u64;
            *entries = *entries * element + entries.next_power_of_two() * 16;
        }
        bytes
    }

    /// Bytes of memory that the kernel takes for all of them.
    pub fn bytes(&self) -> u64 {
        self.each_bytes().iter().sum()
    }

    /// Which setting takes how much: `--max-conns 262144: 46 MiB, ...`, the largest first.
    pub fn by_setting(&self) -> String {
        let names =
            ["--max-conns", "--max-tuples", "--max-binds", "--max-tombstones", "--max-attempts"];
        let mut all: Vec<_> = names.into_iter().zip(self.each()).zip(self.each_bytes()).collect();
        all.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        let all: Vec<_> = all
            .iter()
            .map(|((name, size), bytes)| format!("{name} {size}: {}", mib(*bytes)))
            .collect();
        all.join(", ")
    }
}

/// Why a table could not be made, and what would help; `None`: nothing is known that would. `ring`: bytes of the ring
/// buffer. `locked`: maps count against RLIMIT_MEMLOCK.
pub fn not_made(
    table: &str,
    error: &io::Error,
    sizes: &Sizes,
    (ring, locked): (u32, bool),
) -> Option<String> {
    let why = reason(error);
    let advice = match error.raw_os_error() {
        Some(libc::ENOMEM) => {
            "make the largest of them smaller, or give tracer more memory (`memory.max` of its cgroup, systemd: \
             MemoryMax=)"
        }
        // kernel: bpf_charge_memlock, up to v5.10.
        Some(libc::EPERM) if locked => {
            "on this kernel they count against RLIMIT_MEMLOCK, which only CAP_SYS_RESOURCE raises: raise it \
             (`ulimit -l`, systemd: LimitMEMLOCK=infinity), or make the largest of them smaller"
        }
        Some(libc::EPERM) => {
            return Some(format!(
                "cannot make the BPF map {table}: {why}, although this process has the capabilities for it: a user \
                 namespace, a security module (SELinux, AppArmor) or a container's seccomp profile forbids bpf(2); run \
                 tracer on the host, or allow it there"
            ));
        }
        Some(libc::E2BIG) => "make the largest of them smaller",
        _ => return None,
    };
    Some(format!(
        "cannot make the BPF map {table}: {why}; the tables take {} of kernel memory ({}), the ring buffer {} \
         (--ring-size): {advice}",
        mib(sizes.bytes()),
        sizes.by_setting(),
        mib(ring.into()),
    ))
}

impl Chosen {
    /// For the first line of a stream.
    pub fn settings(&self) -> impl Iterator<Item = (Cow<'static, str>, Value)> {
        let Sizes { conns, tuples, binds, .. } = self.sizes;
        let settings = [
            ("max_conns", conns.into()),
            ("max_tuples", tuples.into()),
            ("max_binds", binds.into()),
            ("tables_bytes", self.sizes.bytes().into()),
            ("tables_why", self.why.as_str().into()),
        ];
        settings.into_iter().map(|(key, value)| (key.into(), value))
    }

    /// For the log.
    pub fn text(&self) -> String {
        let Self { sizes, why, .. } = self;
        format!(
            "tables: {} connections ({why}), {} tuples, {} bound ports; {} of memory in all",
            sizes.conns,
            sizes.tuples,
            sizes.binds,
            mib(sizes.bytes())
        )
    }
}

/// `46 MiB`, at least 1.
pub fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

#[cfg(test)]
mod tests;
