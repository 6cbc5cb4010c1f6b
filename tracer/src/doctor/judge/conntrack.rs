//! `conntrack_full` and `snat_exhausted`: this host itself drops connections, because it cannot track or translate them.

mod full;
mod snat;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use crate::{
    doctor::{
        finding::{Finding, Place},
        nat::{Look, Translated, Unread},
        verdict::{Check, Missing},
    },
    host::conntrack::Counters,
};

/// What was seen of conntrack in a network namespace.
#[derive(Clone, Debug)]
pub struct Tracking {
    pub place: Place,
    /// What the look at the end of the window saw.
    pub now: Look,
    /// The counters at the beginning of the window, and how long before the end of the looks that was; `None`: there was no
    /// window, or they are not known.
    pub before: Option<(Counters, Duration)>,
    /// How many connections wait in SYN_SENT after their SYN was sent again, by destination; the sum over all namespaces whose
    /// sockets were listed, `place` or others. A destination of which no socket was listed must not be here: 0 says that all its
    /// SYNs have an answer.
    pub unanswered: BTreeMap<SocketAddr, u32>,
}

/// By how much the counters grew, and in how long.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Growth {
    counters: Counters,
    seconds: f64,
}

impl Growth {
    /// Packets that were dropped because the table was full: the others that were dropped could not be inserted.
    fn dropped_as_full(&self) -> u32 {
        self.counters.drop.saturating_sub(self.counters.insert_failed)
    }

    /// How long it was watched, in whole seconds.
    fn time(&self) -> String {
        format!("{:.0} s", self.seconds.max(1.0))
    }
}

impl Tracking {
    /// By how much the counters grew; nothing if that is not known.
    fn growth(&self) -> Growth {
        let Some(((before, elapsed), now)) = self.before.zip(self.now.counters.as_ref().ok())
        else {
            return Growth::default();
        };
        Growth { counters: now.since(&before), seconds: elapsed.as_secs_f64() }
    }

    /// Connections to this destination whose SYN was sent again without an answer; `None`: not known.
    fn unanswered(&self, destination: SocketAddr) -> Option<u32> {
        self.unanswered.get(&destination).copied()
    }
}

/// The findings `snat_exhausted` and `conntrack_full` in a namespace, in no order.
pub fn judge(seen: &Tracking) -> Vec<Finding> {
    let mut findings = snat::exhausted(seen);
    findings.extend(full::full(seen));
    findings
}

/// The core check `conntrack`: whether the limits and counters were read; and the check `snat`: whether the entries were.
/// `looks`: what the look at each namespace returned; `Ok(None)`: nothing is tracked there, so nothing is missing.
pub fn checks<'a>(
    looks: impl IntoIterator<Item = (&'a Place, Result<Option<&'a Look>, &'a Unread>)>,
) -> [Check; 2] {
    let (mut table, mut entries) = (Reasons::default(), Reasons::default());
    for (place, look) in looks {
        match look {
            Err(unread) => table.add(place, &unread.why, unread.needs),
            Ok(None) => {}
            Ok(Some(look)) => {
                if let Err(unread) = &look.counters {
                    table.add(place, &unread.why, unread.needs);
                }
                match &look.translated {
                    Err(unread) => entries.add(place, &unread.why, unread.needs),
                    Ok(Translated { part: Some(why), .. }) => entries.add(place, why, None),
                    Ok(_) => {}
                }
            }
        }
    }
    [
        Check { id: "conntrack", core: true, missing: table.missing() },
        Check { id: "snat", core: false, missing: entries.missing() },
    ]
}

/// Why namespaces could not be looked at.
#[derive(Default)]
struct Reasons {
    first: Option<String>,
    more: usize,
    needs: Option<&'static str>,
}

impl Reasons {
    fn add(&mut self, place: &Place, why: &str, needs: Option<&'static str>) {
        self.needs = self.needs.or(needs);
        if self.first.is_some() {
            self.more += 1;
            return;
        }
        let name = place.name.clone().unwrap_or_else(|| place.inum.to_string());
        let text =
            if place.own { why.to_owned() } else { format!("network namespace {name}: {why}") };
        self.first = Some(text);
    }

    fn missing(self) -> Option<Missing> {
        let why = match self.more {
            0 => self.first?,
            more => format!("{}, and {more} more", self.first?),
        };
        Some(Missing { why, needs: self.needs.map(str::to_owned) })
    }
}
