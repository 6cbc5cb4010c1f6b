//! One round of `tracer doctor`: looks, watches, looks again, and puts together what was seen.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::{Duration, Instant},
};

use rustix::system::uname;

use super::Doctor;
use crate::{
    doctor::{
        finding::{Finding, Id, Place, Severity, Subject},
        flow,
        judge::{self, Around, Seen},
        owners,
        proxies::{self, Proxies},
        show::{Diagnosis, Metrics},
        snapshot::{self, Look, Snapshot, Wanted},
        translation::{self, Translation},
        verdict::{self, Check, Missing},
        window::{Activities, Watched, Window},
    },
    error::Error,
    host::{
        descriptors::HostFiles,
        netns::{self, Netns, Worker},
    },
    runtime::{clock, shutdown::StopSignals},
};

/// How long a round may take in addition to its window: what is not seen by then is not seen.
const LIMIT: Duration = Duration::from_secs(25);
/// The name of the process that runs the pods of Kubernetes.
const KUBELET: &str = "kubelet";
/// How often a wait checks for signals.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

impl Doctor {
    /// Looks, watches, looks again, and judges what was seen. A signal ends the window early, which the diagnosis then says.
    ///
    /// # Errors
    /// A map cannot be read; the namespaces cannot be searched for.
    pub(super) fn diagnose(&mut self, signals: &StopSignals) -> Result<Diagnosis, Error> {
        let window = self.config.window.unwrap_or_default();
        let (all, search_cut_short) = self.namespaces()?;
        let chosen = self.chosen.is_some();
        // Each of the two looks has its share of the time, whatever the other one takes.
        let look = |closely: &BTreeSet<u32>, worker: &Worker| {
            let until = Instant::now() + LIMIT / 2;
            let wanted = Wanted { all: &all, chosen, own: self.own, closely, until };
            (snapshot::look(&wanted, worker), until)
        };
        let proxies = proxies::begin(&self.worker, &all);
        if let Some(window) = &mut self.window {
            window.begin()?;
        }
        let (before, _) = look(&BTreeSet::new(), &self.worker);
        let tracked_before = translation::begin(&all, self.own, &self.worker);
        let began = Instant::now();
        if self.config.window.is_some() {
            wait(window, self.window.as_mut(), signals);
        }
        self.watched_for = began.elapsed().min(window);
        let watched = self.window.as_mut().map(Window::end).transpose()?;
        let trouble = in_trouble(watched.as_ref());
        let (mut after, until) = look(&trouble, &self.worker);
        let tracked =
            if self.config.window.is_some() { tracked_before } else { translation::Begin::new() };
        let translated = Translation::look(&all, self.own, &self.worker, (&tracked, until));
        let unseen = trouble.iter().any(|inum| after.looks.iter().all(|it| it.place.inum != *inum));
        if unseen && !chosen {
            after.cut_short = Some(
                "calls failed for lack of a port in a network namespace that began or ended meanwhile",
            );
        }
        if search_cut_short {
            after.cut_short =
                Some("the search for network namespaces takes too long: some may be missing");
        }
        Ok(self.judged(before, after, watched, (&all, &translated, proxies)))
    }

    /// The namespaces to look at, and whether some may be missing because the search took too long.
    fn namespaces(&self) -> Result<(Vec<Netns>, bool), Error> {
        if let Some(chosen) = &self.chosen {
            return Ok((chosen.clone(), false));
        }
        if !self.enters {
            let failed =
                |error| Error::Failure(format!("cannot read this network namespace: {error}"));
            return Ok((vec![netns::own().map_err(failed)?], false));
        }
        let all = self.worker.discover().map_err(|error| {
            Error::Failure(format!("cannot search for network namespaces: {error}"))
        })?;
        Ok((all.found, all.cut_short))
    }

