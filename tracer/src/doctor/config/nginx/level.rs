//! Settings that a block inherits from the blocks around it, as nginx merges them: a block's own value counts, wherever it stands
//! in the block; of `proxy_set_header`, a block inherits all or, if it has one of its own, none.

use std::{collections::BTreeMap, iter::Peekable, sync::Arc};

use super::{
    tree::{At, Block, Directive, Unread},
    value::millis,
};

/// A value, and where it is set.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Set<T> {
    pub value: T,
    pub at: At,
}

/// The version of HTTP towards the servers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HttpVersion {
    V10,
    V11,
    V2,
}

/// What a value of the header `Connection` asks for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Asks {
    /// The server shall close the connection.
    Close,
    /// Nothing of the kind.
    Nothing,
    /// What the value of this variable asks for; its name, without `$`.
    Variable(Arc<str>),
    /// Not known: it is a text with variables in it.
    Unknown,
}

/// What `proxy_set_header` says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Headers {
    /// The values of `Connection`; none: nginx's default.
    pub connection: Vec<Set<Asks>>,
    /// Where the headers that count here begin; `None`: there are none.
    pub at: Option<At>,
    /// Where a block has headers of its own, so that it does not inherit the `Connection` of an outer block; `None`: it loses
    /// none.
    pub lost_at: Option<At>,
}

/// The settings of a block, inherited ones included.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Level {
    /// `proxy_http_version`; `None`: the default. Inner `None`: a value that is not understood.
    pub http_version: Option<Set<Option<HttpVersion>>>,
    pub headers: Arc<Headers>,
    /// Whether `fastcgi_keep_conn` is on; `None`: the default, off.
    pub keep_conn: Option<Set<bool>>,
    /// `proxy_bind` and those of other protocols, by the first part of their names (`PROTOCOLS`, such as `proxy`): the address
    /// as it is written, or `off`.
    pub bind: BTreeMap<&'static str, Set<Arc<str>>>,
    /// `proxy_connect_timeout` and those of other protocols, in ms, by the first part of their names, such as `proxy`. One that
    /// is not understood is missing.
    pub connect_timeout: BTreeMap<&'static str, Set<u64>>,
    /// Why directives of the block, or of one around it, may be missing; `None`: none is.
    pub unread: Option<Unread>,
}

/// The ends of the names of the directives that are read here.
const SETTINGS: [&str; 5] =
    ["_http_version", "_set_header", "_keep_conn", "_bind", "_connect_timeout"];

/// First parts of the names of directives, one for each protocol.
pub(super) const PROTOCOLS: [&str; 6] = ["proxy", "grpc", "fastcgi", "uwsgi", "scgi", "memcached"];

/// The most headers `Connection` of a block that are looked at: each of very many passes may inherit them.
const MOST_HEADERS: usize = 64;

impl Level {
    /// The settings of a block within one that has `outer`; `outer` itself if the block sets none. More than 64 headers
    /// `Connection` count as not read.
    pub(super) fn inner(outer: &Arc<Self>, block: &Block) -> Arc<Self> {
        let own = |it: &Directive| SETTINGS.iter().any(|end| it.name().ends_with(end));
        if block.unread.is_none() && !block.directives.iter().any(own) {
            // Very many blocks may inherit very long values.
            return Arc::clone(outer);
        }
        let mut level = Self::clone(outer);
        level.unread = level.unread.or_else(|| block.unread.clone());
        for own in &block.directives {
            level.set(own);
        }
        let mut of_headers = block.all("proxy_set_header").peekable();
        if of_headers.peek().is_some() {
            let (headers, too_many) = Headers::inner(&outer.headers, of_headers);
            level.headers = Arc::new(headers);
            level.unread = level.unread.or(too_many);
        }
        Arc::new(level)
    }

    /// Takes a setting of the block itself.
    fn set(&mut self, own: &Directive) {
        let (text, at) = (own.argument(0), || own.at.clone());
        match own.name() {
            "proxy_http_version" => {
                let value = match text {
                    "1.0" => Some(HttpVersion::V10),
                    "1.1" => Some(HttpVersion::V11),
                    "2" => Some(HttpVersion::V2),
                    _ => None,
                };
                self.http_version = Some(Set { value, at: at() });
            }
            "fastcgi_keep_conn" => {
                let value = text.eq_ignore_ascii_case("on");
                self.keep_conn = Some(Set { value, at: at() });
            }
            name => {
                let of = |protocol: &&'static str| Some((*protocol, name.strip_prefix(*protocol)?));
                match PROTOCOLS.iter().find_map(of) {
                    Some((protocol, "_bind")) => {
                        self.bind.insert(protocol, Set { value: text.into(), at: at() });
                    }
                    Some((protocol, "_connect_timeout")) => {
                        if let Some(value) = millis(text) {
                            self.connect_timeout.insert(protocol, Set { value, at: at() });
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}

impl Headers {
    /// The headers of a block that has headers of its own, and why some of them are missing; `None`: none is.
    fn inner<'a>(
        outer: &Self,
        mut own: Peekable<impl Iterator<Item = &'a Directive>>,
    ) -> (Self, Option<Unread>) {
        let at = own.peek().map(|first| first.at.clone());
        let mut of_connection = own.filter(|it| it.argument(0).eq_ignore_ascii_case("connection"));
        let value = |it: &Directive| Set { value: Asks::of(it.argument(1)), at: it.at.clone() };
        let connection: Vec<_> = of_connection.by_ref().take(MOST_HEADERS).map(value).collect();
        let too_many = of_connection.next().map(|next| Unread {
            at: next.at.clone(),
            why: "there are very many headers Connection".into(),
        });
        let loses =
            connection.is_empty() && !(outer.connection.is_empty() && outer.lost_at.is_none());
        let lost_at = at.clone().filter(|_| loses);
        (Self { connection, at, lost_at }, too_many)
    }
}

impl Asks {
    fn of(value: &str) -> Self {
        match value.strip_prefix('$') {
            Some(name) => Self::Variable(name.trim_start_matches('{').trim_end_matches('}').into()),
            None if value.contains('$') => Self::Unknown,
            None if asks_to_close(value) => Self::Close,
            None => Self::Nothing,
        }
    }
}

/// Whether a value of the header `Connection` asks the server to close the connection: it has `close` in it, in letters of either
/// case.
pub(super) fn asks_to_close(value: &str) -> bool {
    value.to_ascii_lowercase().contains("close")
}
