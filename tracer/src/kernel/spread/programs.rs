//! Loads the spreader's programs and maps, together with those of a backend, attaches the programs to the cgroups of a rule, and
//! pins their links, so that they outlive the process.

use std::{
    collections::HashSet,
    os::fd::{AsFd, OwnedFd},
    time::Instant,
};

use aya::{Ebpf, maps::MapData, programs::CgroupSockAddr};
use tracer_common::settings::map;

use super::links::{Link, adopt, create};
pub use super::maps::{BoundCounts, Pinned, RuleMaps, SpreadMaps};
use super::{loaded::Mark, pinned::Pins};
use crate::{
    kernel::{sys, verified::log_loaded},
    ledger::sizes::Kept,
};

/// Maps that are pinned with a rule. Of the others, each process that starts the rule makes new ones.
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

/// For each hook: the name of its link before `@`, and its programs, of which the first that loads is used.
const HOOKS: [(&str, &[&str]); 4] = [
    ("connect4", &["spread_connect4_fast", "spread_connect4"]),
    ("connect6", &["spread_connect6_fast", "spread_connect6"]),
    ("bind4", &["spread_bind4"]),
    ("bind6", &["spread_bind6"]),
];

/// The sizes of the tables that the rule has already, in entries; `None`: it has no such table, or that cannot be opened.
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

/// A cgroup to attach the spreader to.
#[derive(Debug)]
pub struct CgroupTarget {
    /// Its id, as `bpf_get_current_cgroup_id` returns it.
    pub id: u64,
    /// Its directory in cgroup2, open.
    pub directory: OwnedFd,
}

/// Settings of a spreader.
#[derive(Debug)]
pub struct Spreading {
    /// Where the rule is pinned.
    pub pins: Pins,
    /// The cgroups to attach to.
    pub cgroups: Vec<CgroupTarget>,
    /// Whether the rule wants fast ports, which the spreader finds itself. If not, only the log says that the kernel refuses
    /// the programs that find them.
    pub fast_ports: bool,
    /// Whether the address of a bind() is replaced: only then the programs of bind() are needed.
    pub rebind: bool,
    /// Whether connect() fails at once if the pool is full.
    pub fail_fast: bool,
}

/// The spreader of a session, attached.
pub struct Spreader {
    /// The maps of the rule; `None`: the thread that changes the rule has taken them.
    pub rule: Option<RuleMaps>,
    pub maps: SpreadMaps,
    /// Why there are no fast ports, for people; `None`: there are, or they are not wanted.
    pub no_fast_ports: Option<String>,
    /// What else does not work, for people, one text each; empty: nothing.
    pub degraded: Vec<String>,
    /// For each hook: the name of its link before `@`, and the program that is loaded.
    programs: Vec<(&'static str, &'static str)>,
    links: Vec<Link>,
}

