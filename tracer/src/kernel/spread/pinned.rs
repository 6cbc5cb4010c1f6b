//! Where the spreader's maps and links are kept beyond the life of a process: one bpffs, that of the host's
//! own mounts.

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

/// Our folder in a bpffs; below it one for each layout of the maps, below that one for each rule.
const OURS: &str = "tracer";
const MAPS: &str = "maps";
const LINKS: &str = "links";
/// A folder into which somebody goes on pinning is emptied so often.
const TRIES: usize = 20;

/// The folder of one rule: `maps/NAME`, `links/NAME`.
#[derive(Clone, Debug)]
pub struct Pins {
    bpffs: Bpffs,
    layout: String,
    rule: String,
    shared: Arc<Shared>,
}

/// What all copies have in common.
#[derive(Debug, Default)]
struct Shared {
    /// Nothing is pinned any more.
    closed: AtomicBool,
    /// Kept, so that paths to what is in them stay good.
    parts: Mutex<Option<(Folder, Folder)>>,
}

impl Pins {
    /// The folder of this rule, which need not exist, in the one place where rules are pinned. Mounts a bpffs
    /// if there is none.
    ///
    /// # Errors
    /// No bpffs can be had that lasts; others than root can change what is in our folder; the rule is pinned by a
    /// program with other maps.
    pub fn of(rule: &str) -> Result<Self, Error> {
        let bpffs = bpffs::place()?;
        root(&bpffs).and_then(|root| root.folder(OsStr::new(OURS))).map_err(unsafe_place)?;
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

    /// Every rule that is pinned in a bpffs that can be reached, by name; the one place first.
    pub fn all() -> All {
        let mut all = All::default();
        for bpffs in bpffs::all() {
            if let Err(refused) = all.look_into(&bpffs) {
                all.refused.push(refused);
            }
        }
        all.rules.sort_by(|one, other| one.0.cmp(&other.0));
        all.foreign.sort_by(|one, other| one.rule.cmp(&other.rule));
        all
    }

    /// The same rule, looked for anew as everybody finds it.
    pub(crate) fn again(&self) -> Option<Self> {
        let mut all = Self::all().rules.into_iter();
        all.find(|(name, it)| *name == self.rule && it.is_beside(self)).map(|(_, it)| it)
    }

    pub fn rule(&self) -> &str {
        &self.rule
    }

    pub fn exists(&self) -> bool {
        self.folder().is_ok_and(|folder| folder.is_some())
    }

    /// For people: where it is, as the host's own mounts are named.
    pub fn dir(&self) -> PathBuf {
        self.bpffs.path.join(OURS).join(&self.layout).join(&self.rule)
    }

    /// Whether this is in the same file system.
    pub fn is_beside(&self, other: &Self) -> bool {
        self.bpffs.device == other.bpffs.device
    }

    fn folder(&self) -> Result<Option<Folder>, Refused> {
        let mut folder = root(&self.bpffs)?;
        for name in [OURS, &self.layout, &self.rule] {
            let Some(below) = folder.folder(OsStr::new(name))? else { return Ok(None) };
            folder = below;
        }
        Ok(Some(folder))
    }

    /// One of the two folders; `None`: there is none.
    fn part(&self, name: &str) -> io::Result<Option<Folder>> {
        let folder = self.folder().map_err(io::Error::other)?;
        let Some(folder) = folder else { return Ok(None) };
        folder.folder(OsStr::new(name)).map_err(io::Error::other)
    }

    fn part_that_is(&self, name: &str) -> io::Result<Folder> {
        self.part(name)?.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(crate) fn create(&self) -> Result<(), Error> {
        if self.shared.closed.load(SeqCst) {
            return Err(Error::Failure("the rule has ended meanwhile".into()));
        }
        let make = || -> Result<(Folder, Folder), Refused> {
            let mut folder = root(&self.bpffs)?;
            for name in [OURS, &self.layout, &self.rule] {
                folder = folder.make(name)?;
            }
            Ok((folder.make(MAPS)?, folder.make(LINKS)?))
        };
        let parts = make().map_err(unsafe_place)?;
        *self.shared.parts.lock().unwrap_or_else(PoisonError::into_inner) = Some(parts);
        Ok(())
    }

    /// Where a map is or is to be pinned, as long as this is kept; `None`: before [`Self::create`]. What is there
    /// already must be a map.
    pub(crate) fn map_path(&self, name: &str) -> io::Result<Option<PathBuf>> {
        let parts = self.shared.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((maps, _)) = parts.as_ref() else { return Ok(None) };
        match maps.open(OsStr::new(name), Kind::Map) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(Some(maps.path_of(name))),
        }
    }

    /// Where a link is to be pinned, as long as this is kept.
    pub(crate) fn link_path(&self, name: &str) -> io::Result<PathBuf> {
        if self.shared.closed.load(SeqCst) {
            return Err(io::Error::other("the rule has ended meanwhile"));
        }
        let parts = self.shared.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, links) = parts.as_ref().ok_or(io::ErrorKind::NotFound)?;
        Ok(links.path_of(name))
    }

