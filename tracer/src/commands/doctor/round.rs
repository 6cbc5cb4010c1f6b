//! One round of `tracer doctor`: looks, watches, looks again, and puts together what was seen.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use super::Doctor;
use crate::{
    doctor::{
        proxies,
        scope::{Members, Owned},
        selection,
        show::Diagnosis,
        snapshot::{self, Snapshot, Wanted},
        translation::{self, Translation},
        window::{Watched, Window},
    },
    error::{Error, reason},
    host::netns::{self, Netns},
    runtime::shutdown::StopSignals,
};

/// How long the two looks of a round may take in all, half of it each: namespaces that come after that are not looked at.
const LIMIT: Duration = Duration::from_secs(25);
/// How often a wait checks for signals, and reads events.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// What was seen in a round: what a diagnosis is made from.
pub(super) struct Round {
    /// The namespaces that were to be looked at.
    pub(super) all: Vec<Netns>,
    /// The look at them at the beginning of the window; empty if there is no window.
    pub(super) before: Snapshot,
    /// The look at them at its end.
    pub(super) after: Snapshot,
    /// What the hooks saw in between; `None`: they are not attached.
    pub(super) watched: Option<Watched>,
    /// The time between the two looks, but at most the length of the window; zero: there was none.
    pub(super) watched_for: Duration,
    /// Connection tracking and NAT at its end.
    pub(super) translated: Translation,
    /// The proxies, with what was read of them at its beginning.
    pub(super) proxies: proxies::Begun,
    /// The processes that are judged, and what belongs to them by the calls that the hooks saw, by inode number of the network
    /// namespace; `None`: all are judged.
    pub(super) chosen: Option<(Arc<Members>, BTreeMap<u32, Owned>)>,
}

impl Doctor {
    /// Looks, watches, looks again, and judges what was seen. A signal ends the window early; the diagnosis of the first round
    /// then says so, a later round (`later`) returns `None`.
    ///
    /// # Errors
    /// A map cannot be read, or the ledger refuses a command; the namespaces cannot be searched for, or this one cannot be read.
    pub(super) fn diagnose(
        &mut self,
        later: bool,
        signals: &StopSignals,
    ) -> Result<Option<Diagnosis>, Error> {
        let window = self.config.window.unwrap_or_default();
        let earlier = self.members();
        self.follow(earlier.as_ref());
        let (mut all, search_cut_short) = self.namespaces()?;
        let chosen = self.chosen.is_some();
        // Each of the two looks has its share of the time, whatever the other one takes.
        let look =
            |all: &[Netns], closely: &BTreeSet<u32>, members: Option<&Arc<Members>>, of: &Self| {
                let until = Instant::now() + LIMIT / 2;
                let wanted = Wanted { all, chosen, own: of.own, closely, members, until };
                (snapshot::look(&wanted, &of.worker), until)
            };
        let proxies = proxies::begin(&self.worker, &all);
        if let Some(window) = &mut self.window {
            window.begin()?;
        }
        // Without a window, nothing is compared with the beginning.
        let (mut before, mut tracked) = (Snapshot::default(), translation::Begin::new());
        if self.config.window.is_some() {
            before = look(&all, &BTreeSet::new(), None, self).0;
            all.retain(|netns| !before.closed.contains(&netns.inum));
            tracked = translation::begin(&all, self.own, &self.worker);
        }
        let began = Instant::now();
        if self.config.window.is_some() {
            wait(window, self.window.as_mut(), signals);
        }
        if later && signals.stop() {
            return Ok(None);
        }
        let watched_for = began.elapsed().min(window);
        let watched = self.window.as_mut().map(Window::end).transpose()?;
        let trouble = in_trouble(watched.as_ref());
        // Also those that began meanwhile.
        let members = earlier.and_then(|earlier| Some(Arc::new(self.members()?.and(earlier))));
        let (mut after, until) = look(&all, &trouble, members.as_ref(), self);
        after.closed.extend(&before.closed);
        all.retain(|netns| !after.closed.contains(&netns.inum));
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
        let chosen = members.map(|members| {
            let called = self.window.as_mut().map(|window| window.owned(&members)).transpose()?;
            Ok::<_, Error>((members, called.unwrap_or_default()))
        });
        let chosen = chosen.transpose()?;
        let round = Round { all, before, after, watched, watched_for, translated, proxies, chosen };
        Ok(Some(self.judged(round)))
    }

    /// The processes that are judged, as they are now; `None`: all are judged.
    fn members(&self) -> Option<Members> {
        let selection = self.selection.clone()?;
        let members = self.worker.run(move || Ok(selection.read()));
        Some(members.unwrap_or_else(|error| Members {
            missing: Some(format!("cannot look at the processes: {}", reason(&error))),
            ..Members::default()
        }))
    }

    /// Chooses the namespaces in which these processes are now, unless the user names some, or no process is left.
    fn follow(&mut self, members: Option<&Members>) {
        if self.config.netns.is_empty()
            && let Some(there) = members.map(selection::namespaces).filter(|it| !it.is_empty())
        {
            self.chosen = Some(there);
        }
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
}

/// Inode numbers of the namespaces in which calls failed for lack of a port.
fn in_trouble(watched: Option<&Watched>) -> BTreeSet<u32> {
    let all = watched.into_iter().flat_map(|it| &it.namespaces);
    let failing = all.filter(|(_, here)| {
        let tuples = here.tuples.values().any(|it| it.exhausted() > 0);
        tuples || here.bound.iter().any(|it| it.failed > 0)
    });
    failing.map(|(inum, _)| *inum).collect()
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
