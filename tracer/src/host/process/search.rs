//! Searches for the processes that have sockets open, process by process, for a limited time.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    fs,
    hash::BuildHasher,
    io,
    ops::ControlFlow,
    path::PathBuf,
    time::{Duration, Instant},
};

use super::{FileKind, ListsFiles, Owner, comm, links};
use crate::runtime::turns::Turns;

/// How many open files of a process are read in its first turn. Further files are read in a turn of their own, so that a
/// process with many files does not keep those of others from being read.
const FIRST: usize = 4096;

/// Finds the processes that have sockets open, in several searches. If time is too short for all processes, each search
/// continues where the one before it stopped, so that no user can hide others' processes behind many open files.
#[derive(Debug, Default)]
pub struct Search {
    owners: HashMap<u32, Owner>,
    /// Which process is next: index 0 is for the first files of each, index 1 for the further files.
    turns: [Turns<u32>; 2],
    /// Processes with more than [`FIRST`] files.
    longer: HashSet<u32>,
    /// Whether the next search begins with the further files of the processes in `longer`.
    begins_with_longer: bool,
}

/// How many of a process's open files were read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Extent {
    /// All files that should be read.
    All,
    /// It has more files than should be read.
    Part,
    /// The time was up.
    Late,
}

impl Search {
    /// The processes that were found to have these sockets open, by inode; of several that were looked at, the one with the
    /// lowest id.
    pub fn owners(&self) -> &HashMap<u32, Owner> {
        &self.owners
    }

    #[cfg(test)]
    pub(crate) fn of(owners: impl IntoIterator<Item = (u32, Owner)>) -> Self {
        Self { owners: owners.into_iter().collect(), ..Self::default() }
    }

    /// The map of [`Self::owners`], by value, when no further search is needed.
    pub fn into_owners(self) -> HashMap<u32, Owner> {
        self.owners
    }

    /// Searches for at most `time` for the processes that have the sockets with these inodes open; what was found earlier for
    /// other inodes is forgotten. Returns false if files were left that another search must read. Ends, with true, as soon as
    /// each socket has a process. Processes that this thread may not read count as having no files. `files`: the kernel's list,
    /// which is asked for first, for half of the time; `None`: there is none.
    ///
    /// # Errors
    /// /proc cannot be read.
    pub fn run<S: BuildHasher>(
        &mut self,
        inodes: &HashSet<u32, S>,
        time: Duration,
        files: Option<&dyn ListsFiles>,
    ) -> io::Result<bool> {
        let begin = Instant::now();
        let end = begin + time;
        if let Some(owners) = files.and_then(|files| listed(files, inodes, begin + time / 2)) {
            *self = Self { owners, ..Self::default() };
            return Ok(true);
        }
        let names = fs::read_dir("/proc")?.flatten().map(|entry| entry.file_name());
        let pids = names.filter_map(|name| name.to_str()?.parse().ok()).collect();
        let files = |pid: u32, skip: usize, count: usize, each: &mut dyn FnMut(u32)| {
            sockets(pid, (skip, count), end, each)
        };
        Ok(self.run_over(pids, inodes, files))
    }

    /// Searches these processes; returns false if files were left that another search must read. `files` passes on the inodes
    /// of the sockets among `count` open files of a process, after the first `skip`.
    fn run_over<S: BuildHasher>(
        &mut self,
        pids: Vec<u32>,
        inodes: &HashSet<u32, S>,
        mut files: impl FnMut(u32, usize, usize, &mut dyn FnMut(u32)) -> Extent,
    ) -> bool {
        let there: HashSet<u32> = pids.iter().copied().collect();
        self.owners.retain(|inode, owner| inodes.contains(inode) && there.contains(&owner.pid));
        let mut found: HashMap<u32, Owner> = HashMap::new();
        // Processes of which the first files were read and there are more; of which all files were read; and of which
        // the files after the first ones were read.
        let (mut first_part, mut whole, mut other_part) =
            (HashSet::new(), HashSet::new(), HashSet::new());
        let mut is_late = false;
        let mut read = |turns: &mut Turns<u32>, pid, skip, count| {
            if found.len() == inodes.len() {
                return None;
            }
            let mut owner = None;
            let extent = files(pid, skip, count, &mut |inode| {
                if inodes.contains(&inode) {
                    let owner = *owner.get_or_insert_with(|| Owner { pid, comm: comm(pid) });
                    lower(found.entry(inode), owner);
                }
            });
            is_late = extent == Extent::Late;
            // A process for which the time was too short keeps its turn, unless the time would always be too short
            // for it.
            if !is_late || skip > 0 || first_part.is_empty() && whole.is_empty() {
                turns.had(pid);
            }
            let kind = match (extent, skip) {
                (Extent::Late, _) => return Some(extent),
                (Extent::Part, _) => &mut first_part,
                (Extent::All, 0) => &mut whole,
                (Extent::All, _) => &mut other_part,
            };
            kind.insert(pid);
            Some(extent)
        };
        let [first, rest] = &mut self.turns;
        self.longer.retain(|pid| there.contains(pid));
        let mut ended = false;
        // Each of the two kinds of turns is first every other time, because either can use up the time.
        let both = [self.begins_with_longer, !self.begins_with_longer];
        for of_longer in both {
            let mut turns: Vec<u32> =
                if of_longer { self.longer.iter().copied().collect() } else { pids.clone() };
            let order = if of_longer { &mut *rest } else { &mut *first };
            let (skip, count) = if of_longer { (FIRST, usize::MAX) } else { (0, FIRST) };
            order.sort(&mut turns);
            for pid in turns {
                if ended {
                    break;
                }
                match read(order, pid, skip, count) {
                    Some(Extent::Part) => {
                        self.longer.insert(pid);
                    }
                    Some(Extent::All) if of_longer => {}
                    Some(Extent::All) => {
                        self.longer.remove(&pid);
                    }
                    None | Some(Extent::Late) => ended = true,
                }
            }
        }
        // Files were also left if a process was found to have more than FIRST files after the turns for such files.
        let not_whole = found.len() < inodes.len() && !first_part.is_subset(&other_part);
        if is_late || not_whole {
            self.begins_with_longer = !self.begins_with_longer;
            whole.extend(first_part.intersection(&other_part));
            // For processes that had no turn, what was found before is still the best answer.
            self.owners.retain(|_, owner| !whole.contains(&owner.pid));
            for (inode, owner) in found {
                lower(self.owners.entry(inode), owner);
            }
        } else {
            *self = Self { owners: found, ..Self::default() };
        }
        !is_late && !not_whole
    }
}

