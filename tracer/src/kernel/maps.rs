//! Reads and writes the ledger's BPF maps as typed values.

use std::os::fd::{AsFd, BorrowedFd};

use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, Map, MapData},
};
use tracer_common::{
    Bound, Cause, Conn, ConnKey, Filter, Loss, Stat, Touched, TupleCount, TupleKey,
    loss::failed_index,
    settings::{CONTROL_SEEDING, map},
    share::{Share, Table},
};

use super::{
    error::wrong,
    per_cpu::PerCpuCounters,
    sys::{self, Batch},
};
use crate::error::Error;

/// The maps that userspace reads and writes, except those of the spreader.
pub struct Maps {
    tuples: Map,
    conns: Map,
    binds: Map,
    touched: Map,
    stats: StatsReader,
    control: Array<MapData, u32>,
    filter: Array<MapData, Filter>,
    shares: Array<MapData, Share>,
    batch: Batch,
}

fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, Error> {
    ebpf.take_map(name).ok_or_else(|| {
        Error::Failure(format!("the BPF object has no map {name}; build tracer again"))
    })
}

impl Maps {
    /// Takes the maps out of a loaded object.
    ///
    /// # Errors
    /// The object lacks one of the maps, or it has another type; or the number of possible CPUs cannot be read.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, Error> {
        Ok(Self {
            tuples: take(ebpf, map::TUPLES)?,
            conns: take(ebpf, map::CONNS)?,
            binds: take(ebpf, map::BOUND_PORTS)?,
            touched: take(ebpf, map::TOUCHED)?,
            stats: StatsReader::new(take(ebpf, map::STATS)?)?,
            control: take(ebpf, map::CONTROL)?.try_into().map_err(wrong(map::CONTROL))?,
            filter: take(ebpf, map::FILTER)?.try_into().map_err(wrong(map::FILTER))?,
            shares: take(ebpf, map::SHARES)?.try_into().map_err(wrong(map::SHARES))?,
            batch: Batch::default(),
        })
    }

    /// Sets a random key for the hash that maps owners to indices of `SHARES`, unless an earlier process has set one.
    ///
    /// # Errors
    /// `SHARES` cannot be read or written.
    pub(super) fn key_shares(&mut self) -> Result<(), Error> {
        let mut totals = self.shares.get(&0, 0).map_err(wrong(map::SHARES))?;
        if totals.key == 0 {
            totals.key = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0) | 1;
            self.shares.set(0, totals, 0).map_err(wrong(map::SHARES))?;
        }
        Ok(())
    }

    /// How many entries of each table are in use; the index is a [`Table`]. A count that is below 0 for a moment is 0.
    ///
    /// # Errors
    /// `SHARES` cannot be read.
    pub fn held(&self) -> Result<[u64; Table::COUNT], Error> {
        let totals = self.shares.get(&0, 0).map_err(wrong(map::SHARES))?;
        // Hooks add and subtract concurrently, so a count can be below zero for a moment: that is 0.
        Ok(totals.held.map(|held| if held >> 63 == 0 { held } else { 0 }))
    }

    /// Sets the filter by which hooks choose the sockets that have events. Hooks read it only if they were loaded with the global
    /// `FILTERED` set to 1.
    ///
    /// # Errors
    /// `FILTER` cannot be written.
    pub(super) fn set_filter(&mut self, filter: &Filter) -> Result<(), Error> {
        self.filter.set(0, filter, 0).map_err(wrong(map::FILTER))
    }

    /// Sets whether sockets that are older than the tracer are being read now: while they are, hooks write to the map
    /// `TOMBSTONES` which ports were released or changed their state.
    ///
    /// # Errors
    /// `CONTROL` cannot be written.
    pub fn set_seeding(&mut self, seeding: bool) -> Result<(), Error> {
        self.control.set(CONTROL_SEEDING, u32::from(seeding), 0).map_err(wrong(map::CONTROL))
    }

    /// Calls `each` for every tuple, in no order. A tuple that is inserted or removed meanwhile may be left out.
    ///
    /// # Errors
    /// `TUPLES` cannot be read. `each` was called for the tuples that were read until then.
    pub fn tuples(&mut self, each: impl FnMut(TupleKey, TupleCount)) -> Result<(), Error> {
        read(&self.tuples, map::TUPLES, &mut self.batch, each)
    }

    /// The counters of one tuple. `None`: it has no entry, or the map cannot be read.
    pub fn tuple(&self, key: &TupleKey) -> Option<TupleCount> {
        let map: HashMap<&MapData, TupleKey, TupleCount> = (&self.tuples).try_into().ok()?;
        map.get(key, 0).ok()
    }

    /// Calls `each` for every port that connect() took and that is held, in no order, with [`Conn::for_userspace`] of its entry.
    /// A port that is taken or released meanwhile may be left out.
    ///
    /// # Errors
    /// `CONNS` cannot be read. `each` was called for the ports that were read until then.
    pub fn conns(&mut self, mut each: impl FnMut(ConnKey, Conn)) -> Result<(), Error> {
        read(&self.conns, map::CONNS, &mut self.batch, |key, conn: Conn| {
            each(key, conn.for_userspace());
        })
    }

    /// Calls `each` for every port that bind() or listen() took and that is held, in no order. A port that is taken or released
    /// meanwhile may be left out.
    ///
    /// # Errors
    /// `BOUND_PORTS` cannot be read. `each` was called for the ports that were read until then.
    pub fn binds(&mut self, each: impl FnMut(ConnKey, Bound)) -> Result<(), Error> {
        read(&self.binds, map::BOUND_PORTS, &mut self.batch, each)
    }

    /// Calls `each` for every entry of `TOUCHED`, in no order: the ports that bind() or listen() took at some time. The key is
    /// that of [`tracer_common::port_of`]. There are none on kernels that give such a port to connect() although a socket that
    /// got it from connect() still has it (Linux 6.18 and later).
    ///
    /// # Errors
    /// `TOUCHED` cannot be read. `each` was called for the entries that were read until then.
    pub fn touched(&mut self, each: impl FnMut(u64, Touched)) -> Result<(), Error> {
        read(&self.touched, map::TOUCHED, &mut self.batch, each)
    }

    /// Whether `TOUCHED` has an entry; false if the map cannot be read.
    pub fn is_any_touched(&self) -> bool {
        let map: Result<HashMap<&MapData, u64, Touched>, _> = (&self.touched).try_into();
        map.is_ok_and(|map| map.keys().next().is_some_and(|key| key.is_ok()))
    }

    /// Every bound port, in no order. If the map cannot be read to its end, those that were read until then.
    pub fn all_binds(&mut self) -> Vec<(ConnKey, Bound)> {
        let mut all = Vec::new();
        if let Err(error) = self.binds(|key, bound| all.push((key, bound))) {
            tracing::debug!("{error}");
        }
        all
    }

    /// The counters, summed over CPUs. `hook_missed` is 0: a program that the kernel skipped cannot count that.
    ///
    /// # Errors
    /// `STATS` cannot be read.
    pub(super) fn totals(&self) -> Result<Totals, Error> {
        self.stats.totals()
    }
}

