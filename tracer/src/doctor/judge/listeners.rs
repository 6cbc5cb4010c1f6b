//! `listeners_in_range`: services listen on ports of the range. The module `poisoned` has ports that bind() takes there,
//! `loops` connections of a socket to itself.

mod loops;
mod poisoned;

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    hash::BuildHasher,
    time::Duration,
};

use serde_json::{Value, json};

pub use loops::self_connect;
pub use poisoned::{BoundBy, by_owner, poisoned_ports};

use super::{
    set::{self, is_reserved, size},
    text::{netns_option, number, percent, rounded, seconds},
};
use crate::doctor::{
    finding::{Advice, Finding, Id, Place, Process, Severity, Subject},
    tuples::{Settings, Tuples},
};

/// Share of the range from which on listeners cost something.
const MANY: f64 = 0.01;
/// A program that started less than this ago shows that it is started while the host runs: connect() can take its port first, in
/// seconds.
const YOUNG_S: f64 = 600.0;
/// Share of the range from which on reserving them would take too much of it.
const TOO_MANY: f64 = 0.05;
/// How many listeners are named.
const NAMED: usize = 5;

/// The process that has a socket open.
#[derive(Clone, Debug, PartialEq)]
pub struct Owner {
    pub process: Process,
    /// How long ago it began; `None`: not known.
    pub age: Option<Duration>,
}

/// The finding about listeners on ports of the range that are not reserved; `None`: there are none. It is a warning if they take
/// 1 % of the range, or one of their processes began less than 10 minutes ago. `owners`: processes by the inode of their socket;
/// may be empty.
pub fn listeners_in_range(
    place: &Place,
    settings: &Settings,
    now: &Tuples,
    owners: &HashMap<u32, Owner, impl BuildHasher>,
) -> Option<Finding> {
    let range = &settings.range;
    let ports: Vec<u16> =
        now.listening.iter().copied().filter(|port| !is_reserved(range, *port)).collect();
    let first = *ports.first()?;
    let known = now.listeners.iter().filter_map(|it| Some((it.port, owners.get(&it.inode)?)));
    let owners: BTreeMap<u16, &Owner> = known.collect();
    let young = ports.iter().find_map(|port| {
        let age = owners.get(port)?.age.map(|age| age.as_secs_f64());
        Some((port, age.filter(|age| *age < YOUNG_S)?))
    });
    let count = u32::try_from(ports.len()).unwrap_or(u32::MAX);
    let share = f64::from(count) / f64::from(size(range).max(1));
    let warns = share >= MANY || young.is_some();
    let severity = if warns { Severity::Warning } else { Severity::Info };
    let shown = |port: &u16| match owners.get(port) {
        Some(owner) => format!("{port} ({})", owner.process.name),
        None => port.to_string(),
    };
    let mut names: Vec<String> = ports.iter().take(NAMED).map(shown).collect();
    if ports.len() > NAMED {
        names.push(format!("{} more", number(u64::from(count).saturating_sub(NAMED as u64))));
    }
    let mut what = match count {
        1 => format!("a program listens on port {} of the range", names.join(", ")),
        _ => format!(
            "programs listen on {} ports of the range ({}): {}",
            number(count.into()),
            percent(share),
            names.join(", ")
        ),
    };
    if let Some((port, age)) = young {
        write!(what, "; that of port {port} began {} ago", seconds(age)).unwrap_or_default();
    }
    let which =
        if count == 1 { format!("reserve port {first}") } else { "reserve the ports".into() };
    // Whoever listens on most of the range must not get these ports reserved for ever.
    let advice = if share < TOO_MANY {
        let each = ports.iter().map(|port| *port..=*port);
        let gain = "the programs find their ports free whenever they start";
        set::reserve(place, range, each, Vec::new(), which, gain)
    } else {
        Advice::new(
            "find out why programs listen on so many ports, and let them use ports below the range",
            "",
        )
    };
    let listed: Vec<Value> = ports.iter().take(100).map(|port| json!(port)).collect();
    let finding =
        Finding::new(Id::ListenersInRange, severity, Subject::Netns(place.clone()), what)
            .with("ports.count", count)
            .with("ports", listed)
            .with("ports.share", rounded(share))
            .because(
                "connect() is given none of these ports, towards any destination; while such a program does not run, connect() \
                 can take its port, and it cannot start"
                    .to_owned(),
            )
            .advise([advice])
            .verify_by(format!("tracer doctor{}", netns_option(place)));
    Some(finding)
}

#[cfg(test)]
mod tests;
