//! Looks up names of processes, when they began and whether they have ended. A process has the name of its leader, the thread
//! that it began with. Every thread has its own name, and the kernel side knows only that of the thread that called.

use std::{collections::HashMap, fs, io, os::unix::fs::MetadataExt};

use tracer_common::{Event, Who};

use crate::runtime::clock;

/// Names of a process and of the thread that called: any bytes, NUL-padded.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Called {
    /// Name of the process, or of one of its threads (see `of`); all zero: not known.
    pub name: [u8; 16],
    /// Whether `name` is the name of the process or of a thread.
    pub of: NameOf,
    /// Name of the thread; all zero: not known (a socket that is older than the tracer).
    pub thread: [u8; 16],
}

/// Whose name is shown for a process: its own, or that of one of its threads.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum NameOf {
    /// The process: the name of its leader.
    #[default]
    Process,
    /// The thread that called, which is not the process's leader. The process's own name is not known: see
    /// [`Processes::called`].
    Thread,
    /// The process or one of its threads: it is not known which thread called, and the process's own name is not known.
    Unknown,
}

impl NameOf {
    /// The value in lines; `None`: it is the process's name, for which lines have no value.
    pub const fn word(self) -> Option<&'static str> {
        match self {
            Self::Process => None,
            Self::Thread => Some("thread"),
            Self::Unknown => Some("unknown"),
        }
    }

    /// The meaning of a value in lines; any other text: the process's name.
    pub fn of_word(word: &str) -> Self {
        let known = [Self::Thread, Self::Unknown].into_iter().find(|it| it.word() == Some(word));
        known.unwrap_or_default()
    }
}

impl Called {
    /// The names that follow from the ids alone: a thread with its process's id is the leader, and without a thread's
    /// id (an older socket) the name was read from the process.
    pub fn of(pid: u32, tid: u32, comm: [u8; 16]) -> Self {
        let thread = if tid == 0 { [0; 16] } else { comm };
        let of = if tid != 0 && tid != pid { NameOf::Thread } else { NameOf::Process };
        Self { name: comm, of, thread }
    }

    /// The name to show for the process, NUL-padded: with `?` appended if it is, or may be, a thread's. A name of 15 bytes with
    /// `?` has no NUL.
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

/// Whether this process is in the first process namespace (its inode is PROC_PID_INIT_INO), whose ids the kernel side
/// uses. In a container, processes have other ids. Also false if /proc cannot be read.
pub fn in_first_pids() -> bool {
    const FIRST_PIDS: u64 = 0xEFFF_FFFC;
    // Without /proc, no process is found anyway.
    fs::metadata("/proc/self/ns/pid").is_ok_and(|metadata| metadata.ino() == FIRST_PIDS)
}

/// Name of the process that had this id at `at_ns` (CLOCK_MONOTONIC); `None`: it has ended (so that the id is another process's,
/// or none's), is hidden, or has another id in this process's process namespace.
pub fn leader_name(pid: u32, at_ns: u64) -> Option<[u8; 16]> {
    let process = in_first_pids().then(|| stat(pid).ok())??;
    (process.began_ns <= at_ns.saturating_add(TICK_NS)).then_some(process.name)
}

/// When the process that has this id here began, ns by CLOCK_MONOTONIC, to 10 ms; too early if the host has been suspended since.
/// `None`: there is no such process, or it is hidden.
pub fn began_ns(pid: u32) -> Option<u64> {
    stat(pid).ok().map(|process| process.began_ns)
}

/// What is not known about processes here, and why; `None`: nothing is missing.
pub fn shortcoming() -> Option<&'static str> {
    if !in_first_pids() {
        return Some(
            "processes of the host cannot be read (tracer is in a process namespace of its own: run the container with --pid=host): names are \
             those of threads, whether a process has ended is not known, and HELD BY shows ids of the container",
        );
    }
    // This is read with the rights of the start. The threads that read /proc later run as another user, who may see
    // less.
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    hides_processes(&mounts).then_some(
        "other users' processes are hidden (/proc is mounted with hidepid): without root's rights names are those of threads, and \
         whether a process has ended is not known",
    )
}

