//! The findings of the logs, without those that are known from elsewhere.

use std::{collections::BTreeMap, path::Path};

use super::{add_or_merge, upstreams};
use crate::doctor::{
    finding::{Finding, Id, Subject},
    judge::{
        Seen,
        logs::{Logged, judge},
    },
    logs::Report,
    proxies::{Log, Proxies, Proxy},
};

/// Adds what the logs of each proxy and those that the user names say. `seen`: the judged namespaces; if there is one only, the
/// logs that the user names are taken to be of that one. `watched`: whether a window has counted failing calls; then no
/// `ports_exhausted` is added.
pub(super) fn add(findings: &mut Vec<Finding>, seen: &[Seen], read: &Proxies, watched: bool) {
    for proxy in &read.all {
        let Some((path, report)) = together(&proxy.logs) else { continue };
        let logged = Logged {
            report: &report,
            path,
            process: Some(&proxy.process),
            place: Some(&proxy.place),
            upstreams: &upstreams(proxy),
        };
        let found = judge(&logged, findings);
        take(findings, found, Some(proxy), watched);
    }
    // One of a proxy that was found says nothing more when it is named.
    let known =
        |path: &Path| read.all.iter().flat_map(|it| &it.logs).any(|(other, _)| other == path);
    for (path, report) in read.given.iter().filter(|(path, _)| !known(path)) {
        let Ok(report) = report else { continue };
        let place = match seen {
            [only] => Some(&only.place),
            _ => None,
        };
        let none = BTreeMap::new();
        let logged = Logged { report, path, process: None, place, upstreams: &none };
        let found = judge(&logged, findings);
        take(findings, found, None, watched);
    }
}

/// All logs of a proxy as one, with the path of the first that says something.
fn together(logs: &[Log]) -> Option<(&Path, Report)> {
    let read = || logs.iter().filter_map(|(path, report)| Some((path, report.as_ref().ok()?)));
    let path = read().find(|(_, report)| report.groups().next().is_some()).map(|(path, _)| path);
    let path = path.or_else(|| read().next().map(|(path, _)| path))?;
    let all = read().map(|(_, report)| report.clone()).reduce(Report::and)?;
    Some((path, all))
}

/// Adds what is new. `proxy`: the one that wrote the log; `None`: not known. `watched`: the window has counted failing calls.
fn take(findings: &mut Vec<Finding>, found: Vec<Finding>, proxy: Option<&Proxy>, watched: bool) {
    let has_descriptors = |findings: &[Finding], subject: &Subject| {
        let mut known = findings.iter().filter(|it| it.id == Id::Descriptors);
        known.any(|it| match (&it.subject, proxy) {
            (Subject::Process(process), Some(proxy)) => proxy.pids.contains(&process.pid),
            (known, _) => known == subject,
        })
    };
    for mut finding in found {
        match finding.id {
            Id::PortsExhausted if watched => continue,
            Id::Descriptors if has_descriptors(findings, &finding.subject) => continue,
            Id::BadSource => {
                add_or_merge(findings, finding);
                continue;
            }
            _ => {}
        }
        if let Some(cause) = finding.consequence_of
            && !findings.iter().any(|it| it.id == cause)
        {
            finding.consequence_of = None;
        }
        findings.push(finding);
    }
}
