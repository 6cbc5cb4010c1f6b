//! What nginx's configuration explains of the connections to a destination, and what to change in it.

use std::net::SocketAddr;

use super::text::{number, short};
use crate::doctor::{
    config::nginx::{
        By, Closes, HttpVersion, Keeps, Lack, Nginx, Protocol, Route, Routes, Version, routes,
    },
    finding::{Advice, Certainty},
};

/// The fewest idle connections that are advised for a worker.
const FEWEST: u32 = 32;
/// From which number of requests on it costs few connections to close each after so many.
const FEW_REQUESTS: u64 = 100;
/// The most letters of a name or a place: another process chose it.
const LONGEST: usize = 120;
/// The setting that leaves the header out.
const NO_HEADER: &str = "proxy_set_header Connection \"\";";
const RISK: &str =
    "a server that closes idle connections earlier than nginx makes some requests be sent again";

/// What was measured of the connections to a destination.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Connections opened per second; `None`: not measured.
    pub rate: Option<f64>,
    /// The most connections to it that one worker had open at the same time; `None`: not measured.
    pub peak: Option<u32>,
}

/// What the configuration says about a destination.
#[derive(Clone, Debug, PartialEq)]
pub struct Explained {
    /// The name of the `upstream` block; `None`: there is none.
    pub upstream: Option<String>,
    /// [`Certainty::Inferred`], or [`Certainty::Possible`] if the configuration has no address of the server, but a name or a
    /// variable.
    pub certainty: Certainty,
    /// Why nginx closes the connections first; `None`: its configuration does not explain that.
    pub closes_first: Option<String>,
    /// Why each request, or nearly so, opens a connection; `None`: its configuration does not explain that.
    pub churn: Option<String>,
    /// What to change in the configuration; empty: nothing that is known.
    pub advice: Vec<Advice>,
    /// What makes this less than certain, as texts for people.
    pub notes: Vec<String>,
}

/// What the configuration of this nginx explains of the connections to a destination, by the way there that explains most.
/// `None`: nothing in it leads there, and all of it was read. If a part was not read, and nothing else leads there, only
/// [`Explained::notes`] says something.
pub fn explain(nginx: &Nginx, destination: SocketAddr, load: Load) -> Option<Explained> {
    let Routes { routes, unread } = routes(&nginx.facts, nginx.version, destination);
    let mut notes = Vec::new();
    if let Some(unread) = unread {
        notes.push(format!("nginx's configuration was not read in full: {}", cut(unread)));
    }
    if let Some(newer) = nginx.newer.first() {
        let more = match nginx.newer.len() {
            1 => String::new(),
            all => format!(" and {} more files", all - 1),
        };
        notes.push(format!(
            "{}{more} changed after nginx's last reload: this is the file, not what runs",
            cut(newer)
        ));
    }
    let Some(route) = routes.iter().min_by_key(|route| rank(route, load)) else {
        let nothing = Explained {
            upstream: None,
            certainty: Certainty::Possible,
            closes_first: None,
            churn: None,
            advice: Vec::new(),
            notes,
        };
        return unread.map(|_| nothing);
    };
    notes.extend(of_route(route));
    let others = routes.iter().filter(|it| it.keeps != route.keeps).count();
    if others > 0 {
        notes.push(format!(
            "{} of {} ways to it differ",
            number_of(others),
            number_of(routes.len())
        ));
    }
    let explanation = Explanation { route, version: nginx.version, load };
    Some(Explained {
        upstream: route.upstream.map(|it| it.name.clone()),
        certainty: if route.by == By::Address { Certainty::Inferred } else { Certainty::Possible },
        closes_first: explanation.closes_first(),
        churn: explanation.churn(),
        advice: explanation.advice().into_iter().collect(),
        notes,
    })
}

/// Which of several ways explains most: the least.
fn rank(route: &Route<'_>, load: Load) -> u8 {
    match (&route.keeps, route.closes) {
        (Keeps::No(_), Closes::Here) => 0,
        (Keeps::Yes { number, .. }, _) if is_too_small(*number, load) => 1,
        (Keeps::No(_), _) => 2,
        (Keeps::Yes { .. }, _) => 3,
        (Keeps::Unknown(_), _) => 4,
    }
}

fn is_too_small(number: u32, load: Load) -> bool {
    load.peak.is_some_and(|peak| peak > number)
}

/// What makes a way less than certain.
fn of_route(route: &Route<'_>) -> Option<String> {
    if let Keeps::Unknown(why) = &route.keeps {
        return Some(format!("whether nginx keeps its connections is not known: {}", cut(why)));
    }
    match route.by {
        By::Address => None,
        By::Group => Some(format!("a variable chooses the upstream ({})", cut(&route.pass.at))),
        By::Port => {
            Some("nginx has a name for this server, which was compared by its port only".into())
        }
        By::Unlisted => Some(format!("a variable chooses the server ({})", cut(&route.pass.at))),
    }
}

/// A way to a destination, and what it explains.
struct Explanation<'a> {
    route: &'a Route<'a>,
    version: Option<Version>,
    load: Load,
}

