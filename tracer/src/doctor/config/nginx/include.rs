//! A whole configuration: its main file, with all included files in their places.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use super::tree::{At, Block, Directive, Unread, parse};
use crate::{
    doctor::config::glob::{Limits, Refused, expand, is_pattern},
    error::reason,
    host::files::Files,
};

/// The most bytes of all files.
const BYTES: usize = 4 << 20;
/// The most files.
const FILES: usize = 4096;
/// What the patterns of all `include` may find.
const PATTERNS: Limits = Limits { folder: FILES, names: 65_536, bytes: 4 << 20 };
/// How deep files may include others.
const DEEPEST: usize = 16;
/// The most blocks within each other, those of files that include others counted together.
const MOST_BLOCKS: usize = 64;
/// Memory for directives: of each file once, and of the whole, in which a file may be several times.
const ROOM: usize = 32 << 20;

/// A file of the configuration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConfigFile {
    /// Its path in the process's root folder.
    pub path: Arc<str>,
    /// When it was last written.
    pub modified: SystemTime,
}

/// Reads a configuration: its directives, with those of included files in their places, and its files. `globals`: directives of
/// the command line; what cannot be read of these is ignored. [`Block::unread`] says of each block what may be missing: files
/// that cannot be read, and what exceeds 4,096 files, 4 MiB, 16 files that include each other, or 64 blocks within each other.
pub(super) fn read(files: &dyn Files, main: &Path, globals: &str) -> (Block, Vec<ConfigFile>) {
    let mut reader = Reader {
        files,
        folder: main.parent().unwrap_or(Path::new("/")),
        parsed: BTreeMap::new(),
        expanded: BTreeMap::new(),
        list: Vec::new(),
        depth: 0,
        bytes: BYTES,
        patterns: PATTERNS,
        room: ROOM,
    };
    let mut whole = Block::default();
    let command_line: Arc<str> = "command line".into();
    let mut of_command_line = parse(globals.as_bytes(), &command_line, &mut reader.room);
    // Where its text ends is not certain: a process title has no quotes.
    of_command_line.unread = None;
    reader.add(&mut whole, &of_command_line, &mut vec![]);
    match reader.file(main) {
        Ok(block) => reader.add(&mut whole, &block, &mut vec![main.to_owned()]),
        Err(why) => {
            whole.lacks(Unread { at: At { file: shown(main), line: 1 }, why: why.into() });
        }
    }
    (whole, reader.list)
}

struct Reader<'a> {
    files: &'a dyn Files,
    /// Where relative paths begin.
    folder: &'a Path,
    /// What was read of each file, or why it was not.
    parsed: BTreeMap<PathBuf, Result<Arc<Block>, String>>,
    /// The files that each pattern stands for, or why they are not known.
    expanded: BTreeMap<PathBuf, Result<Arc<[PathBuf]>, String>>,
    list: Vec<ConfigFile>,
    /// How many blocks are around the current one.
    depth: usize,
    /// What is left of the limits.
    bytes: usize,
    patterns: Limits,
    room: usize,
}

impl Reader<'_> {
    /// Adds the directives of a block. `within`: the files that include each other here, from the main file on.
    fn add(&mut self, to: &mut Block, from: &Block, within: &mut Vec<PathBuf>) {
        for directive in &from.directives {
            let Some(left) = self.room.checked_sub(directive.cost()) else {
                return to.lacks(unread(directive, "the configuration is too large"));
            };
            self.room = left;
            if directive.name() == "include" && directive.block.is_none() {
                self.include(to, directive, within);
                continue;
            }
            let block = directive.block.as_ref().map(|block| {
                let mut whole = Block::default();
                self.depth += 1;
                if self.depth > MOST_BLOCKS {
                    whole.lacks(unread(directive, "more than 64 blocks are within each other"));
                } else {
                    self.add(&mut whole, block, within);
                }
                self.depth -= 1;
                whole
            });
            let (words, at) = (Arc::clone(&directive.words), directive.at.clone());
            to.directives.push(Directive { words, at, block });
        }
        if let Some(unread) = &from.unread {
            to.lacks(unread.clone());
        }
    }

    /// Adds the directives of the files that an `include` names.
    fn include(&mut self, to: &mut Block, directive: &Directive, within: &mut Vec<PathBuf>) {
        if within.len() > DEEPEST {
            return to.lacks(unread(directive, "files include each other more than 16 deep"));
        }
        let path = self.folder.join(directive.argument(0));
        let named = match self.paths(&path) {
            Ok(named) => named,
            Err(why) => return to.lacks(unread(directive, why)),
        };
        for path in named.iter() {
            if within.contains(path) {
                to.lacks(unread(directive, "the file includes itself"));
                continue;
            }
            match self.file(path) {
                Ok(block) => {
                    within.push(path.clone());
                    self.add(to, &block, within);
                    within.pop();
                }
                Err(why) => to.lacks(unread(directive, format!("{}: {why}", path.display()))),
            }
        }
    }

    /// What is in a file; each is read once.
    fn file(&mut self, path: &Path) -> Result<Arc<Block>, String> {
        if let Some(known) = self.parsed.get(path) {
            return known.clone();
        }
        let result = self.read(path).map(Arc::new);
        self.parsed.insert(path.to_owned(), result.clone());
        result
    }

    fn read(&mut self, path: &Path) -> Result<Block, String> {
        if self.parsed.len() >= FILES {
            return Err("the configuration has more than 4,096 files".into());
        }
        let contents = self.files.head(path, self.bytes).map_err(|error| reason(&error))?;
        if !contents.whole {
            return Err("the configuration has more than 4 MiB".into());
        }
        self.bytes = self.bytes.saturating_sub(contents.bytes.len());
        let file = shown(path);
        self.list.push(ConfigFile { path: Arc::clone(&file), modified: contents.modified });
        Ok(parse(&contents.bytes, &file, &mut self.room))
    }

    /// The files that a path with or without patterns stands for, in the order in which nginx reads them.
    fn paths(&mut self, path: &Path) -> Result<Arc<[PathBuf]>, String> {
        if !is_pattern(&path.to_string_lossy()) {
            return Ok([path.to_owned()].into());
        }
        if let Some(known) = self.expanded.get(path) {
            return known.clone();
        }
        let found = expand(self.files, path, &mut self.patterns);
        let result = found.map(Arc::from).map_err(|refused| match refused {
            Refused::TooLong => "a pattern is too long".to_owned(),
            Refused::TooMany(folder) => format!("{} has too many files", folder.display()),
            Refused::Unread(folder, error) => format!("{}: {}", folder.display(), reason(&error)),
        });
        self.expanded.insert(path.to_owned(), result.clone());
        result
    }
}

fn unread(directive: &Directive, why: impl Into<Arc<str>>) -> Unread {
    Unread { at: directive.at.clone(), why: why.into() }
}

fn shown(path: &Path) -> Arc<str> {
    path.to_string_lossy().into()
}

#[cfg(test)]
mod tests;
