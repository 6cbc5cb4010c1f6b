//! `churn`: why HAProxy opens a connection for each request, or nearly so.
//!
//! Which settings end reuse was tried with HAProxy 2.6.12, with clients that send one request each and others that send ten.

use super::{mode_at, mode_http, named};
use crate::doctor::{
    config::{
        At, Setting,
        haproxy::{Connection, Mode, Proxy, Reuse, Server, Shown, Source, stats::Counters},
    },
    finding::{Advice, Certainty},
    judge::{
        explanation::Explanation,
        text::{number, percent, short},
    },
};

/// Share of the requests that find an open connection: from this one on, connections are used again well enough.
pub const GOOD_HIT_RATE: f64 = 0.90;

/// What HAProxy counted of a server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Counted {
    /// Over a window, or since HAProxy was started.
    pub counters: Counters,
    /// How long that is, in seconds; `None`: not known.
    pub seconds: Option<f64>,
}

impl Counted {
    /// Connections opened per second; `None`: not known.
    fn rate(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
        let connects = self.counters.connects? as f64;
        self.seconds.filter(|seconds| *seconds > 0.0).map(|seconds| connects / seconds)
    }

    /// `17 of 10,969 requests found an open connection (1 %)`; `None`: not counted, or there were no requests.
    fn hits(&self) -> Option<String> {
        let (connects, reuses) = (self.counters.connects?, self.counters.reuses?);
        let all = connects.saturating_add(reuses);
        let rate = percent(self.counters.hit_rate()?);
        Some(format!(
            "{} of {} requests found an open connection ({rate})",
            number(reuses),
            number(all)
        ))
    }
}

/// `churn`: why each request, or nearly so, opens a connection to this server; with [`Certainty::Possible`] and without advice if
/// the setting that would say so was not read. `server`: one of `proxy`. `counted`: what HAProxy counted of it; `None`: nothing
/// is known. Returns `None` if, in mode `http`, at least [`GOOD_HIT_RATE`] of the requests found an open connection, or the mode
/// is neither `tcp` nor `http`. In mode `tcp`, where nothing is counted, it always explains.
pub fn churn(proxy: &Proxy, server: &Server, counted: Option<Counted>) -> Option<Explanation> {
    match proxy.settings.mode.or(Mode::Tcp) {
        None => return Some(not_read("mode", proxy, proxy.settings.mode.at()?)),
        Some(Mode::Other) => return None,
        Some(Mode::Tcp) => return Some(tcp_churn(proxy)),
        Some(Mode::Http) => {}
    }
    let hit_rate = counted.and_then(|counted| counted.counters.hit_rate());
    if hit_rate.is_some_and(|rate| rate >= GOOD_HIT_RATE) {
        return None;
    }
    let reuse = &proxy.settings.reuse;
    let mut explanation = closing(proxy).or_else(|| match reuse.or(Reuse::Safe) {
        None => Some(not_read("http-reuse", proxy, reuse.at()?)),
        // The requests of one client share a connection, whatever these say.
        Some(Reuse::Never) => Some(unshared(proxy, Reuse::Never, counted)),
        Some(other) => unpooled(proxy, server)
            .or_else(|| transparent(proxy, server))
            .or_else(|| Some(unshared(proxy, other, counted))),
    })?;
    if let Some(hits) = counted.and_then(|counted| counted.hits()) {
        explanation.why = format!("{hits}: {}", explanation.why);
    }
    if hit_rate.is_none() && !explanation.advice.is_empty() {
        explanation.certainty = Certainty::Inferred;
    }
    Some(explanation)
}

fn tcp_churn(proxy: &Proxy) -> Explanation {
    Explanation {
        why: format!(
            "{} is in mode tcp: each connection of a client opens one to a server ({})",
            named(proxy),
            mode_at(proxy)
        ),
        certainty: Certainty::Measured,
        advice: vec![mode_http(proxy)],
    }
}

