//! Where requests and connections are passed to servers: `proxy_pass` and its kind.

use std::sync::Arc;

use super::{
    level::{Level, PROTOCOLS},
    tree::{At, Block, Directive},
    value::{Peer, has_prefix},
};

/// The protocol that nginx speaks to the servers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Protocol {
    Http,
    Grpc,
    FastCgi,
    Uwsgi,
    Scgi,
    Memcached,
    /// `proxy_pass` in `stream`: whatever the client speaks.
    Stream,
}

/// Where a pass leads to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Target {
    /// A server: `name` can be that of a group (an `upstream`) or of a host, which only the groups of the configuration show.
    Server {
        /// As it is written, without a port.
        name: String,
        /// Whether it has a port: then it is no group.
        has_port: bool,
        /// Where it is, if it is no group. Without a port in the text, that is 80 for HTTP and gRPC, 443 with TLS; other
        /// protocols need one.
        peer: Peer,
    },
    /// A variable names the server: which one is known only when a request comes.
    Variable,
    /// A unix socket, or something that is not understood.
    Other,
}

/// A `proxy_pass`, or one of another protocol.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pass {
    pub protocol: Protocol,
    pub target: Target,
    pub at: At,
    /// The settings that count here.
    pub level: Arc<Level>,
}

impl Pass {
    /// Whether it is one of `stream`.
    pub fn is_of_stream(&self) -> bool {
        self.protocol == Protocol::Stream
    }

    /// What connections are bound to before they are opened, as it is written: an address, with or without a port, or a variable;
    /// and where that is set. `None`: they are not bound, because nothing is set, or `off`.
    pub fn bind(&self) -> Option<(&str, &At)> {
        let bind = self.level.bind.get(self.protocol.prefix())?;
        (&*bind.value != "off").then_some((&*bind.value, &bind.at))
    }

    /// How long connect() may take, in ms; 60,000 if it is not set.
    pub fn connect_timeout_ms(&self) -> u64 {
        self.level.connect_timeout.get(self.protocol.prefix()).map_or(60_000, |set| set.value)
    }
}

impl Protocol {
    /// What `…_pass` with this first part of its name speaks.
    fn of(prefix: &str, stream: bool) -> Option<Self> {
        Some(match prefix {
            "proxy" if stream => Self::Stream,
            _ if stream => return None,
            "proxy" => Self::Http,
            "grpc" => Self::Grpc,
            "fastcgi" => Self::FastCgi,
            "uwsgi" => Self::Uwsgi,
            "scgi" => Self::Scgi,
            "memcached" => Self::Memcached,
            _ => return None,
        })
    }

    /// The first part of the names of its directives, such as `proxy` of `proxy_pass`; HTTP and `stream` have the same one.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Http | Self::Stream => "proxy",
            Self::Grpc => "grpc",
            Self::FastCgi => "fastcgi",
            Self::Uwsgi => "uwsgi",
            Self::Scgi => "scgi",
            Self::Memcached => "memcached",
        }
    }
}

/// Appends the passes of a block and of the blocks in it, in their order, to `passes`. `outer`: the settings around it. `stream`:
/// whether the block is in `stream`, not in `http`.
pub(super) fn collect(block: &Block, outer: &Arc<Level>, stream: bool, passes: &mut Vec<Pass>) {
    let level = Level::inner(outer, block);
    for directive in &block.directives {
        match &directive.block {
            Some(_) if ["upstream", "map"].contains(&directive.name()) => {}
            Some(inner) => collect(inner, &level, stream, passes),
            None => passes.extend(pass(directive, &level, stream)),
        }
    }
}

fn pass(directive: &Directive, level: &Arc<Level>, stream: bool) -> Option<Pass> {
    let prefix = directive.name().strip_suffix("_pass").filter(|it| PROTOCOLS.contains(it))?;
    let protocol = Protocol::of(prefix, stream)?;
    let target = target(protocol, directive.argument(0));
    Some(Pass { protocol, target, at: directive.at.clone(), level: Arc::clone(level) })
}

/// Variables whose values begin with `/`: in `http://api$request_uri` the server is `api`.
const PATHS: [&str; 3] = ["request_uri", "uri", "document_uri"];

