//! Reads the list of conntrack's entries by netlink. It is counted while it is read: see [`Mappings`].

use std::{
    io,
    ops::ControlFlow,
    time::{Duration, Instant},
};

use rustix::net::netlink::NETFILTER;

use super::{
    Mappings, Part,
    entry::{self, CTNETLINK, Entry, IPS_SRC_NAT, NO_FAMILY, STATUS, STATUS_MASK},
};
use crate::host::netlink::{self, Each, NLM_F_DUMP};

/// `IPCTNL_MSG_CT_GET`, and the type of its answers, `IPCTNL_MSG_CT_NEW`.
const GET: u16 = CTNETLINK | 1;
const NEW: u16 = CTNETLINK;
/// The time is looked at once in so many entries.
const BETWEEN_LOOKS: u64 = 256;

/// How much of the list is read; by default, 1,000,000 entries or 2 s.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The most entries.
    pub entries: u64,
    /// The longest time; it is checked once in 256 entries.
    pub time: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { entries: 1_000_000, time: Duration::from_secs(2) }
    }
}

/// The ports that source NAT uses in the calling thread's namespace, as far as `bounds` let them be read ([`Mappings::part`]).
/// The list is no snapshot: entries that come or go meanwhile can be missing. Ask only if the table has entries: asking loads the
/// module.
///
/// # Errors
/// The step that failed. `PermissionDenied`: it needs CAP_NET_ADMIN.
pub fn mappings(bounds: Bounds) -> io::Result<Mappings> {
    let mut found = Mappings::default();
    // The kernel lists only those (from Linux 6.0 on).
    let filter = [attribute(STATUS, IPS_SRC_NAT), attribute(STATUS_MASK, IPS_SRC_NAT)].concat();
    let (read, part) = each(&filter, bounds, |entry| {
        if entry.translated {
            found.add(entry);
        }
    })?;
    (found.read, found.part) = (read, part);
    Ok(found)
}

/// Adds to `found` the connections that use an address of NAT and its ports though NAT has not changed them: those of programs on
/// this host, for example. Reads all entries of the table, within `bounds`; adds their number to [`Mappings::read`].
///
/// # Errors
/// The step that failed. `PermissionDenied`: it needs CAP_NET_ADMIN. Some connections may be added by then.
pub fn count_untranslated(found: &mut Mappings, bounds: Bounds) -> io::Result<()> {
    let (read, part) = each(&[], bounds, |entry| {
        if !entry.translated {
            found.add_untranslated(entry);
        }
    })?;
    found.read = found.read.saturating_add(read);
    found.part = found.part.or(part);
    Ok(())
}

/// Calls `visit` with each entry that has ports, as far as the bounds go. Returns how many were read, and why no more.
fn each(
    filter: &[u8],
    bounds: Bounds,
    mut visit: impl FnMut(&Entry),
) -> io::Result<(u64, Option<Part>)> {
    let request = netlink::request(GET, NLM_F_DUMP, &[&NO_FAMILY[..], filter].concat());
    let list = Each {
        name: "ctnetlink",
        things: "tracked connections",
        protocol: NETFILTER,
        request: &request,
        reply: NEW,
    };
    let begin = Instant::now();
    let (mut read, mut part) = (0, None);
    list.visit(|message| {
        part = if read >= bounds.entries {
            Some(Part::Entries)
        } else if read % BETWEEN_LOOKS == 0 && begin.elapsed() > bounds.time {
            Some(Part::Time)
        } else {
            None
        };
        if part.is_some() {
            return ControlFlow::Break(());
        }
        read += 1;
        if let Some(entry) = entry::entry(message) {
            visit(&entry);
        }
        ControlFlow::Continue(())
    })?;
    Ok((read, part))
}

/// An attribute with a number in network byte order.
fn attribute(kind: u16, value: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8);
    bytes.extend(8_u16.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value.to_be_bytes());
    bytes
}
