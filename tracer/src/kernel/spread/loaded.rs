//! Finds rules by their loaded programs. Each program of a rule has a small map with the rule's name among its maps, so
//! that the rule is recognised wherever it is pinned, even if its pins cannot be reached.

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

/// How long the kernel may take to free a link after its last pin and descriptor are gone.
const LINK_FREE_TIME: Duration = Duration::from_millis(1500);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Name that the kernel has for the map that marks programs.
const MAP: &str = "tracer_rule";
/// First bytes of the map's value; the layout of the rule's maps and the rule's name follow.
const MARK: &[u8; 8] = b"tracer\0\0";
const NAME: std::ops::Range<usize> = 12..sys::MARK_SIZE;

/// The map that marks the programs of a rule. It exists as long as this or one of the programs that it was put on.
pub(crate) struct Mark(OwnedFd);

impl Mark {
    /// Makes the mark of this rule and of this version's layout. Of a name of more than 52 bytes, the first 52 are kept.
    ///
    /// # Errors
    /// As bpf(2).
    pub(crate) fn new(rule: &str) -> io::Result<Self> {
        let mut value = [0; sys::MARK_SIZE];
        let layout = LAYOUT.to_ne_bytes();
        let bytes = MARK.iter().chain(&layout).copied().chain(rule.bytes());
        for (to, from) in value.iter_mut().zip(bytes) {
            *to = from;
        }
        Ok(Self(sys::create_mark(MAP, &value)?))
    }

    /// Adds the mark to a program's maps.
    ///
    /// # Errors
    /// As bpf(2); EINVAL before Linux 5.10.
    pub(crate) fn put_on(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        sys::bind_map(program, self.0.as_fd())
    }

    /// Adds the pinned tables of the rule to a program's maps, so that they can be found from it whether it uses them or
    /// not.
    ///
    /// # Errors
    /// A table is not pinned or cannot be opened, or as bpf(2); EINVAL before Linux 5.10.
    pub(crate) fn put_tables_on(program: BorrowedFd<'_>, pins: &Pins) -> io::Result<()> {
        PINNED_MAPS.iter().try_for_each(|name| sys::bind_map(program, pins.open_map(name)?.as_fd()))
    }
}

/// Layout and name of the rule that this mark is of; `None`: it is not a mark, or the name is not UTF-8.
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
    /// Name under which it is pinned, if it runs a program of the spreader; `None`: it runs one of the ledger.
    name: Option<String>,
}

/// A rule that has links, which run its programs.
#[derive(Debug)]
pub struct Loaded {
    /// Name of the rule.
    pub rule: String,
    /// Version of its maps: [`LAYOUT`] in this version of tracer.
    pub layout: u32,
    links: Vec<Link>,
    /// Ids of its maps, by name.
    maps: HashMap<String, u32>,
}

/// Checks that this process may list loaded programs, and read the folders of rules. If it may not, finding no rule does not mean
/// that there is none.
///
/// # Errors
/// [`Error::NoPrivilege`]: capabilities are missing. [`Error::Denied`]: the process is in a user namespace of its own. Else the
/// capabilities cannot be read.
pub fn check_rights() -> Result<(), Error> {
    let have = privilege::effective()
        .map_err(|error| Error::Failure(format!("cannot read the capabilities: {error}")))?;
    let missing = privilege::missing_for_rules(have);
    if !missing.is_empty() {
        return Err(Error::NoPrivilege { missing });
    }
    match sys::next_link(0) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Err(Error::Denied(
            "cannot list the loaded BPF programs: the kernel allows that only in the initial user namespace; run \
             tracer on the host, or in a container without a user namespace"
                .into(),
        )),
        _ => Ok(()),
    }
}

impl Loaded {
    /// Every rule that has links, sorted by name and layout. Links, programs and maps that end meanwhile or cannot be opened are
    /// left out, and so are links whose cgroup was removed.
    ///
    /// # Errors
    /// As bpf(2): EPERM without CAP_SYS_ADMIN.
    pub fn all() -> io::Result<Vec<Self>> {
        let mut found: BTreeMap<(String, u32), Self> = BTreeMap::new();
        // Marks by the id of their map, because many programs share one.
        let mut marks: HashMap<u32, Option<(u32, String)>> = HashMap::new();
        let mut after = 0;
        while let Some(id) = sys::next_link(after)? {
            after = id;
            // A link that ends meanwhile is left out.
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
            // The ledger's programs are attached to the same calls, but to the root cgroup, and not pinned by cgroup.
            let hook = info.hook.filter(|_| program.starts_with("spread_"));
            let name = hook.map(|hook| format!("{hook}@{}", info.cgroup));
            rule.links.push(Link { id, fd, name });
        }
        Ok(found.into_values().collect())
    }

