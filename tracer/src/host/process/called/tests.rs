use std::{process, thread};

use super::*;

const S: u64 = 1_000_000_000;

fn name(text: &str) -> [u8; 16] {
    let mut name = [0; 16];
    name[..text.len()].copy_from_slice(text.as_bytes());
    name
}

fn worker(pid: u32, cgroup: u64) -> Who {
    Who { pid, tid: pid + 1, comm: name("pool-1"), cgroup }
}

/// Process 7 began at 10 s, process 8 at 20 s; there are no others below 100 except init.
fn some(pid: u32) -> io::Result<Stat> {
    match pid {
        1 => Ok(Stat { name: name("init"), began_ns: 0 }),
        7 => Ok(Stat { name: name("java"), began_ns: 10 * S }),
        8 => Ok(Stat { name: name("nginx"), began_ns: 20 * S }),
        100.. => Ok(Stat { name: name("many"), began_ns: 0 }),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

fn none(_: u32) -> io::Result<Stat> {
    Err(io::ErrorKind::NotFound.into())
}

#[test]
fn for_a_leader_and_an_older_socket_no_process_is_read() {
    let comm = name("nginx");
    let called = Called::of(7, 7, comm);
    assert_eq!(called, Called { name: comm, of: NameOf::Process, thread: comm });
    let older = Called::of(7, 0, comm);
    assert_eq!(older, Called { name: comm, of: NameOf::Process, thread: [0; 16] });
    assert_eq!((called.shown(), older.shown()), (comm, comm));
    let thread = Called::of(7, 8, comm);
    assert_eq!((thread.of, thread.shown()), (NameOf::Thread, name("nginx?")));
    let long = Called::of(7, 8, name("exactly15bytes_"));
    assert_eq!(&long.shown(), b"exactly15bytes_?");
}

#[test]
fn a_process_has_the_name_of_its_leader_while_it_exists() {
    let mut processes = Processes { read: some, ..Processes::default() };
    assert_eq!(processes.name(&worker(7, 1), 30 * S, 31 * S), Some(name("java")));
    // Before process 8 began, another process had this id.
    assert_eq!(processes.name(&worker(8, 1), 19 * S, 31 * S), None);
    assert_eq!(processes.name(&worker(8, 1), 21 * S, 31 * S), Some(name("nginx")));
    assert_eq!(processes.name(&worker(9, 1), 30 * S, 31 * S), None);
    // Process 7 has ended: calls up to a second after it was last seen are still its own.
    processes.read = none;
    assert_eq!(processes.name(&worker(7, 1), 30 * S, 40 * S), Some(name("java")));
    assert_eq!(processes.name(&worker(7, 1), 32 * S, 40 * S), Some(name("java")));
    assert_eq!(processes.name(&worker(7, 1), 33 * S, 40 * S), None);
}

#[test]
fn of_a_leader_or_a_thread_only_what_is_certain_is_returned() {
    let mut processes = Processes {
        read: |_| Ok(Stat { name: name("java"), began_ns: 0 }),
        ..Processes::default()
    };
    let of = |comm: &str| Who { pid: 7, comm: name(comm), ..Who::default() };
    let now = clock::monotonic_ns();
    let leader = processes.of_either(&of("java"), now);
    assert_eq!(leader, Called { name: name("java"), ..Called::default() });
    let thread = processes.of_either(&of("pool-1"), now);
    assert_eq!(thread, Called { name: name("java"), of: NameOf::Process, thread: name("pool-1") });
    processes = Processes { read: none, ..Processes::default() };
    // The process cannot be read: whether "curl" is its name or a thread's is not known.
    let gone = processes.of_either(&of("curl"), now);
    assert_eq!((gone.shown(), gone.of, gone.thread), (name("curl?"), NameOf::Unknown, [0; 16]));
    assert_eq!(processes.of_either(&Who::default(), now), Called::default());
}

#[test]
fn a_process_has_ended_if_it_is_gone_or_another_one_has_its_id() {
    let mut processes = Processes { read: some, ..Processes::default() };
    let mut ended = |pid, at| processes.ended(&worker(pid, 1), at, 31 * S);
    assert_eq!([ended(7, 30 * S), ended(8, 30 * S)], [false, false]);
    assert_eq!([ended(8, 19 * S), ended(9, 30 * S)], [true, true]);
    // If processes are hidden, it is not known whether one has ended.
    let mut hidden = Processes { read: none, ..Processes::default() };
    assert!(!hidden.ended(&worker(7, 1), 30 * S, 31 * S));
}

#[test]
fn a_process_is_read_once_a_second() {
    let mut processes = Processes { read: none, ..Processes::default() };
    assert_eq!(processes.name(&worker(7, 1), 30 * S, 30 * S), None);
    processes.read = some;
    assert_eq!(processes.name(&worker(7, 1), 30 * S, 30 * S + S / 2), None);
    assert_eq!(processes.name(&worker(7, 1), 31 * S, 31 * S), Some(name("java")));
}

#[test]
fn a_process_that_has_ended_is_read_again_only_for_later_calls() {
    let mut processes = Processes { read: none, ..Processes::default() };
    let used = |processes: &Processes| processes.budget.used;
    assert_eq!(processes.name(&worker(7, 1), 30 * S, 30 * S + 1), None);
    for later in [31 * S + 5, 31 * S + 900] {
        processes.budget = Budget::default();
        assert_eq!(processes.name(&worker(7, 1), 30 * S, later), None);
        assert_eq!(used(&processes), 0);
    }
    // There is a process with this id again.
    processes.read = some;
    assert_eq!(processes.name(&worker(7, 1), 32 * S, 33 * S), Some(name("java")));
    assert_eq!(used(&processes), 1);
}

#[test]
fn in_another_process_namespace_no_process_is_read() {
    let container = || Processes { read: some, has_pids: false, ..Processes::default() };
    let called = container().called(&worker(7, 1), 30 * S);
    assert_eq!(called.shown(), name("pool-1?"));
    assert!(!container().has_ended(&worker(9, 1), 30 * S));
    assert_eq!(container().began(&worker(7, 1)), None);
    // The test itself runs in the first process namespace.
    assert!(Processes::default().has_pids);
    assert!(leader_name(process::id(), clock::monotonic_ns()).is_some());
    assert_eq!(leader_name(process::id(), 0), None);
}

#[test]
fn a_proc_that_hides_processes_is_known_by_its_mount() {
    let line = |options: &str| {
        format!(
            "22 28 0:21 / /proc rw,nosuid - proc proc {options}\n23 28 0:22 / /sys rw - sysfs sysfs rw,hidepid=2\n"
        )
    };
    for hides in ["rw,hidepid=2", "rw,gid=4,hidepid=invisible", "hidepid=1"] {
        assert!(hides_processes(&line(hides)), "{hides}");
    }
    for shows in ["rw", "rw,hidepid=0", "rw,hidepid=off"] {
        assert!(!hides_processes(&line(shows)), "{shows}");
    }
    // The newest mount counts.
    assert!(!hides_processes(&(line("rw,hidepid=2") + &line("rw"))));
    assert!(!hides_processes(""));
}

#[test]
fn one_cgroup_with_many_processes_uses_neither_all_readings_nor_all_memory() {
    let mut processes = Processes { read: some, ..Processes::default() };
    for second in 100..110 {
        let now = second * S;
        let many = 100 + u32::try_from(second).unwrap() * 5000..;
        let named =
            many.take(5000).filter(|pid| processes.name(&worker(*pid, 1), now, now).is_some());
        assert_eq!(named.count(), 1778);
        assert_eq!(processes.name(&worker(7, 2), now, now), Some(name("java")));
    }
    assert!(processes.recent.len() <= MOST && processes.earlier.len() <= MOST);
}

#[test]
fn names_in_proc_may_have_any_bytes() {
    let line = "12 (a) b) (c) S 1 12 12 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 9 0 123456 1 2";
    let found = parse(line.as_bytes()).unwrap();
    assert_eq!(found, (name("a) b) (c"), 1_234_560_000_000));
    for bad in ["", "12", "12 (a", "12 ) ( S", "12 (a) S 1 2 3"] {
        assert_eq!(parse(bad.as_bytes()), None, "{bad}");
    }
    // If another thread of this process calls, the name is that of the process.
    let leader = fs::read("/proc/self/comm").unwrap();
    let called = thread::spawn(|| {
        let who = Who { pid: process::id(), tid: 1, comm: name("other"), cgroup: 0 };
        Processes::default().called(&who, clock::monotonic_ns())
    });
    let called = called.join().unwrap();
    assert!(called.name.starts_with(leader.strip_suffix(b"\n").unwrap()));
    assert_eq!((called.of, called.thread), (NameOf::Process, name("other")));
}
