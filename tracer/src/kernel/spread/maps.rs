//! Reads and writes the spreader's maps: the rule that the hooks read, its lease, what they count and record. Also opens the
//! pinned maps of any rule.

use std::os::fd::OwnedFd;

use aya::{
    Ebpf,
    maps::{Array, Map, MapData, RingBuf},
};
use tracer_common::{
    Rule,
    settings::map,
    spread::{Decision, DecisionRecord, held},
};

use crate::{
    error::Error,
    kernel::{
        error::wrong,
        maps::{StatsReader, TupleReader, from},
        per_cpu::PerCpuCounters,
        spread::{loaded::Loaded, pinned::Pins, rules::Rules},
    },
};

/// The maps that the agent writes for the hooks: the rule, its lease, and since when ports are bound.
pub struct RuleMaps {
    rules: Rules,
    lease: Array<MapData, u64>,
    bound_since: Array<MapData, [u32; 2]>,
}

impl RuleMaps {
    /// Takes the maps out of a loaded object.
    ///
    /// # Errors
    /// The object lacks one of the maps, or it has another type.
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self, Error> {
        Self::new(|name| ebpf.take_map(name).ok_or_else(|| missing(name)))
    }

    fn new(mut take: impl FnMut(&'static str) -> Result<Map, Error>) -> Result<Self, Error> {
        let lease = take(map::LEASE)?.try_into().map_err(wrong(map::LEASE))?;
        let bound_since = take(map::BOUND_SINCE)?.try_into().map_err(wrong(map::BOUND_SINCE))?;
        Ok(Self { rules: Rules::new(take)?, lease, bound_since })
    }

    /// Sets the rule. Each connect() uses the earlier rule or the new one as a whole. If the earlier rule was in another network
    /// namespace, what the hooks know about its bound ports is forgotten.
    ///
    /// # Errors
    /// A map cannot be read or written, or waiting for running hooks fails. The new rule can be in force then.
    pub fn set(&mut self, rule: &Rule) -> Result<(), Error> {
        let namespace = |rule: &Rule| (rule.netns, rule.netns_cookie);
        let earlier = self.rules.get();
        self.rules.set(rule)?;
        if earlier.is_some_and(|earlier| namespace(&earlier) != namespace(rule)) {
            self.forget_bound()?;
        }
        Ok(())
    }

    /// Forgets which ports are bound in the namespace that the rule was in before: their release there would be
    /// counted as a release in the rule's namespace. This also forgets ports that were bound since the new rule took effect:
    /// the hooks may count too few bound ports until the agent's next reading.
    fn forget_bound(&mut self) -> Result<(), Error> {
        for port in 0..self.bound_since.len() {
            self.bound_since.set(port, [0; 2], 0).map_err(wrong(map::BOUND_SINCE))?;
        }
        Ok(())
    }

    /// Removes the rule: until one is set again, every connect() and bind() is exempt.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn clear(&mut self) -> Result<(), Error> {
        self.rules.clear()
    }

    /// The rule that the hooks read; `None`: there is none, it cannot be read, or it changed during each of eight tries.
    pub fn get(&self) -> Option<Rule> {
        self.rules.get()
    }

    /// Sets until when a rule with [`LEASED`](tracer_common::spread::rule_flag::LEASED) is in force: CLOCK_MONOTONIC, ns.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn set_lease(&mut self, until_ns: u64) -> Result<(), Error> {
        self.lease.set(0, until_ns, 0).map_err(wrong(map::LEASE))
    }
}

/// The hooks' counts of bound ports at the beginning of a reading of bound ports. They wrap: use differences only.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct BoundCounts {
    /// How often bind() or listen() took a port: see [`held::BOUND`].
    pub bound: u32,
    /// How often a bound port was released: see [`held::RELEASED`].
    pub released: u32,
    /// Of `bound`: ports that were released before the next reading: see [`held::BACK`].
    pub back: u32,
}

/// The spreader's other maps: counts of decisions, excluded ports, counts of bound and fast ports, the ring of decisions.
pub struct SpreadMaps {
    counts: PerCpuCounters,
    excluded: Array<MapData, [u64; 1024]>,
    held: Array<MapData, u64>,
    decisions: Option<RingBuf<MapData>>,
}

