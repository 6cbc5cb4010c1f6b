//! Looks at the network namespaces of the host: their settings, and their sockets where these could matter. Reads only.

use std::{collections::BTreeSet, io, net::IpAddr, sync::Arc, time::Instant};

use rustix::time::{ClockId, Timespec, clock_getres};

use super::{
    finding::Place,
    scope::{Members, Owned},
    tuples::{Settings, Tuples, tuples},
    verdict::{Check, Missing},
};
use crate::{
    error::reason,
    host::{
        capacity::{PortRange, Reuse},
        counters::Reading,
        netns::{Netns, Worker},
        network_settings::NetworkSettings,
        sockdiag, sockstat,
    },
    kernel::privilege,
    spread::addresses,
};

/// A namespace with so few sockets that none of its tuples uses this share of the range is not looked at: its list of sockets costs
/// some milliseconds even if it is short.
const WORTH_A_LOOK: f64 = 0.10;

/// What one look at a namespace saw.
#[derive(Debug)]
pub struct Look {
    pub place: Place,
    /// When the look at it had ended.
    pub at: Instant,
    pub settings: Settings,
    /// What else was read there; `None`: the namespace has few sockets (fewer than 10 % of the size of its port range), so that
    /// these were not listed.
    pub details: Option<Details>,
    /// What its sockets say; if it has few sockets, only [`Tuples::usable`].
    pub tuples: Tuples,
    /// Whose the sockets are; `None`: the user does not ask about processes, or the namespace has few sockets.
    pub owned: Option<Owned>,
}

/// What is read only of a namespace whose sockets are listed.
#[derive(Clone, Debug)]
pub struct Details {
    /// The kernel's TCP counters; `None`: they cannot be read.
    pub counters: Option<Reading>,
    /// Further sysctls of the namespace.
    pub network: NetworkSettings,
    /// Addresses of the namespace, without those of 127.0.0.0/8 and ::1; `None`: they cannot be read.
    pub local: Option<Vec<IpAddr>>,
}

/// The namespaces that were looked at, and what was not seen.
#[derive(Debug, Default)]
pub struct Snapshot {
    pub looks: Vec<Look>,
    /// Namespaces that could not be looked at, each with the reason.
    pub failed: Vec<(Place, io::Error)>,
    /// Those that nobody asked for and that may not be entered, by inode number: they belong to another user namespace.
    pub closed: BTreeSet<u32>,
    /// Why namespaces may be missing, as a text for people; `None`: all that can be found were looked at, except `failed`.
    pub cut_short: Option<&'static str>,
}

/// Which namespaces [`look`] is to look at, and how.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// The namespaces, in the order in which they are looked at.
    pub all: &'a [Netns],
    /// Whether the user asked for these: then one that is gone is in [`Snapshot::failed`], else it is left out.
    pub chosen: bool,
    /// Inode number of the namespace of this process.
    pub own: u32,
    /// Inode numbers of those whose sockets are listed however few there are.
    pub closely: &'a BTreeSet<u32>,
    /// The processes that the user asks about; `None`: all.
    pub members: Option<&'a Arc<Members>>,
    /// When to stop: namespaces that come after that are not looked at, which [`Snapshot::cut_short`] says.
    pub until: Instant,
}

/// Looks at the namespaces, one after the other, until all are done or `wanted.until` has passed. One that has gone since it was
/// found is left out, unless it was asked for. `worker`: its threads enter them.
pub fn look(wanted: &Wanted<'_>, worker: &Worker) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for netns in wanted.all {
        if Instant::now() > wanted.until {
            snapshot.cut_short = Some("looking at all network namespaces takes too long");
            break;
        }
        let place = Place::of(netns, wanted.own);
        let closely = wanted.closely.contains(&netns.inum);
        let members = wanted.members.cloned();
        match in_netns(worker, netns, wanted.own, move || look_here(closely, members.as_deref())) {
            Ok(Here { settings, details, tuples, owned }) => {
                let at = Instant::now();
                snapshot.looks.push(Look { place, at, settings, details, tuples, owned });
            }
            // It has ended since it was found: there is nothing to look at, unless it was asked for.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !wanted.chosen => {}
            Err(error) if is_denied(&error) && !wanted.chosen && is_closed(worker, netns) => {
                snapshot.closed.insert(netns.inum);
            }
            Err(error) => snapshot.failed.push((place, error)),
        }
    }
    snapshot
}

