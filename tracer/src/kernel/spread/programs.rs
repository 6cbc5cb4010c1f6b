//! The spreader's own programs and maps, beside a backend's: attached to the cgroups of a rule, and
//! kept when the process ends.

use std::{
    collections::HashSet,
    os::fd::{AsFd, OwnedFd},
};

use aya::{Ebpf, maps::MapData, programs::CgroupSockAddr};
use tracer_common::settings::map;

use super::links::{Link, adopt, create};
pub use super::maps::{Looked, Pinned, RuleMaps, SpreadMaps};
use super::{loaded::Mark, pinned::Pins};
use crate::{kernel::sys, ledger::sizes::Kept};

/// Maps that outlive the process.
pub(crate) const PINNED_MAPS: [&str; 15] = [
    map::CONNS,
    map::TUPLES,
    map::BOUND_PORTS,
    map::BOUND_BY_ADDR,
    map::HELD,
    map::BOUND_SINCE,
    map::STATS,
    map::RULES,
    map::ACTIVE_RULE,
    map::LEASE,
    map::DECISION_COUNT,
    map::EXCLUDED_PORTS,
    map::LAST_SPREAD,
    map::SHARES,
    map::TOUCHED,
];

/// The programs, by the name of their link, and their forms, best first.
const HOOKS: [(&str, &[&str]); 4] = [
    ("connect4", &["spread_connect4_fast", "spread_connect4"]),
    ("connect6", &["spread_connect6_fast", "spread_connect6"]),
    ("bind4", &["spread_bind4"]),
    ("bind6", &["spread_bind6"]),
];

/// How many entries the tables of a rule have that it has already.
pub fn kept_sizes(pins: &Pins) -> Kept {
    let entries = |name| {
        let map = MapData::from_fd(pins.open_map(name).ok()?).ok()?;
        map.info().ok().map(|info| info.max_entries())
    };
    Kept {
        conns: entries(map::CONNS),
        tuples: entries(map::TUPLES),
        binds: entries(map::BOUND_PORTS),
    }
}

/// A cgroup to spread.
#[derive(Debug)]
pub struct Place {
    pub id: u64,
    pub directory: OwnedFd,
}

/// What a spreader is made of.
#[derive(Debug)]
pub struct Spreading {
    pub pins: Pins,
    pub places: Vec<Place>,
    /// Whether ports of our own are wanted.
    pub fast_ports: bool,
    /// Whether a full pool is to fail connect() at once.
    pub fail_fast: bool,
}

/// The spreader of a session.
pub struct Spreader {
    /// Until somebody takes them, who is then the only one that changes the rule.
    pub rule: Option<RuleMaps>,
    pub maps: SpreadMaps,
    /// Why there are no fast ports, if they were wanted.
    pub no_fast_ports: Option<String>,
    /// What else was wanted and cannot be had.
    pub degraded: Vec<String>,
    /// Name of each hook's link, and the program that was loaded for it.
    programs: Vec<(&'static str, &'static str)>,
    links: Vec<Link>,
}

impl Spreader {
    /// Loads the best form of each program and attaches it to each cgroup. Where a link is pinned
    /// already, it runs the new program from now on; see [`Self::remove_others`] for links to other cgroups.
    pub(crate) fn attach(
        ebpf: &mut Ebpf,
        spreading: &Spreading,
        mark: Option<&Mark>,
    ) -> Result<Self, String> {
        let rule = RuleMaps::take(ebpf).map_err(|error| error.to_string())?;
        let maps = SpreadMaps::take(ebpf).map_err(|error| error.to_string())?;
        let mut spreader = Self {
            rule: Some(rule),
            maps,
            no_fast_ports: None,
            degraded: Vec::new(),
            programs: Vec::new(),
            links: Vec::new(),
        };
        spreader.load(ebpf, spreading.fast_ports)?;
        for (_, form) in mark.iter().flat_map(|_| spreader.programs.clone()) {
            let fd = program(ebpf, form)?.fd().map_err(text)?;
            let put = mark.map_or(Ok(()), |mark| mark.put_on(fd.as_fd()));
            if let Err(error) = put.and_then(|()| Mark::put_tables_on(fd.as_fd(), &spreading.pins))
            {
                spreader
                    .degraded
                    .push(format!("the rule is found only by its pins ({form}: {error})"));
            }
        }
        for place in &spreading.places {
            spreader.attach_to(ebpf, &spreading.pins, place)?;
        }
        Ok(spreader)
    }