/// Whether the newest mount on /proc hides processes. `mountinfo`: text of that file (proc(5)).
pub(crate) fn hides_processes(mountinfo: &str) -> bool {
    let on_proc = |line: &&str| line.split(' ').nth(4) == Some("/proc");
    let options = mountinfo.lines().rfind(on_proc).and_then(|line| line.rsplit(' ').next());
    let hidepid = options.and_then(|all| all.split(',').find_map(|it| it.strip_prefix("hidepid=")));
    hidepid.is_some_and(|value| !matches!(value, "0" | "off"))
}

/// How long a reading of a process is valid, ns.
const FRESH_NS: u64 = 1_000_000_000;
/// How many processes are read in a second at most, each in some 10 µs.
const READS: u32 = 2000;
/// One cgroup may use up to this many times as many readings as are left for all in a second: 8 of 9 readings, if no
/// other cgroup uses any.
const GREED: u32 = 8;
/// How many processes `recent` of [`Processes`] has at most. For one more, those in `earlier` are forgotten, and all that
/// are in `recent` move there.
const MOST: usize = 4096;
/// Resolution of the time at which a process began, ns (USER_HZ).
const TICK_NS: u64 = 10_000_000;

/// Names of processes, read from /proc when they are asked for and kept for 1 s: at most 2,000 processes are read in a second,
/// and fewer for one cgroup.
#[derive(Debug)]
pub struct Processes {
    /// By id, processes that were used since [`MOST`] of them last moved to `earlier`.
    recent: HashMap<u32, Process>,
    /// By id, the processes that moved last; one that is used again is added to `recent`.
    earlier: HashMap<u32, Process>,
    budget: Budget,
    /// Whether other users' processes are hidden (proc(5), hidepid), so that one that is not found may exist; `None`:
    /// not known yet.
    hidden: Option<bool>,
    /// See [`in_first_pids`]: if false, an id that the kernel side reports is another process here, or none.
    has_pids: bool,
    read: fn(u32) -> io::Result<Stat>,
}

/// A process that was read.
#[derive(Clone, Copy, Debug, Default)]
struct Process {
    /// Name; all zero: there was no process with this id, or it could not be read.
    name: [u8; 16],
    /// When it began, CLOCK_MONOTONIC, ns.
    began_ns: u64,
    /// When /proc last had it, CLOCK_MONOTONIC, ns; 0: it never had.
    seen_ns: u64,
    /// When /proc was last read for it, CLOCK_MONOTONIC, ns.
    asked_ns: u64,
}