/// The processes that have these sockets open, by the kernel's list. `None`: it cannot be read, or not before `until`. The list has no
/// turns: a process with very many files would keep those after it from being read.
fn listed<S: BuildHasher>(
    files: &dyn ListsFiles,
    inodes: &HashSet<u32, S>,
    until: Instant,
) -> Option<HashMap<u32, Owner>> {
    let mut owners: HashMap<u32, Owner> = HashMap::new();
    let mut last: Option<Owner> = None;
    for file in files.list(until).ok().flatten()? {
        if file.kind == FileKind::Socket && inodes.contains(&file.inode) {
            let known = last.filter(|last| last.pid == file.pid);
            let owner = known.unwrap_or_else(|| Owner { pid: file.pid, comm: comm(file.pid) });
            last = Some(owner);
            lower(owners.entry(file.inode), owner);
        }
    }
    Some(owners)
}

/// Keeps the process with the lowest id, so that the result does not depend on the order of turns.
fn lower(entry: Entry<'_, u32, Owner>, owner: Owner) {
    let known = entry.or_insert(owner);
    if owner.pid <= known.pid {
        *known = owner;
    }
}

/// Passes on the inodes of the sockets among `count` of a process's open files, after the first `skip`; stops at `end`.
fn sockets(
    pid: u32,
    (skip, count): (usize, usize),
    end: Instant,
    each: &mut dyn FnMut(u32),
) -> Extent {
    let folder: PathBuf = ["/proc", &pid.to_string()].iter().collect();
    // A process that is gone, or that this thread may not read, has no files.
    let early = links::each(&folder, skip, |number, _, link| {
        if number == count {
            return ControlFlow::Break(Extent::Part);
        }
        if number % 256 == 0 && end < Instant::now() {
            return ControlFlow::Break(Extent::Late);
        }
        if let Some(inode) = links::socket_inode(link) {
            each(inode);
        }
        ControlFlow::Continue(())
    });
    early.unwrap_or(Extent::All)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::process::{OpenFile, TestFiles};

    /// `all`: processes with the inodes of their open sockets. `time`: how many of these a search has time for.
    fn run(
        search: &mut Search,
        all: &[(u32, Vec<u32>)],
        inodes: &[u32],
        time: usize,
    ) -> (bool, Vec<(u32, u32)>) {
        let mut left = time;
        let pids = all.iter().map(|(pid, _)| *pid).rev().collect();
        let inodes: HashSet<u32> = inodes.iter().copied().collect();
        let complete = search.run_over(pids, &inodes, |pid, skip, count, each| {
            let (_, files) = all.iter().find(|(id, _)| *id == pid).unwrap();
            for (number, file) in files.iter().skip(skip).enumerate() {
                if number == count {
                    return Extent::Part;
                }
                let Some(rest) = left.checked_sub(1) else { return Extent::Late };
                left = rest;
                each(*file);
            }
            Extent::All
        });
        let mut owners: Vec<_> =
            search.owners().iter().map(|(inode, owner)| (*inode, owner.pid)).collect();
        owners.sort_unstable();
        (complete, owners)
    }

    #[test]
    fn no_process_is_hidden_behind_others_with_many_files() {
        const MANY: u32 = 200_000;
        // One user has very many files, in processes before and after the others; another process has many, too.
        let hog = |from: u32| (from..from + MANY).collect::<Vec<u32>>();
        let busy: Vec<u32> = (9_000_000..9_010_000).collect();
        let all = [
            (10, hog(1_000_000)),
            (11, hog(2_000_000)),
            (20, vec![1, 2]),
            (21, busy.clone()),
            (30, hog(3_000_000)),
            (40, vec![3]),
        ];
        let wanted: Vec<u32> = [1, 2, 3, 7].into_iter().chain(busy.iter().copied()).collect();
        let mut search = Search::default();
        let (_, first) = run(&mut search, &all, &wanted, 50_000);
        assert_eq!(first.iter().filter(|(inode, _)| *inode < 4).count(), 3);
        for _ in 0..6 {
            assert!(!run(&mut search, &all, &wanted, 50_000).0);
        }
        let (_, found) = run(&mut search, &all, &wanted, 50_000);
        assert_eq!(found[..3], [(1, 20), (2, 20), (3, 40)]);
        assert_eq!(found.len(), 3 + busy.len());
        // Many processes have at least as many files as are read first: the others still have their turns.
        let mut all: Vec<(u32, Vec<u32>)> = (10..100).map(|pid| (pid, hog(pid << 20))).collect();
        all.push((100, vec![5]));
        let mut search = Search::default();
        let turns = (0..40).take_while(|_| run(&mut search, &all, &[5, 6], 50_000).1.is_empty());
        let turns = turns.count();
        assert!(turns < 20, "{turns}");
        assert_eq!(search.owners()[&5].pid, 100);
        // First files use up the time of every search; the other files of a process are still read.
        let proxy: Vec<u32> = (9_000_000..9_004_096).chain([5]).collect();
        all[90].1 = proxy;
        let short = |pid: u32| (pid << 20..(pid << 20) + 4096).collect::<Vec<u32>>();
        (10..100).zip(&mut all).for_each(|(pid, process)| process.1 = short(pid));
        let mut search = Search::default();
        let turns = (0..40).take_while(|_| run(&mut search, &all, &[5, 6], 50_000).1.is_empty());
        let turns = turns.count();
        assert!(turns < 20, "{turns}");
    }

    #[test]
    fn by_the_kernels_list_each_socket_has_the_process_with_the_lowest_id() {
        let file = |pid, inode, kind| OpenFile { pid, fd: 3, inode, kind };
        // The list is by thread: one of process 2 that is younger than process 3 has files of its own.
        let files = vec![
            file(1, 7, FileKind::Namespace),
            file(3, 7, FileKind::Socket),
            file(3, 5, FileKind::Socket),
            file(2, 5, FileKind::Socket),
            file(5, 6, FileKind::Socket),
        ];
        let inodes = HashSet::from([5, 7]);
        let time = Duration::from_secs(9);
        let mut search = Search::of([(9, Owner { pid: 9, comm: [0; 16] })]);
        assert!(search.run(&inodes, time, Some(&TestFiles(files))).unwrap());
        let owners = search.into_owners().into_iter().map(|(inode, it)| (inode, it.pid));
        assert_eq!(owners.collect::<HashMap<_, _>>(), HashMap::from([(5, 2), (7, 3)]));
        assert_eq!(listed(&TestFiles::default(), &inodes, Instant::now()), None, "/proc is read");
    }

    #[test]
    fn a_process_that_came_after_the_turns_of_those_with_many_files_is_not_complete() {
        let many = |from: u32| (from..from + 5000).collect::<Vec<u32>>();
        let before = [(1, many(10_000)), (2, many(20_000))];
        let mut search = Search::default();
        assert!(!run(&mut search, &before, &[5], 9000).0);
        // This search begins with the other files of 1 and 2; the other files of 3 are read by the next one.
        let mut third = many(30_000);
        third.push(5);
        let all = [before[0].clone(), before[1].clone(), (3, third)];
        assert_eq!(run(&mut search, &all, &[5], 90_000), (false, vec![]));
        assert_eq!(run(&mut search, &all, &[5], 90_000), (true, vec![(5, 3)]));
    }

    #[test]
    fn an_owner_is_kept_until_its_process_is_read_again() {
        let mut search = Search::default();
        let all = |first: Vec<u32>, second: Vec<u32>, third: Vec<u32>| {
            [(1, first), (2, second), (3, third)]
        };
        let both = all(vec![8, 8], vec![5], vec![5, 6]);
        assert_eq!(run(&mut search, &both, &[5, 6], 9), (true, vec![(5, 2), (6, 3)]));
        // There is no time for all: 1 is read first, and the owners 2 and 3 are kept.
        assert_eq!(run(&mut search, &both, &[5, 6, 7], 1), (false, vec![(5, 2), (6, 3)]));
        // 2 has closed its socket and is read; 3 is found to have it when it has its turn.
        let closed = all(vec![8, 8], vec![], vec![5, 6]);
        assert_eq!(run(&mut search, &closed, &[5, 6, 7], 1), (false, vec![(5, 3), (6, 3)]));
        // 3 has ended and 5 is not searched for; then there is time for all again.
        assert_eq!(run(&mut search, &closed[..2], &[6], 0).1, []);
        assert_eq!(run(&mut search, &closed, &[5], 9), (true, vec![(5, 3)]));
    }
}
