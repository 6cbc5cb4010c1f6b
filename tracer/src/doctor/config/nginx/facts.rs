//! [`Facts`]: what nginx's configuration says about its processes, its logs, and the connections to servers.

use std::{collections::HashMap, path::Path, sync::Arc};

use super::{
    include::{ConfigFile, read},
    level::asks_to_close,
    pass::{Pass, Target, collect},
    tree::{At, Block, Unread},
    upstream::Upstream,
    value::number,
};
use crate::host::files::Files;

/// How many processes serve.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Workers {
    Number(u32),
    /// As many as there are CPUs.
    Auto,
}

/// A log of errors.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ErrorLog {
    /// As it is written: a path, relative to nginx's prefix or absolute, `stderr`, `syslog:…` or `memory:…`; empty if it is
    /// missing.
    pub target: String,
    /// The least severe lines that it gets; empty: nginx's default, `error`.
    pub level: String,
    /// Whether it is outside of all blocks.
    pub outermost: bool,
    pub at: At,
}

/// What a configuration says, as far as it could be read.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Its files, the main file first.
    pub files: Vec<ConfigFile>,
    /// `worker_processes`; 1, nginx's default, if it is not set or not a number.
    pub workers: Workers,
    /// `worker_rlimit_nofile`: the limit of each worker's descriptors; `None`: as the master's, or not a number.
    pub worker_descriptors: Option<u64>,
    /// The most connections of a worker, those with clients included; 512, nginx's default, if it is not set or not a
    /// number.
    pub worker_connections: u64,
    /// The groups of `http`, then those of `stream`, in the order of the configuration.
    pub upstreams: Vec<Upstream>,
    /// The passes of `http`, then those of `stream`, in the order of the configuration.
    pub passes: Vec<Pass>,
    /// Logs of errors, of all blocks, at most 256.
    pub error_logs: Vec<ErrorLog>,
    /// The variables that a `map $http_upgrade $NAME` sets, by NAME: whether the value for a request without the header
    /// `Upgrade`, as most are, asks the server to close the connection when it is sent as header `Connection`. `None`: the value
    /// has a variable, or the map may lack entries.
    pub on_no_upgrade: HashMap<String, Option<bool>>,
    /// Everything that could not be read, at most 64 places.
    pub unread: Vec<Unread>,
    /// Why groups of `http` may be missing; `None`: none is.
    pub http_unread: Option<Unread>,
    /// Why groups of `stream` may be missing; `None`: none is.
    pub stream_unread: Option<Unread>,
    /// For each of [`Self::passes`], the index in [`Self::upstreams`] of the group that it names; `None`: it names none, as far as
    /// the configuration could be read.
    pub(super) groups: Vec<Option<usize>>,
}

/// The most places that are listed as not read.
const MOST_UNREAD: usize = 64;
/// The most different logs.
const MOST_LOGS: usize = 256;

/// Reads a configuration from its main file on. `main`: its absolute path in the process's root folder. `globals`: directives of
/// the command line (`-g`), empty: none. What cannot be read is in [`Facts::unread`]; if that is the main file, all that
/// `globals` does not set has nginx's defaults.
pub fn facts(files: &dyn Files, main: &Path, globals: &str) -> Facts {
    let (whole, files) = read(files, main, globals);
    of(&whole, files)
}

/// What the directives say.
fn of(whole: &Block, files: Vec<ConfigFile>) -> Facts {
    let value = |name| whole.get(name).map(|it| it.argument(0));
    let events = whole.get("events").and_then(|it| it.block.as_ref());
    let connections =
        events.and_then(|events| number(events.get("worker_connections")?.argument(0)));
    let mut facts = Facts {
        files,
        workers: match value("worker_processes") {
            Some("auto") => Workers::Auto,
            text => Workers::Number(text.and_then(number).unwrap_or(1)),
        },
        worker_descriptors: value("worker_rlimit_nofile").and_then(number),
        worker_connections: connections.unwrap_or(512),
        upstreams: Vec::new(),
        passes: Vec::new(),
        error_logs: Vec::new(),
        on_no_upgrade: HashMap::new(),
        unread: Vec::new(),
        http_unread: None,
        stream_unread: None,
        groups: Vec::new(),
    };
    facts.http_unread = facts.part(whole, "http", false);
    facts.stream_unread = facts.part(whole, "stream", true);
    facts.groups = groups(&facts.upstreams, &facts.passes);
    facts.scan(whole, true);
    facts
}

/// See [`Facts::groups`].
fn groups(upstreams: &[Upstream], passes: &[Pass]) -> Vec<Option<usize>> {
    // By their names in small letters, those of `stream` apart.
    let mut by_name = HashMap::new();
    for (index, upstream) in upstreams.iter().enumerate() {
        by_name.entry((upstream.stream, upstream.name.to_ascii_lowercase())).or_insert(index);
    }
    let of = |pass: &Pass| {
        let Target::Server { name, has_port: false, .. } = &pass.target else { return None };
        by_name.get(&(pass.is_of_stream(), name.to_ascii_lowercase())).copied()
    };
    passes.iter().map(of).collect()
}

impl Facts {
    /// Adds the groups and passes of `http` or `stream`, and returns why some may be missing.
    fn part(&mut self, whole: &Block, name: &str, stream: bool) -> Option<Unread> {
        let blocks: Vec<_> = whole.all(name).filter_map(|it| it.block.as_ref()).collect();
        for block in &blocks {
            self.upstreams
                .extend(block.directives.iter().filter_map(|it| Upstream::of(it, stream)));
            collect(block, &Arc::default(), stream, &mut self.passes);
            self.maps(block);
        }
        blocks.iter().find_map(|block| block.unread.clone())
    }

    fn maps(&mut self, block: &Block) {
        for map in block.all("map") {
            let Some(entries) = &map.block else { continue };
            let name = map.argument(1).trim_start_matches('$').to_owned();
            let value = |key| entries.get(key).map(|it| it.argument(0));
            let is_whole = entries.unread.is_none() && entries.get("include").is_none();
            let value = value("").or_else(|| value("default")).unwrap_or_default();
            let is_known = is_whole && !value.contains('$');
            self.on_no_upgrade.insert(name, is_known.then(|| asks_to_close(value)));
        }
    }

    /// Adds the logs, and what could not be read, of all blocks.
    fn scan(&mut self, block: &Block, outermost: bool) {
        if let Some(unread) = &block.unread
            && self.unread.len() < MOST_UNREAD
            && !self.unread.contains(unread)
        {
            self.unread.push(unread.clone());
        }
        for directive in &block.directives {
            if directive.name() == "error_log" && self.error_logs.len() < MOST_LOGS {
                self.error_logs.push(ErrorLog {
                    target: directive.argument(0).to_owned(),
                    level: directive.argument(1).to_owned(),
                    outermost,
                    at: directive.at.clone(),
                });
            }
            if let Some(inner) = &directive.block {
                self.scan(inner, false);
            }
        }
    }
}
