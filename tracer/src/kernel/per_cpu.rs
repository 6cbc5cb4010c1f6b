//! Counters of which each CPU has its own value.
//!
//! aya reads the number of possible CPUs from a file below /sys, in each thread that reads such a map. But threads
//! read maps after they have given up root's rights, and on some machines only root may read below /sys. So the number
//! is read here once, when the map is opened.

use std::os::fd::AsFd as _;

use aya::{
    maps::{Map, MapData, PerCpuArray},
    util::nr_cpus,
};

use super::{error::wrong, sys};
use crate::error::Error;

/// A per-CPU array of u64 counters.
pub(super) struct PerCpuCounters {
    name: &'static str,
    map: MapData,
    cpus: usize,
}

impl PerCpuCounters {
    /// Takes the map, and reads the number of possible CPUs. `name`: of the map in the BPF object, for errors.
    ///
    /// # Errors
    /// The map has another type, or the number of possible CPUs cannot be read.
    pub(super) fn new(map: Map, name: &'static str) -> Result<Self, Error> {
        PerCpuArray::<_, u64>::try_from(&map).map_err(wrong(name))?;
        let Map::PerCpuArray(map) = map else {
            return Err(Error::Failure(format!("the BPF map {name} is not a per-CPU array")));
        };
        let cpus = nr_cpus()
            .map_err(|(path, error)| Error::Failure(format!("cannot read {path}: {error}")))?;
        Ok(Self { name, map, cpus })
    }

    /// The sum of the counter with this index over all CPUs.
    ///
    /// # Errors
    /// There is no such counter, or the map cannot be read.
    pub(super) fn sum(&self, index: u32) -> Result<u64, Error> {
        let counters = sys::read_per_cpu(self.map.fd().as_fd(), index, self.cpus);
        let counters = counters.map_err(|error| {
            Error::Failure(format!("cannot read the BPF map {}: {error}", self.name))
        })?;
        Ok(counters.iter().sum())
    }
}
