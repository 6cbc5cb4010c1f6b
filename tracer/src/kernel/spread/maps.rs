//! The spreader's maps: what the hooks go by, what they count and tell, and those of a rule that is looked at.

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

/// What the hooks go by: the rule, and until when.
pub struct RuleMaps {
    rules: Rules,
    lease: Array<MapData, u64>,
    bound_since: Array<MapData, [u32; 2]>,
}

impl RuleMaps {
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self, Error> {
        Self::new(|name| ebpf.take_map(name).ok_or_else(|| missing(name)))
    }

    fn new(mut take: impl FnMut(&'static str) -> Result<Map, Error>) -> Result<Self, Error> {
        let lease = take(map::LEASE)?.try_into().map_err(wrong(map::LEASE))?;
        let bound_since = take(map::BOUND_SINCE)?.try_into().map_err(wrong(map::BOUND_SINCE))?;
        Ok(Self { rules: Rules::new(take)?, lease, bound_since })
    }

    /// The hooks go by this rule from now on, each call by one or the other as a whole.
    pub fn set(&mut self, rule: &Rule) -> Result<(), Error> {
        let namespace = |rule: &Rule| (rule.netns, rule.netns_cookie);
        let earlier = self.rules.get();
        self.rules.set(rule)?;
        if earlier.is_some_and(|earlier| namespace(&earlier) != namespace(rule)) {
            self.forget_bound()?;
        }
        Ok(())
    }

    /// Forgets which ports are bound in the namespace that the rule was in before: given back there, they would still count
    /// as bound in the rule's namespace. What the hooks have counted there since the rule is in force is forgotten, too:
    /// until the agent's next look, a port less counts as bound.
    fn forget_bound(&mut self) -> Result<(), Error> {
        for port in 0..self.bound_since.len() {
            self.bound_since.set(port, [0; 2], 0).map_err(wrong(map::BOUND_SINCE))?;
        }
        Ok(())
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

/// What had become of bound ports when a look began; only differences say anything.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Looked {
    /// Ports that bind() and listen() took, as [`held::BOUND`] says.
    pub bound: u32,
    /// Those that were given back, as [`held::RELEASED`] and [`held::BACK`] say.
    pub released: u32,
    pub back: u32,
}

/// The spreader's other maps.
pub struct SpreadMaps {
    decided: PerCpuCounters,
    taken: Array<MapData, [u64; 1024]>,
    held: Array<MapData, u64>,
    decisions: Option<RingBuf<MapData>>,
}

impl SpreadMaps {
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self, Error> {
        let mut take = |name: &'static str| ebpf.take_map(name).ok_or_else(|| missing(name));
        Ok(Self {
            decided: PerCpuCounters::new(take(map::DECISION_COUNT)?, map::DECISION_COUNT)?,
            taken: take(map::EXCLUDED_PORTS)?.try_into().map_err(wrong(map::EXCLUDED_PORTS))?,
            held: take(map::HELD)?.try_into().map_err(wrong(map::HELD))?,
            decisions: Some(
                take(map::DECISION_RING)?.try_into().map_err(wrong(map::DECISION_RING))?,
            ),
        })
    }

    /// Ports that are not handed out, one bit each.
    pub fn set_taken(&mut self, ports: &[u64; 1024]) -> Result<(), Error> {
        self.taken.set(0, ports, 0).map_err(wrong(map::EXCLUDED_PORTS))
    }

    /// Begins a look at what is bound: what the hooks have counted of bound ports in the rule's namespace and range up to
    /// now; from here on, each port that is bound counts again.
    pub fn begin_look(&mut self) -> Result<Looked, Error> {
        // What is bound or given back meanwhile is to count twice, not never: what takes room is read before the look
        // begins, and what gives room after that.
        let (bound, released) = (self.held(held::BOUND)?, self.held(held::RELEASED)?);
        let look = self.held(held::LOOK)?.wrapping_add(1);
        self.held.set(held::LOOK, u64::from(look), 0).map_err(wrong(map::HELD))?;
        Ok(Looked { bound, released, back: self.held(held::BACK)? })
    }

    /// Truncation: these wrap, and only differences are looked at.
    fn held(&self, index: u32) -> Result<u32, Error> {
        let count = self.held.get(&index, 0).map_err(wrong(map::HELD))?;
        Ok(u32::try_from(count & u64::from(u32::MAX)).unwrap_or_default())
    }

    /// Ports that the spreader bound and that are held now, as the hooks count them.
    pub fn fast(&self) -> Result<u32, Error> {
        self.held(held::FAST)
    }

    /// How often each decision was taken, summed over CPUs.
    pub fn decided(&self) -> Result<[u64; Decision::COUNT], Error> {
        let mut totals = [0; Decision::COUNT];
        for (total, decision) in totals.iter_mut().zip(Decision::ALL) {
            *total = self.decided.sum(decision as u32)?;
        }
        Ok(totals)
    }

    /// Hands every decision in the ring to `each`.
    pub fn told(&mut self, mut each: impl FnMut(&DecisionRecord)) {
        while let Some(record) = self.decisions.as_mut().and_then(RingBuf::next) {
            if record.len() == size_of::<DecisionRecord>() {
                each(&from::<DecisionRecord>(&record));
            }
        }
    }
}

fn missing(name: &str) -> Error {
    Error::Failure(format!("the BPF object has no map {name}; build it again"))
}

/// The pinned maps of a rule, for looking only.
pub struct Pinned {
    pub rule: RuleMaps,
    pub maps: SpreadMaps,
    pub tuples: TupleReader,
    pub stats: StatsReader,
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
                decided: PerCpuCounters::new(open(map::DECISION_COUNT)?, map::DECISION_COUNT)?,
                taken: open(map::EXCLUDED_PORTS)?.try_into().map_err(wrong(map::EXCLUDED_PORTS))?,
                held: open(map::HELD)?.try_into().map_err(wrong(map::HELD))?,
                decisions: None,
            },
            tuples: TupleReader::new(open(map::TUPLES)?),
            stats: StatsReader::new(open(map::STATS)?)?,
        })
    }
}
