//! What was found in logs: counts by kind and name, in bounded memory whatever the logs say: of each kind and program 64 names of
//! 255 bytes, and 16,384 seconds in all.

use std::collections::BTreeMap;

use super::Asked;

/// How many names are kept of each kind and program; lines with others are counted together. Each kind has its own, so that
/// whoever can choose the names of one cannot hide another.
const NAMES: usize = 64;
/// The most bytes of a name that are kept.
const NAME: usize = 255;
/// How many seconds with lines are kept in all.
const SECONDS: usize = 16_384;
/// How long a log is read after the window has ended, in seconds, at most: a busy program writes on meanwhile.
const READING_S: i64 = 60;

/// What a line says.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// connect() found no port (EADDRNOTAVAIL). Named: the destination or upstream, or HAProxy's backend.
    NoPort,
    /// bind() or connect() failed with EADDRINUSE. Named: of bind(), the source address; of connect(), the destination or
    /// upstream, or HAProxy's backend.
    AddressInUse,
    /// bind() to an address that is not on this host. Named: the address; or HAProxy's backend or server, whose range of source
    /// ports may be used up instead.
    BadSource,
    /// All servers of an upstream or backend are taken to have failed. Named: the upstream or backend.
    NoLive,
    /// A process has no descriptor left (EMFILE). Named: the call, or HAProxy's proxy.
    Descriptors,
    /// The host has no descriptor left (ENFILE). Named: the call, or HAProxy's proxy.
    HostDescriptors,
    /// connect() was not answered (ETIMEDOUT). Named: the destination or upstream.
    TimedOut,
    /// The destination refused (ECONNREFUSED). Named: the destination or upstream.
    Refused,
    /// nginx's `worker_connections` is too small: neither ports nor descriptors are missing. Names nothing.
    WorkerConnections,
    /// A request for which HAProxy could not connect to a server (flags `SC`), whatever the reason. Named: the backend.
    Aborted,
}

/// Which program wrote a line.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Program {
    Nginx,
    Haproxy,
    Squid,
}

impl Program {
    /// Its name, as users read it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::Squid => "Squid",
        }
    }
}

/// Lines of one kind with one name.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Group {
    /// How many there are in the window.
    pub lines: u64,
    /// When the first of them was written, in seconds since 1970; `None`: there is none.
    pub first_s: Option<i64>,
    /// When the last of them was written, in seconds since 1970; `None`: there is none.
    pub last_s: Option<i64>,
    /// How many lines each second has (seconds since 1970), from 10 s before the window on. At most 16,384 seconds are
    /// kept of a log: of more, the latest of each group.
    pub(super) seconds: BTreeMap<i64, u32>,
}

impl Group {
    fn and(&mut self, other: &Self) {
        self.lines = self.lines.saturating_add(other.lines);
        self.first_s = earlier(self.first_s, other.first_s);
        self.last_s = self.last_s.max(other.last_s);
        for (second, lines) in &other.seconds {
            let sum = self.seconds.entry(*second).or_default();
            *sum = sum.saturating_add(*lines);
        }
    }
}

/// The groups of a kind and program.
#[derive(Clone, Debug, Default)]
struct Groups {
    by_name: BTreeMap<Box<str>, Group>,
    /// Lines with names that are not kept.
    more: Group,
}

impl Groups {
    fn of(&mut self, name: &str) -> &mut Group {
        // Most lines have a name that is known: only a new one is copied.
        if !self.by_name.contains_key(name) && self.by_name.len() < NAMES {
            self.by_name.insert(name.into(), Group::default());
        }
        self.by_name.get_mut(name).unwrap_or(&mut self.more)
    }

    /// All groups; `None`: the one without a name.
    fn all(&self) -> impl Iterator<Item = (Option<&str>, &Group)> {
        let named = self.by_name.iter().map(|(name, group)| (Some(&**name), group));
        named.chain([(None, &self.more)])
    }
}

/// What was found in a log, or in several.
#[derive(Clone, Debug, Default)]
pub struct Report {
    groups: BTreeMap<(Kind, Program), Groups>,
    /// Seconds kept in all groups.
    seconds: usize,
    /// Lines that were read.
    pub lines: u64,
    /// Of these: lines whose form is known, whatever they say.
    pub recognised: u64,
    /// Lines that were too long (more than 128 KiB), or broken.
    pub unread: u64,
    /// Lines that say something of a kind, but not whether it was in the window; they are in no group.
    pub undated: u64,
    /// Lines of a time more than a minute after the window: the clock was set back, or their time zone is not known. Lines that
    /// are less late count nowhere.
    pub future: u64,
    /// Whether lines before those that were read exist.
    pub cut: bool,
    /// Whether lines may have followed that were not waited for.
    pub unfinished: bool,
    /// The earliest time of a line, before the window or in it, in seconds since 1970; `None`: no line has one.
    pub first_s: Option<i64>,
    /// The latest time of a line that is not of the future, in seconds since 1970; `None`: no line has one.
    pub last_s: Option<i64>,
}

