//! NAT and connection tracking in all namespaces that are looked at: at both ends of the window, and what follows from that.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use super::{
    finding::{Finding, Place},
    judge::{
        Seen,
        conntrack::{self, Tracking},
        nat_behind::{self, Outgoing, Syns, Vendor},
    },
    nat::{self, Look, Unread},
    snapshot::in_netns,
    tuples::{Ends, Tuple},
    verdict::Check,
};
use crate::host::{
    conntrack::Counters,
    dmi,
    netns::{Netns, Worker},
};

/// The counters of each namespace at the beginning of the window, by its inode number, and when they were read. Namespaces in which
/// connections are not tracked, or whose counters cannot be read, are missing.
pub type Begin = BTreeMap<u32, (Counters, Instant)>;

/// Reads the conntrack counters of these namespaces. `own`: inode number of the namespace of this process; `worker`: its threads
/// enter the others.
pub fn begin(all: &[Netns], own: u32, worker: &Worker) -> Begin {
    let read = |netns: &Netns| {
        let counters = in_netns(worker, netns, own, || Ok(nat::counters())).ok()??;
        Some((netns.inum, (counters, Instant::now())))
    };
    all.iter().filter_map(read).collect()
}

/// A namespace, what the look saw, and its counters at the beginning of the window.
type Looked = (Place, Result<Option<Look>, Unread>, Option<(Counters, Instant)>);

/// What was seen of conntrack and NAT at the end of the window, in each namespace.
#[derive(Debug)]
pub struct Translation {
    looks: Vec<Looked>,
    at: Instant,
}

impl Translation {
    /// Looks at these namespaces until the time `until`; those that come after that count as not read. One that has ended counts
    /// as one in which nothing is tracked. `own`: inode number of the namespace of this process; `worker`: its threads enter the
    /// others; `begin`: see [`begin`], empty if there was no window.
    pub fn look(
        all: &[Netns],
        own: u32,
        worker: &Worker,
        (begin, until): (&Begin, Instant),
    ) -> Self {
        let look = |netns: &Netns| {
            let place = Place::of(netns, own);
            if Instant::now() > until {
                let late = std::io::Error::from(std::io::ErrorKind::TimedOut);
                return (place, Err(Unread::outside(&late)), None);
            }
            let before = begin.get(&netns.inum).copied();
            let counters = before.map(|(counters, _)| counters);
            let seen = in_netns(worker, netns, own, move || nat::look(counters));
            match seen {
                // It has ended: nothing is tracked there.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    (place, Ok(None), None)
                }
                seen => (place, seen.map_err(|error| Unread::outside(&error)), before),
            }
        };
        Self { looks: all.iter().map(look).collect(), at: Instant::now() }
    }

    /// The checks `conntrack`, of whether the limits and counters of connection tracking were read in each namespace, and `snat`,
    /// of whether its entries were.
    pub fn checks(&self) -> [Check; 2] {
        let looks = self.looks.iter();
        conntrack::checks(looks.map(|(place, look, _)| (place, look.as_ref().map(Option::as_ref))))
    }

    /// The findings about conntrack, NAT on this host, and NAT behind it, in no order. `seen`: the namespaces whose sockets were
    /// listed; NAT behind the host is judged only of those with a look at the beginning of the window ([`Seen::before`]).
    pub fn judge(&self, seen: &[Seen]) -> Vec<Finding> {
        let unanswered = unanswered(seen);
        let mut findings = Vec::new();
        for (place, look, before) in &self.looks {
            let Ok(Some(look)) = look else { continue };
            let before = before.map(|(counters, at)| (counters, self.at.duration_since(at)));
            findings.extend(conntrack::judge(&Tracking {
                place: place.clone(),
                now: look.clone(),
                before,
                unanswered: unanswered.clone(),
            }));
        }
        let vendor = Vendor::of(dmi::sys_vendor().as_deref());
        let insert_failed = self.insert_failed(seen);
        let translated_here = self.destinations();
        for seen in seen.iter().filter(|it| it.before.is_some()) {
            findings.extend(nat_behind::judge(&Outgoing {
                place: seen.place.clone(),
                syns: seen.now.by_ends.iter().map(|it| syns(seen, it)).collect(),
                insert_failed,
                translated_here: translated_here.clone(),
                vendor,
            }));
        }
        findings
    }

    /// By how much `insert_failed` grew, in all namespaces together; `None`: it is not known of one whose sockets are judged.
    /// `seen`: these.
    fn insert_failed(&self, seen: &[Seen]) -> Option<u32> {
        let mut sum = 0_u32;
        for (place, look, before) in &self.looks {
            let counters = match look {
                Ok(None) => continue,
                Ok(Some(Look { counters: Ok(now), .. })) => before.as_ref().map(|it| (now, &it.0)),
                _ => None,
            };
            match counters {
                Some((now, before)) => sum = sum.saturating_add(now.since(before).insert_failed),
                None if seen.iter().any(|it| it.place == *place) => return None,
                None => {}
            }
        }
        Some(sum)
    }

    /// Where the connections lead whose source this host translates to a global address.
    fn destinations(&self) -> BTreeSet<SocketAddr> {
        let looks = self.looks.iter().filter_map(|(_, look, _)| look.as_ref().ok()?.as_ref());
        let translated = looks.filter_map(|look| look.translated.as_ref().ok());
        let snats = translated.flat_map(|it| &it.mappings).map(|it| it.snat);
        let last = snats.filter(|snat| nat_behind::is_global(snat.address));
        last.map(|snat| snat.destination).collect()
    }
}