/// Reads the map `STATS`.
pub struct StatsReader(PerCpuCounters);

impl StatsReader {
    /// Takes the map `STATS`.
    ///
    /// # Errors
    /// It has another type, or the number of possible CPUs cannot be read.
    pub(super) fn new(map: Map) -> Result<Self, Error> {
        PerCpuCounters::new(map, map::STATS).map(Self)
    }

    /// The counters, summed over CPUs. `hook_missed` is 0: a program that the kernel skipped cannot count that.
    ///
    /// # Errors
    /// `STATS` cannot be read.
    pub fn totals(&self) -> Result<Totals, Error> {
        let sum = |index: u32| self.0.sum(index);
        let mut lost = [0; Loss::COUNT];
        for (total, loss) in lost.iter_mut().zip(Loss::ALL) {
            *total = sum(loss.index())?;
        }
        let mut failed = [0; Cause::COUNT];
        for (total, cause) in failed.iter_mut().zip(Cause::ALL) {
            *total = sum(failed_index(cause))?;
        }
        Ok(Totals {
            seen: sum(Stat::EventsSeen as u32)?,
            emitted: sum(Stat::EventsEmitted as u32)?,
            search_ns: sum(Stat::SearchNs as u32)?,
            failed,
            lost,
            hook_missed: 0,
        })
    }
}

/// Reads the map `TUPLES`.
pub struct TupleReader {
    map: Map,
    batch: Batch,
}

impl TupleReader {
    /// Takes the map `TUPLES`. A map of another type makes each [`Self::read`] fail.
    pub(super) fn new(map: Map) -> Self {
        Self { map, batch: Batch::default() }
    }

    /// Calls `each` for every tuple, in no order. A tuple that is inserted or removed meanwhile may be left out.
    ///
    /// # Errors
    /// `TUPLES` cannot be read, or is not a hash map. `each` was called for the tuples that were read until then.
    pub fn read(&mut self, each: impl FnMut(TupleKey, TupleCount)) -> Result<(), Error> {
        read(&self.map, map::TUPLES, &mut self.batch, each)
    }
}

/// Totals that the kernel side counted since the map `STATS` was made: at the start of this process, or at the first start of a
/// rule, with which the map is pinned.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Totals {
    /// Events that the event mask and the filter let through.
    pub seen: u64,
    /// Events of `seen` that were written to the ring buffer.
    pub emitted: u64,
    /// How long all port searches took that the tuples' histograms count, also those of tuples that were removed since, ns.
    pub search_ns: u64,
    /// connect(), bind() and listen() calls that failed, also those that the filter leaves out; the index is a [`Cause`].
    pub failed: [u64; Cause::COUNT],
    /// Losses; the index is a [`Loss`].
    pub lost: [u64; Loss::COUNT],
    /// How often the kernel skipped a hook since this process attached it, as far as the kernel counts that.
    pub hook_missed: u64,
}

impl Totals {
    /// The count in `failed` for this cause: connect(), bind() and listen() calls.
    pub fn failed_for(&self, cause: Cause) -> u64 {
        self.failed.get(cause as usize).copied().unwrap_or(0)
    }
}

fn fd(map: &Map) -> Option<BorrowedFd<'_>> {
    match map {
        Map::HashMap(data) | Map::LruHashMap(data) => Some(data.fd().as_fd()),
        _ => None,
    }
}

fn read<K: Pod, V: Pod>(
    map: &Map,
    name: &'static str,
    batch: &mut Batch,
    mut each: impl FnMut(K, V),
) -> Result<(), Error> {
    let fd =
        fd(map).ok_or_else(|| Error::Failure(format!("the BPF map {name} is not a hash map")))?;
    let each = |key: &[u8], value: &[u8]| each(from(key), from(value));
    sys::read_map(fd, size_of::<K>(), size_of::<V>(), batch, each)
        .map_err(|error| Error::Failure(format!("cannot read the BPF map {name}: {error}")))
}

/// Makes a value from its bytes. Panics unless there are as many as the type has.
#[expect(unsafe_code, reason = "a Pod may be made of any bytes")]
pub(super) fn from<T: Pod>(bytes: &[u8]) -> T {
    assert_eq!(bytes.len(), size_of::<T>());
    // SAFETY: as many bytes as the type has, and `Pod` promises that any of them are valid.
    unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }
}