impl Report {
    /// An empty report. `cut`: whether lines before those that will be read exist.
    pub(super) fn new(cut: bool) -> Self {
        Self { cut, ..Self::default() }
    }

    /// The groups with lines in the window; the name is `None` for lines whose names are not kept.
    pub fn groups(&self) -> impl Iterator<Item = (Kind, Program, Option<&str>, &Group)> {
        let all = self.groups.iter().flat_map(|((kind, program), groups)| {
            groups.all().map(move |(name, group)| (*kind, *program, name, group))
        });
        all.filter(|(.., group)| group.lines > 0)
    }

    /// How many lines of a kind are in the window, of all programs and names.
    pub fn count(&self, kind: Kind) -> u64 {
        let of = self.groups().filter(|(it, ..)| *it == kind).map(|(.., group)| group.lines);
        of.fold(0, u64::saturating_add)
    }

    /// Why the report may lack lines of the window, as a text for people: the first reason, of several; `None`: it does not, as
    /// far as is known. `from_s`: the first second of the window, since 1970.
    pub fn shortcoming(&self, from_s: i64) -> Option<String> {
        if self.cut && self.first_s.is_none_or(|first| first > from_s) {
            return Some("it is so long that only a part of the window was read".into());
        }
        if self.unfinished {
            return Some("it had not ended when reading had to".into());
        }
        if self.lines > 0 && self.recognised == 0 {
            return Some("it is no error log of nginx, HAProxy or Squid".into());
        }
        if self.undated > 0 {
            return Some(format!("{} lines do not say when they were written", self.undated));
        }
        if self.future > 0 {
            return Some(format!("{} lines are of the future: another time zone?", self.future));
        }
        (self.unread > 0).then(|| format!("{} lines could not be read", self.unread))
    }

    /// The groups of a kind and program, also those with lines only in the 10 s before the window; the name is `None` for lines
    /// whose names are not kept. Empty, or with empty groups: there are no such lines.
    pub(super) fn with_margin(
        &self,
        kind: Kind,
        program: Program,
    ) -> impl Iterator<Item = (Option<&str>, &Group)> {
        self.groups.get(&(kind, program)).into_iter().flat_map(Groups::all)
    }

    /// Notes the time of a line, in seconds since 1970, in [`Self::first_s`] and [`Self::last_s`]. One more than 60 s after the
    /// window counts in [`Self::future`]; one that is less late can have been written while the log was read, and is ignored.
    pub(super) fn dated(&mut self, at_s: i64, asked: &Asked) {
        if at_s > asked.to_s {
            let of_the_future = at_s > asked.to_s.saturating_add(READING_S);
            self.future = self.future.saturating_add(u64::from(of_the_future));
            return;
        }
        self.first_s = earlier(self.first_s, Some(at_s));
        self.last_s = self.last_s.max(Some(at_s));
    }

    /// Counts a line that is not of the future (not checked), which was written at `at_s`, in seconds since 1970. One from longer
    /// than 10 s before the window is ignored. Of `name`, 255 bytes are kept; after 64 names of a kind and program, lines with
    /// others are counted together.
    pub(super) fn add(
        &mut self,
        kind: Kind,
        program: Program,
        name: &[u8],
        at_s: i64,
        asked: &Asked,
    ) {
        if at_s < asked.earliest_s() {
            return;
        }
        let name = String::from_utf8_lossy(name.get(..NAME).unwrap_or(name));
        let group = self.groups.entry((kind, program)).or_default().of(&name);
        if at_s >= asked.from_s {
            group.lines = group.lines.saturating_add(1);
            group.first_s = earlier(group.first_s, Some(at_s));
            group.last_s = group.last_s.max(Some(at_s));
        }
        if let Some(lines) = group.seconds.get_mut(&at_s) {
            *lines = lines.saturating_add(1);
        } else if self.seconds < SECONDS {
            self.seconds = self.seconds.saturating_add(1);
            group.seconds.insert(at_s, 1);
        } else if group.seconds.pop_first().is_some() {
            // The latest seconds of a group are those that matter now.
            group.seconds.insert(at_s, 1);
        }
    }

