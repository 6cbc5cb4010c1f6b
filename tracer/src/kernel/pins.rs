//! Where the spreader's maps and links are kept beyond the life of a process: a bpffs.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::mount::{MountFlags, mount};
use tracer_common::settings::LAYOUT;

use crate::{
    error::Error,
    mounts::{self, BPFFS},
};

/// Where bpffs belongs, and is mounted if it is not anywhere.
const USUAL: &str = "/sys/fs/bpf";
/// Our folder in it; below it one for each layout of the maps, below that one for each rule.
const OURS: &str = "tracer";

/// The folder of one rule: `maps/NAME`, `links/NAME`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pins {
    dir: PathBuf,
}

impl Pins {
    /// The folder of this rule, which need not exist. Mounts a bpffs if there is none.
    ///
    /// # Errors
    /// No bpffs can be had; the rule is pinned by a program with other maps.
    pub fn of(rule: &str) -> Result<Self, Error> {
        let ours = base()?.join(OURS);
        let own = LAYOUT.to_string();
        if let Some(Foreign { layout, pins, .. }) =
            foreign_in(&ours).into_iter().find(|it| it.rule == rule)
        {
            return Err(Error::Failure(format!(
                "rule {rule} is held by another version of tracer (layout {layout}, this one has \
                 {own}), in {}; its tables cannot be taken over: end it with `tracer spread \
                 --release --rule {rule}`, then start again",
                pins.dir.display()
            )));
        }
        Ok(Self { dir: ours.join(own).join(rule) })
    }

    /// Every rule that is pinned with other maps than ours.
    pub fn foreign() -> Vec<Foreign> {
        mounts::mount_point(BPFFS).map_or_else(Vec::new, |base| foreign_in(&base.join(OURS)))
    }

    /// Every rule that is pinned, by name.
    pub fn all() -> Vec<(String, Self)> {
        let Some(base) = mounts::mount_point(BPFFS) else { return Vec::new() };
        let rules = folders(&base.join(OURS).join(LAYOUT.to_string()));
        let mut rules: Vec<_> = rules.into_iter().map(|(rule, dir)| (rule, Self { dir })).collect();
        rules.sort_by(|one, other| one.0.cmp(&other.0));
        rules
    }

    pub fn exists(&self) -> bool {
        self.dir.is_dir()
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn create(&self) -> Result<(), Error> {
        for path in [self.dir.join("maps"), self.dir.join("links")] {
            fs::create_dir_all(&path).map_err(|source| Error::File {
                tried: "create",
                path,
                source,
                do_this: "",
            })?;
        }
        Ok(())
    }

    pub fn map(&self, name: &str) -> PathBuf {
        self.dir.join("maps").join(name)
    }

    pub(super) fn link(&self, name: &str) -> PathBuf {
        self.dir.join("links").join(name)
    }

    /// Names of the pinned links.
    pub fn links(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.join("links")).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// Removes everything, what acts first: a link that loses its last name detaches its program. Nothing is
    /// removed where somebody else put something beside our two folders.
    pub fn remove(&self) -> Result<(), Error> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let is_ours = |name: &std::ffi::OsStr| name == "links" || name == "maps";
        if let Some(other) = entries.into_iter().find(|entry| !is_ours(&entry.file_name())) {
            return Err(Error::Failure(format!(
                "{} is not tracer's, so the rule's folder is left as it is: move it away",
                other.path().display()
            )));
        }
        for part in ["links", "maps", ""] {
            let path = self.dir.join(part);
            match fs::remove_dir_all(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::File { tried: "remove", path, source, do_this: "" });
                }
                _ => {}
            }
        }
        // The folders above, if no other rule is in them.
        for above in self.dir.ancestors().skip(1).take(2) {
            if fs::remove_dir(above).is_err() {
                break;
            }
        }
        Ok(())
    }
}

/// A rule that another version of tracer pinned.
#[derive(Clone, Debug)]
pub struct Foreign {
    pub rule: String,
    pub layout: String,
    pub pins: Pins,
}

/// Those in our folder. Only what has the form of ours is one: `NUMBER/RULE/{maps,links}`.
fn foreign_in(ours: &Path) -> Vec<Foreign> {
    let is_layout = |name: &str| name.parse::<u32>().is_ok_and(|layout| layout != LAYOUT);
    let layouts = folders(ours).into_iter().filter(|(name, _)| is_layout(name));
    let mut found: Vec<_> = layouts
        .flat_map(|(layout, path)| {
            let rules = folders(&path).into_iter();
            let rules = rules
                .filter(|(_, dir)| ["maps", "links"].map(|it| dir.join(it).is_dir()) == [true; 2]);
            rules.map(move |(rule, dir)| Foreign {
                rule,
                layout: layout.clone(),
                pins: Pins { dir },
            })
        })
        .collect();
    found.sort_by(|one, other| one.rule.cmp(&other.rule));
    found
}

/// Names and paths of the folders in a folder.
fn folders(path: &Path) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.path().is_dir());
    folders.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path())).collect()
}

/// The mount point of a bpffs, mounted where it belongs if there is none.
fn base() -> Result<PathBuf, Error> {
    if let Some(path) = mounts::mount_point(BPFFS) {
        return Ok(path);
    }
    let failed = |error: io::Error| {
        Error::Failure(format!(
            "there is no bpffs to keep the spreader in, and it cannot be mounted: {error}; mount \
             one with `mount -t bpf bpf {USUAL}`"
        ))
    };
    mount("bpf", USUAL, "bpf", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None)
        .map_err(|errno| failed(errno.into()))?;
    mounts::mount_point(BPFFS)
        .ok_or_else(|| failed(io::Error::other("it does not show in /proc/self/mountinfo")))
}