/// Readings in the current second.
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
    /// Names of the process that called at `at_ns` (CLOCK_MONOTONIC). The process has the name of its thread if its own is not
    /// known: it ended before it could be read, it is hidden, it has another id here ([`in_first_pids`] is false), or its
    /// cgroup has used up its readings of this second.
    pub fn called(&mut self, who: &Who, at_ns: u64) -> Called {
        let called = Called::from(who);
        if called.of == NameOf::Process {
            return called;
        }
        let name = self.name(who, at_ns, clock::monotonic_ns());
        name.map_or(called, |name| Called { name, of: NameOf::Process, ..called })
    }

    /// When the process began that has this caller's id now: CLOCK_MONOTONIC, ns, 10 ms early, because the kernel
    /// rounds. `None`: there is no such process, or that is not known.
    pub fn began(&mut self, who: &Who) -> Option<u64> {
        let now_ns = clock::monotonic_ns();
        self.name(who, now_ns, now_ns);
        let process = self.recent.get(&who.pid)?;
        let is_there = process.asked_ns != 0 && process.seen_ns == process.asked_ns;
        is_there.then(|| process.began_ns.saturating_sub(TICK_NS))
    }

    /// Whether the process that called at `at_ns` has ended. False if that is not known: processes are hidden or have
    /// other ids here, or its cgroup has used up its readings.
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

    /// Names of the caller in a tuple's counters at `at_ns` (CLOCK_MONOTONIC). The counters do not say whether it is the leader,
    /// nor whether `comm` was read from the process: so the thread's name is known only if it differs from the process's. If the
    /// process's own name is not known (as for [`Self::called`]), the name is `comm`, of [`NameOf::Unknown`]. With pid 0, no
    /// process is looked up.
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

    /// Name of the process that called at `at_ns`; `None`: not known.
    fn name(&mut self, who: &Who, at_ns: u64, now_ns: u64) -> Option<[u8; 16]> {
        if !self.has_pids {
            return None;
        }
        let pid = who.pid;
        let known = self.recent.get(&pid).or_else(|| self.earlier.get(&pid)).copied();
        // A process that had ended when it was read need not be read again for an earlier call.
        let ended = |it: &Process| it.seen_ns < it.asked_ns && at_ns <= it.asked_ns;
        let fresh = |it: &Process| now_ns < it.asked_ns.saturating_add(FRESH_NS) || ended(it);
        let process = match known {
            Some(process) if fresh(&process) => process,
            known if self.budget.take(who.cgroup, now_ns) => self.read_process(pid, known, now_ns),
            known => known?,
        };
        self.keep(pid, process);
        // If the process began after the call, another one had its id then. If the call was after it was last seen, it
        // may have ended, and the id be another process's.
        let is_it = process.began_ns <= at_ns.saturating_add(TICK_NS)
            && at_ns <= process.seen_ns.saturating_add(FRESH_NS);
        (is_it && process.name != [0; 16]).then_some(process.name)
    }

    /// Reads the process with this id. If that fails: what was `known` about it, with the time of this reading.
    fn read_process(&self, pid: u32, known: Option<Process>, now_ns: u64) -> Process {
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
    /// Whether a process of this cgroup may be read now; counts that reading.
    fn take(&mut self, cgroup: u64, now_ns: u64) -> bool {
        let second = now_ns / 1_000_000_000;
        if self.second != second {
            *self = Self { second, ..Self::default() };
        }
        let left = READS.saturating_sub(self.used);
        let own = self.by_cgroup.entry(cgroup).or_default();
        if *own >= left.saturating_mul(GREED) {
            return false;
        }
        *own += 1;
        self.used += 1;
        true
    }
}

/// Values of /proc/PID/stat.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Stat {
    name: [u8; 16],
    /// When it began, CLOCK_MONOTONIC, ns; too early if the host has been suspended since.
    began_ns: u64,
}

fn stat(pid: u32) -> io::Result<Stat> {
    let text = fs::read(format!("/proc/{pid}/stat"))?;
    let (name, since_boot_ns) = parse(&text).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Stat { name, began_ns: since_boot_ns.saturating_sub(clock::suspended_ns()) })
}

/// Parses `4711 (name) S 1 …`: the name, which may have any bytes and is cut after 15, and field 22, when the process began,
/// in ns since boot. `None`: anything else.
fn parse(text: &[u8]) -> Option<([u8; 16], u64)> {
    let (open, close) =
        (text.iter().position(|byte| *byte == b'(')?, text.iter().rposition(|byte| *byte == b')')?);
    let mut name = [0; 16];
    // The last byte stays NUL, as in the kernel.
    for (to, from) in name.iter_mut().take(15).zip(text.get(open + 1..close)?) {
        *to = *from;
    }
    let rest = str::from_utf8(text.get(close + 1..)?).ok()?;
    // The field after the name is number 3.
    let ticks: u64 = rest.split_ascii_whitespace().nth(22 - 3)?.parse().ok()?;
    Some((name, ticks.saturating_mul(TICK_NS)))
}

#[cfg(test)]
mod tests;