    /// A map that is pinned.
    pub(crate) fn open_map(&self, name: &str) -> io::Result<OwnedFd> {
        self.part_that_is(MAPS)?.open(OsStr::new(name), Kind::Map)
    }

    /// A link that is pinned.
    pub(crate) fn open_link(&self, name: &str) -> io::Result<OwnedFd> {
        self.part_that_is(LINKS)?.open(OsStr::new(name), Kind::Link)
    }

    pub(crate) fn pin_map(&self, map: BorrowedFd<'_>, name: &str) -> io::Result<()> {
        self.part_that_is(MAPS)?.pin(map, name)
    }

    pub(crate) fn pin_link(&self, link: BorrowedFd<'_>, name: &str) -> io::Result<()> {
        if self.shared.closed.load(SeqCst) {
            return Err(io::Error::other("the rule has ended meanwhile"));
        }
        self.part_that_is(LINKS)?.pin(link, name)
    }

    pub(crate) fn rename_link(&self, from: &str, to: &str) -> io::Result<()> {
        self.part_that_is(LINKS)?.rename(from, to)
    }

    /// It need not be there.
    pub(crate) fn remove_link(&self, name: &str) -> io::Result<()> {
        let Some(links) = self.part(LINKS)? else { return Ok(()) };
        match links.remove(OsStr::new(name), Kind::Link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Names of the pinned links.
    pub fn links(&self) -> Vec<String> {
        let names = self.part(LINKS).ok().flatten().and_then(|links| links.names().ok());
        let names = names.unwrap_or_default().into_iter();
        names.map(|name| name.to_string_lossy().into_owned()).collect()
    }

    /// Removes the links that have none of these names. No new one is pinned from here on.
    pub fn remove_links_but(&self, kept: &[String]) -> Result<(), Error> {
        let _detaching = Detaching::begin();
        self.shared.closed.store(true, SeqCst);
        for name in self.links().into_iter().filter(|name| !kept.contains(name)) {
            self.remove_link(&name).map_err(|source| self.cannot_remove(LINKS, &name, source))?;
        }
        Ok(())
    }

    /// Removes everything, what acts first: a link that loses its last name detaches its program. Nothing is
    /// removed where somebody else put something beside ours.
    pub fn remove(&self) -> Result<(), Error> {
        let _detaching = Detaching::begin();
        self.shared.closed.store(true, SeqCst);
        let Some(folder) = self.folder().map_err(unsafe_place)? else { return Ok(()) };
        self.check(&folder)?;
        for (part, kind) in [(LINKS, Kind::Link), (MAPS, Kind::Map)] {
            self.remove_part(&folder, part, kind)?;
        }
        drop(folder);
        let above = |names: &[&str]| -> Option<Folder> {
            let begin = root(&self.bpffs).ok()?;
            names.iter().try_fold(begin, |folder, name| folder.folder(OsStr::new(name)).ok()?)
        };
        // Those above go only if no other rule is in them.
        let [ours, layout, rule] = [OURS, &self.layout, &self.rule];
        let names = [(&[ours, layout][..], rule), (&[ours][..], layout), (&[][..], ours)];
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

    /// Whether all that is there is ours.
    fn check(&self, folder: &Folder) -> Result<(), Error> {
        let failed =
            |path: PathBuf, source| Error::File { tried: "read", path, source, do_this: "" };
        let names = folder.names().map_err(|error| failed(self.dir(), error))?;
        if let Some(other) = names.iter().find(|name| *name != LINKS && *name != MAPS) {
            return Err(self.not_ours(other));
        }
        for (part, kind) in [(LINKS, Kind::Link), (MAPS, Kind::Map)] {
            let Some(below) = folder.folder(OsStr::new(part)).map_err(unsafe_place)? else {
                continue;
            };
            for name in below.names().map_err(|error| failed(below.path().to_owned(), error))? {
                match below.open(&name, kind) {
                    Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                        return Err(self.not_ours(PathBuf::from(part).join(&name).as_os_str()));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn remove_part(&self, folder: &Folder, part: &str, kind: Kind) -> Result<(), Error> {
        let Some(below) = folder.folder(OsStr::new(part)).map_err(unsafe_place)? else {
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
                // Somebody has pinned something since, who is about to end.
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && tries < TRIES => {
                }
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(self.cannot_remove(part, "", source));
                }
                _ => return Ok(()),
            }
        }
    }

    fn not_ours(&self, name: &OsStr) -> Error {
        Error::Failure(format!(
            "{} is not tracer's, so the rule's folder is left as it is: move it away",
            self.dir().join(name).display()
        ))
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

fn unsafe_place(refused: Refused) -> Error {
    Error::Failure(format!(
        "rules cannot be pinned or read there: {refused}; whoever can change that folder could choose what \
         root loads and removes. Look at what is in it, remove it, and keep others out with `chmod 0700 \
         {}`",
        bpffs::USUAL
    ))
}