impl Spreader {
    /// Loads the best program for each hook, attaches it to each cgroup, and pins the links. A link that an earlier process
    /// pinned is taken over, and runs the new program from now on. Links to other cgroups stay: see [`Self::remove_other_links`].
    /// `mark` is put on each program; that this failed is in `degraded`.
    ///
    /// # Errors
    /// The reason, as a text for people: a map is missing, a program for IPv4 cannot be loaded, a program cannot be
    /// attached, or a link not pinned.
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
        spreader.load(ebpf, spreading)?;
        for (_, name) in mark.iter().flat_map(|_| spreader.programs.clone()) {
            let fd = program(ebpf, name)?.fd().map_err(text)?;
            let put = mark.map_or(Ok(()), |mark| mark.put_on(fd.as_fd()));
            if let Err(error) = put.and_then(|()| Mark::put_tables_on(fd.as_fd(), &spreading.pins))
            {
                spreader
                    .degraded
                    .push(format!("the rule is found only by its pins ({name}: {error})"));
            }
        }
        for target in &spreading.cgroups {
            spreader.attach_to(ebpf, &spreading.pins, target)?;
        }
        Ok(spreader)
    }

    fn load(&mut self, ebpf: &mut Ebpf, spreading: &Spreading) -> Result<(), String> {
        // The first program also checks whether single ports are free, or their TIME_WAITs can be reused. So it is
        // preferred without fast ports, too.
        let mut fast_refused = false;
        let wanted = |(link, _): &(&str, _)| spreading.rebind || !link.starts_with("bind");
        for (link, names) in HOOKS.into_iter().filter(wanted) {
            let mut refusal = None;
            for name in names {
                let fast = name.ends_with("_fast");
                if fast && fast_refused {
                    continue;
                }
                match load_one(ebpf, name) {
                    Ok(()) => {
                        self.programs.push((link, name));
                        refusal = None;
                        break;
                    }
                    Err(error) => {
                        tracing::debug!("{name}: {error}");
                        // The verifier's output is for developers; the debug log above has it.
                        let reason = error.split(" Verifier output").next().unwrap_or_default();
                        let reason = format!("{name}: {reason}");
                        if fast && !link.ends_with('6') {
                            fast_refused = true;
                        }
                        if fast && !spreading.fast_ports {
                            tracing::info!(
                                "it is not checked whether single ports are free: {reason}"
                            );
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
            // A kernel without IPv6 still spreads IPv4.
            match refusal {
                Some(refusal) if link.ends_with('4') => return Err(refusal),
                Some(refusal) => self.degraded.push(format!("IPv6 is not spread: {refusal}")),
                None => {}
            }
        }
        Ok(())
    }

    fn attach_to(
        &mut self,
        ebpf: &mut Ebpf,
        pins: &Pins,
        target: &CgroupTarget,
    ) -> Result<(), String> {
        for (hook, program) in &self.programs {
            let name = format!("{hook}@{}", target.id);
            let link = match adopt(ebpf, pins, &name, program, target.id) {
                Some(link) => link,
                None => create(ebpf, pins, &name, program, target)?,
            };
            self.links.retain(|other| other.name != name);
            self.links.push(link);
        }
        Ok(())
    }

    /// Checks that the rule is pinned where other processes find it, and that each link is pinned and attached.
    ///
    /// # Errors
    /// What is missing, as a text for people.
    pub(crate) fn check(&self, pins: &Pins) -> Result<(), String> {
        let dir = pins.dir();
        let wrong = |what: &str| Err(format!("{what}, below {}", dir.display()));
        let Some(found) = pins.reopen() else { return wrong("the pinned rule is not found again") };
        for Link { name, fd } in &self.links {
            let held = sys::link_info(fd.as_fd()).map_err(text)?;
            let pinned = found.open_link(name).and_then(|fd| sys::link_info(fd.as_fd()));
            if !pinned.is_ok_and(|pinned| pinned.id == held.id) {
                return wrong(&format!("{name} is not pinned"));
            }
            if !name.ends_with(&format!("@{}", held.cgroup)) {
                return wrong(&format!("{name} is not attached to its cgroup"));
            }
        }
        Ok(())
    }

    /// Removes pinned links to cgroups that this spreader is not attached to.
    ///
    /// # Errors
    /// The reason, as a text for people: a link cannot be removed.
    pub(crate) fn remove_other_links(&self, pins: &Pins) -> Result<(), String> {
        let wanted: HashSet<&str> = self.links.iter().map(|link| link.name.as_str()).collect();
        for name in pins.links() {
            if name.contains('@') && !wanted.contains(name.as_str()) {
                let failed = |source| pins.cannot_remove_link(&name, source).to_string();
                pins.remove_link(&name).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Attaches to those of these cgroups that lack a live link of some hook, and removes pinned links to cgroups that are
    /// gone or that this spreader is not attached to.
    ///
    /// # Errors
    /// The reason, as a text for people: a program cannot be attached, or a link not pinned or removed.
    pub(crate) fn sync_cgroups(
        &mut self,
        ebpf: &mut Ebpf,
        pins: &Pins,
        targets: Vec<CgroupTarget>,
    ) -> Result<(), String> {
        self.links.retain(Link::is_alive);
        for target in &targets {
            let end = format!("@{}", target.id);
            let attached = self.links.iter().filter(|link| link.name.ends_with(&end)).count();
            if attached < self.programs.len() {
                self.attach_to(ebpf, pins, target)?;
            }
        }
        self.remove_other_links(pins)
    }
}

/// Loads the program of this name, and logs how long that took.
fn load_one(ebpf: &mut Ebpf, name: &str) -> Result<(), String> {
    let begun = Instant::now();
    let program = program(ebpf, name)?;
    program.load().map_err(text)?;
    log_loaded(name, begun.elapsed(), || program.info());
    Ok(())
}

/// The program of this name in the object.
///
/// # Errors
/// The reason, as a text for people: the object lacks it, or it is of another kind.
pub(super) fn program<'a>(
    ebpf: &'a mut Ebpf,
    name: &str,
) -> Result<&'a mut CgroupSockAddr, String> {
    let program = ebpf.program_mut(name).ok_or("it is not in the BPF object")?;
    program.try_into().map_err(text)
}

/// The text of an error and of its sources ([`chain`](crate::kernel::error::chain)).
pub(super) fn text(error: impl std::error::Error) -> String {
    crate::kernel::error::chain(&error)
}
