//! The proxies of the judged namespaces: what their configurations, counters and logs say. Reads only.
//!
//! Other processes decide what is read here, and how long that takes: so at most 64 proxies are read, and each step
//! (configurations and counters, counters again, logs) ends after 2 s with what was read by then.

mod find;
mod read;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, UdpSocket},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    config::{haproxy, nginx::Nginx, squid},
    finding::{Place, Process},
    logs::{self, Asked, Program, Report},
};
use crate::{
    error::reason,
    host::{
        files::Files,
        inside::Inside,
        limited::within,
        netns::{Netns, Worker},
    },
    runtime::{beat, clock},
};

/// How many proxies are read.
const MOST: usize = 64;
/// How long all of one kind may take: the configurations, the counters, the logs.
const TIME: Duration = Duration::from_secs(2);
/// How long one of them may take.
const TIME_OF_ONE: Duration = Duration::from_secs(1);
/// How far back logs are read if no window is made, in seconds: as long as a TIME_WAIT lasts.
const BACK_S: i64 = 60;
/// How many logs of a proxy are read.
const MOST_LOGS: usize = 8;
/// How many source addresses of a namespace are tried.
const MOST_SOURCES: usize = 256;

/// The path of a log (in the file system of its proxy, or as the user gave it), and what its lines say; or why it was not read,
/// as a text for people.
pub type Log = (PathBuf, Result<Report, String>);

/// What the configuration of a proxy says, and what else was read of that proxy.
#[derive(Clone, Debug)]
pub enum Config {
    /// An nginx.
    Nginx(Box<Nginx>),
    /// A HAProxy, and its counters; `None`: it has no socket for commands, or that did not answer.
    Haproxy(Box<haproxy::Config>, Option<Counters>),
    /// A Squid, and its version; `None`: not known.
    Squid(Box<squid::Config>, Option<squid::Version>),
}

/// What a HAProxy counted, by its answers at its socket for commands.
#[derive(Clone, Debug)]
pub struct Counters {
    /// The newest counters that it gave.
    pub now: haproxy::stats::Stats,
    /// Those at the beginning of the window, and how long before `now` that was; `None`: they were read once.
    pub before: Option<(haproxy::stats::Stats, Duration)>,
}

/// A running proxy whose configuration was read.
#[derive(Clone, Debug)]
pub struct Proxy {
    pub program: Program,
    /// Its master process, or the only one.
    pub process: Process,
    /// The ids of all its processes.
    pub pids: BTreeSet<u32>,
    /// How many of its processes serve connections, at least 1.
    pub workers: u32,
    /// Its network namespace.
    pub place: Place,
    pub config: Config,
    /// The error logs of an nginx, the first 8; empty for others.
    pub logs: Vec<Log>,
}

/// The proxies of the judged namespaces, and what was not read of them.
#[derive(Clone, Debug)]
pub struct Proxies {
    /// Those whose configuration was read; at most 64.
    pub all: Vec<Proxy>,
    /// What was not read of configurations and counters, each with the reason, as a text for people.
    pub unread: Vec<String>,
    /// Whether more proxies would be found with CAP_SYS_PTRACE.
    pub hidden: bool,
    /// Source addresses of configurations of HAProxy and Squid that cannot be bound, because the namespace does not have them; by
    /// its inode number. Absent: no configuration there names one, or they could not be tried.
    pub not_here: BTreeMap<u32, BTreeSet<IpAddr>>,
    /// The logs that the user names.
    pub given: Vec<Log>,
    /// Which lines of logs count, by their time.
    pub asked: Asked,
}

/// The proxies, with what was read at the beginning of the window: [`Begun::end`] reads the rest.
#[derive(Debug)]
pub struct Begun {
    read: Vec<Read>,
    unread: Vec<String>,
    hidden: bool,
    /// When it was, by the wall clock and by one that is never set.
    from_s: i64,
    began: Instant,
}

/// A proxy whose configuration was read.
#[derive(Debug)]
struct Read {
    found: find::Found,
    config: Config,
    /// Its files.
    inside: Arc<Inside>,
    /// The first counters, and when they were read.
    counters: Option<(haproxy::stats::Stats, Instant)>,
}

/// Finds the proxies of these namespaces, and reads their configurations and counters: at most 64, and those that answer within 2
/// s. What could not be found or read is no error: [`Proxies::unread`] says it at the end. `worker`: its threads may read other
/// processes' files.
pub fn begin(worker: &Worker, all: &[Netns]) -> Begun {
    let inums: BTreeSet<u32> = all.iter().map(|netns| netns.inum).collect();
    let begun = worker.run(move || Ok(read_all(&inums)));
    begun.unwrap_or_else(|error| Begun {
        read: Vec::new(),
        unread: vec![format!("the proxies of this host: {}", reason(&error))],
        hidden: false,
        from_s: now_s(),
        began: Instant::now(),
    })
}

