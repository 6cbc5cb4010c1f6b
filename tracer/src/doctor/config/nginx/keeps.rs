//! Whether nginx keeps its connections to a server, and who closes them first.

use std::{collections::HashMap, net::SocketAddr};

use super::{
    facts::Facts,
    level::{Asks, HttpVersion},
    pass::{Pass, Protocol, Target},
    tree::{At, Unread},
    upstream::Upstream,
    value::Peer,
    version::Version,
};

/// How many idle connections a worker keeps for each group by default, from 1.29.7.
const DEFAULT: u32 = 32;

/// What is missing for connections to be kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Lack {
    /// The server is not in an `upstream` block.
    UpstreamBlock,
    /// The `upstream` block has no `keepalive`.
    Keepalive,
    /// `keepalive 0`.
    KeepaliveZero(At),
    /// A directive below `keepalive` that chooses among the servers switches it off (before nginx 1.29.7). `keepalive`: where
    /// that is; `by` and `at`: the directive's name and place.
    TakenBack { keepalive: At, by: String, at: At },
    /// Requests are HTTP/1.0: by this setting, or by default.
    Http10(Option<At>),
    /// Requests say `Connection: close`: by this setting, or by default.
    Close {
        set: Option<At>,
        /// The variable in it that has this value, without `$`; `None`: there is none.
        variable: Option<String>,
        /// Where headers of an inner block take away those of an outer one; `None`: they do not.
        lost_at: Option<At>,
    },
    /// FastCGI: the server is asked to close the connection, by this setting, or by default.
    KeepConn(Option<At>),
    /// The protocol has no kept connections: `stream`, uwsgi, SCGI.
    Protocol,
}

/// Whether connections are kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Keeps {
    /// Each worker keeps this many idle connections for the group. `local`: locations do not share them. `at`: where that
    /// is set; `None`: by default.
    Yes { number: u32, local: bool, at: Option<At> },
    /// They are not, and all of this is missing.
    No(Vec<Lack>),
    /// It is not known, and why.
    Unknown(String),
}

/// Which end closes a connection first, after a request that goes well.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Closes {
    /// This host, so that its port stays in TIME_WAIT.
    Here,
    /// The server.
    Server,
    /// Either, or it is not known.
    Either,
}

/// How a pass was found to lead to a destination, the surest first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum By {
    /// The configuration has the address.
    Address,
    /// A group has the address, and a variable names the group: maybe this one.
    Group,
    /// The configuration has a name, which was not resolved, with this port.
    Port,
    /// The configuration does not list it: a variable or Lua chooses the server, or the part that may list it was not read.
    Unlisted,
}

/// A way from a pass to a destination.
#[derive(Clone, Debug)]
pub struct Route<'a> {
    pub pass: &'a Pass,
    /// The group; `None`: the pass names the server itself.
    pub upstream: Option<&'a Upstream>,
    pub by: By,
    pub keeps: Keeps,
    pub closes: Closes,
}

/// All ways to a destination.
#[derive(Clone, Debug)]
pub struct Routes<'a> {
    /// Those that are equally sure; empty: none was found.
    pub routes: Vec<Route<'a>>,
    /// If there is no way: a part that was not read, and may have one. `None`: there is a way, or this nginx does not
    /// connect to the destination.
    pub unread: Option<&'a Unread>,
}

/// The most ways that are looked at.
const MOST: usize = 1024;

