//! Merges groups of ports into rows, by who holds them and who opened them.

use std::collections::{BTreeMap, HashSet, btree_map::Entry};

use super::holding::HeldBy;
use crate::{
    host::process::Called,
    view::reading::{Holder, HolderKind, Opener},
};

/// Ports that one process opened and one holder has open.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) held_by: HeldBy,
    /// Id and names of the process that called connect(); `None`: not known, because the sockets are older than the tracer,
    /// or several processes did.
    pub(super) opener: Option<(u32, Called)>,
    /// Whether the opener has ended; another process may have its id.
    pub(super) ended: bool,
    /// The opener's container or systemd unit; `None`: neither, or not known.
    pub(super) place: Option<std::sync::Arc<str>>,
    /// How many ports.
    pub(super) ports: u32,
    /// How many of them are in TIME_WAIT.
    pub(super) time_wait: u32,
    /// Hashes of the tuples that the ports are used for, each once.
    pub(super) tuples: HashSet<u64>,
}

/// A row that is being made: its best name so far, the row, and the tuples of its ports.
type Merged = (Called, Holder, HashSet<u64>);

/// One row for each process that holds ports, whichever of its threads opened them, and whether before or after the tracer
/// started; and one for each other [`HolderKind`] that there is; in the order of kinds, then of process ids. With `by_opener`,
/// one row for each of these and each opener; without, ports in TIME_WAIT and ports that were opened just now count for their
/// opener, if it is known. Ports of an opener that has ended are in a row apart from those of a new process with its id.
pub(super) fn merged(parts: impl Iterator<Item = Part>, by_opener: bool) -> Vec<Holder> {
    let mut by: BTreeMap<(HolderKind, u32, u32, bool), Merged> = BTreeMap::new();
    for part in parts {
        let (opener_pid, called) = part.opener.unwrap_or_default();
        let (kind, pid, name) = match part.held_by {
            // The holder is the opener: its row gets the opener's name, as the row of the opener's ports in TIME_WAIT does.
            HeldBy::Process(owner) if owner.pid == opener_pid && !part.ended => {
                (HolderKind::Process, owner.pid, None)
            }
            HeldBy::Process(owner) => (HolderKind::Process, owner.pid, Some(owner.comm)),
            HeldBy::TimeWait if by_opener || opener_pid == 0 => (HolderKind::TimeWait, 0, None),
            HeldBy::JustOpened if by_opener || opener_pid == 0 => (HolderKind::JustOpened, 0, None),
            HeldBy::TimeWait | HeldBy::JustOpened => (HolderKind::Process, opener_pid, None),
            HeldBy::Others => (HolderKind::Others, 0, None),
            HeldBy::NoProcess => (HolderKind::NoProcess, 0, None),
            HeldBy::Unknown => (HolderKind::Unknown, 0, None),
        };
        let own = kind == HolderKind::Process && pid == opener_pid && name.is_none();
        // Ports of an ended process do not belong to the process that has its id now.
        let of_ended = part.ended && if by_opener { opener_pid != 0 } else { own };
        let name = match (name, kind) {
            (Some(name), _) => Called { name, ..Called::default() },
            (None, HolderKind::Process) => called,
            (None, _) => Called::default(),
        };
        let opener = Opener { pid: opener_pid, comm: called.shown(), ended: part.ended };
        let holder = Holder {
            kind,
            pid,
            comm: [0; 16],
            opener: if by_opener { opener } else { Opener::default() },
            container: part.place.filter(|_| own),
            ports: part.ports,
            time_wait: part.time_wait,
            tuples: 0,
        };
        match by.entry((kind, pid, if by_opener { opener_pid } else { 0 }, of_ended)) {
            Entry::Vacant(new) => _ = new.insert((name, holder, part.tuples)),
            Entry::Occupied(mut known) => {
                let (known, sum, tuples) = known.get_mut();
                // A thread's name only if the process's is unknown; of several names, the same one at each reading.
                if is_better_name(&name, known) {
                    *known = name;
                }
                if is_better_opener(&sum.opener, &opener) {
                    sum.opener = opener;
                }
                sum.ports += holder.ports;
                sum.time_wait += holder.time_wait;
                sum.container = sum.container.take().or(holder.container);
                tuples.extend(part.tuples);
            }
        }
    }
    let finished = |(called, holder, tuples): Merged| Holder {
        comm: called.shown(),
        tuples: u32::try_from(tuples.len()).unwrap_or(u32::MAX),
        ..holder
    };
    by.into_values().map(finished).collect()
}

fn is_better_name(new: &Called, known: &Called) -> bool {
    (new.of, new.name) < (known.of, known.name)
}

