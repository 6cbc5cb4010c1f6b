//! `blamed_upstream`: a proxy reports failed servers, and this host had no port.

use super::{
    Full, Logged,
    lines::{Lines, times},
};
use crate::doctor::{
    finding::{Advice, Certainty, Finding, Id, Severity},
    judge::text::number,
    logs::{Blamed, Kind, Program},
};

/// A finding `blamed_upstream` for each upstream of which the log says that all servers failed, if this host's lack of ports can
/// explain it: a connect() found no port at most 10 s before, or a tuple of `full` leads to the upstream, or may (its servers are
/// not known). `full`: the tuples that were seen full. `known`: whether there is a finding `ports_exhausted`, which these then
/// name as their cause.
pub(super) fn upstreams(logged: &Logged<'_>, full: &[Full], known: bool) -> Vec<Finding> {
    let blaming = logged.of(&[Kind::NoLive]);
    let found = blaming.filter_map(|(_, program, name, group)| {
        let is_server = |line: Option<&str>| match program {
            // HAProxy names the backend in both.
            Program::Haproxy => line == name,
            Program::Nginx | Program::Squid => {
                let destination = line.and_then(|line| line.parse().ok());
                let known = destination.and_then(|it| logged.has_server(name, it));
                known.unwrap_or_else(|| {
                    line == name || !logged.upstreams.contains_key(name.unwrap_or_default())
                })
            }
        };
        let blamed = logged.report.blamed(program, name, is_server);
        let servers: Vec<_> =
            full.iter().map(|it| logged.has_server(name, it.destination)).collect();
        let tuple_is_full = servers.iter().any(|server| *server != Some(false));
        let measured = servers.contains(&Some(true));
        (blamed.explained > 0 || tuple_is_full).then(|| {
            let certain = blamed.explained > 0 || measured;
            let certainty =
                if certain && !blamed.refused { Certainty::Inferred } else { Certainty::Possible };
            let finding = upstream(logged, program, name, &blamed).sure(certainty);
            let finding =
                Finding { consequence_of: known.then_some(Id::PortsExhausted), ..finding };
            Lines::of(name, group).put_into(finding, program, logged.path)
        })
    });
    found.collect()
}

fn upstream(logged: &Logged<'_>, program: Program, name: Option<&str>, blamed: &Blamed) -> Finding {
    let name = name.filter(|name| !name.is_empty()).unwrap_or("of other names");
    let lines = number(blamed.lines);
    let failures = match blamed.failures {
        0 => "a tuple of this host is full".to_owned(),
        1 => "1 line says that connect() found no port".to_owned(),
        some => format!("{} lines say that connect() found no port", number(some)),
    };
    let (what, why, advice) = match program {
        Program::Haproxy => (
            format!(
                "HAProxy says {} that backend {name} has no server available; {failures}: its servers need not have failed",
                times(blamed.lines)
            ),
            "a check that finds no source port counts as a failure of the server".to_owned(),
            None,
        ),
        Program::Nginx | Program::Squid => (
            format!(
                "{lines} × \"no live upstreams\" for upstream {name}, {failures}: its servers need not have failed. \
                 A request can fail with this line alone, so count these, not the lines with errno 99"
            ),
            "nginx counts a connect() without a port as a failure of the server, and after max_fails (1) leaves it \
             out for fail_timeout (10 s)"
                .to_owned(),
            Some(Advice::new(
                format!("set max_fails=0 on the servers of upstream {name} until the ports suffice"),
                "nginx goes on trying: only requests without a port fail",
            )
            .risk("a server that has failed indeed is tried, too: take it back afterwards")),
        ),
    };
    Finding::new(Id::BlamedUpstream, Severity::Warning, logged.subject(), what)
        .because(why)
        .with("log.explained", blamed.explained)
        .with("log.failures", blamed.failures)
        .with("log.refused", blamed.refused)
        .advise(advice)
        .verify_by(logged.verify())
        .but_not(
            "restarting the upstream's servers: the cause is on this host, see ports_exhausted",
        )
}
