//! Finds files that two parts of the configuration would write to.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use super::{Listen, walk::Walk};
use crate::export::sink::numbered;

/// A file that is written to.
struct Written<'w> {
    path: &'w Path,
    place: &'w Range<usize>,
    /// The setting.
    name: &'static str,
    /// How many rotated files are kept; 0: it is not rotated.
    keep: u32,
}

/// Adds a fault for each file that is written to twice, also by rotation.
pub(super) fn check(walk: &mut Walk<'_>) {
    let all = written(walk);
    let mut found = Vec::new();
    for (index, file) in all.iter().enumerate() {
        let earlier = all.iter().take(index).find(|other| other.path == file.path);
        if let Some(other) = earlier {
            let line = walk.faults.line(other.place.start) + 1;
            let why = format!(
                "{} is the same as {} in line {line}; write another path",
                file.name, other.name
            );
            found.push((file.place.clone(), why));
        }
        if let Some(rotated) = all.iter().find(|other| becomes(other, file.path)) {
            let line = walk.faults.line(rotated.place.start) + 1;
            let why = format!(
                "{} is a name that rotation gives to older files of {} in line {line}; write another path",
                file.name, rotated.name
            );
            found.push((file.place.clone(), why));
        }
    }
    for (place, why) in found {
        walk.faults.add(&place, why);
    }
}

fn written<'w>(walk: &'w Walk<'_>) -> Vec<Written<'w>> {
    let outputs = walk.outputs.iter().filter_map(|(args, given)| {
        let keep = if args.rotate.is_some() { args.keep } else { 0 };
        let path = args.stream.output.as_deref()?;
        Some(Written { path, place: given.place("path"), name: "output.path", keep })
    });
    let metrics = &walk.draft.metrics;
    let textfile = metrics.textfile.as_ref().map(|path| (path, "textfile", "metrics.textfile"));
    let socket = match &metrics.listen {
        Some(Listen::Unix(path)) => Some((path, "listen", "metrics.listen")),
        Some(Listen::Tcp(_)) | None => None,
    };
    let others =
        textfile.into_iter().chain(socket).map(|(path, setting, name): (&PathBuf, _, _)| Written {
            path,
            place: walk.metrics.place(setting),
            name,
            keep: 0,
        });
    outputs.chain(others).collect()
}

/// Whether rotation renames `file` to `path`.
fn becomes(file: &Written<'_>, path: &Path) -> bool {
    let is_next_to = file.path.parent() == path.parent();
    is_next_to && (1..=file.keep).any(|number| Path::new(&numbered(file.path, number)) == path)
}
