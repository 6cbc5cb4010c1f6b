//! Reads the files of one Squid, line by line.

use std::{path::Path, sync::Arc};

use super::{Config, Outgoing, Peer};
use crate::doctor::config::{
    At, Setting,
    at::lines,
    files::Files,
    glob::{Limits, Refused, expand},
};

/// Bytes that are read at most, files and patterns of `include`, and how deep files are included in others; Squid refuses more
/// than 16.
const MOST_BYTES: usize = 4 << 20;
const MOST_FILES: usize = 1_000;
/// What the patterns of all `include` may find.
const PATTERNS: Limits = Limits { folder: 10_000, names: 65_536, bytes: 4 << 20 };
const DEEPEST: u32 = 16;
/// Squid cuts longer lines in pieces.
const LONGEST_LINE: usize = 8_190;
/// Lines of a kind that are kept at most, and access lists of each.
const MOST: usize = 10_000;
const MOST_LISTS: usize = 64;

/// Reads a configuration, and the files that it includes: at most 1,000 files and patterns, 4 MiB, and files 16 deep in others.
/// What cannot be read is in [`Config::unread`]; if that is the file itself, nothing is set, and [`Config::modified`] is `None`.
pub fn read(files: &dyn Files, path: &Path) -> Config {
    let config = Config::default();
    let mut reader =
        Reader { files, config, bytes: MOST_BYTES, count: MOST_FILES, patterns: PATTERNS };
    reader.file(path, 0, true, None);
    reader.config
}

struct Reader<'a> {
    files: &'a dyn Files,
    config: Config,
    /// How many bytes may still be read, and how many files and patterns.
    bytes: usize,
    count: usize,
    patterns: Limits,
}

/// Whether the lines of a branch count; `None`: it depends on a macro.
type Counts = Option<bool>;