/// Whether the new name is better than the known one: only the known one has a `?` (which marks a thread's name); or both are
/// alike in that, and the new one comes first in the order of bytes.
fn is_better_opener(known: &Opener, new: &Opener) -> bool {
    let is_of_thread = |opener: &Opener| opener.comm.contains(&b'?');
    (is_of_thread(new), new.comm) < (is_of_thread(known), known.comm)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::process::{NameOf, Owner};

    fn name(text: &str) -> [u8; 16] {
        std::array::from_fn(|at| text.as_bytes().get(at).copied().unwrap_or(0))
    }

    fn process(pid: u32, text: &str) -> HeldBy {
        HeldBy::Process(Owner { pid, comm: name(text) })
    }

    fn part(held_by: HeldBy, opener: Option<(u32, Called)>, port: u16) -> Part {
        let tuples = HashSet::from([u64::from(port)]);
        let time_wait = u32::from(held_by == HeldBy::TimeWait) * 10;
        Part { held_by, opener, ended: false, place: None, ports: 10, time_wait, tuples }
    }

    #[test]
    fn a_process_is_one_row_whichever_thread_called_and_when() {
        let java = process(7, "java");
        let by = |tid, comm: &str, named: Option<&str>| {
            let called = Called::of(7, tid, name(comm));
            let called =
                named.map_or(called, |it| Called { name: name(it), of: NameOf::Process, ..called });
            Some((7, called))
        };
        let parts = [
            // A thread whose process's name was not read, an older socket, another thread, a TIME_WAIT, another process.
            part(java, by(9, "a-pool-2", None), 1),
            part(java, None, 2),
            part(java, by(8, "pool-1", Some("java")), 2),
            part(HeldBy::TimeWait, by(8, "pool-1", Some("java")), 2),
            part(process(8, "nginx"), Some((8, Called::of(8, 8, name("nginx")))), 2),
        ];
        let rows = merged(parts.into_iter(), false);
        let shown: Vec<_> =
            rows.iter().map(|it| (it.pid, it.comm, it.ports, it.time_wait, it.tuples)).collect();
        assert_eq!(shown, [(7, name("java"), 40, 10, 2), (8, name("nginx"), 10, 0, 1)]);
    }

    #[test]
    fn holders_and_openers_are_distinguished() {
        let spawner = Some((7, Called::of(7, 7, name("spawner"))));
        let parts = [
            part(process(9, "sleep"), spawner, 1),
            part(process(9, "sleep"), None, 1),
            part(HeldBy::NoProcess, spawner, 1),
            part(HeldBy::TimeWait, spawner, 1),
            part(HeldBy::Unknown, spawner, 1),
        ];
        let parts = parts.map(|part| Part { ended: part.opener.is_some(), ..part });
        let rows = merged(parts.clone().into_iter(), true);
        let shown: Vec<_> =
            rows.iter().map(|it| (it.kind, it.comm, it.opener.pid, it.opener.ended)).collect();
        let none = [0; 16];
        let right = [
            (HolderKind::Process, name("sleep"), 0, false),
            (HolderKind::Process, name("sleep"), 7, true),
            (HolderKind::TimeWait, none, 7, true),
            (HolderKind::NoProcess, none, 7, true),
            (HolderKind::Unknown, none, 7, true),
        ];
        assert_eq!(shown, right);
        let rows = merged(parts.into_iter(), false);
        let shown: Vec<_> = rows.iter().map(|it| (it.kind, it.pid, it.ports)).collect();
        let right = [
            (HolderKind::Process, 7, 10),
            (HolderKind::Process, 9, 20),
            (HolderKind::NoProcess, 0, 10),
            (HolderKind::Unknown, 0, 10),
        ];
        assert_eq!(shown, right);
    }

    #[test]
    fn ports_of_an_ended_process_do_not_belong_to_the_next_one_with_its_id() {
        let opened = |comm: &str| Some((7, Called::of(7, 7, name(comm))));
        let parts = [
            Part { ended: true, ..part(HeldBy::TimeWait, opened("old"), 1) },
            // Another process got the id, took a socket over, and opened others.
            Part { ended: true, ..part(process(7, "new"), opened("old"), 1) },
            part(process(7, "new"), opened("new"), 2),
            part(HeldBy::TimeWait, opened("new"), 2),
        ];
        let rows = merged(parts.clone().into_iter(), false);
        let shown: Vec<_> =
            rows.iter().map(|it| (it.pid, it.comm, it.ports, it.time_wait)).collect();
        assert_eq!(shown, [(7, name("new"), 30, 10), (7, name("old"), 10, 10)]);
        let rows = merged(parts.into_iter(), true);
        let shown: Vec<_> = rows
            .iter()
            .map(|it| (it.kind, it.comm, it.opener.comm, it.opener.ended, it.ports))
            .collect();
        let (new, old, none) = (name("new"), name("old"), [0; 16]);
        let right = [
            (HolderKind::Process, new, new, false, 10),
            (HolderKind::Process, new, old, true, 10),
            (HolderKind::TimeWait, none, new, false, 10),
            (HolderKind::TimeWait, none, old, true, 10),
        ];
        assert_eq!(shown, right);
    }

    #[test]
    fn a_new_socket_has_no_holder_before_the_next_refresh() {
        let opener = Some((7, Called::of(7, 7, name("spawner"))));
        let parts = [part(HeldBy::JustOpened, opener, 1), part(HeldBy::Others, None, 2)];
        let shown = |by_opener| {
            let rows = merged(parts.clone().into_iter(), by_opener);
            rows.iter().map(|it| (it.kind, it.pid, it.opener.pid)).collect::<Vec<_>>()
        };
        assert_eq!(shown(true), [(HolderKind::JustOpened, 0, 7), (HolderKind::Others, 0, 0)]);
        // Without `by_opener`, it counts for its opener.
        assert_eq!(shown(false), [(HolderKind::Process, 7, 0), (HolderKind::Others, 0, 0)]);
    }
}