fn is_denied(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// Whether this process is in a user namespace to which the namespace does not belong.
fn is_closed(worker: &Worker, netns: &Netns) -> bool {
    !privilege::in_first_users() && worker.run_in(netns, || Ok(())).is_err_and(|it| is_denied(&it))
}

/// Runs `job` in a namespace, and returns its result. `own`: inode number of the namespace of this process, which is not entered:
/// that would need a capability.
///
/// # Errors
/// That of `job`. `NotFound`: the namespace has gone. `PermissionDenied`: it may not be entered. `TimedOut`: `job` does not end,
/// or the program was asked to stop. `BrokenPipe`: no thread of the worker is left.
pub(super) fn in_netns<T: Send + 'static>(
    worker: &Worker,
    netns: &Netns,
    own: u32,
    job: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    if netns.inum == own { worker.run(job) } else { worker.run_in(netns, job) }
}

impl Snapshot {
    /// The check `fill`, how full each tuple is, without which a verdict cannot be healthy: not made if a namespace could not be
    /// looked at, or there was no time for all. It names the first of them, and how many more there are.
    pub fn check(&self) -> Check {
        Check { id: "fill", core: true, missing: self.missing() }
    }

    fn missing(&self) -> Option<Missing> {
        let Some((place, error)) = self.failed.first() else {
            return self.cut_short.map(|why| Missing { why: why.to_owned(), needs: None });
        };
        let more = match self.failed.len() {
            1 => String::new(),
            all => format!(", and {} more", all - 1),
        };
        let name = place.name.clone().unwrap_or_else(|| place.inum.to_string());
        Some(Missing {
            why: format!("network namespace {name}: {}{more}", reason(error)),
            needs: is_denied(error).then(|| "CAP_SYS_ADMIN".to_owned()),
        })
    }
}

/// What was seen of a namespace: see [`Look`].
struct Here {
    settings: Settings,
    details: Option<Details>,
    tuples: Tuples,
    owned: Option<Owned>,
}

/// Looks at the namespace of the calling thread. `closely`: lists its sockets however few there are.
fn look_here(closely: bool, members: Option<&Members>) -> io::Result<Here> {
    let settings = Settings { range: PortRange::read()?, reuse: Reuse::read() };
    let size = f64::from(settings.range.high) - f64::from(settings.range.low) + 1.0;
    if !closely && !is_worth_a_look(sockstat::sockets(true)?, size) {
        let usable = tuples(&[], &settings);
        return Ok(Here { settings, details: None, tuples: usable, owned: None });
    }
    let sockets = sockdiag::dump_all(sockdiag::ALL_STATES)?;
    let tuples = tuples(&sockets, &settings);
    let owned = members.map(|members| Owned::of(&sockets, &settings, members));
    let details = Details {
        counters: read("the TCP counters", Reading::here),
        network: NetworkSettings::read(),
        local: read("the addresses", addresses_here),
    };
    Ok(Here { settings, details: Some(details), tuples, owned })
}

/// What cannot be read is missing: other facts of the namespace do not depend on it.
fn read<T>(what: &str, read: impl FnOnce() -> io::Result<T>) -> Option<T> {
    read()
        .map_err(|error| tracing::debug!("cannot read {what} of a network namespace: {error}"))
        .ok()
}

fn addresses_here() -> io::Result<Vec<IpAddr>> {
    let all = addresses::Host::read([])?.addresses.into_iter().map(|it| it.address);
    Ok(all.filter(|address| !address.is_loopback()).collect())
}

/// Whether so many sockets could fill a part of a tuple in a range of this size.
fn is_worth_a_look(sockets: u64, range: f64) -> bool {
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
    let sockets = sockets as f64;
    sockets >= WORTH_A_LOOK * range
}

/// Ticks of the kernel's timer per second (CONFIG_HZ), 1 to 10,000. `None`: the clock's resolution is no such tick.
///
/// The coarse clocks advance once a tick, and the kernel says so: their resolution is `KTIME_LOW_RES`, 1 s ÷ HZ
/// (kernel/time/posix-timers.c).
pub fn hz() -> Option<u32> {
    hz_of(clock_getres(ClockId::MonotonicCoarse))
}