fn read_all(inums: &BTreeSet<u32>) -> Begun {
    let (from_s, began) = (now_s(), Instant::now());
    let until = began + TIME;
    let search = within(TIME_OF_ONE, {
        let inums = inums.clone();
        move || find::find(&inums, TIME_OF_ONE / 2)
    });
    let search = search.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()));
    let (found, mut unread, hidden) = match search {
        Ok(search) => (search.found, search.unread, search.hidden),
        Err(error) => {
            (Vec::new(), vec![format!("the processes of this host: {}", reason(&error))], false)
        }
    };
    if found.len() > MOST {
        unread.push(format!("there are {} proxies: {MOST} were read", found.len()));
    }
    let mut read = Vec::new();
    for found in found.into_iter().take(MOST) {
        beat::beat();
        let name = found.named();
        match limited(until, move || read::read(found)) {
            Ok((it, counters)) => {
                unread.extend(counters.map(|why| format!("{name}: its counters: {why}")));
                unread.extend(not_read(&it.config).map(|why| format!("{name}: {why}")));
                read.push(it);
            }
            Err(why) => unread.push(format!("{name}: {why}")),
        }
    }
    Begun { read, unread, hidden, from_s, began }
}

/// The result of work that another process decides about.
fn limited<T: Send + 'static>(
    until: Instant,
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let left = until.saturating_duration_since(Instant::now()).min(TIME_OF_ONE);
    let result = if left.is_zero() { None } else { within(left, work) };
    result.unwrap_or_else(|| Err("reading it takes too long".into()))
}

/// The first part of a configuration that was not read.
fn not_read(config: &Config) -> Option<String> {
    let of = |unread: &super::config::Unread| {
        let (at, why) = unread.places.first()?;
        Some(format!("{at}: {why}"))
    };
    match config {
        Config::Nginx(nginx) => nginx.facts.unread.first().map(ToString::to_string),
        Config::Haproxy(config, _) => of(&config.unread),
        Config::Squid(config, _) => of(&config.unread),
    }
}

/// What [`Begun::end`] is to read.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// The namespaces that were looked at: proxies of others are left out.
    pub places: &'a [Place],
    /// The namespaces that can be entered to try source addresses.
    pub all: &'a [Netns],
    /// Inode number of this process's own namespace.
    pub own: u32,
    /// Which lines of logs count. True: those since [`begin`], which was the beginning of the window. False: there was no window,
    /// and those of the 60 s before [`begin`] count, too.
    pub window: bool,
    /// Paths of further logs, which the user names.
    pub logs: &'a [PathBuf],
}

impl Begun {
    /// Reads the counters of each HAProxy again and the error logs of each nginx, then the logs of [`Wanted::logs`]; and tries to
    /// bind the source addresses of the configurations. Proxies in namespaces that [`Wanted::places`] lacks are left out.
    ///
    /// What cannot be read is no error. Counters: those of [`begin`], if it read any, are the newest ones then. A log: its entry
    /// says why. If `worker` (see [`begin`]) fails, [`Proxies::all`] is empty, and [`Proxies::unread`] says why.
    ///
    /// Takes 4 s at most for the proxies, 1 s at most for each log of [`Wanted::logs`], and the time to bind at most 256
    /// addresses in each namespace.
    pub fn end(self, worker: &Worker, wanted: &Wanted<'_>) -> Proxies {
        let to_s = now_s();
        let began_s = first_second(self.from_s, self.began.elapsed(), to_s);
        let from_s = if wanted.window { began_s } else { began_s.saturating_sub(BACK_S) };
        let asked = Asked { from_s, to_s, offset_s: local_offset_s() };
        let mut unread = self.unread;
        let places: BTreeMap<u32, Place> =
            wanted.places.iter().map(|place| (place.inum, place.clone())).collect();
        let read: Vec<Read> =
            self.read.into_iter().filter(|it| places.contains_key(&it.found.inum)).collect();
        let all = worker.run(move || Ok(finish(read, &places, &asked)));
        let all = all.unwrap_or_else(|error| {
            unread.push(format!("the logs of this host's proxies: {}", reason(&error)));
            Vec::new()
        });
        let given = given(worker, wanted.logs, &asked);
        let not_here = not_here(worker, wanted, &all);
        Proxies { all, unread, hidden: self.hidden, not_here, given, asked }
    }
}

fn finish(read: Vec<Read>, places: &BTreeMap<u32, Place>, asked: &Asked) -> Vec<Proxy> {
    let until = Instant::now() + TIME;
    let mut again = Vec::new();
    for it in &read {
        beat::beat();
        again.push(counters(it, until));
    }
    let until = Instant::now() + TIME;
    let finished = read.into_iter().zip(again).filter_map(|(it, counters)| {
        beat::beat();
        let logs = of_proxy(&it, until, asked);
        let Read { found, mut config, .. } = it;
        if let Config::Haproxy(_, of_config) = &mut config {
            *of_config = counters;
        }
        let workers = u32::try_from(found.workers.len().max(1)).unwrap_or(u32::MAX);
        Some(Proxy {
            program: found.program,
            place: places.get(&found.inum)?.clone(),
            process: found.process,
            pids: found.pids,
            workers,
            config,
            logs,
        })
    });
    finished.collect()
}

