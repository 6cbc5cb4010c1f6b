//! Lists the rules that are pinned in any bpffs.

use std::{ffi::OsStr, io};

use tracer_common::settings::LAYOUT;

use super::{FOLDER, LINKS, MAPS, Pins, Refused, folder::Folder, root};
use crate::kernel::bpffs::Bpffs;

/// The rules that are pinned in any bpffs that can be opened.
#[derive(Debug, Default)]
pub struct All {
    /// Rules with the maps of this version: the name of each, and its folder.
    pub rules: Vec<(String, Pins)>,
    /// Rules with the maps of another version.
    pub foreign: Vec<Foreign>,
    /// Folders that were not searched, and why.
    pub refused: Vec<Refused>,
}

/// A rule that another version of tracer pinned.
#[derive(Clone, Debug)]
pub struct Foreign {
    /// Name of the rule.
    pub rule: String,
    /// Version of its maps, in decimal: other than [`LAYOUT`].
    pub layout: String,
    /// Where it is pinned: to remove it. Its maps cannot be read.
    pub pins: Pins,
}

impl All {
    /// Adds the rules that are pinned in this bpffs.
    ///
    /// # Errors
    /// The folder of tracer cannot be opened or read, or other users can change it; or a folder below it cannot be read.
    pub(super) fn add_rules_in(&mut self, bpffs: &Bpffs) -> Result<(), Refused> {
        let Some(tracer) = root(bpffs)?.folder(OsStr::new(FOLDER))? else { return Ok(()) };
        let unreadable = |folder: &Folder, error: io::Error| Refused {
            path: folder.path().to_owned(),
            why: format!("cannot be read: {error}"),
        };
        for layout in tracer.names().map_err(|error| unreadable(&tracer, error))? {
            let Some(number) = layout.to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let Some(of_layout) = self.open(&tracer, &layout) else { continue };
            for rule in of_layout.names().map_err(|error| unreadable(&of_layout, error))? {
                let Some(folder) = self.open(&of_layout, &rule) else { continue };
                let Some(rule) = rule.to_str() else { continue };
                let pins = Pins::new(bpffs, &number.to_string(), rule);
                if number == LAYOUT {
                    self.rules.push((rule.to_owned(), pins));
                    continue;
                }
                // A folder is a rule of another version only if it has the folders that every rule has.
                let parts =
                    [MAPS, LINKS].map(|part| self.open(&folder, OsStr::new(part)).is_some());
                if parts == [true; 2] {
                    let (rule, layout) = (rule.to_owned(), number.to_string());
                    self.foreign.push(Foreign { rule, layout, pins });
                }
            }
        }
        Ok(())
    }

    fn open(&mut self, folder: &Folder, name: &OsStr) -> Option<Folder> {
        folder.folder(name).unwrap_or_else(|refused| {
            self.refused.push(refused);
            None
        })
    }
}