/// An option closes connections after each request.
fn closing(proxy: &Proxy) -> Option<Explanation> {
    let setting = &proxy.connection;
    let option = match setting.or(Connection::KeepAlive) {
        None => return Some(not_read("option", proxy, setting.at()?)),
        Some(Connection::KeepAlive) => return None,
        Some(closes) => closes.option(),
    };
    let at = setting.at()?;
    Some(Explanation {
        why: format!("\"{option}\" closes the connection to the server after each request ({at})"),
        certainty: Certainty::Measured,
        advice: vec![Advice::new(
            format!("remove \"{option}\" ({at})"),
            "connections stay open for the next request",
        )],
    })
}

/// No idle connections are kept: then not even requests of one client share one.
fn unpooled(proxy: &Proxy, server: &Server) -> Option<Explanation> {
    let settings = &server.settings;
    let (setting, at) = match (settings.pool_max_conn.or(-1), settings.purged.or(false)) {
        (None, _) => return Some(not_read("pool-max-conn", proxy, settings.pool_max_conn.at()?)),
        (_, None) => return Some(not_read("pool-purge-delay", proxy, settings.purged.at()?)),
        (Some(0), _) => ("pool-max-conn 0", settings.pool_max_conn.at()?),
        (_, Some(true)) => ("pool-purge-delay 0", settings.purged.at()?),
        _ => return None,
    };
    Some(Explanation {
        why: format!("\"{setting}\" keeps no idle connection ({at})"),
        certainty: Certainty::Measured,
        advice: vec![Advice::new(
            format!("remove \"{setting}\" ({at})"),
            "idle connections wait for the next request",
        )],
    })
}

/// Connections are opened from the clients' addresses.
fn transparent(proxy: &Proxy, server: &Server) -> Option<Explanation> {
    let source = proxy.source(server);
    let at = match source {
        Setting::Is(Source { shown: Some(Shown::Client | Shown::OfRequest), .. }, at) => at,
        Setting::Unread(at) => return Some(not_read("source", proxy, at)),
        _ => return None,
    };
    let header = "\"option forwardfor\", which gives the server the client's address in a header, in place of \"usesrc\"";
    Some(Explanation {
        why: format!(
            "\"usesrc\" opens a connection for each request, from its client's address ({at})"
        ),
        certainty: Certainty::Measured,
        advice: vec![
            Advice::new(
                format!("{header} ({at})"),
                "connections can carry requests of all clients",
            )
            .risk("the server must read the header"),
        ],
    })
}

/// Connections may not carry the first requests of clients.
fn unshared(proxy: &Proxy, reuse: Reuse, counted: Option<Counted>) -> Explanation {
    let setting = &proxy.settings.reuse;
    let at = setting.at().unwrap_or(&proxy.at);
    if reuse == Reuse::Always {
        return always(proxy, at);
    }
    let gain = match counted.and_then(|counted| counted.rate()) {
        Some(rate) => {
            format!("from {} new connections/s to about as many connections as", short(rate))
        }
        None => "about as many connections as".to_owned(),
    };
    let gain = format!("{gain} there are requests at a time");
    let advice = Advice::new(format!("\"http-reuse always\" in {} ({at})", named(proxy)), gain).risk(
        "a request fails if the server closes the idle connection at that moment: let the server keep it longer than \
         HAProxy (5 s)",
    );
    let default = if setting.at().is_none() { ", the default," } else { "" };
    Explanation {
        why: format!(
            "with \"http-reuse {}\"{default} the first request of each client's connection opens one to the server, and \
             clients that send one request each never find one open ({at})",
            reuse.name()
        ),
        certainty: Certainty::Measured,
        advice: vec![advice],
    }
}

fn always(proxy: &Proxy, at: &At) -> Explanation {
    Explanation {
        why: format!(
            "{} has \"http-reuse always\" ({at}), but a connection is used again only for the same server name (SNI) and \
             source, and only if the server keeps it open",
            named(proxy)
        ),
        certainty: Certainty::Possible,
        advice: vec![Advice::new(
            "let the server keep idle connections longer than HAProxy does (\"pool-purge-delay\", 5 s)",
            "idle connections wait for the next request",
        )],
    }
}

fn not_read(setting: &str, proxy: &Proxy, at: &At) -> Explanation {
    Explanation {
        why: format!(
            "\"{setting}\" of {} is not read: it depends on a variable or a condition, or is not understood ({at})",
            named(proxy)
        ),
        certainty: Certainty::Possible,
        advice: Vec::new(),
    }
}