impl Reader<'_> {
    /// Reads a file. `sure`: whether it counts for certain. `by`: the line that includes it.
    fn file(&mut self, path: &Path, depth: u32, sure: bool, by: Option<&At>) {
        let here = || by.cloned().unwrap_or_else(|| At { file: path.into(), line: 0 });
        if depth > DEEPEST || self.count == 0 {
            // Squid does not start with such a configuration, so no more of it is read.
            self.count = 0;
            return self.config.unread.add(here(), "too many files are included");
        }
        self.count -= 1;
        let Ok(contents) = self.files.head(path, self.bytes) else {
            return self.config.unread.add(here(), "the file cannot be read");
        };
        self.bytes = self.bytes.saturating_sub(contents.bytes.len());
        self.config.modified = self.config.modified.max(Some(contents.modified));
        if !contents.whole {
            self.config.unread.add(here(), "the files are too long");
        }
        self.text(path, &contents.bytes, depth, sure);
    }

    fn text(&mut self, path: &Path, text: &[u8], depth: u32, sure: bool) {
        let file: Arc<Path> = path.into();
        let mut statement = String::new();
        let mut blocks: Vec<Counts> = Vec::new();
        let mut last = 0;
        for (line, text) in lines(text) {
            last = line;
            let text = text.trim_ascii_start();
            // Also between two parts of a statement.
            if text.is_empty() || text.starts_with(b"#") {
                continue;
            }
            let at = At { file: file.clone(), line };
            if text.len() > LONGEST_LINE || statement.len() > LONGEST_LINE {
                self.config.unread.add(at, "the line is too long");
                statement.clear();
                continue;
            }
            statement.push_str(&String::from_utf8_lossy(text));
            if statement.ends_with('\\') {
                statement.pop();
                continue;
            }
            if blocks.len() > MOST {
                return self.config.unread.add(at, "conditions are nested too deeply");
            }
            // Only the innermost block decides, as in Squid.
            let counts = blocks.last().copied().unwrap_or(Some(true));
            if !block(statement.trim_end(), &mut blocks) && counts != Some(false) {
                self.statement(statement.trim_end(), &at, depth, sure && counts == Some(true));
            }
            statement.clear();
        }
        if !blocks.is_empty() {
            // Squid does not start with such a configuration.
            self.config.unread.add(At { file, line: last }, "a condition has no endif");
        }
    }

    fn statement(&mut self, statement: &str, at: &At, depth: u32, sure: bool) {
        let mut words = statement.split_ascii_whitespace();
        let Some(keyword) = words.next() else { return };
        // The rest of a line is a comment from a word on that begins so.
        let words = || {
            let words =
                words.take_while(|word| !word.starts_with('#')).map(|word| word.trim_matches('"'));
            words.take(MOST_LISTS + 1).collect::<Vec<_>>()
        };
        match keyword {
            "include" => self.include(&words(), at, depth, sure),
            "tcp_outgoing_address" => self.outgoing(&words(), at, sure),
            "server_persistent_connections" => {
                self.config.persistent = match words().first().copied() {
                    Some("on" | "enable") if sure => Setting::Is(true, at.clone()),
                    Some("off" | "disable") if sure => Setting::Is(false, at.clone()),
                    _ => Setting::Unread(at.clone()),
                }
            }
            "cache_peer" if sure => self.peer(&words(), at),
            "cache_peer" => self.config.unread.add(at.clone(), "it depends on a condition"),
            _ => {}
        }
    }

    fn include(&mut self, patterns: &[&str], at: &At, depth: u32, sure: bool) {
        for pattern in patterns {
            if self.count == 0 {
                return self.config.unread.add(at.clone(), "too many files are included");
            }
            self.count -= 1;
            // A command, whose output Squid would read, is never run.
            if !pattern.starts_with('/') || pattern.contains("${") {
                self.config.unread.add(at.clone(), "only files with a whole path are included");
                continue;
            }
            match expand(self.files, Path::new(pattern), &mut self.patterns) {
                Ok(paths) => {
                    for path in paths {
                        self.file(&path, depth + 1, sure, Some(at));
                    }
                }
                Err(refused) => self.config.unread.add(
                    at.clone(),
                    match refused {
                        Refused::TooLong => "a pattern is too long",
                        Refused::TooMany(_) => "it includes too many files",
                        Refused::Unread(..) => "a folder cannot be read",
                    },
                ),
            }
        }
    }

    fn outgoing(&mut self, words: &[&str], at: &At, sure: bool) {
        let Some((address, lists)) = words.split_first() else { return };
        match address.parse() {
            Ok(address) if sure && self.config.outgoing.len() < MOST => {
                let lists = lists.iter().map(|list| (*list).to_owned()).collect();
                self.config.outgoing.push(Outgoing { address, lists, at: at.clone() });
            }
            _ => self
                .config
                .unread
                .add(at.clone(), "its address is no number, or it depends on a condition"),
        }
    }

    fn peer(&mut self, words: &[&str], at: &At) {
        let [host, _kind, port, options @ ..] = words else { return };
        let Ok(port) = port.parse() else { return };
        if self.config.peers.len() >= MOST {
            return self.config.unread.add(at.clone(), "there are too many peers");
        }
        let name = options.iter().find_map(|option| option.strip_prefix("name="));
        self.config.peers.push(Peer {
            name: name.unwrap_or(host).to_owned(),
            address: host.parse().ok(),
            port,
            at: at.clone(),
        });
    }
}

/// Takes a line that begins or ends a block. Returns whether it is one.
fn block(statement: &str, blocks: &mut Vec<Counts>) -> bool {
    let (keyword, rest) = statement.split_once([' ', '\t']).unwrap_or((statement, ""));
    match keyword {
        "if" => blocks.push(evaluate(rest.trim())),
        "endif" => drop(blocks.pop()),
        "else" => {
            if let Some(last) = blocks.last_mut() {
                *last = last.map(|counts| !counts);
            }
        }
        _ => return false,
    }
    true
}

/// `true`, `false`, or two numbers that are equal or not.
fn evaluate(condition: &str) -> Counts {
    match condition {
        "true" => return Some(true),
        "false" => return Some(false),
        _ => {}
    }
    let (one, other) = condition.split_once('=')?;
    let number = |text: &str| text.trim().parse::<i64>().ok();
    Some(number(one)? == number(other)?)
}