fn target(protocol: Protocol, text: &str) -> Target {
    let (rest, default) = match protocol {
        Protocol::Http => match scheme(text, "http://", "https://") {
            Some((rest, secure)) => (rest, Some(if secure { 443 } else { 80 })),
            None if text.contains('$') => return Target::Variable,
            None => return Target::Other,
        },
        Protocol::Grpc => match scheme(text, "grpc://", "grpcs://") {
            Some((rest, secure)) => (rest, Some(if secure { 443 } else { 80 })),
            None => (text, Some(80)),
        },
        _ => (text, None),
    };
    if has_prefix(rest, "unix:") {
        return Target::Other;
    }
    let end = rest.find(['/', '?', '$']).unwrap_or(rest.len());
    let (server, after) = rest.split_at(end);
    if let Some(variable) = after.strip_prefix('$') {
        let end = variable.find(|it: char| !it.is_ascii_alphanumeric() && it != '_');
        let variable = variable.get(..end.unwrap_or(variable.len())).unwrap_or_default();
        if server.is_empty() || !PATHS.contains(&variable) {
            return Target::Variable;
        }
    }
    // Without a port, a name may be a group, which needs none.
    let peer = Peer::parse(server, default);
    let has_port = !server.ends_with(']') && server.contains(':');
    let name = server.to_owned();
    match (&peer, has_port || server.is_empty()) {
        (Peer::Other, true) => Target::Other,
        _ => Target::Server { name, has_port, peer },
    }
}

/// What follows one of two beginnings, and whether it is the second.
fn scheme<'a>(text: &'a str, plain: &str, secure: &str) -> Option<(&'a str, bool)> {
    let after = |scheme: &str| has_prefix(text, scheme).then(|| text.get(scheme.len()..))?;
    after(plain).map(|rest| (rest, false)).or_else(|| after(secure).map(|rest| (rest, true)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(protocol: Protocol, text: &str) -> String {
        match target(protocol, text) {
            Target::Variable => "variable".into(),
            Target::Other => "other".into(),
            Target::Server { name, has_port: false, peer: Peer::Other } => format!("{name}?"),
            Target::Server { name, has_port: false, peer: Peer::Name { port, .. } } => {
                format!("{name}? {port}")
            }
            Target::Server { peer: Peer::Name { host, port }, .. } => format!("{host} {port}"),
            Target::Server { peer: Peer::Address(address), .. } => address.to_string(),
            Target::Server { name, .. } => format!("? {name}"),
        }
    }

    #[test]
    fn the_server_of_a_url_ends_before_its_path() {
        for (text, expected) in [
            ("http://api", "api? 80"),
            ("http://api/", "api? 80"),
            ("HTTPS://api/v1?x", "api? 443"),
            ("https://api.internal:8443/x", "api.internal 8443"),
            ("http://10.0.0.1", "10.0.0.1:80"),
            ("https://10.0.0.1", "10.0.0.1:443"),
            ("http://[2001:db8::1]:8080/", "[2001:db8::1]:8080"),
            ("http://[::1]", "[::1]:80"),
            ("http://unix:/run/x.sock:/", "other"),
            ("http://$backend", "variable"),
            ("http://$backend:8080/", "variable"),
            ("$scheme://api", "variable"),
            ("http://api$request_uri", "api? 80"),
            ("http://api:8080$uri?x", "api 8080"),
            ("http://api$suffix", "variable"),
            ("http://api$uri_of", "variable"),
            ("http://api${uri}", "variable"),
            ("http://api/$1", "api? 80"),
            ("http://", "other"),
            ("api:80", "other"),
        ] {
            assert_eq!(shown(Protocol::Http, text), expected, "{text}");
        }
    }

    #[test]
    fn other_protocols_need_no_scheme() {
        assert_eq!(shown(Protocol::Grpc, "grpcs://10.0.0.1"), "10.0.0.1:443");
        assert_eq!(shown(Protocol::Grpc, "api:50051"), "api 50051");
        assert_eq!(shown(Protocol::FastCgi, "127.0.0.1:9000"), "127.0.0.1:9000");
        assert_eq!(shown(Protocol::FastCgi, "php"), "php?");
        assert_eq!(shown(Protocol::FastCgi, "unix:/run/php.sock"), "other");
        assert_eq!(shown(Protocol::Stream, "[::1]:53"), "[::1]:53");
        assert_eq!(shown(Protocol::Stream, "$up"), "variable");
    }
}
