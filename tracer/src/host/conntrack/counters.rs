//! Reads the counters of conntrack: what happened to packets that were to get an entry.

use std::io;

use rustix::net::netlink::NETFILTER;

use super::entry::{CTNETLINK, NO_FAMILY, be32};
use crate::host::netlink::{self, NLM_F_DUMP, Query};

/// `IPCTNL_MSG_CT_GET_STATS_CPU`: the type of the request, and of its answers.
const GET_STATS_CPU: u16 = CTNETLINK | 4;
/// Attributes (`enum ctattr_stats_cpu`).
const INSERT_FAILED: u16 = 9;
const DROP: u16 = 10;
const EARLY_DROP: u16 = 11;
const CHAIN_TOO_LONG: u16 = 15;
/// More CPUs than any kernel can have.
const MOST_CPUS: usize = 65_536;

/// What happened to packets that were to get an entry, counted since the namespace began. The kernel counts with 32 bits for each
/// CPU: only differences mean something ([`Self::since`]).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    /// Packets that were dropped because they got no entry. Includes `insert_failed`, unless the table was full.
    pub drop: u32,
    /// Entries that could not be inserted: another has the same addresses and ports. With NAT: it found no free port.
    pub insert_failed: u32,
    /// Entries that were removed early to make room in a full table.
    pub early_drop: u32,
    /// Entries that could not be inserted because their chain was too long; 0 on a kernel that does not count it.
    pub chain_too_long: u32,
}

impl Counters {
    /// By how much each counter has grown since then. Growth by more than half of 32 bits is none: the counters are those of
    /// another namespace, which got the same inode number.
    #[must_use]
    pub fn since(&self, then: &Self) -> Self {
        self.zip(then, |now, then| {
            let growth = now.wrapping_sub(then);
            if growth > u32::MAX / 2 { 0 } else { growth }
        })
    }

    /// The sum over two CPUs.
    fn and(self, other: Self) -> Self {
        self.zip(&other, u32::wrapping_add)
    }

    fn zip(self, other: &Self, with: impl Fn(u32, u32) -> u32) -> Self {
        Self {
            drop: with(self.drop, other.drop),
            insert_failed: with(self.insert_failed, other.insert_failed),
            early_drop: with(self.early_drop, other.early_drop),
            chain_too_long: with(self.chain_too_long, other.chain_too_long),
        }
    }
}

/// The number of entries, and the counters, in the text of `/proc/net/stat/nf_conntrack`: a line of names, then one row for each
/// CPU, with hexadecimal numbers. The counters are added up over the CPUs; `entries` is the same in each row. `None`: a needed
/// column or all rows are missing, or a row is damaged. (`chainlength` may be missing: it counts as 0.)
pub(super) fn parse(text: &str) -> Option<(u32, Counters)> {
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next()?.split_ascii_whitespace().collect();
    let column = |name: &str| names.iter().position(|it| *it == name);
    let entries = column("entries")?;
    let (drop, failed, early) = (column("drop")?, column("insert_failed")?, column("early_drop")?);
    let chain = column("chainlength");
    let mut found: Option<(u32, Counters)> = None;
    for line in lines {
        let number = |at: usize| {
            let word = line.split_ascii_whitespace().nth(at)?;
            u32::from_str_radix(word, 16).ok()
        };
        let row = Counters {
            drop: number(drop)?,
            insert_failed: number(failed)?,
            early_drop: number(early)?,
            chain_too_long: chain.map_or(Some(0), number)?,
        };
        let sum = found.map_or(row, |(_, sum)| sum.and(row));
        found = Some((number(entries)?, sum));
    }
    found
}

/// The counters of the calling thread's namespace by netlink, added up over the CPUs.
///
/// # Errors
/// The step that failed. `PermissionDenied`: it needs CAP_NET_ADMIN.
pub(super) fn by_netlink() -> io::Result<Counters> {
    let query = Query {
        name: "ctnetlink",
        things: "counters of conntrack",
        protocol: Some(NETFILTER),
        request: &netlink::request(GET_STATS_CPU, NLM_F_DUMP, &NO_FAMILY),
        reply: GET_STATS_CPU,
        parse: row,
        limit: MOST_CPUS,
    };
    Ok(query.answers()?.into_iter().fold(Counters::default(), Counters::and))
}

/// Parses an answer without its netlink header (`struct nfgenmsg`, then attributes): the counters of one CPU. A counter that the
/// answer lacks is 0, as is one after a damaged attribute. `None`: the answer is shorter than `nfgenmsg`, or a counter has
/// fewer than 4 bytes.
pub(super) fn row(message: &[u8]) -> Option<Counters> {
    let mut row = Counters::default();
    for (kind, value) in netlink::attributes(message.get(NO_FAMILY.len()..)?) {
        let counter = match kind {
            DROP => &mut row.drop,
            INSERT_FAILED => &mut row.insert_failed,
            EARLY_DROP => &mut row.early_drop,
            CHAIN_TOO_LONG => &mut row.chain_too_long,
            _ => continue,
        };
        *counter = be32(value)?;
    }
    Some(row)
}