    fn load(&mut self, ebpf: &mut Ebpf, fast_ports: bool) -> Result<(), String> {
        // The same form looks whether a TIME_WAIT can be taken over, so it is the best one in any case.
        let mut no_fast_form = false;
        for (link, forms) in HOOKS {
            let mut refusal = None;
            for form in forms {
                let fast = form.ends_with("_fast");
                if fast && no_fast_form {
                    continue;
                }
                match program(ebpf, form).and_then(|program| program.load().map_err(text)) {
                    Ok(()) => {
                        self.programs.push((link, form));
                        refusal = None;
                        break;
                    }
                    Err(error) => {
                        tracing::debug!("{form}: {error}");
                        // What the verifier says is for developers, and in the log.
                        let reason = error.split(" Verifier output").next().unwrap_or_default();
                        let reason = format!("{form}: {reason}");
                        if fast && !link.ends_with('6') {
                            no_fast_form = true;
                        }
                        if fast && !fast_ports {
                            tracing::info!("single ports are not checked: {reason}");
                        } else if fast && link.ends_with('6') {
                            tracing::warn!("no fast ports for IPv6: {reason}");
                            self.degraded.push(format!("no fast ports for IPv6: {reason}"));
                        } else if fast {
                            self.no_fast_ports = Some(reason);
                        } else {
                            refusal = Some(reason);
                        }
                    }
                }
            }
            // A kernel without IPv6 spreads IPv4.
            match refusal {
                Some(refusal) if link.ends_with('4') => return Err(refusal),
                Some(refusal) => self.degraded.push(format!("IPv6 is not spread: {refusal}")),
                None => {}
            }
        }
        Ok(())
    }

    fn attach_to(&mut self, ebpf: &mut Ebpf, pins: &Pins, place: &Place) -> Result<(), String> {
        for (hook, form) in &self.programs {
            let name = format!("{hook}@{}", place.id);
            let link = match adopt(ebpf, pins, &name, form, place.id) {
                Some(link) => link,
                None => create(ebpf, pins, &name, form, place)?,
            };
            self.links.retain(|other| other.name != name);
            self.links.push(link);
        }
        Ok(())
    }

    /// Whether everything is where others find it, and in force.
    pub(crate) fn check(&self, pins: &Pins) -> Result<(), String> {
        let where_ = pins.dir();
        let wrong = |what: &str| Err(format!("{what}, below {}", where_.display()));
        let Some(found) = pins.again() else { return wrong("what was pinned is not found again") };
        for Link { name, fd } in &self.links {
            let ours = sys::link_info(fd.as_fd()).map_err(text)?;
            let pinned = found.open_link(name).and_then(|fd| sys::link_info(fd.as_fd()));
            if !pinned.is_ok_and(|pinned| pinned.id == ours.id) {
                return wrong(&format!("{name} is not pinned"));
            }
            if !name.ends_with(&format!("@{}", ours.cgroup)) {
                return wrong(&format!("{name} is not attached to its cgroup"));
            }
        }
        Ok(())
    }

    /// Lets go of cgroups that are not the rule's any more.
    pub(crate) fn remove_others(&self, pins: &Pins) -> Result<(), String> {
        let wanted: HashSet<&str> = self.links.iter().map(|link| link.name.as_str()).collect();
        for name in pins.links() {
            if name.contains('@') && !wanted.contains(name.as_str()) {
                pins.remove_link(&name).map_err(text)?;
            }
        }
        Ok(())
    }

    /// Attaches to those of these cgroups that have no live link, and lets go of dead ones.
    pub(crate) fn follow(
        &mut self,
        ebpf: &mut Ebpf,
        pins: &Pins,
        places: Vec<Place>,
    ) -> Result<(), String> {
        self.links.retain(Link::is_alive);
        for place in &places {
            let end = format!("@{}", place.id);
            let of_it = self.links.iter().filter(|link| link.name.ends_with(&end)).count();
            if of_it < self.programs.len() {
                self.attach_to(ebpf, pins, place)?;
            }
        }
        self.remove_others(pins)
    }
}

pub(super) fn program<'a>(
    ebpf: &'a mut Ebpf,
    name: &str,
) -> Result<&'a mut CgroupSockAddr, String> {
    let program = ebpf.program_mut(name).ok_or("it is not in the BPF object")?;
    program.try_into().map_err(text)
}

pub(super) fn text(error: impl std::error::Error) -> String {
    crate::kernel::error::chain(&error)
}