impl Explanation<'_> {
    fn closes_first(&self) -> Option<String> {
        let upstream = self.upstream();
        match &self.route.keeps {
            Keeps::No(lacks) if self.route.closes == Closes::Here => {
                Some(format!("nginx closes first: {}", self.lack(lacks.first()?)))
            }
            Keeps::Yes { number, at, .. } if is_too_small(*number, self.load) => {
                let peak = self.load.peak.unwrap_or_default();
                let kept = match at {
                    Some(at) => format!("\"keepalive {number}\" in {upstream} ({})", cut(at)),
                    None => format!("{number} in {upstream} by default"),
                };
                Some(format!(
                    "nginx closes first what it does not keep: a worker keeps {kept}, and had {peak} connections at the same time"
                ))
            }
            Keeps::Yes { .. } => {
                let requests = self.route.upstream?.requests.filter(|it| *it < FEW_REQUESTS)?;
                Some(format!(
                    "nginx closes first: \"keepalive_requests {requests}\" in {upstream} ends each connection after so many"
                ))
            }
            _ => None,
        }
    }

    fn churn(&self) -> Option<String> {
        match &self.route.keeps {
            Keeps::No(lacks) if self.route.pass.protocol == Protocol::Stream => {
                lacks.first().map(|lack| self.lack(lack))
            }
            Keeps::No(lacks) => {
                let lacks: Vec<_> = lacks.iter().map(|lack| self.lack(lack)).collect();
                Some(format!("nginx keeps no connection: {}", lacks.join("; ")))
            }
            _ => self.closes_first(),
        }
    }

    /// One reason why connections are not kept.
    fn lack(&self, lack: &Lack) -> String {
        let upstream = self.upstream();
        let pass = format!("{} ({})", self.directive(), cut(&self.route.pass.at));
        let by_default = |at: &Option<_>| match at {
            Some(at) => format!("({})", cut(at)),
            None => "by default".to_owned(),
        };
        match lack {
            Lack::UpstreamBlock if self.route.by == By::Unlisted => {
                format!("{pass} has a variable that names no upstream block")
            }
            Lack::UpstreamBlock => format!("{pass} names a server, not an upstream block"),
            Lack::Keepalive => {
                let at = self.route.upstream.map(|it| format!(" ({})", cut(&it.at)));
                let at = at.unwrap_or_default();
                // The protocol is said where it would keep connections.
                match &self.route.keeps {
                    Keeps::No(lacks) if lacks.len() > 1 => {
                        format!("no \"keepalive\" in {upstream}{at}")
                    }
                    _ => format!("{} without \"keepalive\" in {upstream}{at}", self.protocol()),
                }
            }
            Lack::KeepaliveZero(at) => format!("\"keepalive 0\" in {upstream} ({})", cut(at)),
            Lack::TakenBack { keepalive, by, at } => format!(
                "\"{by}\" ({}) takes back the \"keepalive\" above it in {upstream} ({})",
                cut(at),
                cut(keepalive)
            ),
            Lack::Http10(at) => format!("HTTP/1.0 {}", by_default(at)),
            Lack::Close { lost_at: Some(at), .. } => format!(
                "\"Connection: close\" by default, because proxy_set_header ({}) takes away those of the outer block",
                cut(at)
            ),
            Lack::Close { set, variable: Some(variable), .. } => {
                format!("\"Connection: close\" by ${} {}", cut(variable), by_default(set))
            }
            Lack::Close { set, .. } => format!("\"Connection: close\" {}", by_default(set)),
            Lack::KeepConn(at) => format!("fastcgi_keep_conn is off {}", by_default(at)),
            Lack::Protocol if self.route.pass.protocol == Protocol::Stream => {
                format!("{pass} in stream opens a connection for each client's")
            }
            Lack::Protocol => format!(
                "{} has no kept connections ({})",
                self.protocol(),
                cut(&self.route.pass.at)
            ),
        }
    }

    /// What to change so that connections are kept, all of it at once: HTTP/1.1 without `keepalive` is worse than neither.
    fn advice(&self) -> Option<Advice> {
        let what = match &self.route.keeps {
            Keeps::No(_) if self.route.upstream.is_some_and(|it| it.lua.is_some()) => return None,
            Keeps::No(lacks) => self.changes(lacks)?,
            Keeps::Yes { number, at, .. } if is_too_small(*number, self.load) => match at {
                Some(at) => format!(
                    "raise \"keepalive {number};\" to {} in {} ({})",
                    self.size(),
                    self.upstream(),
                    cut(at)
                ),
                None => self.change(&Lack::Keepalive)?,
            },
            _ => return None,
        };
        let requests = self.requests();
        let gain = match self.load.rate {
            Some(rate) => format!(
                "{}/s → about {}/s at {} requests a connection",
                short(rate),
                short(rate / f64::from(u32::try_from(requests).unwrap_or(u32::MAX))),
                number(requests)
            ),
            None => format!("a connection carries up to {} requests", number(requests)),
        };
        Some(Advice::new(what, gain).risk(RISK))
    }

    /// What to change so that nothing is missing; `None`: that cannot be changed.
    fn changes(&self, lacks: &[Lack]) -> Option<String> {
        let mut changes: Vec<String> = lacks.iter().filter_map(|lack| self.change(lack)).collect();
        // A block with a header of its own would lose those that it inherits.
        let headers = self.route.pass.level.headers.at.as_ref();
        let mut here = Vec::new();
        let mut elsewhere = Vec::new();
        for lack in lacks {
            match lack {
                Lack::Http10(_) => here.push("proxy_http_version 1.1;"),
                Lack::KeepConn(_) => here.push("fastcgi_keep_conn on;"),
                Lack::Close { set: Some(at), variable: Some(variable), .. } => {
                    elsewhere.push(format!(
                        "let the map of $http_upgrade make ${} '' and not 'close' for '' ({})",
                        cut(variable),
                        cut(at)
                    ));
                }
                Lack::Close { set: Some(at), .. } => {
                    elsewhere.push(format!("make it {NO_HEADER} ({})", cut(at)));
                }
                Lack::Close { .. } => match headers {
                    None => here.push(NO_HEADER),
                    Some(at) => elsewhere.push(format!(
                        "set {NO_HEADER} next to the other proxy_set_header ({})",
                        cut(at)
                    )),
                },
                _ => {}
            }
        }
        if !here.is_empty() {
            let at = cut(&self.route.pass.at);
            changes.push(format!(
                "set {} where {} is ({at})",
                here.join(" and "),
                self.directive()
            ));
        }
        changes.extend(elsewhere);
        (!changes.is_empty()).then(|| changes.join(", and "))
    }

    /// What to change of the group; `None`: it is not the group that lacks something.
    fn change(&self, lack: &Lack) -> Option<String> {
        let (upstream, size) = (self.upstream(), self.size());
        Some(match lack {
            Lack::UpstreamBlock => {
                let by_default = self.version.is_some_and(Version::keeps_by_default);
                let keepalive =
                    if by_default { String::new() } else { format!(" with \"keepalive {size};\"") };
                let at = cut(&self.route.pass.at);
                format!(
                    "put the server in an upstream block{keepalive}, and name it in {} ({at})",
                    self.directive()
                )
            }
            Lack::Keepalive => {
                let group = self.route.upstream?;
                let place = match &group.balancer {
                    Some(balancer) => format!("below \"{balancer}\" in"),
                    None => "to".to_owned(),
                };
                format!("add \"keepalive {size};\" {place} {upstream} ({})", cut(&group.at))
            }
            Lack::KeepaliveZero(at) => {
                format!("raise \"keepalive 0;\" to {size} in {upstream} ({})", cut(at))
            }
            Lack::TakenBack { keepalive, by, .. } => {
                format!("move \"keepalive\" below \"{by}\" in {upstream} ({})", cut(keepalive))
            }
            _ => return None,
        })
    }

    /// How many idle connections each worker should keep: as many as it has open at its peak. They are counted for all servers of
    /// the group together, which are taken to have as many each.
    fn size(&self) -> u32 {
        let servers = self.route.upstream.map_or(1, |it| it.servers.len().max(1));
        let servers = u32::try_from(servers).unwrap_or(u32::MAX);
        let peak = self.load.peak.unwrap_or(0).saturating_mul(servers).max(FEWEST);
        peak.checked_next_power_of_two().unwrap_or(peak)
    }

    /// After how many requests a connection is closed.
    fn requests(&self) -> u64 {
        let own = self.route.upstream.and_then(|it| it.requests).filter(|it| *it > 0);
        // Of an unknown version, the smaller of the defaults.
        own.unwrap_or_else(|| self.version.map_or(FEW_REQUESTS, Version::requests))
    }

    fn upstream(&self) -> String {
        match self.route.upstream {
            Some(upstream) => format!("upstream \"{}\"", cut(&upstream.name)),
            None => "an upstream block".to_owned(),
        }
    }

    fn protocol(&self) -> &'static str {
        match self.route.pass.protocol {
            Protocol::Http => match &self.route.pass.level.http_version {
                Some(set) if set.value == Some(HttpVersion::V2) => "HTTP/2",
                _ => "HTTP/1.1",
            },
            Protocol::Grpc => "gRPC",
            Protocol::FastCgi => "FastCGI",
            Protocol::Uwsgi => "uwsgi",
            Protocol::Scgi => "SCGI",
            Protocol::Memcached => "memcached",
            Protocol::Stream => "stream",
        }
    }

    fn directive(&self) -> String {
        format!("{}_pass", self.route.pass.protocol.prefix())
    }
}

fn number_of(count: usize) -> String {
    number(u64::try_from(count).unwrap_or(u64::MAX))
}

/// A text that another process chose, not too long to be read.
fn cut(text: &(impl ToString + ?Sized)) -> String {
    let text = text.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

#[cfg(test)]
mod tests;