    /// What this and another log, written after it, say together. Of more than 64 names of a kind and program, those of `other`
    /// are counted together.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        for (key, groups) in &other.groups {
            let into = self.groups.entry(*key).or_default();
            for (name, group) in groups.all() {
                let to = match name {
                    Some(name) => into.of(name),
                    None => &mut into.more,
                };
                to.and(group);
            }
        }
        self.seconds = self.seconds.saturating_add(other.seconds);
        self.lines = self.lines.saturating_add(other.lines);
        self.recognised = self.recognised.saturating_add(other.recognised);
        self.unread = self.unread.saturating_add(other.unread);
        self.undated = self.undated.saturating_add(other.undated);
        self.future = self.future.saturating_add(other.future);
        self.cut |= other.cut;
        self.unfinished |= other.unfinished;
        self.first_s = earlier(self.first_s, other.first_s);
        self.last_s = self.last_s.max(other.last_s);
        self
    }
}

/// The earlier of two times, or the only one.
fn earlier(one: Option<i64>, other: Option<i64>) -> Option<i64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Asked = Asked { from_s: 100, to_s: 200, offset_s: 0 };

    #[test]
    fn only_lines_of_the_window_are_counted() {
        let mut report = Report::default();
        for at in [89, 90, 99, 150, 100, 200] {
            report.add(Kind::NoPort, Program::Nginx, b"a", at, &ASKED);
        }
        let [(Kind::NoPort, Program::Nginx, Some("a"), group)] =
            report.groups().collect::<Vec<_>>()[..]
        else {
            panic!("{report:?}")
        };
        assert_eq!((group.lines, group.first_s, group.last_s), (3, Some(100), Some(200)));
        let seconds: Vec<_> = group.seconds.keys().copied().collect();
        assert_eq!(seconds, [90, 99, 100, 150, 200]);
        assert_eq!((report.count(Kind::NoPort), report.count(Kind::NoLive)), (3, 0));
    }

    #[test]
    fn many_names_are_counted_together_and_hide_no_other_kind() {
        let mut report = Report::default();
        for name in 0..1_000 {
            let name = format!("{name:0>300}");
            report.add(Kind::NoLive, Program::Nginx, name.as_bytes(), 150, &ASKED);
        }
        for name in 0..1_000 {
            report.add(Kind::Refused, Program::Nginx, name.to_string().as_bytes(), 150, &ASKED);
        }
        report.add(Kind::NoPort, Program::Nginx, b"\xff", 150, &ASKED);
        assert_eq!(report.count(Kind::NoLive), 1_000);
        // Only the first 255 bytes of a name are kept: these are all the same.
        assert_eq!(report.groups().filter(|(kind, ..)| *kind == Kind::NoLive).count(), 1);
        assert_eq!(report.groups().filter(|(kind, ..)| *kind == Kind::Refused).count(), NAMES + 1);
        let more =
            report.groups().find(|(kind, _, name, _)| *kind == Kind::Refused && name.is_none());
        assert_eq!(more.unwrap().3.lines, 1_000 - 64);
        assert!(report.groups().any(|(_, _, name, _)| name == Some("\u{fffd}")));
    }

    #[test]
    fn the_latest_seconds_are_kept() {
        let asked = Asked { from_s: 0, to_s: i64::MAX, offset_s: 0 };
        let mut report = Report::default();
        for at in 0..20_000 {
            report.add(Kind::NoPort, Program::Nginx, b"a", at, &asked);
        }
        let (.., group) = report.groups().next().unwrap();
        assert_eq!((group.lines, group.seconds.len()), (20_000, SECONDS));
        assert_eq!(group.seconds.last_key_value(), Some((&19_999, &1)));
    }

    #[test]
    fn two_logs_are_added_up() {
        let of = |name: &[u8], at| {
            let mut report = Report { lines: 1, ..Report::default() };
            report.dated(at, &ASKED);
            report.add(Kind::NoPort, Program::Nginx, name, at, &ASKED);
            report
        };
        let both = of(b"a", 150).and(of(b"a", 120)).and(of(b"b", 99));
        assert_eq!((both.lines, both.first_s, both.last_s), (3, Some(99), Some(150)));
        let groups: Vec<_> = both.groups().map(|(.., name, group)| (name, group.lines)).collect();
        assert_eq!(groups, [(Some("a"), 2)]);
        assert_eq!(both.with_margin(Kind::NoPort, Program::Nginx).count(), 3);
    }

    #[test]
    fn a_report_says_what_it_lacks() {
        let whole = Report { lines: 5, recognised: 5, first_s: Some(99), ..Report::default() };
        let of = |report: Report| report.shortcoming(100).is_some();
        assert!(!of(whole.clone()));
        assert!(!of(Report { cut: true, ..whole.clone() }));
        assert!(of(Report { cut: true, first_s: Some(101), ..whole.clone() }));
        assert!(of(Report { recognised: 0, ..whole.clone() }));
        assert!(of(Report { unread: 1, ..whole.clone() }));
        assert!(of(Report { unfinished: true, ..whole.clone() }));
        assert!(of(Report { undated: 1, ..whole.clone() }));
        assert!(of(Report { future: 1, ..whole }));
        assert!(!of(Report::default()));
    }
}