impl SpreadMaps {
    /// Takes the maps out of a loaded object.
    ///
    /// # Errors
    /// The object lacks one of the maps, or it has another type; or the number of possible CPUs cannot be read.
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self, Error> {
        let mut take = |name: &'static str| ebpf.take_map(name).ok_or_else(|| missing(name));
        Ok(Self {
            counts: PerCpuCounters::new(take(map::DECISION_COUNT)?, map::DECISION_COUNT)?,
            excluded: take(map::EXCLUDED_PORTS)?.try_into().map_err(wrong(map::EXCLUDED_PORTS))?,
            held: take(map::HELD)?.try_into().map_err(wrong(map::HELD))?,
            decisions: Some(
                take(map::DECISION_RING)?.try_into().map_err(wrong(map::DECISION_RING))?,
            ),
        })
    }

    /// Sets the ports that the spreader never binds as fast ports: each is bit `port % 64` of word `port / 64`.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn set_excluded(&mut self, ports: &[u64; 1024]) -> Result<(), Error> {
        self.excluded.set(0, ports, 0).map_err(wrong(map::EXCLUDED_PORTS))
    }

    /// Begins a reading of the bound ports, and returns what the hooks have counted in the rule's namespace and range
    /// up to now. A port that is bound after this and released before the next reading counts in `back`, too.
    ///
    /// # Errors
    /// The map cannot be read or written.
    pub fn begin_reading(&mut self) -> Result<BoundCounts, Error> {
        // A port that is bound or released meanwhile may count twice, but must not be missed: BOUND and RELEASED are read
        // before the reading's number (LOOK) is increased, BACK after it.
        let (bound, released) = (self.held(held::BOUND)?, self.held(held::RELEASED)?);
        let look = self.held(held::LOOK)?.wrapping_add(1);
        self.held.set(held::LOOK, u64::from(look), 0).map_err(wrong(map::HELD))?;
        Ok(BoundCounts { bound, released, back: self.held(held::BACK)? })
    }

    /// One of the counts, truncated to 32 bits: they wrap, and only differences are used.
    fn held(&self, index: u32) -> Result<u32, Error> {
        let count = self.held.get(&index, 0).map_err(wrong(map::HELD))?;
        Ok(u32::try_from(count & u64::from(u32::MAX)).unwrap_or_default())
    }

    /// How many fast ports (ports that the spreader bound) are held now, as the hooks count them; modulo 2^32.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn fast(&self) -> Result<u32, Error> {
        self.held(held::FAST)
    }

    /// How often the hooks took each decision since the first start of the rule, summed over CPUs; the index is a [`Decision`].
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn decision_counts(&self) -> Result<[u64; Decision::COUNT], Error> {
        let mut totals = [0; Decision::COUNT];
        for (total, decision) in totals.iter_mut().zip(Decision::ALL) {
            *total = self.counts.sum(decision as u32)?;
        }
        Ok(totals)
    }

    /// Calls `each` for every decision in the ring, and empties the ring. A record of unknown length is skipped. The maps of a
    /// [`Pinned`] have no ring: nothing is called.
    pub fn drain_decisions(&mut self, mut each: impl FnMut(&DecisionRecord)) {
        while let Some(record) = self.decisions.as_mut().and_then(RingBuf::next) {
            if record.len() == size_of::<DecisionRecord>() {
                each(&from::<DecisionRecord>(&record));
            }
        }
    }
}

fn missing(name: &str) -> Error {
    Error::Failure(format!("the BPF object has no map {name}; build tracer again"))
}

/// The maps of a rule, by its pins or its loaded programs, to read them or to clear the rule. The ring of decisions is not among
/// them.
pub struct Pinned {
    pub rule: RuleMaps,
    pub maps: SpreadMaps,
    pub tuples: TupleReader,
    pub stats: StatsReader,
}

impl Pinned {
    /// Opens the maps that are pinned.
    ///
    /// # Errors
    /// A pin is missing, cannot be opened, or is not a map of the expected type.
    pub fn open(pins: &Pins) -> Result<Self, Error> {
        Self::new(|name| pins.open_map(name))
    }

    /// Opens the maps of a rule that is loaded, wherever they are pinned.
    ///
    /// # Errors
    /// The rule lacks a map, or one cannot be opened or is not of the expected type.
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
                counts: PerCpuCounters::new(open(map::DECISION_COUNT)?, map::DECISION_COUNT)?,
                excluded: open(map::EXCLUDED_PORTS)?
                    .try_into()
                    .map_err(wrong(map::EXCLUDED_PORTS))?,
                held: open(map::HELD)?.try_into().map_err(wrong(map::HELD))?,
                decisions: None,
            },
            tuples: TupleReader::new(open(map::TUPLES)?),
            stats: StatsReader::new(open(map::STATS)?)?,
        })
    }
}