    /// Rules of this name, with those of their links that are not pinned in `pins` and that do not end shortly.
    fn strays(rule: &str, pins: &[Pins]) -> io::Result<Vec<Self>> {
        let until = Instant::now() + LINK_FREE_TIME;
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
            // Close the descriptors, which would keep the links.
            drop(found);
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Rules that spread and whose names are not `known`: rules whose pins cannot be reached. If there are any, waits up to 1.5 s
    /// for those to end that are being removed now. Empty also if loaded programs cannot be listed.
    pub fn unpinned(known: impl Fn(&str) -> bool) -> Vec<Self> {
        let until = Instant::now() + LINK_FREE_TIME;
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
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Whether it has links that run a program of the spreader.
    pub fn spreads(&self) -> bool {
        self.links.iter().any(|link| link.name.is_some())
    }

    /// Whether its maps have the layout of this version.
    pub fn is_of_this_version(&self) -> bool {
        self.layout == LAYOUT
    }

    /// How many links it has, those of the ledger's programs included.
    pub fn links(&self) -> usize {
        self.links.len()
    }

    /// Opens the map of this name (cut after 15 bytes, as the kernel has it).
    ///
    /// # Errors
    /// `NotFound`: it has none of this name. Else as bpf(2).
    pub(crate) fn open_map(&self, name: &str) -> io::Result<OwnedFd> {
        let id = self.maps.get(name).ok_or(io::ErrorKind::NotFound)?;
        sys::by_id(Listed::Map, *id)
    }

    /// Pins its maps and the spreader's links.
    ///
    /// # Errors
    /// A map is missing, or something cannot be pinned.
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

    /// Detaches the spreader's links: that works without their pins.
    fn detach(&self) {
        for link in self.links.iter().filter(|link| link.name.is_some()) {
            if let Err(error) = sys::detach_link(link.fd.as_fd()) {
                tracing::debug!("link {}: {error}", link.id);
            }
        }
    }
}

/// Ids of the links that are pinned.
fn ids(pins: &Pins) -> Vec<u32> {
    let names = pins.links().into_iter();
    names
        .filter_map(|name| sys::link_info(pins.open_link(&name).ok()?.as_fd()).ok())
        .map(|info| info.id)
        .collect()
}

/// Makes `pins` the only place where the rule is pinned. A copy that is pinned or held elsewhere is moved to `pins` if
/// nothing is pinned there yet, else it is detached. Pins elsewhere that cannot be removed are logged. The caller must have the
/// rule's lock. Takes up to 1.5 s if there is such a copy.
///
/// # Errors
/// The rule cannot be pinned in `pins`, or it has the maps of another version.
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
                // The rule stays as it was.
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

/// Other places where the rule is pinned.
fn elsewhere(rule: &str, pins: &Pins) -> Vec<Pins> {
    let all = Pins::all().rules.into_iter();
    all.filter(|(name, it)| name == rule && !it.is_same_bpffs(pins)).map(|(_, it)| it).collect()
}

/// Checks that no link of the rule is left, after the caller removed its pins. Waits up to 1.5 s for links to end, then detaches
/// the spreader's links that are left, and waits up to 1.5 s more. If loaded programs cannot be listed, none counts as left.
///
/// # Errors
/// Links are still there after that.
pub fn check_ended(rule: &str) -> Result<(), Error> {
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
        "rule {rule} does not spread any more, but {left} of its links still exist, held by a process or by a \
         bpffs that cannot be reached from here: `bpftool link show` names the processes; end them, or unmount \
         that bpffs"
    )))
}

/// Whether a rule of this name, of any version, has links that run a program of the spreader, wherever they are pinned. False if
/// loaded programs cannot be listed.
pub fn is_in_force(rule: &str) -> bool {
    Loaded::all().is_ok_and(|all| all.iter().any(|it| it.rule == rule && it.spreads()))
}

/// How many links the rule has that are not pinned in `pins`; waits up to 1.5 s for those to end. 0 also if loaded programs
/// cannot be listed.
pub fn unpinned_links(rule: &str, pins: &Pins) -> usize {
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
