//! Directives in their blocks. Only those are kept that say something about connections to servers.

use std::{borrow::Cow, fmt, sync::Arc};

use super::lexer::{Broken, Lexer, Token};

/// The most blocks within each other.
const DEEPEST: u32 = 64;
/// Memory for a directive without the letters of its words, in bytes, roughly.
const DIRECTIVE: usize = 160;

/// A place in a configuration.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct At {
    /// The file's path in the process's root folder.
    pub file: Arc<str>,
    /// Its line, from 1.
    pub line: u32,
}

impl fmt::Display for At {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.file, self.line)
    }
}

/// A part of a configuration that could not be read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Unread {
    pub at: At,
    /// Why, as a text for people.
    pub why: Arc<str>,
}

impl fmt::Display for Unread {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.at, self.why)
    }
}

/// A directive.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Directive {
    /// Its name and its arguments. A file that is included at many places has them once.
    pub(super) words: Arc<[String]>,
    pub(super) at: At,
    /// The block that belongs to it; `None`: it has none.
    pub(super) block: Option<Block>,
}

impl Directive {
    /// Its name; empty if it has no words.
    pub(super) fn name(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// An argument, counted from 0; empty if there are fewer.
    pub(super) fn argument(&self, index: usize) -> &str {
        self.words.get(index + 1).map_or("", String::as_str)
    }

    /// Memory that it takes without its block, in bytes, roughly.
    pub(super) fn cost(&self) -> usize {
        DIRECTIVE + self.words.iter().map(|word| 32 + word.len()).sum::<usize>()
    }
}

/// The directives between two braces, or of a file.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Block {
    pub(super) directives: Vec<Directive>,
    /// Why directives may be missing here; `None`: none is.
    pub(super) unread: Option<Unread>,
}

impl Block {
    /// Notes that directives may be missing. The first reason stays.
    pub(super) fn lacks(&mut self, unread: Unread) {
        self.unread.get_or_insert(unread);
    }

    /// The directives of this name, in their order, without those of inner blocks.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Directive> {
        self.directives.iter().filter(move |it| it.name() == name)
    }

    /// The directive of this name that counts, the last one; `None`: there is none.
    pub(super) fn get<'a>(&'a self, name: &'a str) -> Option<&'a Directive> {
        self.all(name).last()
    }
}

/// Directives without a block that are kept.
const KEPT: [&str; 39] = [
    "include",
    "worker_processes",
    "worker_rlimit_nofile",
    "worker_connections",
    "error_log",
    // upstream
    "server",
    "keepalive",
    "keepalive_requests",
    "keepalive_timeout",
    "least_conn",
    "least_time",
    "ip_hash",
    "hash",
    "random",
    "fair",
    "balancer_by_lua_file",
    // http, server, location
    "proxy_pass",
    "proxy_http_version",
    "proxy_set_header",
    "proxy_bind",
    "proxy_connect_timeout",
    "grpc_pass",
    "grpc_bind",
    "grpc_connect_timeout",
    "fastcgi_pass",
    "fastcgi_keep_conn",
    "fastcgi_bind",
    "fastcgi_connect_timeout",
    "uwsgi_pass",
    "uwsgi_bind",
    "uwsgi_connect_timeout",
    "scgi_pass",
    "scgi_bind",
    "scgi_connect_timeout",
    "memcached_pass",
    "memcached_bind",
    "memcached_connect_timeout",
    "set",
    "balancer_by_lua_block",
];

/// Blocks that are read; all others are skipped.
const READ: [&str; 8] =
    ["http", "server", "location", "upstream", "stream", "events", "if", "limit_except"];

/// The map whose result says what a header is for requests that do not ask for another protocol.
const UPGRADE: &str = "$http_upgrade";

/// Which directives of a block are kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Keep {
    Some,
    All,
    None,
}

/// Reads a file up to its end, or to the first place that nginx refuses: then the reason is in [`Block::unread`] of the block
/// where that is, and of those around it. Of directives, only those are kept that are read somewhere (`KEPT` and `READ`). `room`:
/// memory in bytes that is left for all files; what is used is subtracted, and with none left the file counts as refused there.
pub(super) fn parse(bytes: &[u8], file: &Arc<str>, room: &mut usize) -> Block {
    let mut parser = Parser { lexer: Lexer::new(bytes), file, room };
    let mut block = Block::default();
    if let Err(broken) = parser.block(&mut block, Keep::Some, 0) {
        block.lacks(parser.unread(broken));
    }
    block
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    file: &'a Arc<str>,
    room: &'a mut usize,
}

