//! Looking for who has sockets open, process after process, for a limited time.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    fs,
    hash::BuildHasher,
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use super::{Owner, comm, socket_inode};
use crate::runtime::turns::Turns;

/// Open files of each process that are looked at before the rest of any.
const FIRST: usize = 4096;

/// What was found, of several looks. Where there is no time for all processes, each look goes on where the one before it
/// stopped: nobody hides others behind files of their own.
#[derive(Debug, Default)]
pub struct Search {
    owners: HashMap<u32, Owner>,
    /// Whose first files are looked at next, and whose other ones.
    turns: [Turns<u32>; 2],
    /// Processes that had more files than are looked at first, and whether the next look begins with those.
    longer: HashSet<u32>,
    begins_with_longer: bool,
}

/// What was looked at of a process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Looked {
    /// All that was to be.
    All,
    /// It has more files than were to be looked at.
    Part,
    /// The time was over.
    Late,
}

impl Search {
    /// Who has the sockets of these inodes open, as far as that was found; of several processes the one with the lowest id.
    pub fn owners(&self) -> &HashMap<u32, Owner> {
        &self.owners
    }

    #[cfg(test)]
    pub(crate) fn of(owners: impl IntoIterator<Item = (u32, Owner)>) -> Self {
        Self { owners: owners.into_iter().collect(), ..Self::default() }
    }

    /// The same, and no more looks.
    pub fn into_owners(self) -> HashMap<u32, Owner> {
        self.owners
    }

    /// Looks for so long, as far as this thread may. Returns whether that was long enough. What cannot be read is left out;
    /// the error is of /proc itself.
    pub fn look<S: BuildHasher>(
        &mut self,
        inodes: &HashSet<u32, S>,
        time: Duration,
    ) -> io::Result<bool> {
        let end = Instant::now() + time;
        let names = fs::read_dir("/proc")?.flatten().map(|entry| entry.file_name());
        let pids = names.filter_map(|name| name.to_str()?.parse().ok()).collect();
        let files = |pid: u32, skip: usize, count: usize, each: &mut dyn FnMut(u32)| {
            sockets(pid, (skip, count), end, each)
        };
        Ok(self.look_at(pids, inodes, files))
    }

