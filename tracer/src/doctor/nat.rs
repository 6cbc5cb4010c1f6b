//! Looks at connection tracking and source NAT in a network namespace. Reads only.

use std::io;

use crate::{
    error::reason,
    host::{
        conntrack::{self, Bounds, Counters, Fill, Part, Ports, Snat},
        nat_rules::{self, ALL_PORTS, Capacity, NatRules},
    },
};

/// Share of the ports of an address from which on they are looked at: each list of entries costs milliseconds even if it is
/// short, because the kernel walks the table of all namespaces.
const WORTH_A_LOOK: f64 = 0.40;

/// Why something about connection tracking could not be read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Unread {
    /// The reason, for people.
    pub why: String,
    /// The capability that it needs, such as `CAP_NET_ADMIN`; `None`: none would help.
    pub needs: Option<&'static str>,
}

impl Unread {
    /// Why a namespace could not be entered; [`Self::needs`] is CAP_SYS_ADMIN if that was denied, else `None`.
    pub fn outside(error: &io::Error) -> Self {
        Self::because(error, "CAP_SYS_ADMIN")
    }

    /// Why the kernel did not answer in a namespace: it needs CAP_NET_ADMIN if that was denied.
    fn inside(error: &io::Error) -> Self {
        Self::because(error, "CAP_NET_ADMIN")
    }

    fn because(error: &io::Error, needs: &'static str) -> Self {
        let denied = error.kind() == io::ErrorKind::PermissionDenied;
        Self { why: reason(error), needs: denied.then_some(needs) }
    }
}

/// The ports that source NAT uses of one address towards one destination, by their state, and how many it can use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Mapping {
    pub snat: Snat,
    pub ports: Ports,
    pub capacity: Capacity,
}

/// The ports that source NAT uses in a namespace. Empty also if its table has so few entries that no address can be full.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Translated {
    /// Sorted by [`Mapping::snat`].
    pub mappings: Vec<Mapping>,
    /// Why some ports may be missing, or a capacity is not read but the default one, for people; `None`: neither.
    pub part: Option<String>,
}

/// What one look at connection tracking in a namespace saw.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Look {
    /// How full its table is.
    pub fill: Fill,
    /// The counters of the namespace, since it began.
    pub counters: Result<Counters, Unread>,
    /// The ports that its source NAT uses.
    pub translated: Result<Translated, Unread>,
}

/// Looks at the namespace of the calling thread. `before`: its counters at the beginning of the window; `None`: not known.
/// Returns `None` if connections are not tracked, because the module is not loaded.
///
/// The entries are read only where an address of NAT can be full: if there are 40 % as many as an address has ports, or some
/// could not be inserted since `before`. A reading ends after 1,000,000 entries or 2 s, which [`Translated::part`] then says.
///
/// # Errors
/// The settings of conntrack cannot be read. That counters or entries cannot be read is in [`Look::counters`] and
/// [`Look::translated`].
pub fn look(before: Option<Counters>) -> io::Result<Option<Look>> {
    let Some(fill) = conntrack::fill()? else { return Ok(None) };
    let counters = conntrack::counters().map_err(|error| Unread::inside(&error));
    let translated = if fill.count == 0 {
        // Asking for the list of nothing would need a privilege.
        Ok(Translated::default())
    } else {
        let grown = before.zip(counters.as_ref().ok()).map(|(before, now)| now.since(&before));
        let failed = grown.is_some_and(|grown| grown.insert_failed > 0);
        translated(fill.count, failed, Bounds::default()).map_err(|error| Unread::inside(&error))
    };
    Ok(Some(Look { fill, counters, translated }))
}

/// The counters of the calling thread's namespace, for the beginning of the window; `None`: connections are not tracked, or they
/// cannot be read.
pub fn counters() -> Option<Counters> {
    conntrack::fill().ok()??;
    conntrack::counters().ok()
}

/// The ports that source NAT uses in the calling thread's namespace, which has `count` entries; none if no address can be full.
/// `failed`: entries could not be inserted.
fn translated(count: u32, failed: bool, bounds: Bounds) -> io::Result<Translated> {
    let rules = match nat_rules::read() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
        rules => rules,
    };
    let least = rules.as_ref().map_or(ALL_PORTS, NatRules::least);
    if !failed && !is_worth_a_look(count, least) {
        return Ok(Translated::default());
    }
    let mut found = conntrack::mappings(bounds)?;
    let known = rules.as_ref().ok();
    // Connections that keep their address and port hold a port, too. To find them, all entries are read.
    let worth = |it: &Mapping| is_worth_a_look(it.ports.all(), it.capacity.ports);
    if !found.is_empty() && (failed || mappings(&found.sorted(), known).iter().any(worth)) {
        conntrack::count_untranslated(&mut found, bounds)?;
    }
    let unread = rules.as_ref().err().map(reason).filter(|_| !found.is_empty());
    Ok(Translated {
        mappings: mappings(&found.sorted(), known),
        part: part(bounds, found.part, found.left_out, unread),
    })
}

fn mappings(found: &[(Snat, Ports)], rules: Option<&NatRules>) -> Vec<Mapping> {
    let capacity = |snat: &Snat| {
        rules.map_or(Capacity::DEFAULT, |rules| rules.capacity(snat.address, snat.protocol))
    };
    found.iter().map(|&(snat, ports)| Mapping { snat, ports, capacity: capacity(&snat) }).collect()
}

/// Whether so many ports are a good part of all.
fn is_worth_a_look(ports: u32, capacity: u32) -> bool {
    f64::from(ports) >= WORTH_A_LOOK * f64::from(capacity)
}

/// Why some ports may be missing, or some capacities be others.
fn part(
    bounds: Bounds,
    part: Option<Part>,
    left_out: u32,
    rules: Option<String>,
) -> Option<String> {
    let read = match part {
        Some(Part::Entries) => {
            Some(format!("only {} entries of conntrack were read", bounds.entries))
        }
        Some(Part::Time) => {
            Some(format!("conntrack was read for {} s only", bounds.time.as_secs_f64()))
        }
        None => None,
    };
    let left_out = (left_out > 0).then(|| {
        format!("there are too many destinations: up to {left_out} ports of each are left out")
    });
    let rules = rules.map(|why| format!("{why}: each address is taken to have {ALL_PORTS} ports"));
    let all: Vec<_> = [read, left_out, rules].into_iter().flatten().collect();
    (!all.is_empty()).then(|| all.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::test_netns;

    #[test]
    fn nothing_is_tracked_in_a_namespace_without_rules() {
        let look = test_netns::run(|| look(None).unwrap());
        // A kernel without conntrack has none.
        let Some(look) = look else { return };
        assert_eq!(look.fill.count, 0);
        assert_eq!(look.translated, Ok(Translated::default()));
        assert_eq!(look.counters, Ok(Counters::default()));
    }

    #[test]
    fn what_is_missing_is_said_once_for_each_reason() {
        let bounds = Bounds::default();
        assert_eq!(part(bounds, None, 0, None), None);
        assert_eq!(
            part(bounds, Some(Part::Time), 3, None).as_deref(),
            Some(
                "conntrack was read for 2 s only; there are too many destinations: up to 3 ports of each are left out"
            )
        );
        assert_eq!(
            part(bounds, Some(Part::Entries), 0, Some("no".into())).as_deref(),
            Some(
                "only 1000000 entries of conntrack were read; no: each address is taken to have 64512 ports"
            )
        );
    }
}
