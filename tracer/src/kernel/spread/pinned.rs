//! Pins a rule's maps and links, so that they outlive the process, and removes the pins: in a bpffs that is mounted in the mount
//! namespace that the host began with.

mod all;
mod folder;

use std::{
    ffi::OsStr,
    io,
    os::fd::{BorrowedFd, OwnedFd},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use tracer_common::settings::LAYOUT;

pub use self::all::{All, Foreign};
pub use self::folder::Refused;
use self::folder::{Folder, Kind};
use crate::{
    error::Error,
    kernel::bpffs::{self, Bpffs},
    runtime::beat::{Detaching, beat},
};

/// The folder of tracer in a bpffs. Below it is a folder for each layout of the maps, and below that one for each
/// rule.
const FOLDER: &str = "tracer";
const MAPS: &str = "maps";
const LINKS: &str = "links";
/// How often a folder is emptied at most, if other processes continue to pin into it.
const TRIES: usize = 20;

/// The folder of one rule, with `maps/NAME` and `links/NAME`.
#[derive(Clone, Debug)]
pub struct Pins {
    bpffs: Bpffs,
    layout: String,
    rule: String,
    shared: Arc<Shared>,
}

/// State that all copies of a [`Pins`] share.
#[derive(Debug, Default)]
struct Shared {
    /// Whether no link may be pinned any more, because the rule has ended or its start is being undone.
    closed: AtomicBool,
    /// The folders for maps and links, kept open so that paths through their descriptors stay valid.
    parts: Mutex<Option<(Folder, Folder)>>,
}

impl Pins {
    /// The folder of this rule, which need not exist, in the bpffs where rules are pinned. Mounts a bpffs if there is
    /// none.
    ///
    /// # Errors
    /// There is no bpffs that outlives this process; the folder of tracer cannot be opened, or other users can change it;
    /// a version with other maps has pinned the rule.
    pub fn of(rule: &str) -> Result<Self, Error> {
        let bpffs = bpffs::for_rules()?;
        root(&bpffs).and_then(|root| root.folder(OsStr::new(FOLDER))).map_err(unsafe_folder)?;
        if let Some(Foreign { layout, pins, .. }) =
            Self::all().foreign.into_iter().find(|it| it.rule == rule)
        {
            return Err(Error::Failure(format!(
                "rule {rule} is held by another version of tracer (layout {layout}, this one has \
                 {LAYOUT}), in {}; its tables cannot be taken over: end it with `tracer spread \
                 --release --rule {rule}`, then start again",
                pins.dir().display()
            )));
        }
        Ok(Self::new(&bpffs, &LAYOUT.to_string(), rule))
    }

    fn new(bpffs: &Bpffs, layout: &str, rule: &str) -> Self {
        Self {
            bpffs: bpffs.clone(),
            layout: layout.to_owned(),
            rule: rule.to_owned(),
            shared: Arc::default(),
        }
    }

    /// Lists the rules in every bpffs that can be opened, sorted by name; [`All::refused`]: folders that cannot be used.
    pub fn all() -> All {
        let mut all = All::default();
        for bpffs in bpffs::all() {
            if let Err(refused) = all.add_rules_in(&bpffs) {
                all.refused.push(refused);
            }
        }
        all.rules.sort_by(|one, other| one.0.cmp(&other.0));
        all.foreign.sort_by(|one, other| one.rule.cmp(&other.rule));
        all
    }

    /// The same rule, found again by its name in the same bpffs, as another process finds it. `None`: it is not found.
    pub(crate) fn reopen(&self) -> Option<Self> {
        let mut all = Self::all().rules.into_iter();
        all.find(|(name, it)| *name == self.rule && it.is_same_bpffs(self)).map(|(_, it)| it)
    }

    /// Name of the rule.
    pub fn rule(&self) -> &str {
        &self.rule
    }

    /// Whether the rule's folder exists and can be used; false also if it cannot be opened, or other users can change it.
    pub fn exists(&self) -> bool {
        self.folder().is_ok_and(|folder| folder.is_some())
    }

    /// The path of the rule's folder in the mount namespace in which its bpffs was found, for people.
    pub fn dir(&self) -> PathBuf {
        self.bpffs.path.join(FOLDER).join(&self.layout).join(&self.rule)
    }

    /// Whether both are in the same bpffs, whatever their rules.
    pub fn is_same_bpffs(&self, other: &Self) -> bool {
        self.bpffs.device == other.bpffs.device
    }

    /// Opens the folder of the rule; `None`: there is none.
    fn folder(&self) -> Result<Option<Folder>, Refused> {
        let mut folder = root(&self.bpffs)?;
        for name in [FOLDER, &self.layout, &self.rule] {
            let Some(below) = folder.folder(OsStr::new(name))? else { return Ok(None) };
            folder = below;
        }
        Ok(Some(folder))
    }

    /// Opens the folder for maps or that for links; `None`: there is none.
    fn part(&self, name: &str) -> io::Result<Option<Folder>> {
        let folder = self.folder().map_err(io::Error::other)?;
        let Some(folder) = folder else { return Ok(None) };
        folder.folder(OsStr::new(name)).map_err(io::Error::other)
    }

    /// As [`Self::part`]; it is an error if there is none.
    fn existing_part(&self, name: &str) -> io::Result<Folder> {
        self.part(name)?.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Makes the folders of the rule as far as they do not exist.
    ///
    /// # Errors
    /// The rule has ended, or a folder cannot be made or used.
    pub(crate) fn create(&self) -> Result<(), Error> {
        if self.shared.closed.load(SeqCst) {
            return Err(Error::Failure("the rule has ended meanwhile".into()));
        }
        let make = || -> Result<(Folder, Folder), Refused> {
            let mut folder = root(&self.bpffs)?;
            for name in [FOLDER, &self.layout, &self.rule] {
                folder = folder.make(name)?;
            }
            Ok((folder.make(MAPS)?, folder.make(LINKS)?))
        };
        let parts = make().map_err(unsafe_folder)?;
        *self.shared.parts.lock().unwrap_or_else(PoisonError::into_inner) = Some(parts);
        Ok(())
    }

    /// The path at which a map is pinned or to be pinned, valid in this process as long as this exists; `None`: before
    /// [`Self::create`].
    ///
    /// # Errors
    /// Something else than a map is there, or the map cannot be opened.
    pub(crate) fn map_path(&self, name: &str) -> io::Result<Option<PathBuf>> {
        let parts = self.shared.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((maps, _)) = parts.as_ref() else { return Ok(None) };
        match maps.open(OsStr::new(name), Kind::Map) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(Some(maps.path_of(name))),
        }
    }

    /// The path at which a link is to be pinned, valid in this process as long as this exists.
    ///
    /// # Errors
    /// The rule has ended, or [`Self::create`] was not called before.
    pub(crate) fn link_path(&self, name: &str) -> io::Result<PathBuf> {
        if self.shared.closed.load(SeqCst) {
            return Err(io::Error::other("the rule has ended meanwhile"));
        }
        let parts = self.shared.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, links) = parts.as_ref().ok_or(io::ErrorKind::NotFound)?;
        Ok(links.path_of(name))
    }

    /// Opens a pinned map.
    ///
    /// # Errors
    /// `NotFound`: there is none of this name. `InvalidData`: something else has the name. Else the rule's folder cannot be used,
    /// or the map cannot be opened.
    pub(crate) fn open_map(&self, name: &str) -> io::Result<OwnedFd> {
        self.existing_part(MAPS)?.open(OsStr::new(name), Kind::Map)
    }

    /// Opens a pinned link.
    ///
    /// # Errors
    /// `NotFound`: there is none of this name. `InvalidData`: something else has the name. Else the rule's folder cannot be used,
    /// or the link cannot be opened.
    pub(crate) fn open_link(&self, name: &str) -> io::Result<OwnedFd> {
        self.existing_part(LINKS)?.open(OsStr::new(name), Kind::Link)
    }

    /// Pins a map as `name`. The rule's folders must exist.
    ///
    /// # Errors
    /// `AlreadyExists`: the name is taken. Else there are no such folders, or it cannot be pinned.
    pub(crate) fn pin_map(&self, map: BorrowedFd<'_>, name: &str) -> io::Result<()> {
        self.existing_part(MAPS)?.pin(map, name)
    }

    /// Pins a link as `name`. The rule's folders must exist.
    ///
    /// # Errors
    /// The rule has ended ([`Self::remove`] or [`Self::remove_links_but`] was called). `AlreadyExists`: the name is taken. Else
    /// there are no such folders, or the link cannot be pinned (`EINVAL`: it is a perf event).
    pub(crate) fn pin_link(&self, link: BorrowedFd<'_>, name: &str) -> io::Result<()> {
        if self.shared.closed.load(SeqCst) {
            return Err(io::Error::other("the rule has ended meanwhile"));
        }
        self.existing_part(LINKS)?.pin(link, name)
    }

    /// Renames a pinned link; one that has the name `to` is replaced.
    ///
    /// # Errors
    /// `NotFound`: there is no such link, or the rule has no folder. Else the folder cannot be used, or as renameat(2).
    pub(crate) fn rename_link(&self, from: &str, to: &str) -> io::Result<()> {
        self.existing_part(LINKS)?.rename(from, to)
    }

    /// Removes a pinned link, if there is one.
    ///
    /// # Errors
    /// Something else has the name, or it cannot be removed.
    pub(crate) fn remove_link(&self, name: &str) -> io::Result<()> {
        let Some(links) = self.part(LINKS)? else { return Ok(()) };
        match links.remove(OsStr::new(name), Kind::Link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Names of the pinned links, in no order; empty also if they cannot be read.
    pub fn links(&self) -> Vec<String> {
        let names = self.part(LINKS).ok().flatten().and_then(|links| links.names().ok());
        let names = names.unwrap_or_default().into_iter();
        names.map(|name| name.to_string_lossy().into_owned()).collect()
    }

    /// Removes the links with names that are not in `kept`. From here on, this value and its copies refuse to pin a link. If the
    /// links cannot be listed, removes none and returns `Ok`.
    ///
    /// # Errors
    /// A link cannot be removed, or something else has its name. Others may be removed by then.
    pub fn remove_links_but(&self, kept: &[String]) -> Result<(), Error> {
        let _detaching = Detaching::begin();
        self.shared.closed.store(true, SeqCst);
        for name in self.links().into_iter().filter(|name| !kept.contains(name)) {
            self.remove_link(&name).map_err(|source| self.cannot_remove(LINKS, &name, source))?;
        }
        Ok(())
    }

    /// Removes the rule, if it has a folder, links first: a link detaches its program when its last pin is removed and no
    /// process has it open. Removes nothing if the folder has something that is not a pin of tracer. From here on, this value
    /// and its copies refuse to pin a link.
    ///
    /// # Errors
    /// The folder has something that is not a pin of tracer, it cannot be read, other users can change it, or a pin or the
    /// folder cannot be removed.
    pub fn remove(&self) -> Result<(), Error> {
        let _detaching = Detaching::begin();
        self.shared.closed.store(true, SeqCst);
        let Some(folder) = self.folder().map_err(unsafe_folder)? else { return Ok(()) };
        self.check(&folder)?;
        for (part, kind) in [(LINKS, Kind::Link), (MAPS, Kind::Map)] {
            self.remove_part(&folder, part, kind)?;
        }
        drop(folder);
        let above = |names: &[&str]| -> Option<Folder> {
            let begin = root(&self.bpffs).ok()?;
            names.iter().try_fold(begin, |folder, name| folder.folder(OsStr::new(name)).ok()?)
        };
        // A folder above the rule's is removed only if it has no other rule.
        let [tracer, layout, rule] = [FOLDER, &self.layout, &self.rule];
        let names = [(&[tracer, layout][..], rule), (&[tracer][..], layout), (&[][..], tracer)];
        for (number, (names, name)) in names.into_iter().enumerate() {
            let Some(folder) = above(names) else { break };
            match folder.remove_folder(OsStr::new(name)) {
                Ok(()) => {}
                Err(error) if number == 0 && error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::File {
                        tried: "remove",
                        path: self.dir(),
                        source: error,
                        do_this: "",
                    });
                }
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Checks that the folder has only pins of tracer.
    fn check(&self, folder: &Folder) -> Result<(), Error> {
        let failed =
            |path: PathBuf, source| Error::File { tried: "read", path, source, do_this: "" };
        let names = folder.names().map_err(|error| failed(self.dir(), error))?;
        if let Some(other) = names.iter().find(|name| *name != LINKS && *name != MAPS) {
            return Err(self.not_a_pin(other));
        }
        for (part, kind) in [(LINKS, Kind::Link), (MAPS, Kind::Map)] {
            let Some(below) = folder.folder(OsStr::new(part)).map_err(unsafe_folder)? else {
                continue;
            };
            for name in below.names().map_err(|error| failed(below.path().to_owned(), error))? {
                match below.open(&name, kind) {
                    Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                        return Err(self.not_a_pin(PathBuf::from(part).join(&name).as_os_str()));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn remove_part(&self, folder: &Folder, part: &str, kind: Kind) -> Result<(), Error> {
        let Some(below) = folder.folder(OsStr::new(part)).map_err(unsafe_folder)? else {
            return Ok(());
        };
        let mut tries = 0;
        loop {
            for name in below.names().unwrap_or_default() {
                beat();
                let removed = below.remove(&name, kind);
                if let Err(source) = removed
                    && source.kind() != io::ErrorKind::NotFound
                {
                    return Err(self.cannot_remove(part, &name.to_string_lossy(), source));
                }
            }
            tries += 1;
            match folder.remove_folder(OsStr::new(part)) {
                // Another process has pinned something since then; it stops soon, because its rule has ended.
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && tries < TRIES => {
                }
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(self.cannot_remove(part, "", source));
                }
                _ => return Ok(()),
            }
        }
    }

    fn not_a_pin(&self, name: &OsStr) -> Error {
        Error::Failure(format!(
            "{} is not a pin of tracer, so nothing of the rule's folder is removed: move it away",
            self.dir().join(name).display()
        ))
    }

    /// The error of [`Self::remove_link`], for people.
    pub(super) fn cannot_remove_link(&self, name: &str, source: io::Error) -> Error {
        self.cannot_remove(LINKS, name, source)
    }

    fn cannot_remove(&self, part: &str, name: &str, source: io::Error) -> Error {
        let path = self.dir().join(part).join(name);
        Error::File { tried: "remove", path, source, do_this: "" }
    }
}

fn root(bpffs: &Bpffs) -> Result<Folder, Refused> {
    let failed = |error: io::Error| Refused {
        path: bpffs.path.clone(),
        why: format!("cannot be opened: {error}"),
    };
    Folder::root(bpffs.root.try_clone().map_err(failed)?, &bpffs.path)
}

fn unsafe_folder(refused: Refused) -> Error {
    Error::Failure(format!(
        "rules cannot be pinned or read there: {refused}; whoever can change that folder could choose what \
         root loads and removes. Look at what is in it, remove it, and keep others out with `chmod 0700 \
         {}`",
        bpffs::USUAL_PATH
    ))
}
