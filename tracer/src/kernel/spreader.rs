//! The spreader's own programs and maps, beside a backend's: attached to the cgroups of a rule, and
//! kept when the process ends.

use std::{
    collections::HashSet,
    os::fd::{AsFd, OwnedFd},
};

use aya::{
    Ebpf,
    maps::{Array, Map, MapData, PerCpuArray, RingBuf},
    programs::{CgroupAttachMode, CgroupSockAddr, links::FdLink},
};
use tracer_common::{
    Rule,
    settings::map,
    spread::{Decision, Told},
};

use super::{
    loaded::{Loaded, Mark},
    pins::Pins,
    rules::Rules,
    sys,
};
use crate::error::Error;

/// Maps that outlive the process.
pub(super) const KEPT_MAPS: [&str; 13] = [
    map::CONNS,
    map::TUPLES,
    map::BINDS,
    map::BOUND,
    map::HELD,
    map::STATS,
    map::RULES,
    map::CURRENT,
    map::LEASE,
    map::DECIDED,
    map::TAKEN,
    map::GIVEN,
    map::SHARES,
];

/// The programs, by the name of their link, and their forms, best first.
const HOOKS: [(&str, &[&str]); 4] = [
    ("connect4", &["spread_connect4_fast", "spread_connect4"]),
    ("connect6", &["spread_connect6_fast", "spread_connect6"]),
    ("bind4", &["spread_bind4"]),
    ("bind6", &["spread_bind6"]),
];

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
    pub(super) fn attach(
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
                            tracing::info!("no look at single ports: {reason}");
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
    pub(super) fn check(&self, pins: &Pins) -> Result<(), String> {
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
    pub(super) fn remove_others(&self, pins: &Pins) -> Result<(), String> {
        let wanted: HashSet<&str> = self.links.iter().map(|link| link.name.as_str()).collect();
        for name in pins.links() {
            if name.contains('@') && !wanted.contains(name.as_str()) {
                pins.remove_link(&name).map_err(text)?;
            }
        }
        Ok(())
    }

    /// Attaches to those of these cgroups that have no live link, and lets go of dead ones.
    pub(super) fn follow(
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

/// A link of the spreader; it lives as long as this or its pin.
#[derive(Debug)]
struct Link {
    name: String,
    fd: OwnedFd,
}

impl Link {
    /// Whether its cgroup is still there.
    fn is_alive(&self) -> bool {
        sys::cgroup_of(self.fd.as_fd()).is_ok_and(|id| id != 0)
    }
}

fn adopt(ebpf: &mut Ebpf, pins: &Pins, name: &str, form: &str, id: u64) -> Option<Link> {
    let fd = pins.open_link(name).ok()?;
    let program = program(ebpf, form).ok()?;
    let adopted = sys::cgroup_of(fd.as_fd()).is_ok_and(|found| found == id)
        && program.fd().is_ok_and(|program| sys::update_link(fd.as_fd(), program.as_fd()).is_ok());
    if !adopted {
        // Of a cgroup that is gone, or not a link at all: there is nothing to take over.
        pins.remove_link(name).ok()?;
        return None;
    }
    Some(Link { name: name.to_owned(), fd })
}

fn create(
    ebpf: &mut Ebpf,
    pins: &Pins,
    name: &str,
    form: &str,
    place: &Place,
) -> Result<Link, String> {
    let program = program(ebpf, form)?;
    // As in attach.rs: a link lets others be there in every mode.
    let id = program.attach(&place.directory, CgroupAttachMode::Single).map_err(text)?;
    let link: FdLink = program.take_link(id).map_err(text)?.try_into().map_err(text)?;
    let path = pins.link_path(name).map_err(text)?;
    drop(link.pin(&path).map_err(text)?);
    let fd = pins.open_link(name).map_err(text)?;
    Ok(Link { name: name.to_owned(), fd })
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut CgroupSockAddr, String> {
    let program = ebpf.program_mut(name).ok_or("it is not in the BPF object")?;
    program.try_into().map_err(text)
}

fn text(error: impl std::error::Error) -> String {
    super::attach::chain(&error)
}

/// What the hooks go by: the rule, and until when.
pub struct RuleMaps {
    rules: Rules,
    lease: Array<MapData, u64>,
}

impl RuleMaps {
    fn take(ebpf: &mut Ebpf) -> Result<Self, Error> {
        Self::new(|name| ebpf.take_map(name).ok_or_else(|| missing(name)))
    }

    fn new(mut take: impl FnMut(&'static str) -> Result<Map, Error>) -> Result<Self, Error> {
        let lease = take(map::LEASE)?.try_into().map_err(wrong(map::LEASE))?;
        Ok(Self { rules: Rules::new(take)?, lease })
    }

    /// The hooks go by this rule from now on, each call by one or the other as a whole.
    pub fn set(&mut self, rule: &Rule) -> Result<(), Error> {
        self.rules.set(rule)
    }

    /// Leaves every connect() alone from now on.
    pub fn clear(&mut self) -> Result<(), Error> {
        self.rules.clear()
    }

    /// The rule that the hooks go by.
    pub fn get(&self) -> Option<Rule> {
        self.rules.get()
    }

    /// CLOCK_MONOTONIC until which a leased rule is in force, ns.
    pub fn set_lease(&mut self, until_ns: u64) -> Result<(), Error> {
        self.lease.set(0, until_ns, 0).map_err(wrong(map::LEASE))
    }
}

/// The spreader's other maps.
pub struct SpreadMaps {
    decided: PerCpuArray<MapData, u64>,
    taken: Array<MapData, [u64; 1024]>,
    held: Array<MapData, u64>,
    decisions: Option<RingBuf<MapData>>,
}

impl SpreadMaps {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, Error> {
        let mut take = |name: &'static str| ebpf.take_map(name).ok_or_else(|| missing(name));
        Ok(Self {
            decided: take(map::DECIDED)?.try_into().map_err(wrong(map::DECIDED))?,
            taken: take(map::TAKEN)?.try_into().map_err(wrong(map::TAKEN))?,
            held: take(map::HELD)?.try_into().map_err(wrong(map::HELD))?,
            decisions: Some(take(map::DECISIONS)?.try_into().map_err(wrong(map::DECISIONS))?),
        })
    }

    /// Ports that are not handed out, one bit each.
    pub fn set_taken(&mut self, ports: &[u64; 1024]) -> Result<(), Error> {
        self.taken.set(0, ports, 0).map_err(wrong(map::TAKEN))
    }

    /// The bound ports that the hooks count in the rule's namespace and range; only differences say anything.
    pub fn bound(&self) -> Result<u32, Error> {
        let count = self.held.get(&0, 0).map_err(wrong(map::HELD))?;
        // Truncation: it wraps, and only differences are looked at.
        Ok(u32::try_from(count & u64::from(u32::MAX)).unwrap_or_default())
    }

    /// How often each decision was taken, summed over CPUs.
    pub fn decided(&self) -> Result<[u64; Decision::COUNT], Error> {
        let mut totals = [0; Decision::COUNT];
        for (total, decision) in totals.iter_mut().zip(Decision::ALL) {
            let values = self.decided.get(&(decision as u32), 0).map_err(wrong(map::DECIDED))?;
            *total = values.iter().sum();
        }
        Ok(totals)
    }

    /// Hands every decision that is told to `each`.
    pub fn told(&mut self, mut each: impl FnMut(&Told)) {
        while let Some(record) = self.decisions.as_mut().and_then(RingBuf::next) {
            if record.len() == size_of::<Told>() {
                each(&super::maps::from::<Told>(&record));
            }
        }
    }
}

fn missing(name: &str) -> Error {
    Error::Failure(format!("the BPF object has no map {name}; build it again"))
}

pub(super) fn wrong(name: &'static str) -> impl FnOnce(aya::maps::MapError) -> Error {
    move |error| Error::Failure(format!("cannot use the BPF map {name}: {error}"))
}

/// The pinned maps of a rule, for looking only.
pub struct Pinned {
    pub rule: RuleMaps,
    pub maps: SpreadMaps,
    pub tuples: super::maps::TupleReader,
    pub stats: super::maps::StatsReader,
}

impl Pinned {
    /// # Errors
    /// A pin that is missing or of another kind.
    pub fn open(pins: &Pins) -> Result<Self, Error> {
        Self::new(|name| pins.open_map(name))
    }

    /// The same of a rule that is loaded, wherever it is pinned.
    ///
    /// # Errors
    /// A map that it does not have.
    pub fn of_loaded(loaded: &Loaded) -> Result<Self, Error> {
        Self::new(|name| loaded.open_map(name))
    }

    fn new(open_map: impl Fn(&str) -> std::io::Result<OwnedFd>) -> Result<Self, Error> {
        let open = |name: &'static str| {
            let failed = |error| Error::Failure(format!("cannot open the BPF map {name}: {error}"));
            MapData::from_fd(open_map(name).map_err(failed)?)
                .map_err(wrong(name))
                .and_then(|data| Map::from_map_data(data).map_err(wrong(name)))
        };
        Ok(Self {
            rule: RuleMaps::new(open)?,
            maps: SpreadMaps {
                decided: open(map::DECIDED)?.try_into().map_err(wrong(map::DECIDED))?,
                taken: open(map::TAKEN)?.try_into().map_err(wrong(map::TAKEN))?,
                held: open(map::HELD)?.try_into().map_err(wrong(map::HELD))?,
                decisions: None,
            },
            tuples: super::maps::TupleReader::new(open(map::TUPLES)?),
            stats: super::maps::StatsReader::new(open(map::STATS)?)?,
        })
    }
}
