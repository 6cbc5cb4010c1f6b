//! Reads the files of one HAProxy, line by line.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Config, Kind, Level, Proxy, Settings, StatsSocket,
    condition::{Blocks, Counts},
    server, settings,
    words::{Word, words},
};
use crate::doctor::config::{At, Setting, at::lines};

/// Lines that are longer are not read.
const LONGEST_LINE: usize = 64 << 10;
/// Sections, servers, names of backends, and stats sockets that are read at most.
const MOST_PROXIES: usize = 10_000;
const MOST_SERVERS: usize = 20_000;
const MOST_USES: usize = 50_000;
const MOST_SOCKETS: usize = 100;

/// Words that begin a section whose lines are not read. They have no other meaning anywhere.
const OTHER_SECTIONS: &[&str] = &[
    "acme",
    "cache",
    "crt-store",
    "fcgi-app",
    "healthcheck",
    "http-errors",
    "log-forward",
    "log-profile",
    "mailers",
    "namespace_list",
    "peers",
    "program",
    "resolvers",
    "ring",
    "traces",
    "userlist",
];

/// The section that a line is in.
#[derive(Clone, Copy, Debug, Default)]
enum Section {
    Global,
    Defaults,
    /// That one of the sections of [`Config::proxies`].
    Proxy(usize),
    /// None, or one that is not read.
    #[default]
    Other,
}

/// Reads the files of one HAProxy one after the other; [`Self::config`] is what was read so far. It does not set
/// [`Proxy::connection`] and [`Config::modified`].
#[derive(Debug, Default)]
pub(super) struct Reader {
    pub(super) config: Config,
    /// The settings of the last `defaults`, and those with names.
    defaults: Settings,
    named: HashMap<String, Settings>,
    /// The name of the last `defaults`.
    name: Option<String>,
    section: Section,
    blocks: Blocks,
    servers: usize,
    uses: usize,
}

impl Reader {
    /// Reads a file after those before it: their `defaults` hold, but no section of theirs goes on. What is not read, such as
    /// lines of more than 64 KiB, is noted in [`Config::unread`].
    pub(super) fn file(&mut self, path: &Path, text: &[u8]) {
        let file: Arc<Path> = path.into();
        (self.section, self.blocks) = (Section::Other, Blocks::default());
        let mut last = 0;
        for (line, text) in lines(text) {
            last = line;
            let at = At { file: file.clone(), line };
            let is_comment = text.trim_ascii_start().starts_with(b"#");
            let too_long = text.len() > LONGEST_LINE && !is_comment;
            let words = if too_long { None } else { words(text) };
            match words {
                Some(words) => self.line(&words, at),
                None => {
                    self.config.unread.add(at, "a quote is not closed, or the line is too long");
                }
            }
        }
        if self.blocks.is_open() {
            // HAProxy does not start with such a configuration.
            self.config.unread.add(At { file, line: last }, "a condition has no .endif");
        }
        self.end_section();
    }

