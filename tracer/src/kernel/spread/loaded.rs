//! Rules by what is loaded: each program of a rule carries a small map with the rule's name, so that it is
//! known for what it is wherever it is pinned, also where nobody can reach the pins.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use tracer_common::settings::LAYOUT;

use super::{pinned::Pins, programs::PINNED_MAPS};
use crate::{
    error::Error,
    kernel::{
        privilege,
        sys::{self, Listed},
    },
};

/// The kernel lets go of a link some time after its last pin and descriptor.
const LETTING_GO: Duration = Duration::from_millis(1500);
const LOOK: Duration = Duration::from_millis(20);
/// What the map is called in the kernel.
const MAP: &str = "tracer_rule";
/// What it holds: this, the layout of the rule's maps, and its name.
const MARK: &[u8; 8] = b"tracer\0\0";
const NAME: std::ops::Range<usize> = 12..sys::MARK_SIZE;

/// Marks the programs of a rule. The map lives as long as they do.
pub(crate) struct Mark(OwnedFd);

impl Mark {
    pub(crate) fn new(rule: &str) -> io::Result<Self> {
        let mut value = [0; sys::MARK_SIZE];
        let layout = LAYOUT.to_ne_bytes();
        let bytes = MARK.iter().chain(&layout).copied().chain(rule.bytes());
        for (to, from) in value.iter_mut().zip(bytes) {
            *to = from;
        }
        Ok(Self(sys::create_mark(MAP, &value)?))
    }

    pub(crate) fn put_on(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        sys::bind_map(program, self.0.as_fd())
    }

    /// Lets the tables of the rule be found from this program, whether it uses them or not.
    pub(crate) fn put_tables_on(program: BorrowedFd<'_>, pins: &Pins) -> io::Result<()> {
        PINNED_MAPS.iter().try_for_each(|name| sys::bind_map(program, pins.open_map(name)?.as_fd()))
    }
}

/// Layout and rule.
fn read_mark(value: &[u8; sys::MARK_SIZE]) -> Option<(u32, String)> {
    let rest = value.strip_prefix(MARK)?;
    let layout = u32::from_ne_bytes(*rest.first_chunk()?);
    let name = value.get(NAME)?.split(|byte| *byte == 0).next()?;
    Some((layout, String::from_utf8(name.to_vec()).ok()?))
}

/// A link that runs a program of a rule.
#[derive(Debug)]
struct Link {
    id: u32,
    fd: OwnedFd,
    /// Its name where it is pinned, of those that spread.
    name: Option<String>,
}

/// A rule that is loaded.
#[derive(Debug)]
pub struct Loaded {
    pub rule: String,
    pub layout: u32,
    links: Vec<Link>,
    /// Ids of its maps, by name.
    maps: HashMap<String, u32>,
}

/// Whether rules can be found by this process. Without that, "there is none" would be no answer.
///
/// # Errors
/// Capabilities are missing, or belong to a user namespace of its own.
pub fn check_rights() -> Result<(), Error> {
    let have = privilege::effective()
        .map_err(|error| Error::Failure(format!("cannot read the capabilities: {error}")))?;
    let missing = privilege::missing_for_rules(have);
    if !missing.is_empty() {
        return Err(Error::NoPrivilege { missing });
    }
    match sys::next_link(0) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Err(Error::Denied(
            "cannot list what is loaded in the kernel: it refuses that to user namespaces other than its own; run \
             it on the host, or in a container without a user namespace"
                .into(),
        )),
        _ => Ok(()),
    }
}

