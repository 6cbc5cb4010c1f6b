//! Settings that a block inherits from the blocks around it, as nginx merges them: a block's own value counts, wherever it stands
//! in the block; of `proxy_set_header`, a block inherits all or, if it has one of its own, none.

use std::{collections::BTreeMap, sync::Arc};

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

/// What `proxy_set_header` says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Headers {
    /// The values of `Connection`, as they are written; none: nginx's default.
    pub connection: Vec<Set<Arc<str>>>,
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
    /// `proxy_bind` and those of other protocols, by the first part of their names: the address, or `off`.
    pub bind: BTreeMap<&'static str, Set<Arc<str>>>,
    /// `proxy_connect_timeout` and the others, in ms, by the first part of their names.
    pub connect_timeout: BTreeMap<&'static str, Set<u64>>,
    /// Why directives of the block, or of one around it, may be missing; `None`: none is.
    pub unread: Option<Unread>,
}

/// The ends of the names of the directives that are read here.
const SETTINGS: [&str; 5] =
    ["_http_version", "_set_header", "_keep_conn", "_bind", "_connect_timeout"];

/// First parts of the names of directives, one for each protocol.
pub(super) const PROTOCOLS: [&str; 6] = ["proxy", "grpc", "fastcgi", "uwsgi", "scgi", "memcached"];

impl Level {
    /// The settings of a block within one that has `outer`.
    pub(super) fn inner(outer: &Arc<Self>, block: &Block) -> Arc<Self> {
        let own = |it: &Directive| SETTINGS.iter().any(|end| it.name().ends_with(end));
        if block.unread.is_none() && !block.directives.iter().any(own) {
            // Very many blocks may inherit very long values.
            return Arc::clone(outer);
        }
        let mut level = Self::clone(outer);
        level.unread = level.unread.or_else(|| block.unread.clone());
        if let Some(own) = block.get("proxy_http_version") {
            let value = match own.argument(0) {
                "1.0" => Some(HttpVersion::V10),
                "1.1" => Some(HttpVersion::V11),
                "2" => Some(HttpVersion::V2),
                _ => None,
            };
            level.http_version = Some(Set { value, at: own.at.clone() });
        }
        if let Some(own) = block.get("fastcgi_keep_conn") {
            let value = own.argument(0).eq_ignore_ascii_case("on");
            level.keep_conn = Some(Set { value, at: own.at.clone() });
        }
        level.headers = Headers::inner(&outer.headers, block);
        for protocol in PROTOCOLS {
            if let Some(own) = block.get(&format!("{protocol}_bind")) {
                let value = own.argument(0).into();
                level.bind.insert(protocol, Set { value, at: own.at.clone() });
            }
            if let Some(own) = block.get(&format!("{protocol}_connect_timeout"))
                && let Some(value) = millis(own.argument(0))
            {
                level.connect_timeout.insert(protocol, Set { value, at: own.at.clone() });
            }
        }
        Arc::new(level)
    }
}

impl Headers {
    fn inner(outer: &Arc<Self>, block: &Block) -> Arc<Self> {
        let mut own = block.all("proxy_set_header").peekable();
        let Some(first) = own.peek() else { return Arc::clone(outer) };
        let at = first.at.clone();
        let of_connection = own.filter(|it| it.argument(0).eq_ignore_ascii_case("connection"));
        let value = |it: &Directive| Set { value: it.argument(1).into(), at: it.at.clone() };
        let connection: Vec<_> = of_connection.map(value).collect();
        let loses =
            connection.is_empty() && !(outer.connection.is_empty() && outer.lost_at.is_none());
        Arc::new(Self { connection, lost_at: loses.then(|| at.clone()), at: Some(at) })
    }
}
