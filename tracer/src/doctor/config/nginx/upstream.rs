//! Groups of servers: `upstream NAME { … }`.

use super::{
    tree::{At, Block, Directive, Unread},
    value::{Peer, has_prefix, millis, number},
};

/// The port of a server of a group in `http`, where the configuration has none.
const HTTP: u16 = 80;

/// Directives that choose among servers. Before 1.29.7, each of them takes back a `keepalive` that stands above it.
const BALANCERS: [&str; 6] = ["least_conn", "least_time", "ip_hash", "hash", "random", "fair"];

/// A group of servers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Upstream {
    pub name: String,
    pub at: At,
    /// Whether it is one of `stream`, for connections of TCP that are not HTTP.
    pub stream: bool,
    /// Without those that are marked as `down`, and those whose ports are in the domain name system (`service=`). One that is not
    /// understood is [`Peer::Other`].
    pub servers: Vec<Server>,
    /// The last `keepalive`. `None`: there is none, or its number cannot be read, which `unread` says then.
    pub keepalive: Option<Keepalive>,
    /// The directive that chooses among the servers; `None`: each has its turn. Before 1.29.7, `keepalive` must stand below it.
    pub balancer: Option<String>,
    /// `keepalive_requests`; `None`: the default ([`Version::requests`](super::Version::requests)), or not a number.
    pub requests: Option<u64>,
    /// `keepalive_timeout` in ms; `None`: the default, 60 s, or not a time.
    pub timeout_ms: Option<u64>,
    /// Where Lua chooses the server; `None`: it does not.
    pub lua: Option<At>,
    /// Why directives may be missing; `None`: none is.
    pub unread: Option<Unread>,
}

/// A server of a group.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Server {
    pub peer: Peer,
    pub at: At,
}

/// How many idle connections each worker keeps.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Keepalive {
    /// 0: it keeps none.
    pub number: u32,
    /// Whether locations do not share connections (from 1.29.7).
    pub local: bool,
    pub at: At,
    /// Name and place of the first directive below it that chooses among the servers and so, before 1.29.7, switches it off;
    /// `None`: there is none.
    pub taken_back: Option<(String, At)>,
}

impl Upstream {
    /// The group of this directive; `None`: it is no `upstream` block. `stream`: whether it is in `stream`, not in `http`.
    pub(super) fn of(directive: &Directive, stream: bool) -> Option<Self> {
        let block = directive.block.as_ref().filter(|_| directive.name() == "upstream")?;
        let of_lua = |it: &&Directive| it.name().starts_with("balancer_by_lua_");
        let value = |name| block.get(name).map(|it| it.argument(0));
        let keepalive = keepalive(block);
        let balancer = block.directives.iter().rfind(|it| BALANCERS.contains(&it.name()));
        // A number that cannot be read: nginx refuses it, so this is not what runs.
        let misread = block.get("keepalive").filter(|_| keepalive.is_none());
        let misread = misread.map(|it| Unread {
            at: it.at.clone(),
            why: "the number of connections cannot be read".into(),
        });
        Some(Self {
            name: directive.argument(0).to_owned(),
            at: directive.at.clone(),
            stream,
            servers: servers(block, stream),
            keepalive,
            balancer: balancer.map(|it| it.name().to_owned()),
            requests: value("keepalive_requests").and_then(number),
            timeout_ms: value("keepalive_timeout").and_then(millis),
            lua: block.directives.iter().find(of_lua).map(|it| it.at.clone()),
            unread: block.unread.clone().or(misread),
        })
    }
}

fn servers(block: &Block, stream: bool) -> Vec<Server> {
    let is_used = |it: &&Directive| {
        let mut parameters = it.words.iter().skip(2);
        // With `service`, the ports are in the domain name system.
        !parameters.any(|word| word == "down" || has_prefix(word, "service="))
    };
    let port = (!stream).then_some(HTTP);
    let server =
        |it: &Directive| Server { peer: Peer::parse(it.argument(0), port), at: it.at.clone() };
    block.all("server").filter(is_used).map(server).collect()
}

fn keepalive(block: &Block) -> Option<Keepalive> {
    let place = block.directives.iter().rposition(|it| it.name() == "keepalive")?;
    let directive = block.directives.get(place)?;
    let below = block.directives.get(place + 1..).unwrap_or_default();
    let taken_back = below.iter().find(|it| BALANCERS.contains(&it.name()));
    Some(Keepalive {
        number: number(directive.argument(0))?,
        local: directive.argument(1) == "local",
        at: directive.at.clone(),
        taken_back: taken_back.map(|it| (it.name().to_owned(), it.at.clone())),
    })
}