impl Loaded {
    /// Every one. Without CAP_SYS_ADMIN nothing can be found.
    pub fn all() -> io::Result<Vec<Self>> {
        let mut found: BTreeMap<(String, u32), Self> = BTreeMap::new();
        // Marks by id, as many programs have the same.
        let mut marks: HashMap<u32, Option<(u32, String)>> = HashMap::new();
        let mut after = 0;
        while let Some(id) = sys::next_link(after)? {
            after = id;
            // What ends meanwhile is not there.
            let Ok(fd) = sys::by_id(Listed::Link, id) else { continue };
            let Ok(info) = sys::link_info(fd.as_fd()) else { continue };
            if info.is_over {
                continue;
            }
            let program = sys::by_id(Listed::Program, info.program);
            let about = program.and_then(|program| sys::program_info(program.as_fd()));
            let Ok((program, maps)) = about else { continue };
            let mut names = Vec::new();
            for id in maps {
                let map = sys::by_id(Listed::Map, id);
                let Ok(name) = map.and_then(|map| {
                    let name = sys::map_name(map.as_fd())?;
                    if name == MAP {
                        marks.entry(id).or_insert_with(|| {
                            sys::read_mark(map.as_fd()).ok().and_then(|value| read_mark(&value))
                        });
                    }
                    Ok(name)
                }) else {
                    continue;
                };
                names.push((name, id));
            }
            let mark = names.iter().find_map(|(_, id)| marks.get(id)?.clone());
            let Some((layout, rule)) = mark else { continue };
            let rule = found.entry((rule.clone(), layout)).or_insert_with(|| Self {
                rule,
                layout,
                links: Vec::new(),
                maps: HashMap::new(),
            });
            rule.maps.extend(names);
            // The ledger is attached to the same calls, of the root's cgroup.
            let hook = info.hook.filter(|_| program.starts_with("spread_"));
            let name = hook.map(|hook| format!("{hook}@{}", info.cgroup));
            rule.links.push(Link { id, fd, name });
        }
        Ok(found.into_values().collect())
    }

    /// Those of one name that have links which are not pinned here, and go on having them.
    fn strays(rule: &str, pins: &[Pins]) -> io::Result<Vec<Self>> {
        let until = Instant::now() + LETTING_GO;
        loop {
            let pinned: Vec<u32> = pins.iter().flat_map(ids).collect();
            let mut found = Self::all()?;
            found.retain_mut(|it| {
                it.links.retain(|link| !pinned.contains(&link.id));
                it.rule == rule && !it.links.is_empty()
            });
            if found.is_empty() || Instant::now() > until {
                return Ok(found);
            }
            // They must not be kept by who looks at them.
            drop(found);
            thread::sleep(LOOK);
        }
    }

    /// Rules that are pinned nowhere that can be reached, and go on.
    pub fn unpinned(known: impl Fn(&str) -> bool) -> Vec<Self> {
        let until = Instant::now() + LETTING_GO;
        loop {
            let mut found = Self::all().unwrap_or_else(|error| {
                tracing::debug!("cannot list the loaded programs: {error}");
                Vec::new()
            });
            found.retain(|it| !known(&it.rule) && it.spreads());
            if found.is_empty() || Instant::now() > until {
                return found;
            }
            drop(found);
            thread::sleep(LOOK);
        }
    }

    /// Whether some of its links choose addresses.
    pub fn spreads(&self) -> bool {
        self.links.iter().any(|link| link.name.is_some())
    }

    pub fn is_of_this_version(&self) -> bool {
        self.layout == LAYOUT
    }

    pub fn links(&self) -> usize {
        self.links.len()
    }

    pub(crate) fn open_map(&self, name: &str) -> io::Result<OwnedFd> {
        let id = self.maps.get(name).ok_or(io::ErrorKind::NotFound)?;
        sys::by_id(Listed::Map, *id)
    }

