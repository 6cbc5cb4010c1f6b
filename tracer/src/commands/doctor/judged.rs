//! What follows from what a round of `tracer doctor` has seen: a diagnosis.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use rustix::system::uname;

use super::{Doctor, round::Round};
use crate::{
    doctor::{
        changes::Sight,
        finding::{Finding, Id, Place, Severity, Subject},
        flow, homes, interfaces,
        judge::{self, Around, Seen},
        owners,
        proxies::{self, Proxies},
        scope::Scope,
        show::{Diagnosis, Metrics},
        snapshot::{self, Look, Snapshot},
        verdict::{self, Check, Missing},
        window::{Activities, Watched},
    },
    host::{descriptors::HostFiles, netns::Netns},
    runtime::clock,
};

/// The name of the process that runs the pods of Kubernetes.
const KUBELET: &str = "kubelet";

impl Doctor {
    /// The diagnosis of what a round has seen. Reads what else it needs: descriptors, the owners of sockets, counters and logs of
    /// proxies, interfaces, and names of containers; what cannot be read is a check that was not made, or is left out. With
    /// `--watch`, it is compared with the rounds before.
    pub(super) fn judged(&mut self, round: Round) -> Diagnosis {
        let Round { all, before, mut after, watched, watched_for, translated, proxies, chosen } =
            round;
        let mut checks = vec![after.check()];
        checks.extend(self.config.window.map(|_| self.window_check(watched.as_ref(), watched_for)));
        let sight = sight(&after);
        let closed = after.closed.len();
        let mut scope = chosen.map(|(members, called)| {
            checks.push(members.check());
            let looked = after.looks.iter_mut();
            let looked = looked.filter_map(|it| Some((it.place.inum, it.owned.take()?)));
            Scope::new(members, looked.chain(called))
        });
        let seen = self.seen(before.looks, after.looks, watched.as_ref());
        let around = self.around(&seen);
        let meant = match &scope {
            Some(scope) => scope.pids().iter().copied().collect(),
            None => opening(&seen, &around),
        };
        let pids = meant.clone();
        let descriptors = self.worker.run(move || owners::descriptors(&pids));
        checks.push(judge::descriptors::check(&descriptors));
        checks.extend(translated.checks());
        checks.extend(unreached(self.enters, closed));
        let mut findings: Vec<Finding> =
            seen.iter().flat_map(|it| judge::judge(it, &around)).collect();
        if let Ok(all) = &descriptors {
            let mut crowded = owners::crowded(all, &meant);
            if let Some(chosen) = &self.chosen {
                let inums: HashSet<u64> = chosen.iter().map(|it| it.inum.into()).collect();
                let all = crowded.clone();
                let here = self.worker.run(move || Ok(owners::in_namespaces(all, &inums)));
                crowded = here.unwrap_or(crowded);
            }
            findings.extend(judge::descriptors::descriptors(&crowded, HostFiles::read().ok()));
        }
        findings.extend(translated.judge(&seen));
        findings.extend(watched.as_ref().and_then(of_kernel));
        let proxies = self.proxies(proxies, &all, &seen);
        checks.extend(judge::proxies::checks(&proxies));
        let mut findings =
            judge::proxies::add(findings, &seen, &around, &proxies, watched.is_some());
        if let Some(scope) = &mut scope {
            scope.relate(proxies.all.iter().map(|proxy| &proxy.pids));
            findings.retain(|finding| scope.judges(finding));
        }
        judge::unite_reservations(&mut findings);
        let mut findings = verdict::sort(findings);
        let verdict = verdict::verdict(&findings, &checks);
        let history = self.history.as_mut();
        let changes = history.map(|history| history.compare(&mut findings, &sight, &checks));
        let left_out = verdict::shorten(&mut findings);
        interfaces::name(&mut findings, &all, self.own, &self.worker);
        let round = homes::Round { seen: &seen, owners: &around.owners, watched: watched.as_ref() };
        self.homes.name(&mut findings, &round, &self.worker);
        let uname = uname();
        Diagnosis {
            wall_ns: clock::wall_ns(),
            host: uname.nodename().to_string_lossy().into_owned(),
            kernel: uname.release().to_string_lossy().into_owned(),
            window: watched_for,
            metrics: Metrics::of(&seen, watched.is_some(), scope.as_ref()),
            findings,
            left_out,
            checks,
            verdict,
            recording: None,
            judged: self.selection.as_ref().map(|selection| selection.named()),
            changes,
        }
    }

    /// Puts together what was seen in each namespace.
    fn seen(
        &self,
        mut before: Vec<Look>,
        after: Vec<Look>,
        watched: Option<&Watched>,
    ) -> Vec<Seen> {
        let time_wait_s = flow::longest_time_wait_s(snapshot::hz());
        let looked_twice = self.config.window.is_some();
        let one = |look: Look| {
            let earlier = before.iter().position(|it| it.place.inum == look.place.inum);
            let earlier = earlier.map(|at| before.swap_remove(at)).filter(|_| looked_twice);
            let inum = look.place.inum;
            let here = watched.map(|it| it.namespaces.get(&inum).cloned().unwrap_or_default());
            seen(look, earlier, here, watched, time_wait_s)
        };
        after.into_iter().map(one).collect()
    }