    fn judged(
        &self,
        before: Snapshot,
        after: Snapshot,
        watched: Option<Watched>,
        (all, translated, proxies): (&[Netns], &Translation, proxies::Begun),
    ) -> Diagnosis {
        let mut checks = vec![after.check()];
        checks.extend(self.config.window.map(|_| self.window_check(watched.as_ref())));
        let seen = self.seen(before.looks, after.looks, watched.as_ref());
        let around = self.around(&seen);
        let opening = opening(&seen, &around);
        let pids = opening.clone();
        let descriptors = self.worker.run(move || owners::descriptors(&pids));
        checks.push(judge::descriptors::check(&descriptors));
        checks.extend(translated.checks());
        if !self.enters {
            checks.push(only_own());
        }
        let mut findings: Vec<Finding> =
            seen.iter().flat_map(|it| judge::judge(it, &around)).collect();
        if let Ok(all) = &descriptors {
            let mut crowded = owners::crowded(all, &opening);
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
        let proxies = self.proxies(proxies, all, &seen);
        checks.extend(judge::proxies::checks(&proxies));
        let findings = judge::proxies::add(findings, &seen, &around, &proxies, watched.is_some());
        let mut findings = verdict::sort(findings);
        let verdict = verdict::verdict(&findings, &checks);
        let left_out = verdict::shorten(&mut findings);
        let uname = uname();
        Diagnosis {
            wall_ns: clock::wall_ns(),
            host: uname.nodename().to_string_lossy().into_owned(),
            kernel: uname.release().to_string_lossy().into_owned(),
            window: self.watched_for,
            metrics: Metrics::of(&seen, watched.is_some()),
            findings,
            left_out,
            checks,
            verdict,
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
        let owners = self.worker.run(move || owners::owners(&inodes)).unwrap_or_else(|error| {
            tracing::debug!("cannot find out which processes have sockets open: {error}");
            HashMap::new()
        });
        Around {
            destinations: judge::queues::destinations(seen.iter().map(|it| &it.now)),
            owners,
            kubelet: owners::netns_of(KUBELET),
            spreads: self.spreads,
        }
    }

    fn window_check(&self, watched: Option<&Watched>) -> Check {
        let ended = self.config.window.is_some_and(|wanted| self.watched_for < wanted);
        let ended = ended.then(|| Missing {
            why: format!("a signal ended it after {:.1} s", self.watched_for.as_secs_f64()),
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

/// The namespaces in which calls failed for lack of a port, or connections were opened.
fn in_trouble(watched: Option<&Watched>) -> BTreeSet<u32> {
    let all = watched.into_iter().flat_map(|it| &it.namespaces);
    let failing = all.filter(|(_, here)| {
        let tuples = here.tuples.values().any(|it| it.exhausted() > 0);
        tuples || here.bound.iter().any(|it| it.failed > 0)
    });
    failing.map(|(inum, _)| *inum).collect()
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
    let Activities { mut tuples, bound } = here.unwrap_or_default();
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

/// The check of other namespaces, which was not made.
fn only_own() -> Check {
    let why = "other network namespaces cannot be entered".to_owned();
    let needs = Some("CAP_SYS_ADMIN".to_owned());
    Check { id: "namespaces", core: false, missing: Some(Missing { why, needs }) }
}

/// What this kernel lacks; `None`: nothing.
fn of_kernel(watched: &Watched) -> Option<Finding> {
    let first = watched.degraded.first()?;
    let finding = Finding::new(Id::Kernel, Severity::Info, Subject::Host, first.clone())
        .with("backend", watched.backend)
        .with("degraded", watched.degraded.clone());
    Some(finding)
}

/// Waits until the window is over, or a signal asks to stop.
fn wait(time: Duration, mut window: Option<&mut Window>, signals: &StopSignals) {
    let until = Instant::now() + time;
    while !signals.stop()
        && let Some(left) = until.checked_duration_since(Instant::now())
        && !left.is_zero()
    {
        if let Some(window) = &mut window {
            window.drain();
        }
        std::thread::sleep(left.min(POLL_INTERVAL));
    }
}