/// The counters of now, with those of the beginning.
fn counters(read: &Read, until: Instant) -> Option<Counters> {
    let (before, at) = read.counters.clone()?;
    let Config::Haproxy(config, _) = &read.config else { return None };
    let (inside, config) = (Arc::clone(&read.inside), config.clone());
    let now = limited(until, move || read::counters(&inside, &config));
    let seconds = at.elapsed();
    match now {
        Ok(now) => Some(Counters { now, before: Some((before, seconds)) }),
        Err(_) => Some(Counters { now: before, before: None }),
    }
}

/// The logs of a proxy.
fn of_proxy(read: &Read, until: Instant, asked: &Asked) -> Vec<Log> {
    let Config::Nginx(nginx) = &read.config else { return Vec::new() };
    let logs = nginx.error_logs.iter().take(MOST_LOGS).cloned();
    let read = logs.map(|path| {
        let report = log(&read.inside, &path, until, asked);
        (path, report)
    });
    read.collect()
}

/// Reads a log: its end, and the rest of the window if there is time for it. A log grows fast while every request fails.
fn log(inside: &Arc<Inside>, path: &Path, until: Instant, asked: &Asked) -> Result<Report, String> {
    type Way = fn(&dyn Files, &Path, &Asked) -> io::Result<Report>;
    let read = |way: Way| {
        let (inside, path, asked) = (Arc::clone(inside), path.to_owned(), *asked);
        limited(until, move || way(&*inside, &path, &asked).map_err(|error| reason(&error)))
    };
    let end = read(logs::read_end)?;
    beat::beat();
    if end.cut && end.shortcoming(asked.from_s).is_none() {
        return Ok(end);
    }
    Ok(read(logs::read).unwrap_or(end))
}

/// Reads the logs that the user names.
fn given(worker: &Worker, paths: &[PathBuf], asked: &Asked) -> Vec<Log> {
    let read = paths.iter().map(|path| {
        let (asked, log) = (*asked, path.clone());
        let report = worker.run(move || logs::given(Path::new(&log), &asked, TIME_OF_ONE));
        (path.clone(), report.map_err(|error| reason(&error)))
    });
    read.collect()
}

/// Which source addresses of the configurations cannot be bound: neither an interface nor a route has them, and
/// `ip_nonlocal_bind` is off. A UDP socket is bound and closed at once: it sends nothing, and takes no port of TCP.
fn not_here(
    worker: &Worker,
    wanted: &Wanted<'_>,
    all: &[Proxy],
) -> BTreeMap<u32, BTreeSet<IpAddr>> {
    let mut sources: BTreeMap<u32, BTreeSet<IpAddr>> = BTreeMap::new();
    for proxy in all {
        let of_place = sources.entry(proxy.place.inum).or_default();
        match &proxy.config {
            Config::Nginx(_) => {}
            Config::Haproxy(config, _) => {
                of_place.extend(config.sources().iter().map(|it| it.source.address));
            }
            Config::Squid(config, _) => {
                of_place.extend(config.outgoing.iter().map(|it| it.address));
            }
        }
    }
    let tried = sources.into_iter().filter(|(_, sources)| !sources.is_empty()).filter_map(
        |(inum, sources)| {
            let netns = wanted.all.iter().find(|netns| netns.inum == inum)?;
            let try_all =
                move || Ok(sources.into_iter().take(MOST_SOURCES).filter(is_not_here).collect());
            let missing = if inum == wanted.own {
                worker.run(try_all)
            } else {
                worker.run_in(netns, try_all)
            };
            Some((inum, missing.ok()?))
        },
    );
    tried.collect()
}

fn is_not_here(address: &IpAddr) -> bool {
    let bound = UdpSocket::bind((*address, 0));
    bound.is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable)
}

/// The second in which a time of this length began that ends in the second `to_s`. `from_s`: when it began, by the clock of then;
/// if that was set back meanwhile, lines of logs have times by the clock of now.
fn first_second(from_s: i64, length: Duration, to_s: i64) -> i64 {
    from_s.min(to_s.saturating_sub(i64::try_from(length.as_secs()).unwrap_or(i64::MAX)))
}

fn now_s() -> i64 {
    i64::try_from(clock::wall_ns() / 1_000_000_000).unwrap_or(i64::MAX)
}

/// How far local time is ahead of UTC, in seconds.
fn local_offset_s() -> i32 {
    jiff::Zoned::now().offset().seconds()
}

#[cfg(test)]
mod tests;