impl Parser<'_> {
    /// Reads up to the end of a block, or at depth 0 of the file.
    fn block(&mut self, into: &mut Block, keep: Keep, depth: u32) -> Result<(), Broken> {
        loop {
            match self.lexer.next()? {
                Token::Statement(words, line) => {
                    let name = words.first().map_or("", |word| word);
                    if keep == Keep::All || keep == Keep::Some && KEPT.contains(&name) {
                        self.keep(into, words, line, None)?;
                    }
                }
                Token::Open(words, line) => {
                    let (kept, broken) = self.inner(&words, keep, depth + 1);
                    let kept =
                        kept.map_or(Ok(()), |block| self.keep(into, words, line, Some(block)));
                    broken.and(kept)?;
                }
                Token::Close if depth > 0 => return Ok(()),
                Token::End if depth == 0 => return Ok(()),
                Token::Close => return Err(self.broken("a block ends that did not begin")),
                Token::End => return Err(self.broken("the file ends within a block")),
            }
        }
    }

    /// Reads the block of a directive: the block, if it is kept, as far as it can be read, and why it cannot be read further.
    fn inner(
        &mut self,
        words: &[Cow<'_, str>],
        outer: Keep,
        depth: u32,
    ) -> (Option<Block>, Result<(), Broken>) {
        if depth > DEEPEST {
            return (None, Err(self.broken("more than 64 blocks are within each other")));
        }
        let name = words.first().map_or("", |word| word);
        if name.ends_with("_by_lua_block") {
            let is_kept = outer == Keep::Some && KEPT.contains(&name);
            return (is_kept.then(Block::default), self.lexer.skip_lua());
        }
        let keep = match name {
            _ if outer != Keep::Some => Keep::None,
            "map" if words.get(1).is_some_and(|key| key == UPGRADE) => Keep::All,
            name if READ.contains(&name) => Keep::Some,
            _ => Keep::None,
        };
        let mut block = Block::default();
        let result = self.block(&mut block, keep, depth);
        if let Err(broken) = result {
            block.lacks(self.unread(broken));
        }
        ((keep != Keep::None).then_some(block), result)
    }

    fn keep(
        &mut self,
        into: &mut Block,
        words: Vec<Cow<'_, str>>,
        line: u32,
        block: Option<Block>,
    ) -> Result<(), Broken> {
        let words = words.into_iter().map(Cow::into_owned).collect();
        let directive = Directive { words, at: self.at(line), block };
        match self.room.checked_sub(directive.cost()) {
            Some(left) => {
                *self.room = left;
                into.directives.push(directive);
                Ok(())
            }
            None => Err(Broken { line, why: "the configuration is too large" }),
        }
    }

    fn at(&self, line: u32) -> At {
        At { file: Arc::clone(self.file), line }
    }

    fn unread(&self, broken: Broken) -> Unread {
        Unread { at: self.at(broken.line), why: broken.why.into() }
    }

    /// What is wrong at the current line.
    fn broken(&self, why: &'static str) -> Broken {
        Broken { line: self.lexer.line(), why }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    const ROOM: usize = 1 << 20;

    fn parsed(text: &str) -> Block {
        parse(text.as_bytes(), &"/f".into(), &mut { ROOM })
    }

    /// All kept directives, as `name arguments;` or `name arguments{…}`, with `!` in blocks where some may be missing.
    fn shown(block: &Block) -> String {
        let mut out = String::new();
        for directive in &block.directives {
            out += &directive.words.join(" ");
            match &directive.block {
                Some(block) => write!(out, "{{{}}}", shown(block)).unwrap_or_default(),
                None => out += ";",
            }
        }
        if block.unread.is_some() {
            out += "!";
        }
        out
    }

    #[test]
    fn only_directives_about_connections_are_kept() {
        let text = "user www; http { gzip on; types { text/html html; server x; } \
             map $http_upgrade $c { default upgrade; '' close; } map $a $b { keepalive 1; } \
             upstream u { server a; keepalive 4; zone z 1m; } \
             server { location / { if ($x) { proxy_pass http://u; } } } }";
        assert_eq!(
            shown(&parsed(text)),
            "http{map $http_upgrade $c{default upgrade; close;}upstream u{server a;keepalive 4;}\
             server{location /{if ($x){proxy_pass http://u;}}}}"
        );
    }

    #[test]
    fn lua_is_skipped() {
        let text = "http { upstream u { balancer_by_lua_block { local s = \"}\" } server a; } \
             init_by_lua_block { -- }\n } server { } }";
        assert_eq!(
            shown(&parsed(text)),
            "http{upstream u{balancer_by_lua_block{}server a;}server{}}"
        );
    }

    #[test]
    fn where_a_file_is_broken_its_open_blocks_may_lack_directives_and_the_others_do_not() {
        let text = "http { upstream u { server a; } server { proxy_bind b; \n} } } hash x;";
        let block = parsed(text);
        assert_eq!(shown(&block), "http{upstream u{server a;}server{proxy_bind b;}}!");
        assert_eq!(block.unread.unwrap().to_string(), "/f:2: a block ends that did not begin");
        let open = parsed("http { upstream u { server a; } server { location / { hash x;");
        assert_eq!(shown(&open), "http{upstream u{server a;}server{location /{hash x;!}!}!}!");
        let lua = parsed("http { server { content_by_lua_block { '");
        assert_eq!(shown(&lua), "http{server{!}!}!");
        let skipped = parsed("http { types { a");
        assert_eq!(shown(&skipped), "http{!}!");
    }

    #[test]
    fn depth_and_memory_are_bounded() {
        let deep = parsed(&"server {".repeat(100_000));
        assert_eq!(shown(&deep).matches("server").count(), 64);
        assert!(deep.unread.unwrap().why.contains("64 blocks"));
        let wide = parsed(&"hash x;".repeat(100_000));
        assert!(wide.directives.len() < ROOM / DIRECTIVE);
        assert_eq!(&*wide.unread.unwrap().why, "the configuration is too large");
    }

    #[test]
    fn the_last_of_two_directives_counts_and_arguments_may_lack() {
        let block = parsed("hash a b; hash c;");
        let last = block.get("hash").unwrap();
        assert_eq!((last.argument(0), last.argument(1)), ("c", ""));
        assert_eq!(block.all("hash").count(), 2);
        assert!(block.get("random").is_none());
    }
}