fn hz_of(tick: Timespec) -> Option<u32> {
    let ns = u32::try_from(tick.tv_nsec).ok().filter(|ns| *ns > 0 && tick.tv_sec == 0)?;
    // With HZ=300 a tick has 3,333,333 ns.
    let hz = (1_000_000_000 + ns / 2) / ns;
    (1..=10_000).contains(&hz).then_some(hz)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        net::{TcpListener, TcpStream},
        time::Duration,
    };

    use super::*;
    use crate::host::{netns, test_netns};

    #[test]
    fn the_timer_is_as_fast_as_the_coarse_clock() {
        let of = |tv_nsec| hz_of(Timespec { tv_sec: 0, tv_nsec });
        let ticks = [10_000_000, 4_000_000, 3_333_333, 1_000_000, 0, -1];
        assert_eq!(ticks.map(of), [Some(100), Some(250), Some(300), Some(1_000), None, None]);
        assert_eq!(hz_of(Timespec { tv_sec: 1, tv_nsec: 4_000_000 }), None);
        assert!(hz().is_some_and(|hz| (100..=1_000).contains(&hz)), "{:?}", hz());
    }

    #[test]
    fn few_sockets_are_not_listed() {
        assert!(!is_worth_a_look(0, 28_232.0));
        assert!(!is_worth_a_look(2_823, 28_232.0));
        assert!(is_worth_a_look(2_824, 28_232.0));
    }

    #[test]
    fn a_full_tuple_of_a_namespace_is_seen_and_a_nearly_empty_one_when_looked_at_closely() {
        let looks = test_netns::run(|| {
            fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40039").unwrap();
            let listener = TcpListener::bind("127.0.0.1:7000").unwrap();
            let peer = listener.local_addr().unwrap();
            let one = TcpStream::connect(peer).unwrap();
            let here = |closely| {
                let here = look_here(closely, None).unwrap();
                assert_eq!(here.owned, None);
                (here.settings, here.details, here.tuples)
            };
            let (few, closely) = (here(false), here(true));
            let held: Vec<_> = (1..40).map(|_| TcpStream::connect(peer).unwrap()).collect();
            let many = here(false);
            drop((one, held));
            [few, closely, many]
        });
        let seen = looks.map(|(settings, details, tuples)| {
            assert_eq!(details.is_some(), !tuples.by_ends.is_empty());
            assert_eq!((settings.range.low, settings.range.high), (40_000, 40_039));
            let tuple = tuples.by_ends.first_key_value();
            tuple.map(|(ends, it)| (ends.port, it.held, it.capacity, it.first_half_full))
        });
        assert_eq!(seen, [None, Some((7_000, 1, 40, false)), Some((7_000, 40, 40, true))]);
    }

    fn all(own: &Netns, until: Instant) -> (Snapshot, Worker) {
        let worker = Worker::spawn().unwrap();
        let all = std::slice::from_ref(own);
        let none = BTreeSet::new();
        let wanted =
            Wanted { all, chosen: false, own: own.inum, closely: &none, members: None, until };
        (look(&wanted, &worker), worker)
    }

    #[test]
    fn a_namespace_that_cannot_be_entered_is_named() {
        let own = netns::own().unwrap();
        let (snapshot, _worker) = all(&own, Instant::now() + Duration::from_mins(1));
        assert_eq!((snapshot.looks.len(), snapshot.check().missing), (1, None));
        let denied = io::Error::from_raw_os_error(libc::EPERM);
        let failed = Snapshot {
            failed: vec![(Place { inum: 7, ..Place::default() }, denied)],
            ..Snapshot::default()
        };
        let missing = failed.check().missing.unwrap();
        assert_eq!(missing.why, "network namespace 7: operation not permitted");
        assert_eq!(missing.needs.as_deref(), Some("CAP_SYS_ADMIN"));
    }

    #[test]
    fn a_namespace_that_was_asked_for_and_has_ended_is_a_check_that_was_not_made() {
        let worker = Worker::spawn().unwrap();
        let ended =
            Netns { inum: 7, name: Some("blue".into()), paths: vec!["/no/such/file".into()] };
        let none = BTreeSet::new();
        let missing = |chosen| {
            let until = Instant::now() + Duration::from_mins(1);
            let all = std::slice::from_ref(&ended);
            let wanted = Wanted { all, chosen, own: 1, closely: &none, members: None, until };
            look(&wanted, &worker).check().missing
        };
        assert_eq!(missing(false), None);
        assert!(missing(true).is_some_and(|it| it.why.starts_with("network namespace blue: ")));
    }

    #[test]
    fn a_look_that_takes_too_long_ends_and_says_so() {
        let own = netns::own().unwrap();
        let (snapshot, _worker) =
            all(&own, Instant::now().checked_sub(Duration::from_secs(1)).unwrap());
        let why = snapshot.check().missing.unwrap().why;
        assert_eq!(why, "looking at all network namespaces takes too long");
    }
}