/// SYNs that were sent again without an answer, by destination, of all namespaces whose sockets were listed.
fn unanswered(seen: &[Seen]) -> BTreeMap<SocketAddr, u32> {
    let mut all: BTreeMap<SocketAddr, u32> = BTreeMap::new();
    for (ends, tuple) in seen.iter().flat_map(|it| &it.now.by_ends) {
        let count = all.entry(ends.peer()).or_default();
        *count = count.saturating_add(tuple.unanswered);
    }
    all
}

/// What became of a tuple's SYNs in the window.
fn syns(seen: &Seen, (ends, tuple): (&Ends, &Tuple)) -> ((IpAddr, SocketAddr), Syns) {
    let established = seen.activity.get(ends).map_or(0, |it| it.established(tuple.syn_sent));
    let syns = Syns {
        unanswered: tuple.unanswered,
        established: u32::try_from(established).unwrap_or(u32::MAX),
        fill: tuple.saturation(),
        connections: tuple.held,
    };
    ((ends.from(), ends.peer()), syns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        doctor::finding::Id,
        host::{
            conntrack::{Fill, Ports, Snat, protocol},
            nat_rules::Capacity,
            netns,
        },
    };

    fn place() -> Place {
        Place { inum: 7, ..Place::default() }
    }

    fn tracked(drop: u32, insert_failed: u32) -> (Place, Result<Option<Look>, Unread>) {
        let counters = Counters { drop, insert_failed, ..Counters::default() };
        let fill = Fill { count: 100, max: Some(100), ..Fill::default() };
        let look =
            Look { fill, counters: Ok(counters), translated: Ok(nat::Translated::default()) };
        (place(), Ok(Some(look)))
    }

    #[test]
    fn a_table_that_drops_in_the_window_is_found() {
        let of = |before: u32| {
            let (place, look) = tracked(50, 0);
            let begin = Counters { drop: before, ..Counters::default() };
            let at = Instant::now();
            let looks = vec![(place, look, Some((begin, at)))];
            let found = Translation { looks, at }.judge(&[]);
            found.into_iter().map(|it| (it.id, it.severity.name())).collect::<Vec<_>>()
        };
        assert_eq!(of(10), [(Id::ConntrackFull, "critical")]);
        assert_eq!(of(50), [(Id::ConntrackFull, "warning")]);
    }

    #[test]
    fn a_namespace_that_cannot_be_entered_is_a_check_that_was_not_made() {
        let error = std::io::Error::from_raw_os_error(libc::EPERM);
        let looks = vec![(place(), Err(Unread::outside(&error)), None)];
        let [table, entries] = Translation { looks, at: Instant::now() }.checks();
        assert!(table.core && table.missing.is_some() && !entries.core, "{table:?}");
    }

    #[test]
    fn entries_that_could_not_be_inserted_are_counted_over_all_namespaces() {
        let (place, look) = tracked(9, 9);
        let at = Instant::now();
        let one = (place, look, Some((Counters { insert_failed: 4, ..Counters::default() }, at)));
        let unknown = (self::place(), tracked(9, 9).1, None);
        let all = Translation { looks: vec![one, unknown], at };
        assert_eq!(all.insert_failed(&[]), Some(5));
        let judged = crate::doctor::judge::test_seen::seen(Tuple::default());
        let judged = Seen { place: self::place(), ..judged };
        assert_eq!(all.insert_failed(&[judged]), None, "it may have grown in this one");
    }

    #[test]
    fn a_translation_to_a_private_address_is_not_the_last_one() {
        let mapping = |address: &str, destination: &str| nat::Mapping {
            snat: Snat {
                address: address.parse().unwrap(),
                destination: destination.parse().unwrap(),
                protocol: protocol::TCP,
                zone: 0,
            },
            ports: Ports::default(),
            capacity: Capacity::DEFAULT,
        };
        let (place, look) = tracked(0, 0);
        let mut look = look.unwrap().unwrap();
        // The second one is that of a container engine on a host whose own address is private.
        look.translated.as_mut().unwrap().mappings = vec![
            mapping("198.51.100.7", "203.0.113.1:443"),
            mapping("10.0.0.8", "203.0.113.2:443"),
        ];
        let all = Translation { looks: vec![(place, Ok(Some(look)), None)], at: Instant::now() };
        assert_eq!(all.destinations(), ["203.0.113.1:443".parse().unwrap()].into());
    }

    #[test]
    fn connections_without_an_answer_are_no_established_ones() {
        use crate::doctor::judge::test_seen::{ENDS, opened, seen};
        // The program gives up after a second: of 100 that were opened, 80 ended so, and 20 wait.
        let mut activity = opened(100, 0);
        activity.failed[tracer_common::Cause::NoAnswer as usize] = 80;
        let waiting = Tuple { syn_sent: 20, unanswered: 20, held: 20, ..Tuple::default() };
        let seen = seen(waiting.clone()).watched(activity);
        let (_, of) = syns(&seen, (&ENDS, &waiting));
        assert_eq!((of.unanswered, of.established), (20, 0), "a black hole, and no NAT");
    }

    #[test]
    fn the_own_namespace_needs_no_privilege() {
        let worker = Worker::spawn().unwrap();
        let own = netns::own().unwrap();
        let all = std::slice::from_ref(&own);
        let begin = begin(all, own.inum, &worker);
        let look = |until| Translation::look(all, own.inum, &worker, (&begin, until));
        let seen = look(Instant::now() + std::time::Duration::from_mins(1));
        assert!(seen.looks[0].1.is_ok(), "{seen:?}");
        let late = look(Instant::now().checked_sub(std::time::Duration::from_secs(1)).unwrap());
        assert!(late.checks()[0].missing.is_some(), "{late:?}");
    }
}