    /// Pins it here.
    fn pin(&self, pins: &Pins) -> Result<(), Error> {
        pins.create()?;
        let failed = |what: &str, error: io::Error| {
            Error::Failure(format!("cannot pin {what} in {}: {error}", pins.dir().display()))
        };
        for name in PINNED_MAPS {
            let map = self.open_map(name).map_err(|error| failed(name, error))?;
            pins.pin_map(map.as_fd(), name).map_err(|error| failed(name, error))?;
        }
        for Link { fd, name, .. } in &self.links {
            let Some(name) = name else { continue };
            match pins.pin_link(fd.as_fd(), name) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(failed(name, error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Ends what can be ended without its pins.
    fn detach(&self) {
        for link in self.links.iter().filter(|link| link.name.is_some()) {
            if let Err(error) = sys::detach_link(link.fd.as_fd()) {
                tracing::debug!("link {}: {error}", link.id);
            }
        }
    }
}

/// Ids of the links that are pinned here.
fn ids(pins: &Pins) -> Vec<u32> {
    let names = pins.links().into_iter();
    names
        .filter_map(|name| sys::link_info(pins.open_link(&name).ok()?.as_fd()).ok())
        .map(|info| info.id)
        .collect()
}

/// Brings what there is of a rule together in the one place: what is pinned or held elsewhere is pinned here, if
/// nothing is here yet, and ends, if there is. Whoever calls this has the rule's lock.
///
/// # Errors
/// It cannot be pinned here; it has other maps than ours.
pub fn gather(rule: &str, pins: &Pins) -> Result<(), Error> {
    let elsewhere: Vec<Pins> = elsewhere(rule, pins);
    let strays = match Loaded::strays(rule, std::slice::from_ref(pins)) {
        Ok(strays) => strays,
        Err(error) => {
            tracing::debug!("cannot list the loaded programs: {error}");
            Vec::new()
        }
    };
    if let Some(other) = strays.iter().find(|it| it.layout != LAYOUT) {
        return Err(Error::Failure(format!(
            "rule {rule} belongs to another version of tracer (layout {}, this one has {LAYOUT}); its tables \
             cannot be taken over: end it with `tracer spread --release --rule {rule}`, then start again",
            other.layout
        )));
    }
    for stray in strays.iter().filter(|it| it.spreads()) {
        if pins.exists() {
            tracing::warn!(
                "rule {rule} was active twice: the copy that is not pinned in {} is removed",
                pins.dir().display()
            );
            stray.detach();
        } else {
            tracing::warn!(
                "rule {rule} was pinned in another bpffs: it is now pinned in {}",
                pins.dir().display()
            );
            if let Err(error) = stray.pin(pins) {
                // It goes on as it was.
                _ = pins.remove();
                return Err(error);
            }
        }
    }
    for other in elsewhere {
        if let Err(error) = other.remove() {
            tracing::warn!("{error}");
        }
    }
    Ok(())
}

/// Where else it is pinned.
fn elsewhere(rule: &str, pins: &Pins) -> Vec<Pins> {
    let all = Pins::all().rules.into_iter();
    all.filter(|(name, it)| name == rule && !it.is_beside(pins)).map(|(_, it)| it).collect()
}

/// Checks that nothing of a rule is left in force once its pins are gone; what is left is ended as far as it can
/// be.
///
/// # Errors
/// Something is.
pub fn ended(rule: &str) -> Result<(), Error> {
    let left = |found: &[Loaded]| found.iter().map(Loaded::links).sum::<usize>();
    let strays = || {
        Loaded::strays(rule, &[]).unwrap_or_else(|error| {
            tracing::debug!("cannot list the loaded programs: {error}");
            Vec::new()
        })
    };
    let found = strays();
    if left(&found) == 0 {
        return Ok(());
    }
    found.iter().for_each(Loaded::detach);
    drop(found);
    let found = strays();
    let left = left(&found);
    if left == 0 {
        return Ok(());
    }
    Err(Error::Failure(format!(
        "rule {rule} spreads nothing any more, but {left} of its links are still there, held by a process or by a \
         bpffs that cannot be reached from here: `bpftool link show` names the processes; end them, or unmount \
         that bpffs"
    )))
}

/// Whether a rule of this name is in force, wherever it is pinned.
pub fn is_in_force(rule: &str) -> bool {
    Loaded::all().is_ok_and(|all| all.iter().any(|it| it.rule == rule && it.spreads()))
}

/// Links that a rule has beside those that are pinned here.
pub fn beside(rule: &str, pins: &Pins) -> usize {
    let found = Loaded::strays(rule, std::slice::from_ref(pins)).unwrap_or_default();
    found.iter().map(Loaded::links).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_and_nothing_else_is_one() {
        let mut value = [0; sys::MARK_SIZE];
        assert_eq!(read_mark(&value), None);
        for (to, from) in value.iter_mut().zip(b"tracer\0\0\x05\0\0\0edge-1\0rest".iter()) {
            *to = *from;
        }
        assert_eq!(
            read_mark(&value),
            Some((u32::from_ne_bytes([5, 0, 0, 0]), "edge-1".to_owned()))
        );
        assert!(value.get(NAME).is_some());
    }
}
