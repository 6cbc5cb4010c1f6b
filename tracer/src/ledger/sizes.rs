//! Chooses the sizes of the kernel side's tables where the command line does not: from the sockets that exist now,
//! the TIME_WAITs that the kernel allows, and the memory. No I/O.

use std::{borrow::Cow, io};

use serde_json::Value;
use tracer_common::{Attempt, Bound, Conn, ConnKey, TupleCount, TupleKey};

use crate::error::reason;

/// Sizes of the tables (see [`Sizes`]) that the command line sets, in entries; `None`: the host decides.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct RequestedSizes {
    pub conns: Option<u32>,
    pub tuples: Option<u32>,
    pub binds: Option<u32>,
    pub tombstones: Option<u32>,
    pub attempts: Option<u32>,
}

/// Sizes of the tables (see [`Sizes`]) that a rule of `tracer spread` has since its first start, in entries. `None`: there is no
/// rule, it has no such table yet, or the table cannot be read.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Kept {
    pub conns: Option<u32>,
    pub tuples: Option<u32>,
    pub binds: Option<u32>,
}

impl Kept {
    /// A warning that names the sizes of the command line that differ from those of the rule's tables; `None`: none
    /// differs.
    pub fn ignored(&self, requested: &RequestedSizes) -> Option<String> {
        let tables = [
            ("--max-conns", self.conns, requested.conns),
            ("--max-tuples", self.tuples, requested.tuples),
            ("--max-binds", self.binds, requested.binds),
        ];
        let differ = tables.into_iter().filter_map(|(name, kept, requested)| {
            let (kept, requested) = (kept?, requested?);
            (kept != requested).then(|| format!("{name} {requested} (it has {kept})"))
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

/// Facts about the host, from which the sizes follow. If --max-conns sets the number of connections, only `memory` is
/// read, and the others are 0.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Facts {
    /// TCP sockets of the host, those in TIME_WAIT included, as far as they could be counted; 0: none, or not known.
    pub sockets: u64,
    /// net.ipv4.tcp_max_tw_buckets in this process's network namespace; 0: not known.
    pub time_waits: u64,
    /// Ports in net.ipv4.ip_local_port_range in this process's network namespace; 0: not known.
    pub range: u32,
    pub memory: Memory,
}

/// Memory in bytes; `None`: not known, or no limit.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Memory {
    /// Memory of the machine.
    pub total: Option<u64>,
    /// Memory that is available without swapping.
    pub available: Option<u64>,
    /// The lowest limit of the memory cgroups that this process is in.
    pub limit: Option<u64>,
}

impl Memory {
    /// How many bytes the tables may take: the least of a 16th of the machine's memory, a quarter of what is available
    /// and a quarter of the limit, as far as these are known. `None`: none of them is known.
    fn budget(self) -> Option<u64> {
        let shares = [
            self.total.map(|bytes| bytes / 16),
            self.available.map(|bytes| bytes / 4),
            self.limit.map(|bytes| bytes / 4),
        ];
        shares.into_iter().flatten().min()
    }
}

/// Sizes of the tables, in entries.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Sizes {
    /// Held ports.
    pub conns: u32,
    pub tuples: u32,
    /// Bound ports.
    pub binds: u32,
    /// Marks of sockets that ended or changed while the older sockets were being read.
    pub tombstones: u32,
    /// Calls of connect(), bind() and listen() under way.
    pub attempts: u32,
}

/// Sizes below which no table is shrunk, however little memory there is.
const LEAST: Sizes =
    Sizes { conns: 16_384, tuples: 8_192, binds: 4_096, tombstones: 4_096, attempts: 4_096 };
/// The smallest sizes that are chosen by facts about the host, unless its memory is too small for them.
const USUAL: Sizes =
    Sizes { conns: 32_768, tuples: 32_768, binds: 16_384, tombstones: 16_384, attempts: 16_384 };
/// Upper limit, in entries, of the tables whose size is a quarter of that of the connections.
const MOST: u32 = 262_144;
/// Upper limit of the table of connections when the host decides, in entries; --max-conns has the same limit.
const MOST_CONNS: u64 = 1 << 24;

/// The sizes, and why they were chosen.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Chosen {
    pub sizes: Sizes,
    /// What decided the number of connections, for people; also the limit of memory, if that made the table smaller or was too
    /// low for all tables.
    pub why: String,
    /// Whether the table of connections is the one that a rule has since its first start.
    pub kept: bool,
}

