//! Finds the processes that a process has started, such as a server's workers.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    time::Instant,
};

use crate::host::inside::parent_of;

/// Returns `roots` (also ids that no process has) and all their descendants, and whether all processes could be looked at before
/// `until`: if not, descendants may be missing. Those that /proc hides are missing in any case.
///
/// # Errors
/// /proc cannot be read.
pub fn with_children(roots: &BTreeSet<u32>, until: Instant) -> io::Result<(BTreeSet<u32>, bool)> {
    let mut parents = BTreeMap::new();
    let mut in_time = true;
    let names = fs::read_dir("/proc")?.flatten().map(|entry| entry.file_name());
    let pids = names.filter_map(|name| name.to_str()?.parse::<u32>().ok());
    for (number, pid) in pids.enumerate() {
        if number % 256 == 0 && until < Instant::now() {
            in_time = false;
            break;
        }
        // A process can end at any time.
        let stat = fs::read(format!("/proc/{pid}/stat"));
        if let Some(parent) = stat.ok().and_then(|text| parent_of(&text).ok()) {
            parents.insert(pid, parent);
        }
    }
    Ok((below(&parents, roots), in_time))
}

/// The processes that have one of `roots` above them, and `roots`. `parents`: by process.
fn below(parents: &BTreeMap<u32, u32>, roots: &BTreeSet<u32>) -> BTreeSet<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (pid, parent) in parents {
        children.entry(*parent).or_default().push(*pid);
    }
    let mut found = roots.clone();
    let mut left: Vec<u32> = roots.iter().copied().collect();
    while let Some(pid) = left.pop() {
        for child in children.get(&pid).into_iter().flatten() {
            // What was read at different moments can have loops.
            if found.insert(*child) {
                left.push(*child);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::{process, time::Duration};

    use super::*;

    #[test]
    fn a_process_has_its_workers_and_their_children_and_no_others() {
        let parents = BTreeMap::from([(1, 0), (2, 1), (3, 2), (4, 3), (5, 1), (6, 9), (9, 6)]);
        let of = |roots: &[u32]| -> Vec<u32> {
            below(&parents, &roots.iter().copied().collect()).into_iter().collect()
        };
        assert_eq!(of(&[2]), [2, 3, 4]);
        assert_eq!(of(&[5]), [5]);
        assert_eq!(of(&[3, 5]), [3, 4, 5]);
        assert_eq!(of(&[6]), [6, 9], "a loop");
        assert_eq!(of(&[7]), [7], "one that has ended meanwhile");
    }

    #[test]
    fn a_child_of_this_process_is_found() {
        let mut child = process::Command::new("sleep").arg("60").spawn().unwrap();
        let until = Instant::now() + Duration::from_mins(1);
        let found = with_children(&BTreeSet::from([process::id()]), until);
        let late = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        let none = with_children(&BTreeSet::from([process::id()]), late).unwrap();
        let pid = child.id();
        child.kill().unwrap();
        child.wait().unwrap();
        let (found, in_time) = found.unwrap();
        assert!(in_time && found.contains(&pid) && found.contains(&process::id()));
        assert_eq!(none, (BTreeSet::from([process::id()]), false));
    }
}
