//! What a process is called: by its leader, the thread that it began with. Every thread has a name of its own, and
//! the kernel side knows only that of the thread that called.

use std::{collections::HashMap, fs, io, os::unix::fs::MetadataExt};

use tracer_common::{Event, Who};

use crate::runtime::clock;

/// The names of who called. Arbitrary bytes, NUL-padded.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Called {
    /// Of the process; all zero: not known.
    pub name: [u8; 16],
    /// Whose `name` is.
    pub of: NameOf,
    /// Of the thread; all zero: not known (a socket that is older than the tracer).
    pub thread: [u8; 16],
}

/// Whose name it is that is said of a process.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum NameOf {
    #[default]
    Process,
    /// Of the thread that called, which is not the process's first one: the process could not be asked.
    Thread,
    /// Of the process or of a thread: which one called is not known, and the process could not be asked.
    Unknown,
}

impl NameOf {
    /// As lines say it; `None`: the process's, of which nothing is said.
    pub const fn word(self) -> Option<&'static str> {
        match self {
            Self::Process => None,
            Self::Thread => Some("thread"),
            Self::Unknown => Some("unknown"),
        }
    }

    /// What a line says.
    pub fn of_word(word: &str) -> Self {
        let known = [Self::Thread, Self::Unknown].into_iter().find(|it| it.word() == Some(word));
        known.unwrap_or_default()
    }
}

impl Called {
    /// What the ids say by themselves: a thread with its process's id is the leader, and without an id (an older
    /// socket) the name was read from the process.
    pub fn of(pid: u32, tid: u32, comm: [u8; 16]) -> Self {
        let thread = if tid == 0 { [0; 16] } else { comm };
        let of = if tid != 0 && tid != pid { NameOf::Thread } else { NameOf::Process };
        Self { name: comm, of, thread }
    }

    /// The process's name for people: with a `?` behind it where it is, or may be, only the thread's.
    pub fn shown(&self) -> [u8; 16] {
        let mut name = self.name;
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(15);
        if self.of != NameOf::Process
            && let Some(byte) = name.get_mut(end.min(15))
        {
            *byte = b'?';
        }
        name
    }
}

impl From<&Event> for Called {
    fn from(event: &Event) -> Self {
        Self::of(event.pid, event.tid, event.comm)
    }
}

impl From<&Who> for Called {
    fn from(who: &Who) -> Self {
        Self::of(who.pid, who.tid, who.comm)
    }
}

/// Whether processes have the ids here that the kernel side knows them by: those of the first process namespace (its inode is
/// PROC_PID_INIT_INO). In a container they have others.
pub fn in_first_pids() -> bool {
    const FIRST_PIDS: u64 = 0xEFFF_FFFC;
    // Without /proc nothing is found anyway.
    fs::metadata("/proc/self/ns/pid").is_ok_and(|metadata| metadata.ino() == FIRST_PIDS)
}

/// What the process is called that did something at `at_ns` (CLOCK_MONOTONIC); `None`: it has ended, or is hidden.
pub fn leader_name(pid: u32, at_ns: u64) -> Option<[u8; 16]> {
    let process = in_first_pids().then(|| stat(pid).ok())??;
    (process.began_ns <= at_ns.saturating_add(TICK_NS)).then_some(process.name)
}

/// What is not known of processes here, and why.
pub fn shortcoming() -> Option<&'static str> {
    if !in_first_pids() {
        return Some(
            "processes of the host cannot be asked (a process namespace of its own; run the container with --pid=host): names are \
             those of threads, whether a process has ended is not known, and HELD BY shows ids of the container",
        );
    }
    // Asked by whoever starts it; whoever asks later on is another user, who may see less.
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    hides_processes(&mounts).then_some(
        "other users' processes are hidden (/proc is mounted with hidepid): without root's rights names are those of threads, and \
         whether a process has ended is not known",
    )
}