/// The ways to a destination, as far as they are equally sure: only those with the surest [`By`] of all. A variable may lead to
/// each group that has the address. From 1,024 ways on, no more passes are looked at. `version`: of the program; `None`: not
/// known.
pub fn routes(facts: &Facts, version: Option<Version>, destination: SocketAddr) -> Routes<'_> {
    let by_group: Vec<_> = facts.upstreams.iter().map(|it| to_group(it, destination)).collect();
    // The groups that a variable may name.
    let may_be = |stream: bool| {
        let all = facts.upstreams.iter().zip(&by_group);
        let all = all.filter(|(it, by)| it.stream == stream && **by == Some(By::Address));
        all.map(|(it, _)| it).take(MOST).collect::<Vec<_>>()
    };
    let (http, stream) = (may_be(false), may_be(true));
    let mut ends: Vec<End<'_>> = Vec::new();
    for (pass, group) in facts.passes.iter().zip(&facts.groups) {
        match &pass.target {
            Target::Other => {}
            Target::Variable => {
                // It may be the name of any group, or of none.
                let groups = if pass.is_of_stream() { &stream } else { &http };
                ends.extend(groups.iter().map(|it| (pass, Some(*it), By::Group)));
                ends.push((pass, None, By::Unlisted));
            }
            Target::Server { peer, .. } => match *group {
                Some(index) => {
                    let by = by_group.get(index).copied().flatten();
                    ends.extend(by.map(|by| (pass, facts.upstreams.get(index), by)));
                }
                None => ends.extend(to_peer(peer, destination).map(|by| (pass, None, by))),
            },
        }
        if ends.len() >= MOST {
            break;
        }
    }
    let best = ends.iter().map(|(_, _, by)| *by).min();
    let ends = ends.into_iter().filter(|(_, _, by)| Some(*by) == best);
    let routes = ends.map(|(pass, upstream, by)| {
        let (keeps, closes) = keeping(facts, version, pass, upstream);
        Route { pass, upstream, by, keeps, closes }
    });
    let routes: Vec<_> = routes.collect();
    let unread = facts.unread.first().filter(|_| routes.is_empty());
    Routes { routes, unread }
}

type End<'a> = (&'a Pass, Option<&'a Upstream>, By);

fn to_group(group: &Upstream, to: SocketAddr) -> Option<By> {
    let listed = group.servers.iter().filter_map(|server| to_peer(&server.peer, to)).min();
    let may_have_others = group.lua.is_some() || group.unread.is_some();
    listed.or(may_have_others.then_some(By::Unlisted))
}

fn to_peer(peer: &Peer, to: SocketAddr) -> Option<By> {
    match peer {
        Peer::Address(address) => {
            let same = address.ip().to_canonical() == to.ip().to_canonical();
            (same && address.port() == to.port()).then_some(By::Address)
        }
        Peer::Name { port, .. } => (*port == to.port()).then_some(By::Port),
        Peer::Other => None,
    }
}

/// Whether connections of a pass to a server of this group, or of none, are kept, and who closes them.
fn keeping(
    facts: &Facts,
    version: Option<Version>,
    pass: &Pass,
    group: Option<&Upstream>,
) -> (Keeps, Closes) {
    let parts = [pass.level.unread.as_ref(), group.and_then(|group| group.unread.as_ref())];
    // A name that is no group here may be one in a part that was not read.
    let names = match (&pass.target, group) {
        (
            Target::Server { has_port: false, peer: Peer::Name { .. } | Peer::Other, .. }
            | Target::Variable,
            None,
        ) => {
            let all = if pass.is_of_stream() { &facts.stream_unread } else { &facts.http_unread };
            all.as_ref()
        }
        _ => None,
    };
    if let Some(unread) = parts.into_iter().flatten().next().or(names) {
        return (Keeps::Unknown(format!("not read: {unread}")), Closes::Either);
    }
    let in_world = |by_default| in_world(&facts.on_no_upgrade, by_default, pass, group);
    if let Some(version) = version {
        return in_world(version.keeps_by_default());
    }
    let (old, new) = (in_world(false), in_world(true));
    if old == new {
        return old;
    }
    let why = "the version of nginx is not known, and its defaults differ";
    (Keeps::Unknown(why.into()), Closes::Either)
}

/// What a part of the answer is.
enum Part {
    Fine,
    Lacks(Lack),
    Unknown(String),
}