    /// The same of these processes. `files` hands over the inodes of the sockets among `count` open files of a process,
    /// behind the first `skip`.
    fn look_at<S: BuildHasher>(
        &mut self,
        pids: Vec<u32>,
        inodes: &HashSet<u32, S>,
        mut files: impl FnMut(u32, usize, usize, &mut dyn FnMut(u32)) -> Looked,
    ) -> bool {
        let there: HashSet<u32> = pids.iter().copied().collect();
        self.owners.retain(|inode, owner| inodes.contains(inode) && there.contains(&owner.pid));
        let mut found: HashMap<u32, Owner> = HashMap::new();
        // Whose first files were all that were to be looked at, and all there are; and whose other ones.
        let (mut first_part, mut whole, mut other_part) =
            (HashSet::new(), HashSet::new(), HashSet::new());
        let mut is_late = false;
        let mut look = |turns: &mut Turns<u32>, pid, skip, count| {
            if found.len() == inodes.len() {
                return None;
            }
            let mut owner = None;
            let looked = files(pid, skip, count, &mut |inode| {
                if inodes.contains(&inode) {
                    let owner = *owner.get_or_insert_with(|| Owner { pid, comm: comm(pid) });
                    lower(found.entry(inode), owner);
                }
            });
            is_late = looked == Looked::Late;
            // One for which the time was too short is the next again, unless it would be so for good.
            if !is_late || skip > 0 || first_part.is_empty() && whole.is_empty() {
                turns.had(pid);
            }
            let looked_at = match (looked, skip) {
                (Looked::Late, _) => return Some(looked),
                (Looked::Part, _) => &mut first_part,
                (Looked::All, 0) => &mut whole,
                (Looked::All, _) => &mut other_part,
            };
            looked_at.insert(pid);
            Some(looked)
        };
        let [first, rest] = &mut self.turns;
        self.longer.retain(|pid| there.contains(pid));
        let mut ended = false;
        // Both kinds of turns begin in turn: either can take all the time there is.
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
                match look(order, pid, skip, count) {
                    Some(Looked::Part) => {
                        self.longer.insert(pid);
                    }
                    Some(Looked::All) if of_longer => {}
                    Some(Looked::All) => {
                        self.longer.remove(&pid);
                    }
                    None | Some(Looked::Late) => ended = true,
                }
            }
        }
        // A process that turned out to have more files after those had their turns was not looked at whole, either.
        let not_whole = found.len() < inodes.len() && !first_part.is_subset(&other_part);
        if is_late || not_whole {
            self.begins_with_longer = !self.begins_with_longer;
            whole.extend(first_part.intersection(&other_part));
            // Of those that had no turn, what was found before is as good as what is known.
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

/// Of several processes that have a socket open, always the same: what is found first depends on whose turn it was.
fn lower(entry: Entry<'_, u32, Owner>, owner: Owner) {
    let known = entry.or_insert(owner);
    if owner.pid <= known.pid {
        *known = owner;
    }
}

/// Hands over the inodes of the sockets that a process has open.
fn sockets(
    pid: u32,
    (skip, count): (usize, usize),
    end: Instant,
    each: &mut dyn FnMut(u32),
) -> Looked {
    let path: PathBuf = ["/proc", &pid.to_string(), "fd"].iter().collect();
    // One that is gone, or that this thread may not look at, has none.
    let Ok(files) = fs::read_dir(path) else { return Looked::All };
    for (number, file) in files.flatten().skip(skip).enumerate() {
        if number == count {
            return Looked::Part;
        }
        if number % 256 == 0 && end < Instant::now() {
            return Looked::Late;
        }
        let target = fs::read_link(file.path()).ok();
        if let Some(inode) = target.as_deref().and_then(|it| socket_inode(it.to_str()?)) {
            each(inode);
        }
    }
    Looked::All
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Processes with the inodes of their open sockets; a look has time for so many of these.
    fn look(
        search: &mut Search,
        all: &[(u32, Vec<u32>)],
        inodes: &[u32],
        time: usize,
    ) -> (bool, Vec<(u32, u32)>) {
        let mut left = time;
        let pids = all.iter().map(|(pid, _)| *pid).rev().collect();
        let inodes: HashSet<u32> = inodes.iter().copied().collect();
        let complete = search.look_at(pids, &inodes, |pid, skip, count, each| {
            let (_, files) = all.iter().find(|(id, _)| *id == pid).unwrap();
            for (number, file) in files.iter().skip(skip).enumerate() {
                if number == count {
                    return Looked::Part;
                }
                let Some(rest) = left.checked_sub(1) else { return Looked::Late };
                left = rest;
                each(*file);
            }
            Looked::All
        });
        let mut owners: Vec<_> =
            search.owners().iter().map(|(inode, owner)| (*inode, owner.pid)).collect();
        owners.sort_unstable();
        (complete, owners)
    }

    #[test]
    fn nobody_hides_others_behind_files_of_their_own() {
        const MANY: u32 = 200_000;
        // One user has files without number, in two processes before the others and one after; another has some, too.
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
        let (_, first) = look(&mut search, &all, &wanted, 50_000);
        assert_eq!(first.iter().filter(|(inode, _)| *inode < 4).count(), 3);
        for _ in 0..6 {
            assert!(!look(&mut search, &all, &wanted, 50_000).0);
        }
        let (_, found) = look(&mut search, &all, &wanted, 50_000);
        assert_eq!(found[..3], [(1, 20), (2, 20), (3, 40)]);
        assert_eq!(found.len(), 3 + busy.len());
        // Many processes with as many files as are looked at first: these have their turns all the same.
        let mut all: Vec<(u32, Vec<u32>)> = (10..100).map(|pid| (pid, hog(pid << 20))).collect();
        all.push((100, vec![5]));
        let mut search = Search::default();
        let turns = (0..40).take_while(|_| look(&mut search, &all, &[5, 6], 50_000).1.is_empty());
        let turns = turns.count();
        assert!(turns < 20, "{turns}");
        assert_eq!(search.owners()[&5].pid, 100);
        // They take all time for first files in every look; what another process has behind its first ones is looked at, too.
        let proxy: Vec<u32> = (9_000_000..9_004_096).chain([5]).collect();
        all[90].1 = proxy;
        let short = |pid: u32| (pid << 20..(pid << 20) + 4096).collect::<Vec<u32>>();
        (10..100).zip(&mut all).for_each(|(pid, process)| process.1 = short(pid));
        let mut search = Search::default();
        let turns = (0..40).take_while(|_| look(&mut search, &all, &[5, 6], 50_000).1.is_empty());
        let turns = turns.count();
        assert!(turns < 20, "{turns}");
    }

    #[test]
    fn a_process_that_came_after_the_turns_of_those_with_many_files_is_not_known_whole() {
        let many = |from: u32| (from..from + 5000).collect::<Vec<u32>>();
        let before = [(1, many(10_000)), (2, many(20_000))];
        let mut search = Search::default();
        assert!(!look(&mut search, &before, &[5], 9000).0);
        // This look begins with the other files of 1 and 2; what 3 has behind its first ones comes with the next.
        let mut third = many(30_000);
        third.push(5);
        let all = [before[0].clone(), before[1].clone(), (3, third)];
        assert_eq!(look(&mut search, &all, &[5], 90_000), (false, vec![]));
        assert_eq!(look(&mut search, &all, &[5], 90_000), (true, vec![(5, 3)]));
    }

    #[test]
    fn what_was_found_holds_until_it_is_known_to_be_otherwise() {
        let mut search = Search::default();
        let all = |first: Vec<u32>, second: Vec<u32>, third: Vec<u32>| {
            [(1, first), (2, second), (3, third)]
        };
        let both = all(vec![8, 8], vec![5], vec![5, 6]);
        assert_eq!(look(&mut search, &both, &[5, 6], 9), (true, vec![(5, 2), (6, 3)]));
        // No time for all: from 1 on, and what 2 and 3 have is as before.
        assert_eq!(look(&mut search, &both, &[5, 6, 7], 1), (false, vec![(5, 2), (6, 3)]));
        // 2 has closed it; it is known that 3 has it once that has its turn.
        let closed = all(vec![8, 8], vec![], vec![5, 6]);
        assert_eq!(look(&mut search, &closed, &[5, 6, 7], 1), (false, vec![(5, 3), (6, 3)]));
        // 3 has ended, nobody is interested in 5, and again there is time for all.
        assert_eq!(look(&mut search, &closed[..2], &[6], 0).1, []);
        assert_eq!(look(&mut search, &closed, &[5], 9), (true, vec![(5, 3)]));
    }
}