/// Whether the newest mount on /proc hides processes, by the text of mountinfo (proc(5)).
fn hides_processes(mountinfo: &str) -> bool {
    let on_proc = |line: &&str| line.split(' ').nth(4) == Some("/proc");
    let options = mountinfo.lines().rfind(on_proc).and_then(|line| line.rsplit(' ').next());
    let hidepid = options.and_then(|all| all.split(',').find_map(|it| it.strip_prefix("hidepid=")));
    hidepid.is_some_and(|value| !matches!(value, "0" | "off"))
}

/// What was read of a process holds for so long, ns.
const FRESH_NS: u64 = 1_000_000_000;
/// Processes that are asked in a second, each some 10 µs.
const LOOKS: u32 = 2000;
/// What one cgroup may take of them is so many times what is left, as in the shares of the tables.
const GREED: u32 = 8;
/// When so many processes are known, those that were not used since the last time are forgotten.
const MOST: usize = 4096;
/// The kernel tells when a process began in these steps, ns (USER_HZ).
const TICK_NS: u64 = 10_000_000;

/// Names of processes, asked for when one of their other threads calls.
#[derive(Debug)]
pub struct Processes {
    recent: HashMap<u32, Process>,
    /// Those before: an entry that is used moves to `recent`.
    earlier: HashMap<u32, Process>,
    budget: Budget,
    /// Other users' processes are not shown (proc(5), hidepid): one that is not found need not have ended.
    hidden: Option<bool>,
    /// See [`in_first_pids`]: else the process with that id here is another one.
    has_pids: bool,
    read: fn(u32) -> io::Result<Stat>,
}

/// A process that was asked.
#[derive(Clone, Copy, Debug, Default)]
struct Process {
    /// All zero: there was none with this id.
    name: [u8; 16],
    /// CLOCK_MONOTONIC of its beginning, of when it was there last, and of when it was asked last, ns.
    began_ns: u64,
    seen_ns: u64,
    asked_ns: u64,
}

/// Looks of this second.
#[derive(Debug, Default)]
struct Budget {
    second: u64,
    used: u32,
    by_cgroup: HashMap<u64, u32>,
}

impl Default for Processes {
    fn default() -> Self {
        let (recent, earlier) = (HashMap::new(), HashMap::new());
        let has_pids = in_first_pids();
        Self { recent, earlier, budget: Budget::default(), hidden: None, has_pids, read: stat }
    }
}

impl Processes {
    /// Who called at `at_ns` (CLOCK_MONOTONIC), by name. A process that ended before it could be asked, or whose
    /// cgroup asks for too many at once, has its thread's name.
    pub fn called(&mut self, who: &Who, at_ns: u64) -> Called {
        let called = Called::from(who);
        if called.of == NameOf::Process {
            return called;
        }
        let name = self.name(who, at_ns, clock::monotonic_ns());
        name.map_or(called, |name| Called { name, of: NameOf::Process, ..called })
    }

    /// When the process began that has this caller's id now (CLOCK_MONOTONIC, ns; a tick early, as the kernel rounds). `None`:
    /// there is none, or that is not known.
    pub fn began(&mut self, who: &Who) -> Option<u64> {
        let now_ns = clock::monotonic_ns();
        self.name(who, now_ns, now_ns);
        let process = self.recent.get(&who.pid)?;
        let is_there = process.asked_ns != 0 && process.seen_ns == process.asked_ns;
        is_there.then(|| process.began_ns.saturating_sub(TICK_NS))
    }

    /// Whether the process that called at `at_ns` is there no more. One that could not be asked is taken to be there.
    pub fn has_ended(&mut self, who: &Who, at_ns: u64) -> bool {
        self.ended(who, at_ns, clock::monotonic_ns())
    }

    fn ended(&mut self, who: &Who, at_ns: u64, now_ns: u64) -> bool {
        self.name(who, at_ns, now_ns);
        let read = self.read;
        if !self.has_pids || *self.hidden.get_or_insert_with(|| read(1).is_err()) {
            return false;
        }
        let process = self.recent.get(&who.pid).copied().unwrap_or_default();
        process.asked_ns != 0
            && (process.seen_ns < process.asked_ns
                || process.began_ns > at_ns.saturating_add(TICK_NS))
    }

