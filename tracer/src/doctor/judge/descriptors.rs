//! `descriptors`: a process has as many descriptors open as it may, or the host has as many files. It looks like a lack of ports,
//! and is none.

use std::fmt::Write as _;

use super::text::{counted, number, percent};
use crate::{
    doctor::{
        finding::{Advice, Finding, Id, Process, Severity, Subject},
        verdict::{Check, Missing},
    },
    host::descriptors::{All, HostFiles, Limit},
};

/// Share of the limit from which on calls fail, or are about to.
const FULL: f64 = 0.95;
/// From which on they may fail soon.
const NEARLY_FULL: f64 = 0.80;
/// The most descriptors of a process that are advised: the kernel's default of fs.nr_open.
const LARGEST: u64 = 1 << 20;
const NOT: &str =
    "more source ports or addresses: each connection is one descriptor, and these run out here";

/// A process with its descriptors.
#[derive(Clone, Debug, PartialEq)]
pub struct OfProcess {
    pub process: Process,
    /// How many are open.
    pub open: u64,
    pub limit: Limit,
    /// How many calls failed for lack of a descriptor within the window, by its log (`(24:`); 0, too, if no log was read.
    pub failed: u64,
}

/// A finding for each process that has 80 % of the descriptors open that it may (critical from 95 % on), or whose log says that
/// it found none (critical); and one if the host has 80 % of the files open that it may. `host`: its open files; `None`: not
/// known.
pub fn descriptors(processes: &[OfProcess], host: Option<HostFiles>) -> Vec<Finding> {
    processes.iter().filter_map(of_process).chain(host.and_then(of_host)).collect()
}

/// The core check `descriptors`: not made if processes could not be listed, are hidden (hidepid), may not be read, or were too
/// many. `seen`: what reading them returned.
pub fn check(seen: &std::io::Result<All>) -> Check {
    let missing = |why: &str, needs: Option<&str>| {
        Some(Missing { why: why.to_owned(), needs: needs.map(str::to_owned) })
    };
    let missing = match seen {
        Err(error) => missing(&crate::error::reason(error), None),
        Ok(all) if all.hidden => missing(
            "other users' processes are hidden: /proc is mounted with hidepid",
            Some("CAP_SYS_PTRACE"),
        ),
        Ok(all) if all.refused > 0 => missing(
            "the descriptors of other users' processes cannot be read",
            Some("CAP_SYS_PTRACE"),
        ),
        Ok(all) if all.cut_short => {
            missing("there are too many processes: some were not read", None)
        }
        Ok(_) => None,
    };
    Check { id: "descriptors", core: true, missing }
}

fn of_process(seen: &OfProcess) -> Option<Finding> {
    let limit = seen.limit.soft;
    let severity = match severity(seen.open, limit) {
        _ if seen.failed > 0 => Severity::Critical,
        other => other?,
    };
    let mut what = format!(
        "{} of {} descriptors are open ({})",
        number(seen.open),
        number(limit),
        percent(share(seen.open, limit))
    );
    if limit == u64::MAX {
        what = format!("{} descriptors are open", number(seen.open));
    }
    if seen.failed > 0 {
        let failed = counted(seen.failed, "call", "calls");
        write!(what, "; {failed} failed for lack of one, by its log").unwrap_or_default();
    }
    let finding =
        Finding::new(Id::Descriptors, severity, Subject::Process(seen.process.clone()), what)
            .with("descriptors.open", seen.open)
            .with("descriptors.limit", limit)
            .with("descriptors.limit.hard", seen.limit.hard)
            .with("descriptors.failed", seen.failed)
            .because("accept(), socket() and open() fail with EMFILE (24) at the limit".to_owned())
            .but_not(NOT)
            .verify_by(format!("prlimit --nofile --pid {}", seen.process.pid));
    Some(finding.advise(raise(seen)))
}

/// The advice to raise a process's limit: at once, and when it starts.
fn raise(seen: &OfProcess) -> Vec<Advice> {
    let Limit { soft, hard } = seen.limit;
    let wanted = soft.max(seen.open).saturating_mul(2).checked_next_power_of_two();
    let wanted = wanted.unwrap_or(LARGEST).min(LARGEST);
    let mut all = Vec::new();
    // The soft limit needs no privilege up to the hard one.
    let at_once = if hard > soft { wanted.min(hard) } else { wanted };
    if at_once > soft {
        let colon = if hard >= at_once { ":" } else { "" };
        let command = format!("prlimit --pid {} --nofile={at_once}{colon}", seen.process.pid);
        let advice = Advice::new(
            "raise the limit of the running process",
            format!("{} descriptors in place of {}", number(at_once), number(soft)),
        );
        all.push(advice.command(command).until_reboot().risk(
            "a program that has a limit of its own, such as HAProxy's maxconn, keeps to that",
        ));
    }
    if wanted > soft {
        let name = seen.process.name.as_str();
        let setting = match name {
            "nginx" => format!("worker_rlimit_nofile {wanted}; in nginx.conf, then reload it"),
            _ => format!("LimitNOFILE={wanted} in its systemd unit, then restart it"),
        };
        all.push(Advice::new(setting, "the limit at each start"));
    }
    all.push(Advice::new(
        "see whether it closes what it opens (held_open)",
        "a leak fills any limit",
    ));
    all
}

fn of_host(files: HostFiles) -> Option<Finding> {
    let severity = severity(files.open, files.limit)?;
    let what = format!(
        "{} of the host's {} files are open ({})",
        number(files.open),
        number(files.limit),
        percent(share(files.open, files.limit))
    );
    let wanted = files.limit.max(files.open).saturating_mul(2);
    let advice = Advice::new("raise the limit of the host", "no call fails with ENFILE");
    let finding = Finding::new(Id::Descriptors, severity, Subject::Host, what)
        .with("descriptors.open", files.open)
        .with("descriptors.limit", files.limit)
        .because(
            "at the limit, accept(), socket() and open() fail with ENFILE (23) in each process"
                .to_owned(),
        )
        .but_not(NOT)
        .verify_by("cat /proc/sys/fs/file-nr")
        .advise([advice.command(format!("sysctl -w fs.file-max={wanted}")).until_reboot()]);
    Some(finding)
}

fn severity(open: u64, limit: u64) -> Option<Severity> {
    match share(open, limit) {
        FULL.. => Some(Severity::Critical),
        NEARLY_FULL.. => Some(Severity::Warning),
        _ => None,
    }
}

/// Share of the limit that is used; of no limit, none.
fn share(open: u64, limit: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
    match limit {
        u64::MAX => 0.0,
        0 => 1.0,
        _ => open as f64 / limit as f64,
    }
}

#[cfg(test)]
mod tests;
