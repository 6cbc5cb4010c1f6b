//! What follows from HAProxy's configuration: which servers a destination belongs to, and which source addresses are set.

use std::{collections::HashMap, net::SocketAddr};

use super::{Config, Connection, Kind, Proxy, Server, Source, Target};
use crate::doctor::config::{At, Setting};

/// An address that connections are opened from, and what says so.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SourceOf<'a> {
    pub proxy: &'a Proxy,
    /// The server that has it; `None`: all servers of the section without an address of their own.
    pub server: Option<&'a Server>,
    pub source: Source,
    /// The line that sets it.
    pub at: &'a At,
}

impl Proxy {
    /// Whether it opens connections: it is a `backend` or `listen`, and not disabled.
    pub fn opens(&self) -> bool {
        self.kind != Kind::Frontend && !self.settings.disabled
    }

    /// The address that connections to one of its servers are opened from: the server's own, else the section's.
    /// [`Setting::Unset`]: the system chooses it. `server` must be one of [`Proxy::servers`].
    pub fn source<'a>(&'a self, server: &'a Server) -> &'a Setting<Source> {
        match &server.settings.source {
            Setting::Unset => &self.settings.source,
            own => own,
        }
    }
}

impl Server {
    /// Whether its address and port are these.
    fn is_at(&self, destination: SocketAddr) -> bool {
        self.target == Target::Ip(destination.ip(), Some(destination.port()))
    }
}

impl Config {
    /// The backends and servers whose connections go to this address, by the configuration: all of them, in its order; empty:
    /// none is known. A server whose name has to be resolved, or whose port is that of the client's connection, is not among
    /// them, nor is one of a disabled section.
    pub fn towards(&self, destination: SocketAddr) -> Vec<(&Proxy, &Server)> {
        let all = self.proxies.iter().filter(|proxy| proxy.opens());
        let servers = all.flat_map(|proxy| proxy.servers.iter().map(move |server| (proxy, server)));
        servers.filter(|(_, server)| server.is_at(destination)).collect()
    }

    /// The first backend or `listen` of this name, disabled or not; `None`: none was read.
    pub fn backend(&self, name: &str) -> Option<&Proxy> {
        self.proxies.iter().find(|proxy| proxy.kind != Kind::Frontend && proxy.name == name)
    }

    /// The addresses that connections are opened from in the process's own network namespace, and that are set for certain: of
    /// each section its own, if a server uses it, then those of its servers. Disabled sections, and servers with `namespace`, are
    /// left out.
    pub fn sources(&self) -> Vec<SourceOf<'_>> {
        let mut found = Vec::new();
        for proxy in self.proxies.iter().filter(|proxy| proxy.opens()) {
            let here = || proxy.servers.iter().filter(|it| it.settings.elsewhere == Setting::Unset);
            if let Setting::Is(source, at) = &proxy.settings.source
                && here().any(|server| server.settings.source == Setting::Unset)
            {
                found.push(SourceOf { proxy, server: None, source: *source, at });
            }
            for server in here() {
                if let Setting::Is(source, at) = &server.settings.source {
                    found.push(SourceOf { proxy, server: Some(server), source: *source, at });
                }
            }
        }
        found
    }
}

/// Sets [`Proxy::connection`] of each section: to its own setting, or, of a `backend` or `listen`, to a stronger one of the
/// frontends that name it ([`Proxy::uses`]). A setting that was not read counts as the strongest.
pub(super) fn combine_connections(proxies: &mut [Proxy]) {
    let mut by_name: HashMap<String, Setting<Connection>> = HashMap::new();
    for frontend in proxies.iter() {
        for name in &frontend.uses {
            let strongest = by_name.entry(name.clone()).or_default();
            strengthen(strongest, &frontend.settings.connection);
        }
    }
    for proxy in proxies {
        proxy.connection = proxy.settings.connection.clone();
        if let Some(frontends) = by_name.get(&proxy.name).filter(|_| proxy.kind != Kind::Frontend) {
            strengthen(&mut proxy.connection, frontends);
        }
    }
}

/// Makes a setting the stronger one of two. One that is not known could be the strongest.
fn strengthen(strongest: &mut Setting<Connection>, other: &Setting<Connection>) {
    let stronger = match (&*strongest, other) {
        (_, Setting::Unset) | (Setting::Unread(_), _) => false,
        (_, Setting::Unread(_)) | (Setting::Unset, _) => true,
        (Setting::Is(one, _), Setting::Is(other, _)) => other > one,
    };
    if stronger {
        *strongest = other.clone();
    }
}