/// The answer for a version. `by_default`: whether it keeps connections without being asked.
fn in_world(
    maps: &HashMap<String, Option<bool>>,
    by_default: bool,
    pass: &Pass,
    group: Option<&Upstream>,
) -> (Keeps, Closes) {
    match pass.protocol {
        Protocol::Stream => return (Keeps::No(vec![Lack::Protocol]), Closes::Either),
        Protocol::Uwsgi | Protocol::Scgi => {
            return (Keeps::No(vec![Lack::Protocol]), Closes::Server);
        }
        _ => {}
    }
    let parts = match pass.protocol {
        Protocol::Http => vec![http(pass, by_default), close(pass, by_default, maps)],
        Protocol::FastCgi => vec![keep_conn(pass)],
        _ => Vec::new(),
    };
    let (number, cache) = cache(group, by_default);
    let mut lacks = Vec::new();
    let mut unknown = None;
    let mut server_closes = false;
    for (of_cache, part) in
        [(true, cache)].into_iter().chain(parts.into_iter().map(|it| (false, it)))
    {
        match part {
            Part::Fine => {}
            Part::Unknown(why) => unknown = unknown.or(Some(why)),
            Part::Lacks(lack) => {
                server_closes |= !of_cache;
                lacks.push(lack);
            }
        }
    }
    let closes = match unknown {
        _ if server_closes => Closes::Server,
        Some(_) => Closes::Either,
        None => Closes::Here,
    };
    let keeps = match (lacks.is_empty(), unknown, number) {
        (false, _, _) => Keeps::No(lacks),
        (true, Some(why), _) => Keeps::Unknown(why),
        (true, None, keeps) => keeps,
    };
    (keeps, closes)
}

/// How many connections the group keeps, if nothing else is missing, and whether it keeps any.
fn cache(group: Option<&Upstream>, by_default: bool) -> (Keeps, Part) {
    let kept = |number, local, at| (Keeps::Yes { number, local, at }, Part::Fine);
    let lacks = |lack| (Keeps::No(Vec::new()), Part::Lacks(lack));
    let Some(group) = group else { return lacks(Lack::UpstreamBlock) };
    if let Some(at) = &group.lua {
        let why = format!("Lua chooses the server of upstream \"{}\" ({at})", group.name);
        return (Keeps::No(Vec::new()), Part::Unknown(why));
    }
    match &group.keepalive {
        None if by_default => kept(DEFAULT, true, None),
        None => lacks(Lack::Keepalive),
        Some(own) if own.number == 0 => lacks(Lack::KeepaliveZero(own.at.clone())),
        Some(own) => match &own.taken_back {
            Some((by, at)) if !by_default => {
                let (keepalive, by, at) = (own.at.clone(), by.clone(), at.clone());
                lacks(Lack::TakenBack { keepalive, by, at })
            }
            _ => kept(own.number, own.local, Some(own.at.clone())),
        },
    }
}

/// Whether requests are of a version of HTTP that keeps connections.
fn http(pass: &Pass, by_default: bool) -> Part {
    match &pass.level.http_version {
        None if by_default => Part::Fine,
        None => Part::Lacks(Lack::Http10(None)),
        Some(set) => match set.value {
            Some(HttpVersion::V10) => Part::Lacks(Lack::Http10(Some(set.at.clone()))),
            Some(HttpVersion::V11 | HttpVersion::V2) => Part::Fine,
            None => Part::Unknown(format!("not understood: proxy_http_version ({})", set.at)),
        },
    }
}

/// Whether requests ask the server to close the connection.
fn close(pass: &Pass, by_default: bool, maps: &HashMap<String, Option<bool>>) -> Part {
    let headers = &pass.level.headers;
    // HTTP/2 has no such header.
    if pass.level.http_version.as_ref().is_some_and(|set| set.value == Some(HttpVersion::V2)) {
        return Part::Fine;
    }
    if headers.connection.is_empty() {
        let lost_at = headers.lost_at.clone();
        return if by_default {
            Part::Fine
        } else {
            Part::Lacks(Lack::Close { set: None, variable: None, lost_at })
        };
    }
    for set in &headers.connection {
        let (closes, variable) = match &set.value {
            Asks::Close => (Some(true), None),
            Asks::Nothing => (Some(false), None),
            Asks::Variable(name) => (maps.get(&**name).copied().flatten(), Some(&**name)),
            Asks::Unknown => (None, None),
        };
        let Some(closes) = closes else {
            return Part::Unknown(format!("a variable decides on Connection ({})", set.at));
        };
        if closes {
            let (set, variable) = (Some(set.at.clone()), variable.map(str::to_owned));
            return Part::Lacks(Lack::Close { set, variable, lost_at: None });
        }
    }
    Part::Fine
}

/// Whether a FastCGI server is asked to leave the connection open.
fn keep_conn(pass: &Pass) -> Part {
    match &pass.level.keep_conn {
        Some(set) if set.value => Part::Fine,
        set => Part::Lacks(Lack::KeepConn(set.as_ref().map(|set| set.at.clone()))),
    }
}