    /// The same of a caller of whom it is not known whether it is the leader, nor whether `comm` was read from the process:
    /// a tuple's counters do not say. The thread's name is known if it is not the process's.
    pub fn of_either(&mut self, who: &Who, at_ns: u64) -> Called {
        if who.pid == 0 {
            return Called::of(0, 0, who.comm);
        }
        match self.name(who, at_ns, clock::monotonic_ns()) {
            Some(name) if name == who.comm => Called::of(who.pid, 0, name),
            Some(name) => Called { name, of: NameOf::Process, thread: who.comm },
            None => Called { of: NameOf::Unknown, ..Called::of(who.pid, 0, who.comm) },
        }
    }

    fn name(&mut self, who: &Who, at_ns: u64, now_ns: u64) -> Option<[u8; 16]> {
        if !self.has_pids {
            return None;
        }
        let pid = who.pid;
        let known = self.recent.get(&pid).or_else(|| self.earlier.get(&pid)).copied();
        // One that had ended by then need not be asked again about what came before.
        let ended = |it: &Process| it.seen_ns < it.asked_ns && at_ns <= it.asked_ns;
        let fresh = |it: &Process| now_ns < it.asked_ns.saturating_add(FRESH_NS) || ended(it);
        let process = match known {
            Some(process) if fresh(&process) => process,
            known if self.budget.take(who.cgroup, now_ns) => self.ask(pid, known, now_ns),
            known => known?,
        };
        self.keep(pid, process);
        // Another process had this id then, or it has ended since and the id may be another one's.
        let is_it = process.began_ns <= at_ns.saturating_add(TICK_NS)
            && at_ns <= process.seen_ns.saturating_add(FRESH_NS);
        (is_it && process.name != [0; 16]).then_some(process.name)
    }

    fn ask(&self, pid: u32, known: Option<Process>, now_ns: u64) -> Process {
        match (self.read)(pid) {
            Ok(Stat { name, began_ns }) => {
                Process { name, began_ns, seen_ns: now_ns, asked_ns: now_ns }
            }
            Err(_) => Process { asked_ns: now_ns, ..known.unwrap_or_default() },
        }
    }

    fn keep(&mut self, pid: u32, process: Process) {
        if self.recent.len() >= MOST && !self.recent.contains_key(&pid) {
            self.earlier = std::mem::take(&mut self.recent);
        }
        self.recent.insert(pid, process);
    }
}

impl Budget {
    fn take(&mut self, cgroup: u64, now_ns: u64) -> bool {
        let second = now_ns / 1_000_000_000;
        if self.second != second {
            *self = Self { second, ..Self::default() };
        }
        let left = LOOKS.saturating_sub(self.used);
        let own = self.by_cgroup.entry(cgroup).or_default();
        if *own >= left.saturating_mul(GREED) {
            return false;
        }
        *own += 1;
        self.used += 1;
        true
    }
}

/// What /proc/PID/stat says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Stat {
    name: [u8; 16],
    /// CLOCK_MONOTONIC, ns; earlier than it was if the host has been suspended since.
    began_ns: u64,
}

fn stat(pid: u32) -> io::Result<Stat> {
    let text = fs::read(format!("/proc/{pid}/stat"))?;
    let (name, since_boot_ns) = parse(&text).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Stat { name, began_ns: since_boot_ns.saturating_sub(clock::suspended_ns()) })
}

/// `4711 (name) S 1 …`: the name, which may have any bytes in it, and field 22, when the process began, ns since boot.
fn parse(text: &[u8]) -> Option<([u8; 16], u64)> {
    let (open, close) =
        (text.iter().position(|byte| *byte == b'(')?, text.iter().rposition(|byte| *byte == b')')?);
    let mut name = [0; 16];
    // The last byte stays NUL, as in the kernel.
    for (to, from) in name.iter_mut().take(15).zip(text.get(open + 1..close)?) {
        *to = *from;
    }
    let rest = str::from_utf8(text.get(close + 1..)?).ok()?;
    // Behind the name comes field 3.
    let ticks: u64 = rest.split_ascii_whitespace().nth(22 - 3)?.parse().ok()?;
    Some((name, ticks.saturating_mul(TICK_NS)))
}

#[cfg(test)]
mod tests;