/// Chooses the sizes: those of tables that a rule has, else those of the command line, else by the host. The last kind
/// is halved, the largest first, until all tables fit into the least of a 16th of the machine's memory, a quarter of what is
/// available and a quarter of the cgroup's limit; but not below a smallest size (16,384 connections, 8,192 tuples, 4,096
/// of each other), even if they do not fit then.
pub fn choose(requested: &RequestedSizes, kept: &Kept, facts: &Facts) -> Chosen {
    let (wanted, by_host) = conns(facts);
    let conns = kept.conns.or(requested.conns).unwrap_or(wanted);
    let quarter = |least: u32| (conns / 4).clamp(least, MOST);
    let fixed = [
        kept.conns.or(requested.conns),
        kept.tuples.or(requested.tuples),
        kept.binds.or(requested.binds),
        requested.tombstones,
        requested.attempts,
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
    let mut why = match (kept.conns, requested.conns) {
        (Some(_), _) => "as since the first start of the rule".to_owned(),
        (None, Some(_)) => "as --max-conns says".to_owned(),
        (None, None) => by_host,
    };
    if let Some(budget) = budget.filter(|_| !fits || sizes.conns < conns) {
        why = format!("{why}; no more than {} MiB of memory is for tables", budget >> 20);
    }
    Chosen { sizes, why, kept: kept.conns.is_some() }
}

/// How many entries the table of connections should have (a power of two), and what decided that, for people.
fn conns(facts: &Facts) -> (u32, String) {
    let Facts { sockets, time_waits, range, .. } = *facts;
    let wanted = [
        (sockets.saturating_mul(4), format!("four times the {sockets} TCP sockets at the start")),
        (
            sockets.saturating_add(time_waits),
            format!("tcp_max_tw_buckets ({time_waits}) and the {sockets} TCP sockets at the start"),
        ),
        (u64::from(range) * 3 / 2, format!("one and a half times the {range} ports of the range")),
    ];
    let (most, why) = wanted.into_iter().max_by_key(|(most, _)| *most).unwrap_or_default();
    // A quarter more, so that this many connections fill at most 80 % of the table: from there on,
    // `ledger/trace/filling.rs` warns.
    let room = (most.saturating_mul(5) / 4).clamp(u64::from(USUAL.conns), MOST_CONNS);
    (u32::try_from(room.next_power_of_two()).unwrap_or(u32::MAX), why)
}

/// Halves the table that takes most memory until all tables fit into `budget` bytes, except tables that are `fixed` (in
/// the order of [`Sizes::each`]) or at their smallest. Returns false if they do not fit even then.
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

    /// Kernel memory of each table in bytes: all of it is allocated at the start.
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
            // kernel: struct htab_elem before key and value, and a power of two of buckets (kernel/bpf/hashtab.c).
            let element = 48 + key as u64 + value as u64;
            *entries = *entries * element + entries.next_power_of_two() * 16;
        }
        bytes
    }

    /// Kernel memory of all tables, in bytes.
    pub fn bytes(&self) -> u64 {
        self.each_bytes().iter().sum()
    }

    /// Each table's setting, its number of entries and its kernel memory, most memory first: `--max-conns 262144: 44 MiB, ...`.
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

/// Why a table cannot be made, and what to do; `None`: no advice is known for this error. `table`: name of its BPF map. `ring`:
/// size of the ring buffer in bytes. `sizes`: those of all tables. `locked`: whether maps count against RLIMIT_MEMLOCK.
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
    /// Settings for the stream's first line, as keys (without `settings.`) and values: `max_conns`, `max_tuples`, `max_binds` (in
    /// entries), `tables_bytes` (kernel memory of all tables) and `tables_why` ([`Self::why`]).
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

    /// The sizes of connections, tuples and bound ports, why, and the memory of all tables: a line for the log, without its end.
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

/// The size in MiB, rounded up: `46 MiB`.
pub fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

#[cfg(test)]
mod tests;
