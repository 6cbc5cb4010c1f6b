//! Every rule that is pinned, wherever.

use std::{ffi::OsStr, io};

use tracer_common::settings::LAYOUT;

use super::{LINKS, MAPS, OURS, Pins, Refused, folder::Folder, root};
use crate::kernel::bpffs::Bpffs;

/// The rules that are pinned anywhere.
#[derive(Debug, Default)]
pub struct All {
    /// By name, with the maps of this version.
    pub rules: Vec<(String, Pins)>,
    /// With other maps than ours.
    pub foreign: Vec<Foreign>,
    /// What was not looked into.
    pub refused: Vec<Refused>,
}

/// A rule that another version of tracer pinned.
#[derive(Clone, Debug)]
pub struct Foreign {
    pub rule: String,
    pub layout: String,
    pub pins: Pins,
}

impl All {
    pub(super) fn look_into(&mut self, bpffs: &Bpffs) -> Result<(), Refused> {
        let Some(ours) = root(bpffs)?.folder(OsStr::new(OURS))? else { return Ok(()) };
        let unreadable = |folder: &Folder, error: io::Error| Refused {
            path: folder.path().to_owned(),
            why: format!("cannot be read: {error}"),
        };
        for layout in ours.names().map_err(|error| unreadable(&ours, error))? {
            let Some(number) = layout.to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let Some(of_layout) = self.open(&ours, &layout) else { continue };
            for rule in of_layout.names().map_err(|error| unreadable(&of_layout, error))? {
                let Some(folder) = self.open(&of_layout, &rule) else { continue };
                let Some(rule) = rule.to_str() else { continue };
                let pins = Pins::new(bpffs, &number.to_string(), rule);
                if number == LAYOUT {
                    self.rules.push((rule.to_owned(), pins));
                    continue;
                }
                // Only what has the form of ours is one of another version.
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
