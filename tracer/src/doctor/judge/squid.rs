//! What Squid's configuration adds to findings.
//!
//! Nothing is said of `closes_first`: with `server_persistent_connections off` the server closes first, and otherwise the
//! configuration does not say who does.

use std::{collections::BTreeSet, net::IpAddr};

use super::explanation::{self, Explanation, some};
use crate::doctor::{
    config::{
        Setting,
        squid::{Config, Version},
    },
    finding::{Advice, Certainty, Finding, Place, Process},
};

/// `churn`: why each request opens a connection, or may do so because the setting was not read. `None`: the configuration
/// lets connections be used again.
pub fn churn(config: &Config) -> Option<Explanation> {
    let at = match &config.persistent {
        Setting::Unset | Setting::Is(true, _) => return None,
        Setting::Unread(at) => {
            return Some(Explanation {
                why: format!(
                    "\"server_persistent_connections\" is not read: it depends on a macro, or is not understood ({at})"
                ),
                certainty: Certainty::Possible,
                advice: Vec::new(),
            });
        }
        Setting::Is(false, at) => at,
    };
    let advice = Advice::new(
        format!("\"server_persistent_connections on\" ({at})"),
        "connections carry the next requests for the same server",
    );
    // squid.conf.documented, "tcp_outgoing_address": not with lists of clients.
    let by_client = config.outgoing.iter().any(|outgoing| !outgoing.lists.is_empty());
    let advice = if by_client {
        advice.risk(
            "\"tcp_outgoing_address\" with access lists: a request may then leave from the address that is meant for \
             another client",
        )
    } else {
        advice
    };
    Some(Explanation {
        why: format!(
            "\"server_persistent_connections off\" opens a connection for each request ({at})"
        ),
        certainty: Certainty::Measured,
        advice: vec![advice],
    })
}

/// `poisoned_ports`: why Squid binds a port for each connection; `None`: it does not. `version`: that of its program;
/// `None`: not known, and then it may.
pub fn poisoned_ports(config: &Config, version: Option<&Version>) -> Option<Explanation> {
    if config.outgoing.is_empty() || version.is_some_and(Version::leaves_port_to_connect) {
        return None;
    }
    let lines: Vec<String> =
        config.outgoing.iter().map(|outgoing| outgoing.at.to_string()).collect();
    let lines = some(&lines);
    let (why, certainty) = match version {
        Some(version) => (
            format!(
                "Squid {} binds a port for each connection that \"tcp_outgoing_address\" applies to ({lines}); from 6.0.1 \
                 on it leaves the port to connect()",
                version.text
            ),
            Certainty::Measured,
        ),
        None => (
            format!(
                "Squid before 6.0.1 binds a port for each connection that \"tcp_outgoing_address\" applies to ({lines}); \
                 the version of this one is not known"
            ),
            Certainty::Possible,
        ),
    };
    let update = Advice::new(
        "update Squid to 6.0.1 or later",
        "its ports are taken towards one destination each, no longer towards all",
    );
    let mut advice = vec![update];
    if let [outgoing] = config.outgoing.as_slice()
        && outgoing.lists.is_empty()
    {
        let what = format!(
            "remove \"tcp_outgoing_address\" ({}), and choose {} by the route (\"src\")",
            outgoing.at, outgoing.address
        );
        advice.push(
            Advice::new(what, "as above, with this version")
                .risk("other programs that use the route have this source address, too"),
        );
    }
    Some(Explanation { why, certainty, advice })
}

/// `bad_source`: a finding for each address of the configuration that programs cannot bind in the namespace. `addresses`:
/// those that they can. This does not read `net.ipv4.ip_nonlocal_bind`, which lets programs bind any address: the caller
/// takes it into account.
pub fn bad_source(
    config: &Config,
    addresses: &BTreeSet<IpAddr>,
    place: &Place,
    process: &Process,
) -> Vec<Finding> {
    let sources =
        config.outgoing.iter().map(|outgoing| (outgoing.address, outgoing.at.to_string()));
    explanation::bad_source("Squid", sources, addresses, place, process)
}

#[cfg(test)]
mod tests;