    /// Reads what proxies counted and logged.
    fn proxies(&self, begun: proxies::Begun, all: &[Netns], seen: &[Seen]) -> Proxies {
        let places: Vec<Place> = seen.iter().map(|it| it.place.clone()).collect();
        begun.end(
            &self.worker,
            &proxies::Wanted {
                places: &places,
                all,
                own: self.own,
                window: self.config.window.is_some(),
                logs: &self.config.logs,
            },
        )
    }

    /// What the findings in a namespace depend on.
    fn around(&self, seen: &[Seen]) -> Around {
        let inodes = owners::inodes(seen);
        let files = self.worker.list();
        let found = self.worker.run(move || owners::owners(&inodes, files.as_deref()));
        let owners = found.unwrap_or_else(|error| {
            tracing::debug!("cannot find out which processes have sockets open: {error}");
            HashMap::new()
        });
        Around {
            destinations: judge::queues::destinations(seen.iter().map(|it| &it.now)),
            owners,
            kubelet: self.worker.run(|| Ok(owners::netns_of(KUBELET))).ok().flatten(),
            spreads: self.spreads.clone(),
        }
    }

    fn window_check(&self, watched: Option<&Watched>, watched_for: Duration) -> Check {
        let ended = self.config.window.is_some_and(|wanted| watched_for < wanted);
        let ended = ended.then(|| Missing {
            why: format!("a signal ended it after {:.1} s", watched_for.as_secs_f64()),
            needs: None,
        });
        let missing = self.no_window.clone().or(ended).or_else(|| {
            let lost = watched.filter(|it| it.lost > 0)?.lost;
            let why = format!("{lost} ports were not counted, because a table was full");
            Some(Missing { why, needs: Some("larger tables: --max-conns, --max-tuples".into()) })
        });
        Check { id: "window", core: true, missing }
    }
}

/// Which namespaces a round has seen.
fn sight(after: &Snapshot) -> Sight {
    Sight {
        looked: after.looks.iter().map(|it| it.place.inum).collect(),
        failed: after.failed.iter().map(|(place, _)| place.inum).collect(),
        cut_short: after.cut_short.is_some(),
    }
}

/// Puts together what was seen in a namespace. `here`: what happened there; `None`: nothing watched.
fn seen(
    look: Look,
    earlier: Option<Look>,
    here: Option<Activities>,
    watched: Option<&Watched>,
    time_wait_s: f64,
) -> Seen {
    let growth = || {
        let now = look.details.as_ref()?.counters?.counters;
        let (earlier, at) = earlier.as_ref().map(|it| (it.details.as_ref(), it.at))?;
        let seconds = look.at.duration_since(at).as_secs_f64();
        Some((now.since(&earlier?.counters?.counters), seconds))
    };
    let growth = growth();
    let Activities { mut tuples, bound, cgroups: _ } = here.unwrap_or_default();
    if let Some(watched) = watched {
        // A tuple of which nothing was seen was watched, too: nothing happened.
        for ends in look.tuples.by_ends.keys() {
            tuples.entry(*ends).or_insert_with(|| watched.nothing());
        }
    }
    Seen {
        before: earlier.map(|it| (it.tuples, look.at.duration_since(it.at))),
        place: look.place,
        settings: look.settings,
        now: look.tuples,
        time_wait_s,
        activity: tuples,
        bound,
        details: look.details,
        growth,
    }
}

/// The processes that have connections open, or opened some in the window.
fn opening(seen: &[Seen], around: &Around) -> HashSet<u32> {
    let open = seen.iter().flat_map(|it| it.now.by_ends.values()).flat_map(|it| &it.inodes);
    let open = open.filter_map(|inode| around.owners.get(inode)).map(|it| it.process.pid);
    let opened =
        seen.iter().flat_map(|it| it.activity.values()).filter_map(|it| it.caller.as_ref());
    open.chain(opened.map(|it| it.pid)).collect()
}

/// The check of other namespaces, which was not made; `None`: all were entered that were found. `closed`: how many were not.
fn unreached(enters: bool, closed: usize) -> Option<Check> {
    let why = match closed {
        _ if !enters => "other network namespaces cannot be entered".to_owned(),
        0 => return None,
        1 => "a network namespace of another user namespace cannot be entered".to_owned(),
        _ => format!("{closed} network namespaces of other user namespaces cannot be entered"),
    };
    let needs = Some("CAP_SYS_ADMIN".to_owned());
    Some(Check { id: "namespaces", core: false, missing: Some(Missing { why, needs }) })
}

/// The finding about what does not work as well as it could on this host; `None`: nothing.
fn of_kernel(watched: &Watched) -> Option<Finding> {
    let first = watched.degraded.first()?;
    let finding = Finding::new(Id::Kernel, Severity::Info, Subject::Host, first.clone())
        .with("backend", watched.backend)
        .with("degraded", watched.degraded.clone());
    Some(finding)
}