    fn line(&mut self, words: &[Word<'_>], at: At) {
        let Some(keyword) = words.first() else { return };
        if keyword.text.starts_with('.') {
            return self.blocks.line(words);
        }
        let sure = match self.blocks.counts() {
            Counts::No => return,
            Counts::Maybe => false,
            Counts::Yes => true,
        };
        if keyword.variable {
            return self.config.unread.add(at, "the keyword is an environment variable");
        }
        match &*keyword.text {
            "global" => self.begin(Section::Global),
            "defaults" => self.begin_defaults(words, at, sure),
            "frontend" => self.begin_proxy(Kind::Frontend, words, at, sure),
            "backend" => self.begin_proxy(Kind::Backend, words, at, sure),
            "listen" => self.begin_proxy(Kind::Listen, words, at, sure),
            other if OTHER_SECTIONS.contains(&other) => self.begin(Section::Other),
            _ => self.inside(words, at, sure),
        }
    }

    fn begin(&mut self, section: Section) {
        self.end_section();
        self.section = section;
    }

    /// Keeps the settings of a `defaults` that has a name.
    fn end_section(&mut self) {
        if let (Section::Defaults, Some(name)) = (self.section, self.name.take())
            && self.named.len() < MOST_PROXIES
        {
            self.named.insert(name, self.defaults.clone());
        }
        self.section = Section::Other;
    }

    fn begin_defaults(&mut self, words: &[Word<'_>], at: At, sure: bool) {
        self.begin(Section::Defaults);
        let (name, base) = match words.get(1..).unwrap_or_default() {
            [] => (None, None),
            [from, base, ..] if from.text == "from" => (None, Some(base)),
            [name, from, base, ..] if from.text == "from" => (Some(name), Some(base)),
            [name, ..] => (Some(name), None),
        };
        self.name = name.map(|name| name.text.clone().into_owned());
        self.defaults = match base {
            None => Settings::default(),
            Some(base) => self.named(base, &at),
        };
        if !sure {
            self.defaults = Settings::unread(&at);
            self.config.unread.add(at, "a condition decides whether this section counts");
        }
    }

    /// The settings of a `defaults` with this name.
    fn named(&mut self, name: &Word<'_>, at: &At) -> Settings {
        if let Some(settings) = self.named.get(&*name.text).filter(|_| !name.variable) {
            return settings.clone();
        }
        self.config.unread.add(at.clone(), "there is no \"defaults\" of this name before it");
        Settings::unread(at)
    }

    fn begin_proxy(&mut self, kind: Kind, words: &[Word<'_>], at: At, sure: bool) {
        self.begin(Section::Other);
        if !sure {
            return self.config.unread.add(at, "a condition decides whether this section counts");
        }
        if self.config.proxies.len() >= MOST_PROXIES {
            return self.config.unread.add(at, "there are too many sections");
        }
        let Some(name) = words.get(1).filter(|name| !name.variable) else {
            return self
                .config
                .unread
                .add(at, "the section's name is missing, or an environment variable");
        };
        let settings = match words.get(2..) {
            Some([from, base, ..]) if from.text == "from" => self.named(base, &at),
            _ => self.defaults.clone(),
        };
        self.section = Section::Proxy(self.config.proxies.len());
        self.config.proxies.push(Proxy {
            kind,
            name: name.text.clone().into_owned(),
            at,
            settings,
            connection: Setting::Unset,
            servers: Vec::new(),
            more_servers: false,
            uses: Vec::new(),
            uses_others: false,
        });
    }

    fn inside(&mut self, words: &[Word<'_>], at: At, sure: bool) {
        match self.section {
            Section::Other => {}
            Section::Global => self.global(words, at, sure),
            Section::Defaults => {
                settings::apply(&mut self.defaults, words, &at, sure);
            }
            Section::Proxy(index) => self.proxy(index, words, at, sure),
        }
    }

    fn global(&mut self, words: &[Word<'_>], at: At, sure: bool) {
        let [stats, socket, place, parameters @ ..] = words else { return };
        if stats.text != "stats" || socket.text != "socket" {
            return;
        }
        if !sure || place.variable || self.config.sockets.len() >= MOST_SOCKETS {
            return self
                .config
                .unread
                .add(at, "a stats socket with a condition or an environment variable");
        }
        let path = place.text.strip_prefix("unix@").unwrap_or(&place.text);
        let path = path.starts_with('/').then(|| PathBuf::from(path));
        let level = level(parameters, &at);
        self.config.sockets.push(StatsSocket { path, level, at });
    }

    fn proxy(&mut self, index: usize, words: &[Word<'_>], at: At, sure: bool) {
        let Some(proxy) = self.config.proxies.get_mut(index) else { return };
        if settings::apply(&mut proxy.settings, words, &at, sure) {
            return;
        }
        let Some((keyword, rest)) = words.split_first() else { return };
        let defaults = &proxy.settings.server;
        let read = match &*keyword.text {
            "server" if sure => server::server(rest, defaults, &at),
            "server-template" if sure => server::template(rest, defaults, &at),
            "server" | "server-template" => None,
            "default_backend" | "use_backend" => {
                let name = rest.first().filter(|name| !name.variable && !name.text.contains("%["));
                match name {
                    Some(name) if self.uses < MOST_USES => {
                        self.uses += 1;
                        proxy.uses.push(name.text.clone().into_owned());
                    }
                    _ => proxy.uses_others = true,
                }
                return;
            }
            _ => return,
        };
        match read {
            Some(server) if self.servers < MOST_SERVERS => {
                self.servers += 1;
                proxy.servers.push(server);
            }
            _ => {
                proxy.more_servers = true;
                self.config.unread.add(
                    at,
                    "a server that depends on a condition, is not complete, or is one too many",
                );
            }
        }
    }
}

/// The level of a stats socket.
fn level(parameters: &[Word<'_>], at: &At) -> Setting<Level> {
    let found = parameters.iter().position(|word| word.text == "level");
    let Some(value) = found.map(|index| parameters.get(index + 1)) else { return Setting::Unset };
    let level = value.filter(|word| !word.variable).and_then(|word| match &*word.text {
        "user" => Some(Level::User),
        "operator" => Some(Level::Operator),
        "admin" => Some(Level::Admin),
        _ => None,
    });
    level.map_or_else(|| Setting::Unread(at.clone()), |level| Setting::Is(level, at.clone()))
}
