//! Counters of which every CPU has its own.
//!
//! aya asks the kernel how many CPUs there can be in each thread that reads such a map, from a file below /sys. Threads
//! read after they have given up root's rights, and there are machines where only root gets into /sys: here it is
//! asked once, while everything is being attached.

use std::os::fd::AsFd as _;

use aya::{
    maps::{Map, MapData, PerCpuArray},
    util::nr_cpus,
};

use super::{error::wrong, sys};
use crate::error::Error;

/// An array of such counters.
pub(super) struct PerCpuCounters {
    name: &'static str,
    map: MapData,
    cpus: usize,
}

impl PerCpuCounters {
    /// # Errors
    /// A map of another kind, or it is not known how many CPUs there can be.
    pub(super) fn new(map: Map, name: &'static str) -> Result<Self, Error> {
        PerCpuArray::<_, u64>::try_from(&map).map_err(wrong(name))?;
        let Map::PerCpuArray(map) = map else {
            return Err(Error::Failure(format!("the BPF map {name} has not a value for each CPU")));
        };
        let cpus = nr_cpus()
            .map_err(|(path, error)| Error::Failure(format!("cannot read {path}: {error}")))?;
        Ok(Self { name, map, cpus })
    }

    /// One of the counters, summed over CPUs.
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
